"""Writes a table as tasks of Label Studio, with annotations, or with predictions to be corrected.

Files are named like those of Label Studio's local storage, which finds them if its document root is the table's root.
Parts of videos are rounded to frames at 24 per second, the default rate of a Video tag; tasks state the rate in the
column ``fps``. Labels are values of the controls ``action``, ``defect_class`` and ``risk_level``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vidrisk.data.formats.fields import fields_of_sample
from vidrisk.data.formats.format import SCORE, Writing
from vidrisk.data.io import LABEL_COLUMNS, write_new_file
from vidrisk.data.table import Sample, Table
from vidrisk.frames import Interval
from vidrisk.frames.media import kind_of
from vidrisk.runtimes.contract.errors import DataError

RATE, RATE_NAME = 24, "fps"
LOCAL_FILES = "/data/local-files/?d="


def write_label_studio(table: Table, destination: Path, writing: Writing) -> None:
    """Write a JSON list with a task for each file.

    Raises:
        DataError: a column with a reserved name, or a disk that is full.
    """
    files: dict[str, list[Sample]] = {}
    for sample in table.samples:
        files.setdefault(sample.name, []).append(sample)
    tasks = [_task(number, name, samples, writing) for number, (name, samples) in enumerate(files.items(), 1)]
    text = ",\n".join(json.dumps(task, ensure_ascii=False) for task in tasks)
    write_new_file(destination, f"[{text}]\n".encode())


def _task(number: int, name: str, samples: Sequence[Sample], writing: Writing) -> dict[str, Any]:
    medium = "video" if kind_of(samples[0].path) == "video" else "image"
    fields = [_fields(sample, writing) for sample in samples]
    shared = {
        column: value for column, value in fields[0].items() if all(other.get(column) == value for other in fields)
    }
    data: dict[str, str | int] = {medium: LOCAL_FILES + quote(name), **shared}
    if any(sample.interval for sample in samples):
        data[RATE_NAME] = RATE
    ids = (f"r{place}" for place in count(1))
    own = [{column: value for column, value in of_sample.items() if column not in shared} for of_sample in fields]
    scores = [None if writing.model is None else _score(sample) for sample in samples]
    result = [
        one
        for sample, of_sample, score in zip(samples, own, scores, strict=True)
        for one in _results(sample, of_sample, medium, ids, score)
    ]
    annotation: dict[str, Any] = {"result": result}
    if writing.model is None:
        return {"id": number, "data": data, "annotations": [{"was_cancelled": False, **annotation}]}
    known = [score for score in scores if score is not None]
    annotation = {"model_version": writing.model, **({"score": min(known)} if known else {}), **annotation}
    return {"id": number, "data": data, "annotations": [], "predictions": [annotation]}


def _fields(sample: Sample, writing: Writing) -> dict[str, str]:
    without = () if writing.model is None or _score(sample) is None else (SCORE,)
    for name in sample.extra:
        if name.casefold() in ("video", "image", RATE_NAME, "framerate", "frame_rate"):
            raise DataError(f"the extra column {name!r} of {sample.name} has a reserved name", fix="rename it")
    return fields_of_sample(sample, without=without)


def _score(sample: Sample) -> float | None:
    """Return a model's confidence, or None if it is not a number from 0 to 1."""
    try:
        score = float(sample.extra.get(SCORE, ""))
    except ValueError:
        return None
    return score if 0 <= score <= 1 else None


def _results(
    sample: Sample, fields: Mapping[str, str], medium: str, ids: Iterator[str], sure: float | None
) -> Iterator[dict[str, Any]]:
    region = ""
    part = _range(sample.interval) if sample.interval else {}
    score = {} if sure is None else {"score": sure}
    for target, label in sample.labels.items():
        names = [label] if isinstance(label, str) else list(label)
        kind = "timelinelabels" if part else "choices"
        region = next(ids)
        yield {
            "id": region,
            "from_name": LABEL_COLUMNS[target],
            "to_name": medium,
            "type": kind,
            "value": {**part, kind: names},
            **score,
        }
    for column, text in fields.items():
        yield {
            "id": region if part else next(ids),
            "from_name": column,
            "to_name": medium,
            "type": "textarea",
            "value": {**part, "text": [text]},
        }


def _range(interval: Interval) -> dict[str, Any]:
    """Return frames from 1, the last one included; at least one."""
    first = round(interval.start * RATE) + 1
    return {"ranges": [{"start": first, "end": max(first, round(interval.end * RATE))}]}
