"""ShareGPT in the dialect of LLaMA-Factory (https://github.com/hiyouga/LLaMA-Factory): a JSON list, or lines.

    [{"conversations": [{"from": "human", "value": "<image>What?"}, {"from": "gpt", "value": "…"}], "images":
    ["a.jpg"]}]

A ``dataset_info.json`` beside the file may give other names to columns and roles.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vidrisk.data.formats.json_lists import records_in_any_layout
from vidrisk.data.instruction_formats.dataset_info import entry_of
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

_ROLE_TAGS = {"user_tag": "user", "assistant_tag": "assistant", "system_tag": "system"}


def is_sharegpt(first: First) -> bool:
    """Return whether a file has the records of this format.

    They are ``conversations`` with ``images``, or a list with ``messages``.
    """
    if first.layout == "list" and "messages" in first.record:
        return True
    return (
        first.layout in ("list", "lines")
        and "messages" not in first.record
        and {"conversations", "images"} <= set(first.record)
    )


def read_sharegpt(path: Path) -> Iterator[ToldConversation]:
    """Read every record, with the names that ``dataset_info.json`` gives.

    Raises:
        DataError: a record without its messages, a ``dataset_info.json`` that is not JSON.
    """
    entry = entry_of(path)
    columns, tags = _texts(entry.get("columns")), _texts(entry.get("tags"))
    for where, record in records_in_any_layout(path):
        key = columns.get("messages") or ("conversations" if "conversations" in record else "messages")
        is_plain = key == "messages" and not tags
        role_key = tags.get("role_tag", "role" if is_plain else "from")
        text_key = tags.get("content_tag", "content" if is_plain else "value")
        messages = _with_plain_roles(record.get(key), role_key, tags)
        turns, inside, problem = turns_from_messages(messages, role_key, text_key, where)
        turns = with_system(turns, record.get(columns.get("system", "system")))
        images = names_of(record.get(columns.get("images", "images"))) or names_of(record.get("image"))
        videos = videos_in(record, columns.get("videos", "videos"))
        yield ToldConversation(where, id_of(record), (*images, *inside), turns, problem, videos, record)


def _texts(value: Any) -> dict[str, str]:
    return {name: text for name, text in value.items() if isinstance(text, str)} if isinstance(value, dict) else {}


def _with_plain_roles(messages: Any, role_key: str, tags: dict[str, str]) -> Any:
    roles = {tags[tag]: role for tag, role in _ROLE_TAGS.items() if tag in tags}
    if not roles or not isinstance(messages, list):
        return messages
    return [
        {**message, role_key: roles.get(str(message.get(role_key)), message.get(role_key))}
        if isinstance(message, dict)
        else message
        for message in messages
    ]


FORMAT = InstructionFormat("sharegpt", "ShareGPT", is_sharegpt, read_sharegpt)
