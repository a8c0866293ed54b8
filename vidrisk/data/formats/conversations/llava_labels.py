"""LLaVA's conversations (https://github.com/haotian-liu/LLaVA) as labels of clips and photos.

    [{"id": "1", "image": "a.jpg",
      "conversations": [{"from": "human", "value": "<image>\\nWhich …?"}, {"from": "gpt", "value": "run"}]}]

Clips are ``video`` instead of ``image``, with the same marker. ``--image_folder`` is the folder that the paths are
relative to.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vidrisk.data.formats.conversations.conversations import is_never_recognised, read_conversations
from vidrisk.data.formats.conversations.conversations_writer import CARRIES, Asked, write_conversations
from vidrisk.data.formats.format import Format, Listed, Reading, Writing
from vidrisk.data.instruction_formats.llava import read_llava
from vidrisk.data.table import Table


def read_llava_labels(source: Path, reading: Reading) -> Listed:
    """Read lists or lines of records, each about one clip or photo."""
    return read_conversations(source, reading, read_llava, (".json", ".jsonl"))


def write_llava_labels(table: Table, destination: Path, writing: Writing) -> None:
    """Write a JSON list for each split."""
    write_conversations(table, destination, _record, suffix=".json")


def _record(asked: Asked) -> dict[str, Any]:
    name = asked.sample.name
    messages = asked.messages("from", "value", ("human", "gpt"), "<image>\n")
    return {
        "id": name,
        "video" if asked.is_clip else "image": name,
        "conversations": messages,
    } | asked.attributes_record()


FORMAT = Format(
    "llava",
    "LLaVA, with labels as answers",
    ("action", "risk", "action+risk"),
    "only by name: train.json",
    is_never_recognised,
    read_llava_labels,
    write=write_llava_labels,
    carries=CARRIES,
)
