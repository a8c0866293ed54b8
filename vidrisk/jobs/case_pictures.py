"""Small pictures of cases for a page, of photos in files and in rows of Parquet files, decoded in supervised processes."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidrisk.data.cases import Case, PhotoFile, PhotoInRow, PhotoSource
from vidrisk.data.row_photos import RowPhotos
from vidrisk.decode.messages import PhotoInput, PhotoSettings
from vidrisk.decode.pool import DecodePool
from vidrisk.runtimes.contract.errors import VidriskError

QUALITY = 60
PHOTOS_AT_A_TIME = 32


@dataclass(frozen=True)
class CasePicture:
    """A picture: its file in base64."""

    jpeg: str
    width: int
    height: int

    @property
    def uri(self) -> str:
        return f"data:image/jpeg;base64,{self.jpeg}"


def first_photo(case: Case) -> PhotoSource | None:
    """Return the photo that stands for a case; None where it is told in words."""
    return case.photos[0] if case.photos else None


def record_from_photo(photo: PhotoSource) -> dict[str, Any]:
    """Return where a photo is, ready for JSON; a photo in a file by its path as it is."""
    if isinstance(photo, PhotoFile):
        return {"path": str(photo.path)}
    return {"path": str(photo.file), "row": photo.row, "column": photo.column, "place": photo.place}


def photo_from_record(record: Mapping[str, Any]) -> PhotoSource:
    """The inverse of ``record_from_photo``, but for the name.

    Raises:
        KeyError, TypeError, ValueError: it is none.
    """
    path = Path(record["path"])
    if "row" not in record:
        return PhotoFile(path, path.name)
    place = record["place"]
    return PhotoInRow(path, int(record["row"]), str(record["column"]), None if place is None else int(place))


def read_pictures(photos: Sequence[PhotoSource], pool: DecodePool, side_px: int, max_memory_mb: int) -> list[CasePicture | None]:
    """Return a picture of each photo, at most ``side_px`` wide and high; None of one that has gone or cannot be read.

    Raises:
        RuntimeFailure: decode processes cannot be started.
    """
    settings = PhotoSettings(side_px, side_px, QUALITY, max_memory_mb)
    found: list[CasePicture | None] = []
    with RowPhotos() as rows:
        for start in range(0, len(photos), PHOTOS_AT_A_TIME):
            requests = [_request(place, photo, rows) for place, photo in enumerate(photos[start:start + PHOTOS_AT_A_TIME])]
            asked = [request for request in requests if request]
            jpegs = iter(pool.jpegs(asked, settings) if asked else ())
            for request in requests:
                jpeg = next(jpegs)[0] if request else None
                found.append(CasePicture(base64.b64encode(jpeg.data).decode("ascii"), jpeg.width, jpeg.height) if jpeg else None)
    return found


def _request(place: int, photo: PhotoSource, rows: RowPhotos) -> PhotoInput | None:
    if isinstance(photo, PhotoFile):
        return PhotoInput(place, str(photo.path))
    try:
        return PhotoInput(place, "", rows.read(photo))
    except VidriskError:  # a page lacks a picture, whatever has become of the file
        return None
