"""Conversion of photos to JPEGs of bounded size, for data sets and for models that take whole photos.

The JPEG is encoded from pixels alone: no metadata of the file, such as EXIF with a location, is carried over. Decoders
run in the calling process, so call this only in processes that may crash and hang: see ``pool``.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from vidrisk.frames.media import check_file, name_of
from vidrisk.frames.photos import read_upright
from vidrisk.runtimes.contract.errors import UnreadableError

MAX_SIDE_PX = 16_384
PIECE_BYTES = 1 << 19  # of a JPEG in one message
_START, _END = b"\xff\xd8\xff", b"\xff\xd9"
_MOST_BYTES_PER_PIXEL, _MOST_HEADER_BYTES = 6, 1 << 16


@dataclass(frozen=True)
class Jpeg:
    """A photo as a JPEG file, upright, RGB."""

    data: bytes = field(repr=False)
    width: int
    height: int


def jpeg_from_photo(path: Path, max_width: int, max_height: int, quality: int) -> tuple[Jpeg, str, bool]:
    """Decode a photo and encode it as a JPEG that fits into a box; small photos are not enlarged.

    Returns:
        The JPEG, remarks on the photo, and whether a part of it is missing, which is grey.

    Raises:
        UnreadableError: not a photo, or one that cannot be decoded.
    """
    refuse_videos(path)
    photo = read_upright(path, max(max_width, max_height))
    image = photo.image
    scale = min(1.0, max_width / image.width, max_height / image.height)
    if scale < 1:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    image.info.clear()  # otherwise a comment or a colour profile of the file would be written, too
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    damage = str(photo.damage) if photo.damage else ""
    return Jpeg(buffer.getvalue(), *image.size), "; ".join(filter(None, (damage, photo.note))), bool(damage)


def refuse_videos(path: Path) -> None:
    """Check that a file holds a photo, judging by its beginning.

    Raises:
        UnreadableError: it does not.
    """
    if check_file(path) != "image":
        raise UnreadableError(f"{name_of(path)} is a video", state="skipped", fix="name photos")


def most_bytes(max_width: int, max_height: int) -> int:
    """Return the largest number of bytes that a JPEG of this size may have."""
    return max_width * max_height * _MOST_BYTES_PER_PIXEL + _MOST_HEADER_BYTES


def piece_from_value(value: Any) -> bytes:
    """Validate a piece of a JPEG that a worker has sent.

    Raises:
        ValueError, TypeError: not base64, or too long.
    """
    piece = base64.b64decode(value, validate=True)
    if not 0 < len(piece) <= PIECE_BYTES:
        raise ValueError(f"a piece of {len(piece)} bytes")
    return piece


def jpeg_from_pieces(pieces: Sequence[bytes], values: Sequence[Any], max_width: int, max_height: int) -> Jpeg:
    """Validate the JPEG that a worker has sent, without decoding it.

    Raises:
        ValueError, TypeError: not a JPEG, or larger than requested.
    """
    width, height = values
    data = b"".join(pieces)
    if not (type(width) is type(height) is int and 0 < width <= max_width and 0 < height <= max_height):
        raise ValueError(f"a picture of {width!r} by {height!r}")
    if not (data.startswith(_START) and data.endswith(_END)):
        raise ValueError("a picture that is no JPEG")
    return Jpeg(data, width, height)
