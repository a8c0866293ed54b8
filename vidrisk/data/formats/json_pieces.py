"""Reads JSON piece by piece; only the current value and a following piece of at most the same length are in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from typing import Any, TextIO

from vidrisk.data.formats.lists import MAX_RECORD_CHARS
from vidrisk.runtimes.contract.errors import DataError

PIECE_CHARS = 2**16
_BLANK = " \t\r\n"
_DECODER = json.JSONDecoder()


class JsonPieces:
    """The text of a JSON file, read in pieces."""

    def __init__(self, text: TextIO, name: str, most_chars: int | None = None) -> None:
        self._text, self._name, self._most_chars = text, name, most_chars or MAX_RECORD_CHARS
        self._held, self._at = "", 0

    def next_character(self) -> str:
        """Return the next non-blank character without consuming it, or '' at the end."""
        while True:
            while self._at < len(self._held):
                if self._held[self._at] not in _BLANK:
                    return self._held[self._at]
                self._at += 1
            if not self._read_on():
                return ""

    def skip(self) -> None:
        """Skip one character."""
        self._at += 1

    def pass_by(self, character: str) -> None:
        """Skip a character that must come next.

        Raises:
            DataError: another one does.
        """
        if self.next_character() != character:
            raise DataError(
                f"{self._name}: {character!r} is missing, or the file is cut off",
                fix="get the file again: it may be cut off",
            )
        self.skip()

    def value(self, where: str) -> Any:
        """Parse the next value, reading on until it is complete."""
        self.next_character()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._held, self._at)
            except json.JSONDecodeError as error:
                if len(self._held) - self._at > self._most_chars:
                    raise DataError(
                        f"{where} is not JSON, or longer than {self._most_chars} characters: {error.msg}",
                        fix="get the file again: it may be cut off",
                    ) from error
                if not self._read_on():
                    raise DataError(
                        f"{where} is not JSON: {error.msg}", fix="get the file again: it may be cut off"
                    ) from error
            except (ValueError, RecursionError) as error:
                raise DataError(f"{where} is not readable JSON: {error}", fix="get the file again") from error
            else:
                behind = len(self._held) - end
                if (
                    behind > 2
                    or not isinstance(value, (int, float))
                    or self._held[end:].strip("+-.eE")
                    or not self._read_on()
                ):
                    self._at = len(self._held) - behind
                    return value  # otherwise the number may continue in the next piece

    def _read_on(self) -> bool:
        piece = self._text.read(
            max(PIECE_CHARS, len(self._held) - self._at)
        )  # double the text, to parse a long value few times
        self._held, self._at = self._held[self._at :] + piece, 0
        return bool(piece)


def names_in(pieces: JsonPieces, source: str, allowed: str) -> Iterator[tuple[str, str]]:
    """Yield the place and the name of each member in the object that begins here.

    The caller must consume the value after each name.

    Raises:
        DataError: there is no object, or it is damaged.
    """
    if pieces.next_character() != "{":
        raise DataError(f"{source} is not a JSON object", allowed=allowed)
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


def items_of(pieces: JsonPieces, source: str) -> Iterator[tuple[str, Any]]:
    """Yield the place and the value of each item in the list that begins here; the list is consumed.

    Raises:
        DataError: it is damaged.
    """
    pieces.skip()
    for number in count(1):
        where = f"{source}, record {number}"
        if pieces.next_character() == "]":
            pieces.skip()
            return
        if number > 1:
            pieces.pass_by(",")
        yield where, pieces.value(where)
