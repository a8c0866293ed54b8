"""Reads JSON of data sets of any length: records of lists and of lines, members of objects.

Only ``object_of`` loads a whole file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Container, Iterator
from itertools import count
from pathlib import Path
from typing import Any, TypeGuard

from vidrisk.data.formats.json_pieces import JsonPieces, items_of, names_in
from vidrisk.data.formats.lists import MAX_RECORD_CHARS, open_text, read_bounded_lines, text_of
from vidrisk.runtimes.contract.errors import DataError

MAX_OBJECT_BYTES = 16 * 2**20


def records_of(path: Path, most_chars: int | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place, for errors, and the content of each object in a JSON list.

    Raises:
        DataError: a file that cannot be read, not a list of objects, or a record of more than ``most_chars``
            characters.
    """
    with open_text(path) as text:
        pieces = JsonPieces(text, path.name, most_chars)
        if pieces.next_character() != "[":
            raise DataError(f"{path.name} is not a JSON list", allowed='[{"id": …}, …]')
        pieces.skip()
        for number in count(1):
            where = f"{path.name}, record {number}"
            following = pieces.next_character()
            if following == "]":
                pieces.skip()
                break
            if number > 1:
                if following != ",":
                    raise DataError(
                        f"{where}: no comma before it, or the list has no end",
                        fix="get the file again: it may be cut off",
                    )
                pieces.skip()
            record = pieces.value(where)
            if not isinstance(record, dict):
                raise DataError(f"{where} is not a JSON object", allowed='[{"id": …}, …]')
            yield where, record
        if pieces.next_character():
            raise DataError(f"{path.name} continues after the end of its list", allowed='[{"id": …}, …]')


def json_lines_of(path: Path, encoding: str | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place, for errors, and the content of each object in a JSONL file.

    ``encoding`` None means UTF-8, or what a byte order mark declares.

    Raises:
        DataError: a file that cannot be read, a line that is not an object, or one of more than a million characters.
    """
    for where, line in read_bounded_lines(path, MAX_RECORD_CHARS, "one JSON object per line", encoding):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where} is not JSON: {error}", fix="get the file again: it may be cut off") from error
        if not isinstance(record, dict):
            raise DataError(f"{where} is not a JSON object", allowed='{"messages": […]}')
        yield where, record


def records_of_lists(path: Path, names: Container[str]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the list name, the place and the content of each object in the lists of these names in a JSON object.

    Raises:
        DataError: a file that cannot be read, not a JSON object, or a list of these names with anything but objects.
    """
    with open_text(path) as text:
        pieces = JsonPieces(text, path.name)
        for member, name in names_in(pieces, path.name, '{"images": […], "annotations": […]}'):
            if pieces.next_character() != "[":
                pieces.value(member)
                continue
            for where, value in items_of(pieces, f"{path.name}, {name[:40]}"):
                if name not in names:
                    continue
                if not isinstance(value, dict):
                    raise DataError(f"{where} is not a JSON object", allowed='{"images": [{"id": …}, …]}')
                yield name, where, value


def members_of(path: Path, inside: str | None = None) -> Iterator[tuple[str, str, Any]]:
    """Yield the place, for errors, the name and the content of each member of a JSON object.

    With ``inside``, the members are those of the member with this name, which is an object.

    Raises:
        DataError: a file that cannot be read, not a JSON object, or a member of more than a million characters.
    """
    with open_text(path) as text:
        pieces = JsonPieces(text, path.name)
        for where, name in names_in(pieces, path.name, '{"name": …}'):
            if inside is None:
                yield where, name, pieces.value(where)
            elif name == inside:
                for member, its_name in names_in(pieces, f"{path.name}, {inside}", '{"name": …}'):
                    yield member, its_name, pieces.value(member)
            elif pieces.next_character() == "[":
                for _ in items_of(pieces, where):
                    pass
            else:
                pieces.value(where)
        if pieces.next_character():
            raise DataError(f"{path.name} continues after the end of its object", allowed='{"name": …}')


def records_in_any_layout(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of a JSON list or of JSON lines, whichever the file is.

    Raises:
        DataError: as ``records_of`` and ``json_lines_of``.
    """
    return records_of(path) if first_character_of(path) == "[" else json_lines_of(path)


def first_character_of(path: Path) -> str:
    """Return the first non-blank character of a text, or '' if there is none.

    Raises:
        DataError: a file that cannot be read.
    """
    with open_text(path) as text:
        return JsonPieces(text, path.name).next_character()


def object_of(path: Path, most_bytes: int | None = None, allowed: str = "a short list of labels") -> dict[str, Any]:
    """Read a small JSON object.

    Raises:
        DataError: a file that cannot be read or is larger than ``most_bytes``, not a JSON object, or a repeated key.
    """

    def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise DataError(f"{path.name} has {key[:80]!r} twice", fix="keep one of them")
            found[key] = value
        return found

    text = text_of(path, most_bytes or MAX_OBJECT_BYTES, allowed)
    try:
        value = json.loads(text, object_pairs_hook=without_repeats)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path.name} is not JSON: {error}", fix="get the file again: it may be cut off") from error
    if not isinstance(value, dict):
        raise DataError(f"{path.name} is not a JSON object", allowed='{"label": "id", …}')
    return value


def is_number(value: Any) -> TypeGuard[float]:
    """Return whether a JSON value is a number that float64 can hold."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
