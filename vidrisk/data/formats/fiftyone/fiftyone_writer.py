"""Writes a table as a FiftyOne data set: copies of its files, ``samples.json`` and ``metadata.json``.

The layout is the one without a schema, in which FiftyOne infers the fields. Clips and photos, which FiftyOne never
mixes in a data set, become two: ``videos`` and ``images``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from vidrisk.data.formats.copies import copy_into, new_folder
from vidrisk.data.formats.fields import fields_of_sample
from vidrisk.data.formats.format import SCORE, Part, Writing
from vidrisk.data.intervals import interval_cells
from vidrisk.data.io import LABEL_COLUMNS
from vidrisk.data.table import Sample, Table
from vidrisk.frames import Interval, kind_of, probe
from vidrisk.runtimes.contract.errors import DataError, UnreadableError

EVENTS = "_events"  # suffix of a field for parts of clips, because a field has labels of one kind
COLUMNS = "columns"  # other data of a sample or a label
DATA, SAMPLES, METADATA = "data", "samples.json", "metadata.json"
KINDS = {"image": "images", "video": "videos"}
CARRIES: frozenset[Part] = frozenset(
    {
        "clips",
        "photos",
        "intervals",
        "frame intervals",
        "multi-label",
        "no label",
        "several targets",
        "splits",
        "groups",
        "label order",
        "texts",
        "extra",
    }
)
_NO_FRAMES = "frames/none.json"


def write_fiftyone(table: Table, destination: Path, writing: Writing) -> None:
    """Write a field for each target: classifications of whole files, temporal detections of parts; splits are tags.

    Raises:
        DataError: a clip with parts in seconds whose frame rate cannot be read.
    """
    kinds = {kind: [sample for sample in table.samples if kind_of(sample.path) == kind] for kind in KINDS}
    kinds = {kind: samples for kind, samples in kinds.items() if samples}
    with new_folder(destination) as folder:
        for kind, samples in kinds.items():
            _write_kind(folder / KINDS[kind] if len(kinds) > 1 else folder, kind, samples, table, writing)


def _write_kind(folder: Path, kind: str, samples: Iterable[Sample], table: Table, writing: Writing) -> None:
    by_file: dict[str, list[Sample]] = {}
    for sample in samples:
        by_file.setdefault(sample.name, []).append(sample)
    documents = []
    for parts in by_file.values():
        document = {"filepath": f"{DATA}/{copy_into(folder / DATA, parts[0])}", **_document(parts, table, writing)}
        documents.append(document | ({"frames": _NO_FRAMES} if kind == "video" else {}))
    names = [LABEL_COLUMNS[target] + suffix for target in table.label_order for suffix in ("", EVENTS)]
    orders = [order for order in table.label_order.values() for _ in range(2)]
    about = {
        "media_type": kind,
        "classes": dict(zip(names, map(list, orders), strict=True)),
        "info": {"predictions of": writing.model} if writing.model is not None else {},
    }
    (folder / METADATA).write_text(json.dumps(about, ensure_ascii=False, indent=1), encoding="utf-8")
    (folder / SAMPLES).write_text(json.dumps({"samples": documents}, ensure_ascii=False, indent=1), encoding="utf-8")
    if kind == "video":
        (folder / _NO_FRAMES).parent.mkdir()
        (folder / _NO_FRAMES).write_text('{"frames": {}}', encoding="utf-8")


def _document(parts: Sequence[Sample], table: Table, writing: Writing) -> dict[str, Any]:
    splits = {sample.split for sample in parts}
    tags = [split for split in splits if split] if len(splits) == 1 else []
    document: dict[str, Any] = {"tags": tags}
    for sample in parts:
        known = fields_of_sample(sample, without=("split", SCORE) if writing.model is not None else ("split",))
        more = (
            {}
            if sample.interval is None
            else {"tags": [sample.split] if sample.split else [], "support": _support(sample.interval, sample.path)}
        )
        if sample.interval is not None and sample.interval.unit == "s":
            known |= interval_cells(sample.interval, "s")
        for target, label in sample.labels.items():
            of_label = [_label(one, sample, writing) for one in sample.labels_of(target)]
            field = LABEL_COLUMNS[target]
            if sample.interval is not None:
                events = document.setdefault(field + EVENTS, {"_cls": "TemporalDetections", "detections": []})
                events["detections"] += [
                    {"_cls": "TemporalDetection", **one, **more} | ({COLUMNS: known} if known else {})
                    for one in of_label or [{"label": None}]
                ]
            elif isinstance(label, str):
                document[field] = {"_cls": "Classification", **of_label[0]}
            else:
                document[field] = {
                    "_cls": "Classifications",
                    "classifications": [{"_cls": "Classification", **one} for one in of_label],
                }
        if sample.interval is None and known:
            document[COLUMNS] = known
        if sample.interval is None and sample.split and not tags:
            document.setdefault(COLUMNS, {})["split"] = sample.split
    return document


def _label(label: str, sample: Sample, writing: Writing) -> dict[str, Any]:
    try:
        confidence = float(sample.extra[SCORE]) if writing.model is not None else None
    except (KeyError, ValueError):
        confidence = None
    return {"label": label} | ({"confidence": confidence} if confidence is not None else {})


def _support(interval: Interval, path: Path) -> list[int]:
    """Return the first and the last frame of a part, counted from 1."""
    if interval.unit == "frame":
        return [int(interval.start) + 1, int(interval.end)]
    rate = _rate_of(path)
    first = math.floor(interval.start * rate) + 1
    return [first, max(first, math.ceil(interval.end * rate))]


@lru_cache(maxsize=16)
def _rate_of(path: Path) -> float:
    try:
        return probe(path).fps or 1.0
    except UnreadableError as error:
        raise DataError(
            f"{error.what}, but the frames of its parts must be counted", fix="remove it from the table"
        ) from error
