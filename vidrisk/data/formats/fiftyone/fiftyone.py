"""FiftyOne data sets (https://docs.voxel51.com): files in ``data`` and labels beside them.

    samples.json, metadata.json, data/      FiftyOneDataset: every field of every sample
    labels.json, data/                      image and video classification, temporal detection: see ``stem_labels``

A label field with the name of a target (``action``, ``risk_level``) belongs to that target. Among other fields,
``ground_truth`` or the only one is the target of the task. Temporal detections are parts of clips, whose ``support`` is
the first and the last frame, counted from 1. Tags with the names of splits are splits.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vidrisk.data.formats.addressed_files import AddressedFiles
from vidrisk.data.formats.class_names import orders_that_say_something
from vidrisk.data.formats.fields import Fields, fields_from_values, find_target, split_of, with_splits
from vidrisk.data.formats.fiftyone.fiftyone_writer import (
    CARRIES,
    COLUMNS,
    DATA,
    EVENTS,
    KINDS,
    METADATA,
    SAMPLES,
    write_fiftyone,
)
from vidrisk.data.formats.fiftyone.stem_labels import LABELS, interval_of, rows_from_labels
from vidrisk.data.formats.format import SCORED, Format, Listed, Reading, format_counts
from vidrisk.data.formats.json_lists import is_number, object_of, records_of_lists
from vidrisk.data.formats.lists import head_of
from vidrisk.data.formats.rows import Row, samples_from_rows
from vidrisk.data.intervals import END_S, START_S
from vidrisk.data.table import TARGETS_OF, first_three
from vidrisk.frames import Interval
from vidrisk.runtimes.contract.errors import DataError, SpecError

SNIFFED_BYTES = 2**16
MAX_CHARS = 1000  # of a label
_LISTS = {"Classifications": "classifications", "TemporalDetections": "detections", "Detections": "detections"}
_ONES = ("Classification", "TemporalDetection", "Detection")
_LABELS = re.compile(rb'"labels"\s*:\s*\{')


def is_fiftyone(source: Path) -> bool:
    """Return whether a folder has samples with file paths, or labels by the names of files in ``data``."""
    if any(b'"filepath"' in head_of(source / inner / SAMPLES, SNIFFED_BYTES) for inner in ("", *KINDS.values())):
        return True
    return (source / DATA).is_dir() and _LABELS.search(head_of(source / LABELS, SNIFFED_BYTES)) is not None


def read_fiftyone(source: Path, reading: Reading) -> Listed:
    """Read the samples, or else the labels."""
    media = AddressedFiles(source, reading.media)
    absent: list[str] = []
    notes: Counter[str] = Counter()
    orders: dict[str, tuple[str, ...]] = {}
    rows: list[Row] = []
    bases = [inner for inner in ("", *KINDS.values()) if (source / inner / SAMPLES).is_file()]
    if bases:
        for inner in bases:
            rows += _rows_from_samples(source / inner, media, inner, reading, notes, orders)
    elif (source / LABELS).is_file():
        rows, classes = rows_from_labels(
            source / LABELS, reading.media or source / DATA, media.root, reading, absent, notes
        )
        orders = {reading.target: classes} if classes else {}
    else:
        raise DataError(
            f"{source.name} has no {SAMPLES} and no {LABELS}", allowed="the folder of an export of FiftyOne"
        )
    rows, more = with_splits(rows)
    notes.update(more)
    found = samples_from_rows(rows, media.files, kinds=("video", "image"), multi_label=reading.multi_label)
    orders = orders_that_say_something(orders, found.samples)
    used = {target: {label for sample in found.samples for label in sample.labels_of(target)} for target in orders}
    for target in [target for target, order in orders.items() if not used[target] <= set(order)]:
        notes[f"classes of {target} ignored because they lack labels of samples"] = len(orders.pop(target))
    return Listed(
        media.root,
        found.samples,
        (*found.absent, *absent),
        media.looked_in,
        orders,
        (*found.notes, *format_counts(notes)),
    )


def _rows_from_samples(
    folder: Path,
    media: AddressedFiles,
    inner: str,
    reading: Reading,
    notes: Counter[str],
    orders: dict[str, tuple[str, ...]],
) -> list[Row]:
    path = folder / SAMPLES
    fields: Counter[str] = Counter()
    for _, _, record in records_of_lists(path, ("samples",)):
        fields.update(name for name, value in record.items() if _is_label(value))
    targets = _targets(fields, reading, path.name, notes)
    about = object_of(folder / METADATA) if (folder / METADATA).is_file() else {}
    classes = about.get("classes")
    for field, target in targets.items():
        order = (classes.get(field) if isinstance(classes, dict) else None) or about.get("default_classes")
        if isinstance(order, list) and order and all(isinstance(name, str) and name.strip() for name in order):
            orders.setdefault(target, tuple(order))
    if (folder / "frames.json").is_file():
        notes["files with labels of single frames not read (frames.json)"] += 1
    return [
        row
        for _, where, record in records_of_lists(path, ("samples",))
        for row in _rows_of_sample(where, record, _name(record, where, media, inner), targets, reading, notes)
    ]


def _targets(fields: Mapping[str, int], reading: Reading, source: str, notes: Counter[str]) -> dict[str, str]:
    """Find the target of each label field; count the labels of other fields."""
    named = {field: target for field in fields if (target := find_target(field.removesuffix(EVENTS)))}
    targets = {field: target for field, target in named.items() if target in TARGETS_OF[reading.task]}
    others = [field for field in fields if field not in named]
    if reading.target not in targets.values() and others:
        chosen = "ground_truth" if "ground_truth" in others else others[0]
        if len(others) > 1 and chosen != "ground_truth":
            raise DataError(
                f"{source} has several fields of labels: {first_three(others)}",
                allowed=f"one, or one that is named ground_truth or {reading.target}",
                fix="export the right one, with label_field",
            )
        targets[chosen] = reading.target
    for field in fields:
        if field not in targets:
            notes[f"labels of the field {field} left out"] += fields[field]
    return targets


def _rows_of_sample(
    where: str, record: Mapping[str, Any], name: str, targets: Mapping[str, str], reading: Reading, notes: Counter[str]
) -> Iterator[Row]:
    whole = _fields(record, record)
    parts: dict[Interval | None, tuple[dict[str, list[str]], Fields]] = {}
    for field, target in targets.items():
        value = record.get(field)
        if not _is_label(value):
            continue
        assert isinstance(value, dict)
        listed = value.get(_LISTS.get(value["_cls"], ""), None)
        if value["_cls"] in _LISTS and not listed and not field.endswith(EVENTS):
            parts.setdefault(None, ({}, whole))[0].setdefault(target, [])
        for label in listed if isinstance(listed, list) else [] if value["_cls"] in _LISTS else [value]:
            text = label.get("label") if isinstance(label, dict) else 0
            if not isinstance(label, dict) or not isinstance(text, str | None) or len(text or "") > MAX_CHARS:
                raise DataError(
                    f"{where} has a label in {field!r} without a name", allowed='{"_cls": …, "label": "crack"}'
                )
            notes[SCORED] += is_number(label.get("confidence"))
            interval = _interval(label, where)
            known = parts.setdefault(interval, ({}, whole if interval is None else _fields(label, record)))[0]
            known.setdefault(target, []).extend([text] if text else [])
    if not parts:
        notes["samples without a label left out"] += 1
    for interval, (labels, fields) in parts.items():
        of_part = {target: tuple(dict.fromkeys(names)) for target, names in labels.items()}
        yield Row(where, name, of_part, interval=interval, **fields)


def _fields(holder: Mapping[str, Any], record: Mapping[str, Any]) -> Fields:
    """Read the data of a sample or of a label: its columns, scalar fields of a sample, and tags."""
    columns = holder.get(COLUMNS)
    known = dict(columns) if isinstance(columns, dict) else {}
    known = {name: value for name, value in known.items() if name not in (START_S, END_S)}
    if holder is record:
        known = {
            name: value
            for name, value in record.items()
            if isinstance(value, str | int | float)
            and not name.startswith("_")
            and name not in ("filepath", "frames", "id", "created_at", "last_modified_at")
        } | known
    fields = fields_from_values(known)
    listed = [level["tags"] for level in (holder, record) if isinstance(level.get("tags"), list)]
    tags = [tag for of_level in listed for tag in of_level if isinstance(tag, str)]
    fields.setdefault("split", next(filter(None, map(split_of, tags)), None))
    others = dict.fromkeys(tag for tag in tags if not split_of(tag))
    if others and "tags" not in fields.get("extra", {}):
        fields["extra"] = {**fields.get("extra", {}), "tags": ", ".join(others)}
    return fields


def _interval(label: dict[str, Any], where: str) -> Interval | None:
    """Read the interval of a label, in seconds if its columns have them."""
    columns = label.get(COLUMNS)
    if isinstance(columns, dict) and START_S in columns and END_S in columns:
        try:
            return Interval(float(columns[START_S]), float(columns[END_S]))
        except (TypeError, ValueError, SpecError) as error:
            raise DataError(
                f"{where}: {START_S} and {END_S} are not a valid part of a clip", allowed="seconds"
            ) from error
    return interval_of(label, where)


def _name(record: Mapping[str, Any], where: str, media: AddressedFiles, inner: str) -> str:
    """Find the file of a sample, relative to the root; if it does not exist, return a name to list it as absent."""
    written = record.get("filepath")
    name = (media.find(written, places=(inner, "")) or media.absent_name(written)) if isinstance(written, str) else ""
    if not name:
        raise DataError(f"{where} has the filepath {str(written)[:80]!r}", allowed="the path of a clip or photo")
    return name


def _is_label(value: Any) -> bool:
    return isinstance(value, dict) and value.get("_cls") in (*_LISTS, *_ONES)


FORMAT = Format(
    "fiftyone",
    "FiftyOne",
    ("action", "risk", "action+risk"),
    "samples.json, labels.json with data/",
    is_fiftyone,
    read_fiftyone,
    options=frozenset({"labels"}),
    write=write_fiftyone,
    carries=CARRIES,
    copies=True,
)
