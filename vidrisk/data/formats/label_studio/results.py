"""Reads Label Studio's results (https://labelstud.io/guide/task_format) from full exports and JSON-MIN into one form.

A full export has a list of results for each annotation; JSON-MIN has one flat record for each annotation, without the
types of its results, and without skipped annotations.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vidrisk.data.formats.crops import upright_box
from vidrisk.data.formats.fields import find_field
from vidrisk.data.formats.json_lists import is_number, records_of
from vidrisk.decode.cuts import Box
from vidrisk.runtimes.contract.errors import DataError

MAX_TASK_CHARS = 2**24  # of a video with a box in every frame
TASK = '{"data": {"video": …}, "annotations": [{"result": […]}]}'
SEVERAL = "annotations left out because their task has a later one"
ACCEPTED = "annotations that are predictions which a person has submitted unchanged, taken as they are"
AFTER_CONTROLS = ("annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement")  # of JSON-MIN


class Result(NamedTuple):
    """One result.

    Attributes:
        control: name of its control.
        kind: such as ``choices`` or ``timelinelabels``.
        region: the region that it belongs to, or '' for the whole file.
        value: its content.
        shown: name of the tag that shows the file.
        suits: rank of its control for the target of the task, see ``targets_of_controls``.
    """

    control: str
    kind: str
    region: str
    value: Mapping[str, Any]
    shown: str = ""
    suits: int = 1


class Task(NamedTuple):
    """A task with the annotation that is used."""

    where: str
    data: Mapping[str, Any]
    results: Sequence[Result]
    upload: str = ""


def tasks_of(path: Path, counts: Counter[str]) -> Iterator[Task]:
    """Yield the labelled tasks, and count the others.

    Raises:
        DataError: a file that is not an export of Label Studio.
    """
    flat: dict[object, Task] = {}
    for where, record in records_of(path, MAX_TASK_CHARS):
        if "data" in record or "annotations" in record:
            task = _task_from_record(where, record, counts)
            if task:
                yield task
        elif "annotation_id" in record:
            number = record.get("id")
            key = number if isinstance(number, (int, str)) else where
            counts[SEVERAL] += key in flat
            flat[key] = _task_from_flat(where, record)
        else:
            raise DataError(
                f"{where} has neither data nor an annotation",
                allowed=f"{TASK}, or JSON-MIN",
                fix="export the project as JSON",
            )
    yield from flat.values()


def _task_from_record(where: str, record: Mapping[str, Any], counts: Counter[str]) -> Task | None:
    data, annotations = record.get("data"), record.get("annotations", record.get("completions")) or []
    if (
        not isinstance(data, dict)
        or not isinstance(annotations, list)
        or not all(isinstance(one, dict) for one in annotations)
    ):
        raise DataError(f"{where} is not a task", allowed=TASK, fix="export the project as JSON")
    kept = [one for one in annotations if not one.get("was_cancelled")]
    if not kept:
        what = "tasks that were skipped left out" if annotations else "tasks without an annotation left out"
        counts[what + (" (they have predictions)" if record.get("predictions") else "")] += 1
        return None
    counts[SEVERAL] += len(kept) - 1
    results = kept[-1].get("result")
    if not isinstance(results, list) or not all(isinstance(one, dict) for one in results):
        raise DataError(f"{where}: the result of its annotation is not a list of objects", allowed=TASK)
    if not results:
        counts["tasks whose annotation is empty left out"] += 1
        return None
    counts[ACCEPTED] += all(one.get("origin") == "prediction" for one in results)
    upload = record.get("file_upload")
    found = [
        result for number, one in enumerate(results, 1) if (result := _result(f"{where}, result {number}", one, counts))
    ]
    return Task(where, data, found, upload if isinstance(upload, str) else "")


def _result(where: str, one: Mapping[str, Any], counts: Counter[str]) -> Result | None:
    kind, value, control, shown = one.get("type"), one.get("value"), one.get("from_name"), one.get("to_name")
    if kind == "relation":
        counts["relations between regions left out"] += 1
        return None
    if not isinstance(kind, str) or not isinstance(value, dict) or not isinstance(control, str):
        raise DataError(
            f"{where} lacks a type, a value or the name of its control",
            allowed='{"type": …, "from_name": …, "value": {…}}',
        )
    region = one.get("id")
    return Result(
        control, kind, region if isinstance(region, str) else "", value, shown if isinstance(shown, str) else ""
    )


def _task_from_flat(where: str, record: Mapping[str, Any]) -> Task:
    names = list(record)
    begin = names.index("id") + 1 if "id" in names else 0
    end = min(names.index(name) for name in AFTER_CONTROLS if name in names)
    controls = names[begin:end] if begin < end else []
    results = [
        result for name in controls for result in _results_from_flat(name, record[name], f"{where}, {name[:40]!r}")
    ]
    data = {name: record[name] for name in names if name not in controls and name not in ("id", *AFTER_CONTROLS)}
    return Task(where, data, results)


def _results_from_flat(control: str, value: Any, where: str) -> Iterator[Result]:
    """Yield the results of a control: a name, a list of names, or a list of regions."""
    for number, one in enumerate(value if isinstance(value, list) else [value]):
        if isinstance(one, str):
            kind = "textarea" if find_field(control) else "choices"
            yield Result(control, kind, "", {"text" if kind == "textarea" else "choices": [one]}, suits=2)
        elif isinstance(one, dict):
            kind = next(
                (key for key in one if key == "choices" or key.endswith("labels")),
                "textarea" if "text" in one else "none",
            )
            kind = "videorectangle" if "sequence" in one else kind
            yield Result(control, kind, "" if kind in ("choices", "textarea") else f"{control} {number}", one)
        elif isinstance(one, (int, float)):
            yield Result(control, "number", "", {"number": one})
        elif one is not None:
            raise DataError(f"{where} is {json.dumps(one)[:40]}", allowed="a name, or a list of names or regions")


def names_in(value: Any, where: str) -> tuple[str, ...]:
    """Return the names in a result: one, or a list of them.

    Raises:
        DataError: anything else.
    """
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
        raise DataError(f"{where} is {json.dumps(value)[:60]}", allowed="a list of names")
    return tuple(names)


def box_of_value(value: Mapping[str, Any], size: tuple[int, int]) -> Box | None:
    """Return the upright box around a rectangle.

    Values are percentages of the photo, whose ``size`` is its width and height in pixels; a rectangle is rotated around
    its upper left corner.

    Returns:
        Left, top, width and height in pixels, or None if the value is not a rectangle.
    """
    percents = [percent for name in ("x", "y", "width", "height") if is_number(percent := value.get(name))]
    degrees = value.get("rotation") or 0
    if len(percents) != 4 or not is_number(degrees):
        return None
    left, top, width, height = (percent / 100 * side for percent, side in zip(percents, (*size, *size), strict=True))
    return upright_box((left, top, width, height), degrees, (left, top))
