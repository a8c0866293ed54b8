"""Lossless cutting of boxes out of photos: annotated boxes become PNG files of their own.

The PNG is encoded from pixels alone: no metadata of the file, such as EXIF with a location, is carried over. Decoders
run in the calling process, so call this only in processes that may crash and hang: see ``pool``.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from vidrisk.decode.jpegs import refuse_videos
from vidrisk.frames.photos import read_upright

Box = tuple[float, float, float, float]  # left, top, width, height, in pixels of the upright photo
MAX_BOXES = 64  # per request, so that all pending messages fit into the worker's socket
ROUNDING_PX = 1e-3  # an edge this close to a pixel boundary is snapped to it
COMPRESSION = 3  # of 9: twice as fast as the default 6, and hardly larger
_SIGNATURE, _END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_HEADER = struct.Struct(">8sI4sII5B")
_MOST_HEADER_BYTES = 1 << 16


@dataclass(frozen=True)
class Cut:
    """A part of a photo as a PNG file, RGB. ``place`` is the index of its box in the request."""

    place: int
    data: bytes = field(repr=False)
    width: int
    height: int


def cuts_from_photo(path: Path, boxes: Sequence[Box], max_side: int) -> Iterator[Cut | str]:
    """Decode a photo once and cut boxes out of it, in order; boxes are clipped to the photo.

    Yields:
        The damage of the photo, '' if there is none; then the parts. A box without area yields no part. A part with a
        side of more than ``max_side`` pixels is scaled down.

    Raises:
        UnreadableError: not a photo, or one that cannot be decoded.
    """
    refuse_videos(path)
    photo = read_upright(path)
    yield str(photo.damage) if photo.damage else ""
    for place, box in enumerate(boxes):
        edges = edges_from_box(box, *photo.image.size)
        if edges is None:
            continue
        part = photo.image.crop(edges)
        scale = min(1.0, max_side / max(part.size))
        if scale < 1:
            part = part.resize(
                (max(1, round(part.width * scale)), max(1, round(part.height * scale))),
                Image.Resampling.LANCZOS,
                reducing_gap=3.0,
            )
        part.info.clear()
        buffer = io.BytesIO()
        part.save(buffer, "PNG", compress_level=COMPRESSION)
        yield Cut(place, buffer.getvalue(), *part.size)


def edges_from_box(box: Box, width: int, height: int) -> tuple[int, int, int, int] | None:
    """Return the edges (left, top, right, bottom) of all pixels that a box touches.

    The result is None if the box has no area inside the photo.
    """
    left, top, of_width, of_height = box
    if not all(map(math.isfinite, (*box, left + of_width, top + of_height))) or of_width <= 0 or of_height <= 0:
        return None
    x, x_end = _edges(left, left + of_width, width)
    y, y_end = _edges(top, top + of_height, height)
    return (x, y, x_end, y_end) if x < x_end and y < y_end else None


def _edges(start: float, end: float, length: int) -> tuple[int, int]:
    start, end = max(start, 0.0), min(end, float(length))
    return (math.floor(start + ROUNDING_PX), math.ceil(end - ROUNDING_PX)) if start < end else (0, 0)


def most_bytes(width: int, height: int) -> int:
    """Return the largest number of bytes that a PNG of this size may have."""
    return 4 * (width + 1) * height + _MOST_HEADER_BYTES


def cut_from_pieces(pieces: Sequence[bytes], values: Sequence[Any], first: int, boxes: int, max_side: int) -> Cut:
    """Validate the part of a photo that a worker has sent, without decoding it.

    ``first`` is the smallest place that it may have, ``boxes`` the number of requested boxes.

    Raises:
        ValueError, TypeError: not a PNG, of a box that has been processed, or larger than requested.
    """
    place, width, height = values
    if not (type(place) is type(width) is type(height) is int and first <= place < boxes):
        raise ValueError(f"a part {place!r} where {first} to {boxes - 1} are wanted")
    data = b"".join(pieces)
    if not (0 < width <= max_side and 0 < height <= max_side and len(data) <= most_bytes(width, height)):
        raise ValueError(f"a part of {width} by {height} pixels in {len(data)} bytes")
    signature, length, kind, *sides = _HEADER.unpack_from(data.ljust(_HEADER.size, b"\0"))[:5]
    if (signature, length, kind, sides) != (_SIGNATURE, 13, b"IHDR", [width, height]) or not data.endswith(_END):
        raise ValueError("a part that is no PNG")
    return Cut(place, data, width, height)
