"""ShareGPT as LLaMA-Factory reads it (https://github.com/hiyouga/LLaMA-Factory): a JSON list, or lines, of conversations.

    [{"conversations": [{"from": "human", "value": "<image>What?"}, {"from": "gpt", "value": "…"}], "images": ["a.jpg"]}]

A ``dataset_info.json`` beside the file may give other names to columns and roles.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vidrisk.data.formats.lists import object_of, records_in_any_layout
from vidrisk.data.instruction_formats.reader import (
    First,
    InstructionFormat,
    ToldConversation,
    id_of,
    names_of,
    turns_from_messages,
    video_in,
)
from vidrisk.data.instructions import Turn

INFO = "dataset_info.json"
_ROLE_TAGS = {"user_tag": "user", "assistant_tag": "assistant", "system_tag": "system"}


def is_sharegpt(first: First) -> bool:
    """Tell its records: ``conversations`` with ``images``, or a list with ``messages``."""
    if first.layout == "list" and "messages" in first.record:
        return True
    return first.layout in ("list", "lines") and "messages" not in first.record and {"conversations", "images"} <= set(first.record)


def read_sharegpt(path: Path) -> Iterator[ToldConversation]:
    """Read every record, with the names that ``dataset_info.json`` gives.

    Raises:
        DataError: a record without its messages, a ``dataset_info.json`` that is no JSON.
    """
    columns, tags = _names(path)
    for where, record in records_in_any_layout(path):
        key = columns.get("messages") or ("conversations" if "conversations" in record else "messages")
        is_plain = key == "messages" and not tags
        role_key = tags.get("role_tag", "role" if is_plain else "from")
        text_key = tags.get("content_tag", "content" if is_plain else "value")
        messages = _with_plain_roles(record.get(key), role_key, tags)
        turns, inside, problem = turns_from_messages(messages, role_key, text_key, where)
        system = record.get(columns.get("system", "system"))
        if isinstance(system, str) and system and not (turns and turns[0].role == "system"):
            turns = (Turn("system", system), *turns)
        images = names_of(record.get(columns.get("images", "images"))) or names_of(record.get("image"))
        yield ToldConversation(where, id_of(record), (*images, *inside), turns, problem or video_in(record))


def _names(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Columns and tags of the entry whose file this is."""
    info = path.with_name(INFO)
    if not info.is_file():
        return {}, {}
    for entry in object_of(info).values():
        if isinstance(entry, dict) and entry.get("file_name") == path.name:
            return _texts(entry.get("columns")), _texts(entry.get("tags"))
    return {}, {}


def _texts(value: Any) -> dict[str, str]:
    return {name: text for name, text in value.items() if isinstance(text, str)} if isinstance(value, dict) else {}


def _with_plain_roles(messages: Any, role_key: str, tags: dict[str, str]) -> Any:
    roles = {tags[tag]: role for tag, role in _ROLE_TAGS.items() if tag in tags}
    if not roles or not isinstance(messages, list):
        return messages
    return [{**message, role_key: roles.get(str(message.get(role_key)), message.get(role_key))} if isinstance(message, dict)
            else message for message in messages]


FORMAT = InstructionFormat("sharegpt", "ShareGPT", is_sharegpt, read_sharegpt)
