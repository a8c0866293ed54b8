"""The CSV of VIA 3: attributes in comments, then a line for each file or part of it. Read, and written."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vidrisk.data.formats.fields import fields_of_sample
from vidrisk.data.formats.format import Writing
from vidrisk.data.formats.lists import long_lines_of
from vidrisk.data.formats.via.entries import Attribute, Entry, box_of_place, interval_of
from vidrisk.data.formats.via.projects import attributes_of_project
from vidrisk.data.io import LABEL_COLUMNS, write_new_file
from vidrisk.data.table import TARGETS_OF, Sample, Table
from vidrisk.runtimes.contract.errors import DataError

HEADER_MARK = "# CSV_HEADER"
COLUMNS = ("metadata_id", "file_list", "flags", "temporal_coordinates", "spatial_coordinates", "metadata")
STARTS, ENDS = "temporal_segment_start", "temporal_segment_end"  # of the first versions of VIA 3
ALLOWED = f"the CSV of VIA 3, with a line {HEADER_MARK} = {','.join(COLUMNS)}"
TEXT, CHECKBOX, SELECT = 1, 2, 4  # as VIA numbers the kinds of attributes


def attributes_in_csv(path: Path) -> dict[str, Attribute]:
    """Read the attributes in the comments of a CSV, by what its metadata call them.

    Raises:
        DataError: a file that cannot be read, or attributes that are no JSON.
    """
    for where, line in long_lines_of(path, ALLOWED):
        name, _, text = _comment(line).partition("=")
        if name.strip() in ("# ATTRIBUTE", "# ATTRIBUTES"):
            return attributes_of_project(_json(text, where), where)
    return {}


def entries_in_csv(path: Path, counts: Counter[str]) -> Iterator[Entry]:
    """Yield the lines of a CSV, and count those that cannot be used.

    Raises:
        DataError: no header, or a line that does not fit it.
    """
    header: list[str] = []
    for where, line in long_lines_of(path, ALLOWED):
        comment = _comment(line)
        if comment.startswith(HEADER_MARK):
            header = [cell.strip() for cell in comment.partition("=")[2].split(",")]
        if not line.strip() or comment.startswith("#"):
            continue
        cells = _cells(line, where)
        if cells[0] == COLUMNS[0]:
            header = cells
            continue
        while header and not header[-1]:
            header.pop()
        if "file_list" not in header or "metadata" not in header:
            raise DataError(f"{path.name} has no header before its first line", allowed=ALLOWED)
        if len(cells) < len(header) or any(cells[len(header):]):
            raise DataError(f"{where} has {len(cells)} cells, and the header {len(header)}", allowed=ALLOWED)
        entry = _entry(dict(zip(header, cells, strict=False)), where, counts)
        if entry:
            yield entry


def _entry(row: Mapping[str, str], where: str, counts: Counter[str]) -> Entry | None:
    files = _json(row["file_list"], where)
    files = [files] if isinstance(files, str) else files
    if not isinstance(files, list) or not files or not all(isinstance(file, str) and file.strip() for file in files):
        raise DataError(f"{where}: the list of files is {row['file_list'][:60]!r}", allowed='["cam7.mp4"]')
    if len(files) > 1:
        counts["lines of several files at once left out"] += 1
        return None
    if STARTS in row:
        times = [_json(row[name], where) for name in (STARTS, ENDS) if row.get(name)]
    else:
        times = _json(row.get("temporal_coordinates") or "[]", where)
    places = _json(row.get("spatial_coordinates") or "[]", where)
    values = _json(row["metadata"] or "{}", where)
    if not isinstance(values, dict):
        raise DataError(f"{where}: the metadata are {row['metadata'][:60]!r}", allowed='{"1": "0"}')
    interval = interval_of(times, where)
    if times and not interval and not places:
        counts["single frames of videos left out"] += 1
        return None
    return Entry(where, (files[0],), values, interval, bool(places), box_of_place(places))


def _comment(line: str) -> str:
    """A comment as VIA writes it; spreadsheets put it between quotes, or add commas."""
    text = line.strip().removeprefix("\ufeff")
    if text.startswith('"#'):
        try:
            text = ",".join(next(csv.reader([text]), []))
        except csv.Error:
            return text
    return text.rstrip(",") if text.startswith("#") else text


def _cells(line: str, where: str) -> list[str]:
    try:
        (cells,) = csv.reader([line.strip().removeprefix("\ufeff")], skipinitialspace=True, strict=True)
    except (csv.Error, ValueError) as error:
        raise DataError(f"{where} is no line of CSV: {error}", allowed=ALLOWED) from error
    return cells


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: {text.strip()[:60]!r} is no JSON", allowed=ALLOWED) from error


def write_via(table: Table, destination: Path, writing: Writing) -> None:
    """Write a CSV with a line for each sample; names of classes are options.

    Raises:
        DataError: a column of a reserved name, or a disk that is full.
    """
    values = [_values(sample, writing) for sample in table.samples]
    targets = TARGETS_OF[table.task]
    anchor = "FILE1_Z2_XY0" if any(sample.interval for sample in table.samples) else "FILE1_Z0_XY0"
    attributes: dict[str, dict[str, Any]] = {}
    keys: dict[str, str] = {}
    typed = dict.fromkeys(name for of_sample in values for name in of_sample)
    for name in [*(LABEL_COLUMNS[target] for target in targets), *typed]:
        keys[name] = str(len(keys) + 1)
        attributes[keys[name]] = {"aname": name, "anchor_id": anchor, "type": TEXT, "desc": "", "options": {},
                                  "default_option_id": ""}
    options = {}
    for target in targets:
        labels = sorted({label for sample in table.samples for label in sample.labels_of(target)})
        options[target] = {label: str(number) for number, label in enumerate(labels)}
        attributes[keys[LABEL_COLUMNS[target]]] |= {"type": CHECKBOX if target in table.multi_targets else SELECT,
                                                    "options": {key: label for label, key in options[target].items()}}
    buffer = io.StringIO(newline="")
    buffer.write("# Exported for VGG Image Annotator (http://www.robots.ox.ac.uk/~vgg/software/via)\n"
                 f"# ATTRIBUTE = {json.dumps(attributes, ensure_ascii=False)}\n{HEADER_MARK} = {','.join(COLUMNS)}\n")
    writer = csv.writer(buffer, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    for number, (sample, of_sample) in enumerate(zip(table.samples, values, strict=True)):
        metadata = {keys[LABEL_COLUMNS[target]]: ",".join(options[target][label] for label in sample.labels_of(target))
                    for target in sample.labels} | {keys[name]: value for name, value in of_sample.items()}
        writer.writerow([f"1_{number:08d}", *map(_text, ([sample.name],)), 0, _text(_times(sample)), "[]", _text(metadata)])
    try:
        data = buffer.getvalue().encode()
    except UnicodeEncodeError as error:
        raise DataError(f"a name in the table is not Unicode: {error.object[:80]!r}", fix="rename the file") from error
    write_new_file(destination, data)


def _values(sample: Sample, writing: Writing) -> dict[str, str]:
    """What is typed: texts, group, split and further columns."""
    return fields_of_sample(sample) | ({"model": writing.model} if writing.model else {})


def _times(sample: Sample) -> Sequence[float]:
    return [sample.interval.start, sample.interval.end] if sample.interval else []


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
