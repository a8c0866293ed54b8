"""AI Challenger's Chinese captions: a JSON list of images with several captions each.

[{"image_id": "a.jpg", "caption": ["…", "…"]}]
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vidrisk.data.formats.json_lists import records_of
from vidrisk.data.instruction_formats.captions import conversation_from_caption
from vidrisk.data.instruction_formats.reader import First, InstructionFormat, ToldConversation
from vidrisk.runtimes.contract.errors import DataError


def is_ai_challenger(first: First) -> bool:
    """Return whether a file has the records of this format: a list with ``image_id`` and ``caption``."""
    return first.layout == "list" and {"image_id", "caption"} <= set(first.record)


def read_ai_challenger(path: Path) -> Iterator[ToldConversation]:
    """Read every caption of every image.

    Raises:
        DataError: a record without an image or without captions.
    """
    for where, record in records_of(path):
        image, captions = record.get("image_id"), record.get("caption")
        captions = [captions] if isinstance(captions, str) else captions
        if not isinstance(image, str) or not image or not isinstance(captions, list):
            raise DataError(f"{where} has no image_id or no caption", allowed='{"image_id": "a.jpg", "caption": ["…"]}')
        for number, caption in enumerate(captions, start=1):
            yield conversation_from_caption(where, f"{Path(image).stem}-{number}", image, str(caption), "zh")


FORMAT = InstructionFormat("ai-challenger", "AI Challenger captions", is_ai_challenger, read_ai_challenger)
