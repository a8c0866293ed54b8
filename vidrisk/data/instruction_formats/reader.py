"""Interface of the formats of instruction data: how a format detects its files, and the records that it reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from vidrisk.data.instructions import Role, Turn
from vidrisk.runtimes.contract.errors import DataError

Layout = Literal["list", "lines", "object"]
ROLES: dict[str, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "bot": "assistant",
    "model": "assistant",
}


class ToldConversation(NamedTuple):
    """One conversation as stored in a file, before images are looked up.

    Attributes:
        where: place in the file, for messages.
        id: as written, or '' if there is none.
        images: paths as written.
        turns: with or without markers of images.
        problem: why it cannot be used, or '' if it can.
        videos: paths as written.
        record: the whole record of the file.
    """

    where: str
    id: str
    images: tuple[str, ...]
    turns: tuple[Turn, ...]
    problem: str = ""
    videos: tuple[str, ...] = ()
    record: Mapping[str, Any] = MappingProxyType({})


class First(NamedTuple):
    """The beginning of a file: a JSON list, JSON lines or a JSON object, and its first record.

    Attributes:
        layout: which of the three.
        record: the first record.
        told: the format that a list of data sets beside the file names, or '' if there is none.
    """

    layout: Layout
    record: Mapping[str, Any]
    told: str = ""


@dataclass(frozen=True)
class InstructionFormat:
    """One layout of instruction data.

    Attributes:
        name: for options.
        title: for messages.
        owns: returns whether the beginning of a file is of this format.
        read: reads a file record by record.
    """

    name: str
    title: str
    owns: Callable[[First], bool]
    read: Callable[[Path], Iterator[ToldConversation]]


def turns_from_messages(
    messages: Any, role_key: str, text_key: str, where: str
) -> tuple[tuple[Turn, ...], tuple[str, ...], str]:
    """Return the turns of a list of messages, the images in them, and a problem or ''.

    A text may be a list of parts, as in server APIs: ``[{"type": "text", "text": "…"}, {"type": "image", "image":
    "a.jpg"}]``.

    Raises:
        DataError: not a list of objects.
    """
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise DataError(f"{where} has no list of messages", allowed=f'[{{"{role_key}": "user", "{text_key}": "…"}}, …]')
    turns: list[Turn] = []
    images: list[str] = []
    for message in messages:
        role = ROLES.get(str(message.get(role_key)))
        if role is None:
            return tuple(turns), tuple(images), f"a turn of {str(message.get(role_key))[:20]!r}"
        text = _text(message.get(text_key), images)
        if text is None:
            return tuple(turns), tuple(images), "a turn without a text"
        turns.append(Turn(role, text))
    return tuple(turns), tuple(images), ""


def _text(content: Any, images: list[str]) -> str | None:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    texts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") not in ("text", "image"):
            return None
        if part["type"] == "image":
            if isinstance(part.get("image"), str):
                images.append(part["image"])
            texts.append("<image>\n")
        else:
            texts.append(str(part.get("text", "")))
    return "".join(texts)


def with_system(turns: tuple[Turn, ...], system: Any) -> tuple[Turn, ...]:
    """Prepend the system text of a record, if there is one and the turns have none."""
    has_own = bool(turns) and turns[0].role == "system"
    return (Turn("system", system), *turns) if isinstance(system, str) and system and not has_own else turns


def names_of(value: Any) -> tuple[str, ...]:
    """Return the paths of a value that is one path or a list of them; empty if there is none."""
    if isinstance(value, str):
        return (value,) if value else ()
    if isinstance(value, list):
        paths = [item.get("path") if isinstance(item, dict) else item for item in value]
        return tuple(path for path in paths if isinstance(path, str) and path)
    return ()


def id_of(record: Mapping[str, Any]) -> str:
    """Return the id of a record as text, or '' if there is none."""
    value = record.get("id")
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def videos_in(record: Mapping[str, Any], column: str = "videos") -> tuple[str, ...]:
    """Return the paths of the videos of a record."""
    return names_of(record.get("video")) or names_of(record.get(column))
