"""LLaVA (https://github.com/haotian-liu/LLaVA): a JSON list, or lines, of conversations about one image each.

[{"id": "1", "image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat?"}, {"from": "gpt", "value":
"…"}]}]
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vidrisk.data.formats.json_lists import records_in_any_layout
from vidrisk.data.instruction_formats.reader import (
    First,
    InstructionFormat,
    ToldConversation,
    id_of,
    names_of,
    turns_from_messages,
    videos_in,
    with_system,
)


def is_llava(first: First) -> bool:
    """Return whether a file has LLaVA's records: ``conversations``, and no list ``images`` in the first one."""
    return (
        first.layout in ("list", "lines")
        and "conversations" in first.record
        and not {"images", "messages"} & set(first.record)
    )


def read_llava(path: Path) -> Iterator[ToldConversation]:
    """Read all turns of every record; an image may occur any number of times.

    A record may have ``images`` and ``system`` all the same, because a ShareGPT file may begin with a record that has
    neither.
    """
    for where, record in records_in_any_layout(path):
        turns, inside, problem = turns_from_messages(record.get("conversations"), "from", "value", where)
        images = names_of(record.get("image")) or names_of(record.get("images"))
        turns = with_system(turns, record.get("system"))
        yield ToldConversation(where, id_of(record), (*images, *inside), turns, problem, videos_in(record), record)


FORMAT = InstructionFormat("llava", "LLaVA", is_llava, read_llava)
