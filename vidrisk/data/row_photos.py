"""Reads the bytes of photos from rows of Parquet files, row by row.

Reading forwards is cheap; reading backwards starts again at the beginning of the row group.
"""

from __future__ import annotations

import base64
import binascii
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Any

from typing_extensions import Self

from vidrisk.data.cases import PhotoInRow
from vidrisk.data.parquet_rows import PHOTO_ROWS_AT_A_TIME, open_parquet
from vidrisk.frames.media import MAX_PHOTO_BYTES
from vidrisk.runtimes.contract.errors import UnreadableError

_URI = "data:"


class RowPhotos(AbstractContextManager["RowPhotos"]):
    """Reads photos from Parquet files; keeps one file open, and one batch of each of its columns.

    Close it, or use ``with``.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._file: Any = None
        self._starts: list[int] = []
        self._columns: dict[str, _Column] = {}
        self._open = ExitStack()

    def read(self, photo: PhotoInRow) -> bytes:
        """Return the bytes of a photo, unchecked; base64 is decoded.

        Raises:
            UnreadableError: the row is damaged, or is not base64; the message names the row.
            DataError: the file is no longer a Parquet file.
            MissingExtra: pyarrow is not installed.
        """
        if photo.file != self._path:
            self.close()
            self._file = self._open.enter_context(open_parquet(photo.file))
            self._path = photo.file
            sizes = [self._file.metadata.row_group(n).num_rows for n in range(self._file.metadata.num_row_groups)]
            self._starts = [0, *accumulate(sizes)]
        try:
            value = self._value(photo)
        except Exception as error:  # a damaged page may cause any exception
            self._columns.pop(photo.column, None)
            raise UnreadableError(f"{photo} cannot be read: {error}") from error
        return bytes_from_value(value, str(photo))

    def _value(self, photo: PhotoInRow) -> Any:
        group = bisect_right(self._starts, photo.row) - 1
        if photo.row < 0 or group >= len(self._starts) - 1:
            raise IndexError(f"the file has no row {photo.row + 1}")
        row = photo.row - self._starts[group]
        column = self._columns.get(photo.column)
        if column is None or column.group != group or row < column.first:
            column = self._columns[photo.column] = _Column(self._file, group, photo.column)
        value = column.value(row)
        return value if photo.place is None else value[photo.place]

    def close(self) -> None:
        """Close the open file; reading again reopens it."""
        self._columns.clear()
        self._path = None
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class _Column:
    """A column of a row group, with a batch of its rows in memory.

    ``first`` is the first row that is still available.
    """

    def __init__(self, file: Any, group: int, name: str) -> None:
        self.group, self.first = group, 0
        self._batches: Iterator[Any] = file.iter_batches(
            batch_size=PHOTO_ROWS_AT_A_TIME, row_groups=[group], columns=[name]
        )
        self._held: Any = None

    def value(self, row: int) -> Any:
        while self._held is None or row >= self.first + len(self._held):
            self.first += len(self._held) if self._held is not None else 0
            self._held = next(self._batches).column(0)
        return self._held[row - self.first].as_py()


def bytes_from_value(value: Any, name: str) -> bytes:
    """Return the content of a cell as bytes.

    Raises:
        UnreadableError: an empty cell, invalid base64, or more bytes than the limit for photos.
    """
    if isinstance(value, dict):
        value = value.get("bytes")
    if isinstance(value, str):
        value = _from_base64(value, name)
    if not isinstance(value, bytes) or not value:
        raise UnreadableError(f"{name} has no photo")
    if len(value) > MAX_PHOTO_BYTES:
        raise UnreadableError(
            f"{name} has {len(value)} bytes, the limit of photos is {MAX_PHOTO_BYTES}",
            state="too_large",
            fix="scale it down first",
        )
    return value


def _from_base64(text: str, name: str) -> bytes:
    if len(text) > MAX_PHOTO_BYTES * 3 // 2:
        raise UnreadableError(
            f"{name} has {len(text)} characters of base64", state="too_large", fix="scale it down first"
        )
    if text.startswith(_URI):
        text = text.partition(",")[2]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise UnreadableError(f"{name} is not base64: {error}") from error
