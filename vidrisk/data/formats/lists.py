"""Reads list files of data sets line by line: lines of text and rows of CSV; see ``json_lists`` for JSON."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TextIO

from vidrisk.data.encoding import MARKS
from vidrisk.data.text import trim_text
from vidrisk.frames.media import name_of
from vidrisk.runtimes.contract.errors import DataError

MAX_LINE_CHARS = 4096  # maximum length of a path
MAX_ROW_CHARS = 2**17
MAX_RECORD_CHARS = 2**20


def find_list(root: Path, names: Sequence[str], folders: Sequence[str], *, fix: str) -> Path:
    """Return the first file with one of these names in these folders below a root.

    Raises:
        DataError: there is none; the message says where it was looked for.
    """
    found = list_in(root, names, folders)
    if found is None:
        raise DataError(
            f"{name_of(root.name)} has no {' or '.join(names)}; looked in {places_text(root, folders)}", fix=fix
        )
    return found


def list_in(root: Path, names: Sequence[str], folders: Sequence[str]) -> Path | None:
    """Return the first file with one of these names in these folders below a root, or None if there is none."""
    paths = (root / folder / name for folder in folders for name in names)
    return next((path for path in paths if os.path.isfile(path)), None)  # noqa: PTH113 (never raises)


def places_text(root: Path, folders: Sequence[str]) -> str:
    """Format the names of folders below a root, for an error message."""
    return ", ".join(f"{name_of(root.name)}/{folder}/" if folder else f"{name_of(root.name)}/" for folder in folders)


def head_of(path: Path, most_bytes: int, *, from_end: bool = False) -> bytes:
    """Return the beginning of a file, or its end; empty if it cannot be read. Never raises."""
    try:
        with path.open("rb") as file:
            if from_end:
                file.seek(max(0, file.seek(0, os.SEEK_END) - most_bytes))
            return file.read(most_bytes)
    except (OSError, ValueError):
        return b""


def text_of(path: Path, most_bytes: int, allowed: str) -> str:
    """Read a small text.

    Raises:
        DataError: a file that cannot be read, is larger than ``most_bytes``, or is not text.
    """
    with open_text(path) as text:
        if path.stat().st_size > most_bytes:
            raise DataError(f"{path.name} is larger than {most_bytes // 2**20} MB", allowed=allowed)
        return text.read()


def lines_of(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the place, for errors, and the stripped text of every line that is not blank.

    Raises:
        DataError: a file that cannot be read, not text, or a line longer than a path may be.
    """
    for where, line in read_bounded_lines(path, MAX_LINE_CHARS, "one video per line"):
        if line := trim_text(line):
            yield where, line


def cells_of(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the place where it ends, for errors, and the cells of every CSV row that is not blank.

    Raises:
        DataError: a file that cannot be read, not text, a quote that is not closed, or a line of more than a hundred
            thousand characters.
    """
    where = path.name

    def lines() -> Iterator[str]:
        nonlocal where
        for place, line in read_bounded_lines(path, MAX_ROW_CHARS, "cells between commas"):
            where = place
            yield line

    try:
        for cells in csv.reader(lines(), strict=True):
            if any(map(trim_text, cells)):
                yield where, cells
    except csv.Error as error:
        raise DataError(
            f"{where} is not CSV: {error}", fix='close every quote, and write a quote inside of quotes twice: ""'
        ) from error


def long_lines_of(path: Path, allowed: str) -> Iterator[tuple[str, str]]:
    """Yield the place, for errors, and the unchanged text of every line.

    Raises:
        DataError: a file that cannot be read, not text, or a line of more than a million characters.
    """
    return read_bounded_lines(path, MAX_RECORD_CHARS, allowed)


def read_bounded_lines(path: Path, most: int, allowed: str, encoding: str | None = None) -> Iterator[tuple[str, str]]:
    """Yield the place and the text of every line; refuse one of more than ``most`` characters before reading all of it.

    Raises:
        DataError: such a line, a file that cannot be read, or not text.
    """
    with open_text(path, encoding) as text:
        for number in count(1):
            line = text.readline(most + 1)
            if not line:
                return
            where = f"{path.name}, line {number}"
            if len(line) > most:
                raise DataError(f"{where} is longer than {most} characters", allowed=allowed)
            yield where, line


@contextmanager
def open_text(path: Path, named: str | None = None) -> Iterator[TextIO]:
    """Open a text in the encoding ``named``, else in UTF-8 or what its byte order mark declares.

    Raises:
        DataError: a file that cannot be read, or is not text.
    """
    encoding = named or "utf-8"
    try:
        if named is None:
            with path.open("rb") as file:
                head = file.read(4)
            encoding = next((of_mark for mark, of_mark in MARKS if head.startswith(mark)), encoding)
        with path.open(encoding=encoding, newline="") as text:
            yield text
    except UnicodeError as error:
        raise DataError(
            f"{path.name} is not {encoding} text: {getattr(error, 'reason', error)}", fix="save it as UTF-8"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
