"""Converts the places of photos to JSON records and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vidrisk.data.cases import PhotoFile, PhotoInRow, PhotoSource
from vidrisk.files.paths import path_from_stored, stored_from_path


def record_from_photo(photo: PhotoSource) -> dict[str, Any]:
    """Return a record of a photo's place: its path, or that of its Parquet file with its row and column.

    The name of a photo in a file is not kept.
    """
    if isinstance(photo, PhotoFile):
        return {"path": stored_from_path(str(photo.path))}
    return {
        "path": stored_from_path(str(photo.file)),
        "row": photo.row,
        "column": photo.column,
        "place": photo.place,
        "name": photo.name,
    }


def photo_from_record(record: Mapping[str, Any]) -> PhotoSource:
    """Return the photo of a record; the inverse of ``record_from_photo``.

    A photo in a file gets the name of its file.

    Raises:
        KeyError, TypeError, ValueError: the record is not one of a photo.
    """
    path = Path(path_from_stored(record["path"]))
    if "row" not in record:
        return PhotoFile(path, path.name)
    place = record["place"]
    return PhotoInRow(
        path,
        int(record["row"]),
        str(record["column"]),
        None if place is None else int(place),
        str(record.get("name", "")),
    )
