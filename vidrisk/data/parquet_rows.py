"""Reads the rows of a Parquet file: photos as references, everything else as text; no photo is kept in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vidrisk.data.case_columns import CONVERSATIONS, METADATA
from vidrisk.data.cases import PhotoInRow
from vidrisk.data.io import Row, Rows, text_from_value
from vidrisk.data.photo_paths import paths_from_cells
from vidrisk.data.text import nfc
from vidrisk.runtimes.contract.errors import DataError, VidriskError, require

BASE64_COLUMNS = ("image_base64", "images_base64", "more_images_base64")
# Columns with the names of a column's photos.
NAMES = {"image_base64": "original_image_path", "more_images_base64": "more_image_paths"}
ROWS_AT_A_TIME = 256
PHOTO_ROWS_AT_A_TIME = 16
SCHEME_KEY = b"vidrisk.scheme"  # in the metadata of files that vidrisk has written
MAX_ROWS = 10_000_000


def photo_columns(schema: Any) -> tuple[str, ...]:
    """Return the columns with photos: bytes, structs with ``bytes``, base64 under a known name, and lists of these."""
    return tuple(field.name for field in schema if _holds_photos(field.name, field.type))


def _holds_photos(name: str, kind: Any) -> bool:
    types = require("pyarrow.types", "parquet")
    if types.is_list(kind) or types.is_large_list(kind):
        return _holds_photos(name, kind.value_type)
    if types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    if types.is_binary(kind) or types.is_large_binary(kind):
        return True
    return name in BASE64_COLUMNS and bool(types.is_string(kind) or types.is_large_string(kind))


def rows_from_parquet(path: Path) -> tuple[Rows, list[tuple[PhotoInRow, ...]]]:
    """Read the rows of a file and the references of the photos in each of them; photos are counted and not decoded.

    Raises:
        DataError: not a Parquet file, or a damaged one.
        MissingExtra: pyarrow is not installed.
    """
    with open_parquet(path) as file:
        if file.metadata.num_rows > MAX_ROWS:
            raise DataError(
                f"{path.name} has {file.metadata.num_rows} rows", allowed=f"up to {MAX_ROWS}", fix="split it"
            )
        with_photos = photo_columns(file.schema_arrow)
        names = file.schema_arrow.names
        left_out = {*with_photos, *((CONVERSATIONS,) if METADATA in names else ())}  # metadata is shorter
        texts = [name for name in names if name not in left_out]
        found: list[dict[str, str]] = []
        for batch in file.iter_batches(batch_size=ROWS_AT_A_TIME, columns=texts):
            found += [{nfc(name): text_from_value(value) for name, value in row.items()} for row in batch.to_pylist()]
        if not texts:
            found = [{} for _ in range(file.metadata.num_rows)]
        photos = _photos_of(file, path, with_photos, found)
        header = [nfc(name) for name in texts]
    return Rows(header, [Row(f"row {number}", row) for number, row in enumerate(found, start=1)]), photos


def scheme_of_parquet(path: Path) -> str | None:
    """Return the scheme in a file's metadata, as JSON, or None if there is none.

    Raises:
        DataError: not a Parquet file.
    """
    with open_parquet(path) as file:
        text: bytes | None = (file.schema_arrow.metadata or {}).get(SCHEME_KEY)
    return text.decode("utf-8", "replace") if text is not None else None


def is_data_set(path: Path) -> bool:
    """Return whether a Parquet file has photos in its rows, or conversations.

    Raises:
        DataError: not a Parquet file.
    """
    with open_parquet(path) as file:
        return bool(photo_columns(file.schema_arrow)) or CONVERSATIONS in file.schema_arrow.names


@contextmanager
def open_parquet(path: Path) -> Iterator[Any]:
    """Open a file; turn the errors of pyarrow while it is read into a DataError of one line.

    Raises:
        DataError: it cannot be opened or read.
        MissingExtra: pyarrow is not installed.
    """
    parquet, arrow = require("pyarrow.parquet", "parquet"), require("pyarrow", "parquet")
    try:
        with path.open("rb") as raw, parquet.ParquetFile(raw, pre_buffer=False) as file:
            yield file
    except VidriskError:
        raise
    except (arrow.ArrowException, OSError, ValueError, MemoryError) as error:
        raise DataError(f"{path.name} is not a readable Parquet file: {error}") from error


def _photos_of(
    file: Any, path: Path, columns: tuple[str, ...], rows: list[dict[str, str]]
) -> list[tuple[PhotoInRow, ...]]:
    found: list[list[PhotoInRow]] = [[] for _ in range(file.metadata.num_rows)]
    for column in columns:
        start = 0
        names = NAMES.get(column, "")
        for batch in file.iter_batches(batch_size=PHOTO_ROWS_AT_A_TIME, columns=[column]):
            for row, places in enumerate(_places(batch.column(0)), start=start):
                found[row] += [
                    PhotoInRow(path, row, column, place, _name_of(rows[row], names, place)) for place in places
                ]
            start += batch.num_rows
    return [tuple(photos) for photos in found]


def _places(array: Any) -> Iterator[list[int | None]]:
    """Yield the places of the photos in each row: None for a single photo, indices in a list; empty cells have none."""
    types, compute = require("pyarrow.types", "parquet"), require("pyarrow.compute", "parquet")
    if types.is_list(array.type) or types.is_large_list(array.type):
        filled = iter(list(_places(array.flatten())))
        for length in compute.list_value_length(array).to_pylist():
            yield [place for place in range(length or 0) if next(filled)]
        return
    if types.is_struct(array.type):
        array = compute.struct_field(array, "bytes")
    for length in compute.binary_length(array).to_pylist():
        yield [None] if length else []


def _name_of(row: Mapping[str, str], column: str, place: int | None) -> str:
    text = row.get(column, "")
    if place is None or not text:
        return text
    try:
        names = paths_from_cells("", text, "")
    except DataError:
        return ""
    return names[place] if place < len(names) else ""
