"""COCO captions (https://cocodataset.org): a JSON object with images, and captions by the ids of their images.

{"images": [{"id": 9, "file_name": "000000000009.jpg"}], "annotations": [{"id": 1, "image_id": 9, "caption": "…"}]}
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vidrisk.data.formats.json_lists import records_of_lists
from vidrisk.data.instruction_formats.captions import conversation_from_caption
from vidrisk.data.instruction_formats.reader import First, InstructionFormat, ToldConversation
from vidrisk.runtimes.contract.errors import DataError


def is_coco_captions(first: First) -> bool:
    """Return whether a file has the annotations of this format, with ``image_id`` and ``caption``."""
    return first.layout == "object" and {"image_id", "caption"} <= set(first.record)


def read_coco_captions(path: Path) -> Iterator[ToldConversation]:
    """Read every caption; the file is read twice, and the names of its images are kept in memory.

    Raises:
        DataError: an image without id or name, two images with one id, a caption of an image that is not listed.
    """
    files: dict[str, str] = {}
    for _, where, record in records_of_lists(path, ("images",)):
        key, name = _key(record.get("id")), record.get("file_name")
        if not key or not isinstance(name, str) or not name:
            raise DataError(f"{where} has no id or no file_name")
        if files.setdefault(key, name) != name:
            raise DataError(f"{where} has the id {key} of {files[key]!r}", allowed="every id once")
    for _, where, record in records_of_lists(path, ("annotations",)):
        image, caption = files.get(_key(record.get("image_id"))), record.get("caption")
        if image is None or not isinstance(caption, str):
            raise DataError(
                f"{where} has no caption, or its image {_key(record.get('image_id'))!r} is not listed",
                fix="get the file again: it may be damaged",
            )
        yield conversation_from_caption(
            where, f"{Path(image).stem}-{_key(record.get('id')) or 0}", image, caption, "en"
        )


def _key(value: Any) -> str:
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


FORMAT = InstructionFormat("coco-captions", "COCO captions", is_coco_captions, read_coco_captions)
