"""COCO captions (https://cocodataset.org): one JSON object with the images, and the captions by the ids of their images.

{"images": [{"id": 9, "file_name": "000000000009.jpg"}], "annotations": [{"id": 1, "image_id": 9, "caption": "…"}]}
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vidrisk.data.formats.json_lists import listed_in
from vidrisk.data.instruction_formats.captions import told_from_caption
from vidrisk.data.instruction_formats.reader import First, InstructionFormat, ToldConversation
from vidrisk.runtimes.contract.errors import DataError


def is_coco_captions(first: First) -> bool:
    """Tell its annotations: they have a ``caption``."""
    return first.layout == "object" and {"image_id", "caption"} <= set(first.record)


def read_coco_captions(path: Path) -> Iterator[ToldConversation]:
    """Read every caption; the file is passed through twice, and the names of its images are held.

    Raises:
        DataError: an image without id or name, two images of one id, a caption of an image that is not listed.
    """
    files: dict[str, str] = {}
    for _, where, record in listed_in(path, ("images",)):
        key, name = _key(record.get("id")), record.get("file_name")
        if not key or not isinstance(name, str) or not name:
            raise DataError(f"{where} has no id or no file_name")
        if files.setdefault(key, name) != name:
            raise DataError(f"{where} has the id {key} of {files[key]!r}", allowed="every id once")
    for _, where, record in listed_in(path, ("annotations",)):
        image, caption = files.get(_key(record.get("image_id"))), record.get("caption")
        if image is None or not isinstance(caption, str):
            raise DataError(
                f"{where} has no caption, or is of the image {_key(record.get('image_id'))!r}, which is not listed",
                fix="get the file again: it may be damaged",
            )
        yield told_from_caption(where, f"{Path(image).stem}-{_key(record.get('id')) or 0}", image, caption, "en")


def _key(value: Any) -> str:
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


FORMAT = InstructionFormat("coco-captions", "COCO captions", is_coco_captions, read_coco_captions)
