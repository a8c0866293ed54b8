"""Where the photos of cases are, ready for JSON, and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vidrisk.data.cases import PhotoFile, PhotoInRow, PhotoSource
from vidrisk.files.paths import path_from_stored, stored_from_path


def record_from_photo(photo: PhotoSource) -> dict[str, Any]:
    """Return where a photo is: its path, or that of its Parquet file with its row and column; a photo in a file loses its name."""
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
    """The inverse of ``record_from_photo``; a photo in a file has the name of its file.

    Raises:
        KeyError, TypeError, ValueError: it is none.
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
