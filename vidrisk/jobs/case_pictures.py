"""Small pictures of cases for a page, from photo files and rows of Parquet files, decoded in supervised processes."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vidrisk.data.cases import PhotoFile, PhotoSource
from vidrisk.data.photo_records import photo_from_record
from vidrisk.data.row_photos import RowPhotos
from vidrisk.decode.messages import PhotoInput, PhotoSettings
from vidrisk.decode.pool import DecodePool
from vidrisk.runtimes.contract.errors import VidriskError

QUALITY = 60
BYTES_PER_PIXEL = 0.15  # at that quality; most pictures take less
MAX_SIDE_PX, MIN_SIDE_PX = 480, 16
PHOTOS_AT_A_TIME = 32
Record = Mapping[str, Any]


@dataclass(frozen=True)
class CasePicture:
    """A picture, as a JPEG file in base64."""

    jpeg: str
    width: int
    height: int

    @property
    def bytes(self) -> int:
        return len(self.jpeg) * 3 // 4

    @property
    def uri(self) -> str:
        return f"data:image/jpeg;base64,{self.jpeg}"


def path_of_record(record: Record) -> str | None:
    """Return the path of a photo, or None if it is stored in a row of a file."""
    photo = photo_from_record(record)
    return str(photo.path) if isinstance(photo, PhotoFile) else None


def read_pictures(
    photos: Sequence[Record], pool: DecodePool, side_px: int, max_memory_mb: int
) -> list[CasePicture | None]:
    """Return a picture of each photo, at most ``side_px`` wide and high.

    Args:
        photos: as written by ``record_from_photo``.
        pool: that decodes.
        side_px: maximum width and height.
        max_memory_mb: that a decode process may allocate.

    Returns:
        None for a photo that no longer exists or cannot be read.

    Raises:
        RuntimeFailure: decode processes cannot be started.
    """
    settings = PhotoSettings(side_px, side_px, QUALITY, max_memory_mb)
    found: list[CasePicture | None] = []
    with RowPhotos() as rows:
        for start in range(0, len(photos), PHOTOS_AT_A_TIME):
            requests = [
                _request(place, photo, rows)
                for place, photo in enumerate(map(photo_from_record, photos[start : start + PHOTOS_AT_A_TIME]))
            ]
            asked = [request for request in requests if request]
            jpegs = iter(pool.jpegs(asked, settings) if asked else ())
            for request in requests:
                jpeg = next(jpegs)[0] if request else None
                found.append(
                    CasePicture(base64.b64encode(jpeg.data).decode("ascii"), jpeg.width, jpeg.height) if jpeg else None
                )
    return found


def read_bounded_pictures(
    photos: Sequence[Record], pool: DecodePool, max_bytes: int, max_memory_mb: int
) -> list[CasePicture | None]:
    """Return a picture of each photo, of at most ``max_bytes`` before base64.

    None is returned for the same photos as by ``read_pictures``.

    Raises:
        RuntimeFailure: decode processes cannot be started.
    """
    side_px = max(MIN_SIDE_PX, min(MAX_SIDE_PX, math.isqrt(int(max_bytes / BYTES_PER_PIXEL))))
    found = read_pictures(photos, pool, side_px, max_memory_mb)
    while large := [place for place, picture in enumerate(found) if picture and picture.bytes > max_bytes]:
        side_px //= 2
        smaller = (
            read_pictures([photos[place] for place in large], pool, side_px, max_memory_mb)
            if side_px >= MIN_SIDE_PX
            else [None] * len(large)
        )
        for place, picture in zip(large, smaller, strict=True):
            found[place] = picture
    return found


def _request(place: int, photo: PhotoSource, rows: RowPhotos) -> PhotoInput | None:
    if isinstance(photo, PhotoFile):
        return PhotoInput(place, str(photo.path))
    try:
        return PhotoInput(place, "", rows.read(photo))
    except VidriskError:  # whatever is wrong with the file, the page only lacks a picture
        return None
