"""Writes a table of photos as COCO JSON, with every label as an annotation around the whole image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vidrisk.data.formats.fields import fields_of_sample
from vidrisk.data.formats.format import SCORE, Part, Writing
from vidrisk.data.io import LABEL_COLUMNS, write_new_file
from vidrisk.data.table import Table, main_target
from vidrisk.frames.photos import photo_size
from vidrisk.runtimes.contract.errors import DataError, UnreadableError

NONE_OF = "none_of"  # key of an image for the targets of which no label applies
CARRIES: frozenset[Part] = frozenset(
    {"photos", "multi-label", "no label", "several targets", "splits", "groups", "label order", "texts", "extra"}
)


def write_coco(table: Table, destination: Path, writing: Writing) -> None:
    """Write images, annotations and categories; for predictions, annotations with a score.

    Splits, groups, texts and extra columns are ``attributes`` of the image, which other programs ignore.

    Raises:
        DataError: a photo that cannot be read; the format requires its size.
    """
    primary = main_target(table.task)
    categories: dict[tuple[str, str], dict[str, Any]] = {}
    for target in table.target_names:
        counted = {label for sample in table.samples for label in sample.labels_of(target)}
        for label in table.label_order.get(target, tuple(sorted(counted))):
            group = {"supercategory": LABEL_COLUMNS[target]} if target != primary else {}
            categories[target, label] = {"id": len(categories) + 1, "name": label} | group
    images: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    for number, sample in enumerate(table.samples, start=1):
        try:
            width, height = photo_size(sample.path)
        except UnreadableError as error:
            raise DataError(
                f"{error.what}, but {destination.name} must contain its size", fix="remove it from the table"
            ) from error
        attributes = fields_of_sample(sample, without=(SCORE,) if writing.model is not None else ())
        none_of = [LABEL_COLUMNS[target] for target, labels in sample.labels.items() if labels == ()]
        images.append(
            {"id": number, "file_name": sample.name, "width": width, "height": height}
            | ({"attributes": attributes} if attributes else {})
            | ({NONE_OF: none_of} if none_of else {})
        )
        for target in sample.labels:
            for label in sample.labels_of(target):
                box = {
                    "id": len(boxes) + 1,
                    "image_id": number,
                    "category_id": categories[target, label]["id"],
                    "bbox": [0, 0, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                }
                boxes.append(box | (_score(sample.extra.get(SCORE)) if writing.model is not None else {}))
    about = {
        "description": f"predictions of {writing.model}" if writing.model is not None else "labels of whole images"
    }
    content = {"info": about, "images": images, "annotations": boxes, "categories": list(categories.values())}
    write_new_file(destination, json.dumps(content, ensure_ascii=False, indent=1).encode())


def _score(text: str | None) -> dict[str, float]:
    try:
        return {"score": round(float(text), 6)} if text else {}
    except ValueError:
        return {}
