"""Reads ``labels.json`` of FiftyOne's classification and temporal detection data sets: labels by file name stem.

The formats:

    {"classes": ["crack", …], "labels": {"a": 0, "b": "crack", "c": {"label": 0, "confidence": 0.9}, "d": [0, 1],
                                         "e": [{"label": 0, "support": [1, 40]}, {"label": 1, "timestamps": [2.5, 4]}]}}
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from vidrisk.data.formats.class_names import read_class_names
from vidrisk.data.formats.fields import Fields, fields_from_values
from vidrisk.data.formats.format import SCORED, Reading
from vidrisk.data.formats.json_lists import is_number, members_of
from vidrisk.data.formats.rows import Row
from vidrisk.data.text import nfc
from vidrisk.files.walk import Omitted, walk
from vidrisk.frames import Interval
from vidrisk.frames.media import kind_from_suffix
from vidrisk.runtimes.contract.errors import DataError, SpecError

LABELS = "labels.json"


def rows_from_labels(
    path: Path, media: Path, root: Path, reading: Reading, absent: list[str], notes: Counter[str]
) -> tuple[list[Row], tuple[str, ...]]:
    """Read the labels of the files below a folder.

    Args:
        path: the ``labels.json``.
        media: the folder.
        root: the folder above it that names of rows are relative to.
        reading: the options for reading the data set.
        absent: receives the files that do not exist.
        notes: receives counts of what is left out.

    Returns:
        The rows, and the classes in the order of their numbers; no classes if all labels are names.

    Raises:
        DataError: damaged JSON, a number without a class, an invalid label, a name that two files have.
    """
    classes = _classes(path, reading)
    names: dict[str, str] = {}
    for entry in walk(media):
        if not isinstance(entry, Omitted) and kind_from_suffix(entry.name):
            name = Path(entry.path).relative_to(media).as_posix()
            other = names.setdefault(nfc(posixpath.splitext(name)[0]), name)
            if other != name:
                notes[f"files that share a name with another, such as {name}"] += 1
    rows: list[Row] = []
    for where, key, value in members_of(path, "labels"):
        found = names.get(nfc(PurePosixPath(key.replace("\\", "/")).as_posix()))
        if value is None or value == {}:
            notes["files without a label left out"] += 1
        elif found is None:
            absent.append(key)
        else:
            below = (media / found).relative_to(root).as_posix()
            rows += _rows_of_file(where, below, value, classes, reading, notes)
    return rows, classes


def _classes(path: Path, reading: Reading) -> tuple[str, ...]:
    if reading.labels is not None:
        return read_class_names(reading.labels).order
    listed = next((value for _, name, value in members_of(path) if name == "classes"), None)
    if listed is not None and not (
        isinstance(listed, list) and all(isinstance(name, str) and name.strip() for name in listed)
    ):
        raise DataError(f"{path.name}: the classes are not a list of names", allowed='"classes": ["crack", …]')
    return tuple(listed or ())


def _rows_of_file(
    where: str, name: str, value: Any, classes: tuple[str, ...], reading: Reading, notes: Counter[str]
) -> Iterator[Row]:
    parts: dict[Interval | None, tuple[list[str], Fields]] = {}
    values = value if isinstance(value, list) else [value]
    if not values:
        parts[None] = [], {}
    for one in values:
        told = one if isinstance(one, dict) else {"label": one}
        interval = interval_of(told, where)
        if told.get("label") is None:
            notes["labels without a name left out"] += 1
            continue
        notes[SCORED] += is_number(told.get("confidence"))
        attributes = told.get("attributes")
        of_part, _ = parts.setdefault(
            interval, ([], fields_from_values(attributes if isinstance(attributes, dict) else {}))
        )
        of_part.append(_name(told["label"], classes, where))
    for interval, (labels, fields) in parts.items():
        yield Row(where, name, {reading.target: tuple(labels)}, interval=interval, **fields)


def _name(label: Any, classes: tuple[str, ...], where: str) -> str:
    if isinstance(label, str) and label.strip():
        return label
    if not isinstance(label, int) or isinstance(label, bool):
        raise DataError(f"{where} has the label {str(label)[:80]!r}", allowed="the name or the number of a class")
    if classes and not 0 <= label < len(classes):
        raise DataError(
            f"{where} has the class {label}", allowed=f"0 to {len(classes) - 1}", fix="correct the list of classes"
        )
    return classes[label] if classes else str(label)


def interval_of(label: dict[str, Any], where: str) -> Interval | None:
    """Read ``support`` (first and last frame from 1) or ``timestamps`` (seconds), or return None if there is neither.

    Raises:
        DataError: not a pair of numbers, or not a valid interval.
    """
    for name in ("timestamps", "support"):
        pair = label.get(name)
        if pair is None:
            continue
        numbers = pair if isinstance(pair, list) else []
        if len(numbers) != 2 or not all(map(is_number, numbers)):
            raise DataError(f"{where} has the {name} {str(pair)[:80]!r}", allowed="two numbers: first and last")
        try:
            return Interval(*numbers) if name == "timestamps" else Interval(numbers[0] - 1, numbers[1], "frame")
        except SpecError as error:
            raise DataError(
                f"{where} has the {name} {str(pair)[:80]!r}: {error.what}",
                allowed="frames counted from 1" if name == "support" else "seconds",
            ) from error
    return None
