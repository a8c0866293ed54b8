"""Writes a table as the CSV of VIA 3: a line for each sample, with the classes as options."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vidrisk.data.formats.fields import fields_of_sample
from vidrisk.data.formats.format import Writing
from vidrisk.data.formats.via.csv_file import COLUMNS, HEADER_MARK
from vidrisk.data.formats.via.projects import CHECKBOX, TEXT
from vidrisk.data.io import LABEL_COLUMNS, write_new_file
from vidrisk.data.table import TARGETS_OF, Sample, Table

SELECT = 4  # attribute kind in VIA


def write_via(table: Table, destination: Path, writing: Writing) -> None:
    """Write a CSV with a line for each sample; names of classes are options.

    Raises:
        DataError: a column with a reserved name, or a disk that is full.
    """
    values = [_values(sample, writing) for sample in table.samples]
    targets = TARGETS_OF[table.task]
    names = dict.fromkeys(
        [*(LABEL_COLUMNS[target] for target in targets), *(name for of_sample in values for name in of_sample)]
    )
    keys = {name: str(number) for number, name in enumerate(names, 1)}
    options = {
        target: {label: str(number) for number, label in enumerate(_labels(table, target))} for target in targets
    }
    attributes = _attributes(table, keys, options)
    buffer = io.StringIO(newline="")
    buffer.write(
        "# Exported for VGG Image Annotator (http://www.robots.ox.ac.uk/~vgg/software/via)\n"
        f"# ATTRIBUTE = {_text(attributes)}\n{HEADER_MARK} = {','.join(COLUMNS)}\n"
    )
    writer = csv.writer(buffer, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    for number, (sample, of_sample) in enumerate(zip(table.samples, values, strict=True)):
        metadata = {
            keys[LABEL_COLUMNS[target]]: ",".join(options[target][label] for label in sample.labels_of(target))
            for target in sample.labels
        } | {keys[name]: value for name, value in of_sample.items()}
        writer.writerow([f"1_{number:08d}", _text([sample.name]), 0, _text(_times(sample)), "[]", _text(metadata)])
    write_new_file(destination, buffer.getvalue().encode())


def _attributes(
    table: Table, keys: Mapping[str, str], options: Mapping[str, Mapping[str, str]]
) -> dict[str, dict[str, Any]]:
    """Describe attributes by their keys: targets are selected from their options, all others are typed."""
    anchor = "FILE1_Z2_XY0" if any(sample.interval for sample in table.samples) else "FILE1_Z0_XY0"
    found: dict[str, dict[str, Any]] = {
        key: {"aname": name, "anchor_id": anchor, "type": TEXT, "desc": "", "options": {}, "default_option_id": ""}
        for name, key in keys.items()
    }
    for target, numbers in options.items():
        found[keys[LABEL_COLUMNS[target]]] |= {
            "type": CHECKBOX if target in table.multi_targets else SELECT,
            "options": {number: label for label, number in numbers.items()},
        }
    return found


def _labels(table: Table, target: str) -> Iterable[str]:
    return sorted({label for sample in table.samples for label in sample.labels_of(target)})


def _values(sample: Sample, writing: Writing) -> dict[str, str]:
    """Return the typed values by name: texts, group, split and extra columns."""
    return fields_of_sample(sample) | ({"model": writing.model} if writing.model else {})


def _times(sample: Sample) -> Sequence[float]:
    return [sample.interval.start, sample.interval.end] if sample.interval else []


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
