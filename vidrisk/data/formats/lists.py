"""List files of data sets, read piece by piece: lines of text, rows of CSV, records of JSON lists and members of JSON objects.

Held are the line or record at hand and at most a piece of the file behind it, however long a list is; ``object_of`` alone reads a
whole file, which is small.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, TextIO

from vidrisk.data.encoding import MARKS
from vidrisk.data.text import trimmed
from vidrisk.frames.media import name_of
from vidrisk.runtimes.contract.errors import DataError

MAX_LINE_CHARS = 4096  # as long as a path may be
MAX_ROW_CHARS = 2**17
MAX_RECORD_CHARS = 2**20
MAX_OBJECT_BYTES = 16 * 2**20
PIECE_CHARS = 2**16
_BLANK = " \t\r\n"
_DECODER = json.JSONDecoder()


def find_list(root: Path, names: Sequence[str], folders: Sequence[str], *, fix: str) -> Path:
    """Return the first file of these names in these folders below a root.

    Raises:
        DataError: there is none; it says where it was looked for.
    """
    found = list_in(root, names, folders)
    if found is None:
        raise DataError(f"{name_of(root.name)} has no {' or '.join(names)}; looked in {places_text(root, folders)}", fix=fix)
    return found


def list_in(root: Path, names: Sequence[str], folders: Sequence[str]) -> Path | None:
    """Return the first file of these names in these folders below a root; None where there is none."""
    paths = (root / folder / name for folder in folders for name in names)
    return next((path for path in paths if os.path.isfile(path)), None)  # noqa: PTH113 (never raises)


def places_text(root: Path, folders: Sequence[str]) -> str:
    """Name folders below a root, for an error."""
    return ", ".join(f"{name_of(root.name)}/{folder}/" if folder else f"{name_of(root.name)}/" for folder in folders)


def lines_of(path: Path) -> Iterator[tuple[str, str]]:
    """Yield every line that is not blank: where it is, for errors, and its text without white space around it.

    Raises:
        DataError: a file that cannot be read, no text, or a line longer than a path may be.
    """
    for where, line in _bounded_lines(path, MAX_LINE_CHARS, "one video per line"):
        if line := trimmed(line):
            yield where, line


def cells_of(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield every row of a CSV file that is not blank: where it ends, for errors, and its cells.

    Raises:
        DataError: a file that cannot be read, no text, a quote without end, or a line of more than a hundred thousand characters.
    """
    where = path.name

    def lines() -> Iterator[str]:
        nonlocal where
        for place, line in _bounded_lines(path, MAX_ROW_CHARS, "cells between commas"):
            where = place
            yield line

    try:
        for cells in csv.reader(lines(), strict=True):
            if any(map(trimmed, cells)):
                yield where, cells
    except csv.Error as error:
        raise DataError(f"{where} is no CSV: {error}",
                        fix='close every quote, and write a quote inside of quotes twice: ""') from error


def _bounded_lines(path: Path, most: int, allowed: str, encoding: str | None = None) -> Iterator[tuple[str, str]]:
    """Yield every line, and where it is; one of more than so many characters is refused before it is read whole."""
    with _opened(path, encoding) as text:
        for number in count(1):
            line = text.readline(most + 1)
            if not line:
                return
            where = f"{path.name}, line {number}"
            if len(line) > most:
                raise DataError(f"{where} is longer than {most} characters", allowed=allowed)
            yield where, line


