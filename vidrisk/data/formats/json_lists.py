"""JSON of data sets, however long it is: records of lists and of lines, members of objects. ``object_of`` alone reads it whole."""

from __future__ import annotations

import json
import math
from collections.abc import Container, Iterator
from itertools import count
from pathlib import Path
from typing import Any, TypeGuard

from vidrisk.data.formats.json_pieces import JsonPieces, items_of, names_in
from vidrisk.data.formats.lists import MAX_RECORD_CHARS, bounded_lines, opened_text, text_of
from vidrisk.runtimes.contract.errors import DataError

MAX_OBJECT_BYTES = 16 * 2**20


def records_of(path: Path, most_chars: int | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of a JSON list: where each is, for errors, and its content.

    Raises:
        DataError: a file that cannot be read, no list of objects, or a record of more characters than it may have.
    """
    with opened_text(path) as text:
        pieces = JsonPieces(text, path.name, most_chars)
        if pieces.next_character() != "[":
            raise DataError(f"{path.name} is no JSON list", allowed='[{"id": …}, …]')
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
                raise DataError(f"{where} is no JSON object", allowed='[{"id": …}, …]')
            yield where, record
        if pieces.next_character():
            raise DataError(f"{path.name} goes on behind the end of its list", allowed='[{"id": …}, …]')


def json_lines_of(path: Path, encoding: str | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of a JSONL file: where each is, for errors, and its content.

    Args:
        encoding: None for UTF-8, or what a mark says.

    Raises:
        DataError: a file that cannot be read, a line that is no object, or one of more than a million characters.
    """
    for where, line in bounded_lines(path, MAX_RECORD_CHARS, "one JSON object per line", encoding):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where} is no JSON: {error}", fix="get the file again: it may be cut off") from error
        if not isinstance(record, dict):
            raise DataError(f"{where} is no JSON object", allowed='{"messages": […]}')
        yield where, record


def listed_in(path: Path, names: Container[str]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the objects of the lists of these names in a JSON object: name of the list, where, and content.

    Raises:
        DataError: a file that cannot be read, no JSON object, or a list of these names with something else in it.
    """
    with opened_text(path) as text:
        pieces = JsonPieces(text, path.name)
        for member, name in names_in(pieces, path.name, '{"images": […], "annotations": […]}'):
            if pieces.next_character() != "[":
                pieces.value(member)
                continue
            for where, value in items_of(pieces, f"{path.name}, {name[:40]}"):
                if name not in names:
                    continue
                if not isinstance(value, dict):
                    raise DataError(f"{where} is no JSON object", allowed='{"images": [{"id": …}, …]}')
                yield name, where, value


def members_of(path: Path, inside: str | None = None) -> Iterator[tuple[str, str, Any]]:
    """Yield the members of a JSON object: where each is, for errors, its name, and its content.

    Args:
        inside: the name of a member that is an object, whose members are meant; None for those of the whole.

    Raises:
        DataError: a file that cannot be read, no JSON object, or a member of more than a million characters.
    """
    with opened_text(path) as text:
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
            raise DataError(f"{path.name} goes on behind the end of its object", allowed='{"name": …}')


def records_in_any_layout(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of a JSON list or of JSON lines, whichever the file is.

    Raises:
        DataError: as ``records_of`` and ``json_lines_of``.
    """
    return records_of(path) if first_character_of(path) == "[" else json_lines_of(path)


def first_character_of(path: Path) -> str:
    """Return the first character of a text that is not blank; '' where there is none.

    Raises:
        DataError: a file that cannot be read.
    """
    with opened_text(path) as text:
        return JsonPieces(text, path.name).next_character()


def object_of(path: Path, most_bytes: int | None = None, allowed: str = "a short list of labels") -> dict[str, Any]:
    """Read a JSON object that is small.

    Raises:
        DataError: a file that cannot be read, larger than it may be, no JSON object, or with a key twice.
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
        raise DataError(f"{path.name} is no JSON: {error}", fix="get the file again: it may be cut off") from error
    if not isinstance(value, dict):
        raise DataError(f"{path.name} is no JSON object", allowed='{"label": "id", …}')
    return value


def is_number(value: Any) -> TypeGuard[float]:
    """Tell whether a value of JSON is a number that float64 can hold."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
