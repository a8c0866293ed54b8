"""ms-swift (https://github.com/modelscope/ms-swift): JSON lines of messages, with the images of all turns in one list.

{"messages": [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "…"}], "images": ["a.jpg"]}
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vidrisk.data.formats.json_lists import json_lines_of
from vidrisk.data.instruction_formats.reader import (
    First,
    InstructionFormat,
    ToldConversation,
    id_of,
    names_of,
    turns_from_messages,
    videos_in,
)


def is_ms_swift(first: First) -> bool:
    """Return whether a file has the records of this format: lines with ``messages``."""
    return first.layout == "lines" and "messages" in first.record


def read_ms_swift(path: Path) -> Iterator[ToldConversation]:
    """Read the conversation on every line."""
    for where, record in json_lines_of(path):
        turns, inside, problem = turns_from_messages(record.get("messages"), "role", "content", where)
        images = names_of(record.get("images")) or names_of(record.get("image"))
        yield ToldConversation(where, id_of(record), (*images, *inside), turns, problem, videos_in(record), record)


FORMAT = InstructionFormat("ms-swift", "ms-swift", is_ms_swift, read_ms_swift)