def records_of(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of a JSON list: where each is, for errors, and its content.

    Raises:
        DataError: a file that cannot be read, no list of objects, or a record of more than a million characters.
    """
    with _opened(path) as text:
        pieces = _JsonPieces(text, path.name)
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
                    raise DataError(f"{where}: no comma before it, or the list has no end",
                                    fix="get the file again: it may be cut off")
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
    for where, line in _bounded_lines(path, MAX_RECORD_CHARS, "one JSON object per line", encoding):
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
    with _opened(path) as text:
        pieces = _JsonPieces(text, path.name)
        for member, name in _names_in(pieces, path.name, '{"images": […], "annotations": […]}'):
            if pieces.next_character() != "[":
                pieces.value(member)
                continue
            for where, value in _items_of(pieces, f"{path.name}, {name[:40]}"):
                if name not in names:
                    continue
                if not isinstance(value, dict):
                    raise DataError(f"{where} is no JSON object")
                yield name, where, value


def members_of(path: Path, inside: str | None = None) -> Iterator[tuple[str, str, Any]]:
    """Yield the members of a JSON object: where each is, for errors, its name, and its content.

    Args:
        inside: the name of a member that is an object, whose members are meant; None for those of the whole.

    Raises:
        DataError: a file that cannot be read, no JSON object, or a member of more than a million characters.
    """
    with _opened(path) as text:
        pieces = _JsonPieces(text, path.name)
        for where, name in _names_in(pieces, path.name, '{"name": …}'):
            if inside is None:
                yield where, name, pieces.value(where)
            elif name == inside:
                for member, its_name in _names_in(pieces, f"{path.name}, {inside}", '{"name": …}'):
                    yield member, its_name, pieces.value(member)
            elif pieces.next_character() == "[":
                for _ in _items_of(pieces, where):
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
    with _opened(path) as text:
        return _JsonPieces(text, path.name).next_character()


def _names_in(pieces: _JsonPieces, source: str, allowed: str) -> Iterator[tuple[str, str]]:
    """Names in the object that begins here, and where each is. Whoever takes a name takes the value behind it, too."""
    if pieces.next_character() != "{":
        raise DataError(f"{source} is no JSON object", allowed=allowed)
    pieces.skip()
    for number in count():
        if pieces.next_character() == "}":
            pieces.skip()
            return
        if number:
            pieces.pass_by(",")
        name = pieces.value(f"{source}, member {number + 1}")
        if not isinstance(name, str):
            raise DataError(f"{source}, member {number + 1} has no name", fix="get the file again: it may be damaged")
        pieces.pass_by(":")
        yield f"{source}, {name[:40]!r}", name


def _items_of(pieces: _JsonPieces, source: str) -> Iterator[tuple[str, Any]]:
    """The items of the list that begins here; the list is passed by."""
    pieces.skip()
    for number in count(1):
        where = f"{source}, record {number}"
        if pieces.next_character() == "]":
            pieces.skip()
            return
        if number > 1:
            pieces.pass_by(",")
        yield where, pieces.value(where)


def object_of(path: Path) -> dict[str, Any]:
    """Read a JSON object that is small.

    Raises:
        DataError: a file that cannot be read, larger than 16 MB, no JSON object, or with a key twice.
    """
    def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise DataError(f"{path.name} has {key[:80]!r} twice", fix="keep one of them")
            found[key] = value
        return found

    with _opened(path) as text:
        if path.stat().st_size > MAX_OBJECT_BYTES:
            raise DataError(f"{path.name} is larger than {MAX_OBJECT_BYTES // 2**20} MB", allowed="a short list of labels")
        try:
            value = json.loads(text.read(), object_pairs_hook=without_repeats)
        except UnicodeError:
            raise
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path.name} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path.name} is no JSON object", allowed='{"label": "id", …}')
    return value


@contextmanager
def _opened(path: Path, named: str | None = None) -> Iterator[TextIO]:
    """Open a text, in an encoding that is named, else in UTF-8 or what its mark says."""
    encoding = named or "utf-8"
    try:
        if named is None:
            with path.open("rb") as file:
                head = file.read(4)
            encoding = next((of_mark for mark, of_mark in MARKS if head.startswith(mark)), encoding)
        with path.open(encoding=encoding, newline="") as text:
            yield text
    except UnicodeError as error:
        raise DataError(f"{path.name} is no {encoding} text: {getattr(error, 'reason', error)}", fix="save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


class _JsonPieces:
    """The text of a JSON file, of which one piece is held."""

    def __init__(self, text: TextIO, name: str) -> None:
        self._text, self._name = text, name
        self._held, self._at = "", 0

    def next_character(self) -> str:
        """The next character that is not blank, which stays; '' at the end."""
        while True:
            while self._at < len(self._held):
                if self._held[self._at] not in _BLANK:
                    return self._held[self._at]
                self._at += 1
            if not self._read_on():
                return ""

    def skip(self) -> None:
        """Pass by one character."""
        self._at += 1

    def pass_by(self, character: str) -> None:
        """Pass by a character that must come next.

        Raises:
            DataError: another one does.
        """
        if self.next_character() != character:
            raise DataError(f"{self._name}: no {character!r} where one belongs, or the file has no end",
                            fix="get the file again: it may be cut off")
        self.skip()

    def value(self, where: str) -> Any:
        """Take the next value, reading on until it is whole."""
        self.next_character()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._held, self._at)
            except json.JSONDecodeError as error:
                if len(self._held) - self._at > MAX_RECORD_CHARS:
                    raise DataError(f"{where} is no JSON, or longer than {MAX_RECORD_CHARS} characters: {error.msg}") from error
                if not self._read_on():
                    raise DataError(f"{where} is no JSON: {error.msg}", fix="get the file again: it may be cut off") from error
            except (ValueError, RecursionError) as error:
                raise DataError(f"{where} is no JSON that can be read: {error}") from error
            else:
                behind = len(self._held) - end
                if behind > 2 or not isinstance(value, (int, float)) or self._held[end:].strip("+-.eE") or not self._read_on():
                    self._at = len(self._held) - behind
                    return value  # else the number may go on in the next piece

    def _read_on(self) -> bool:
        piece = self._text.read(PIECE_CHARS)
        self._held, self._at = self._held[self._at:] + piece, 0
        return bool(piece)
