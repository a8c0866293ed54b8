"""Thumbnails: small pictures of an input, for HTML pages.

They are made of frames that a run decodes anyway, or of frames that are read again from the source, only at the moments
that are shown. Decoders run in the calling process, so call this only in processes that may crash and hang: see
``pool``.
"""

from __future__ import annotations

import base64
import io
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from vidrisk.frames.geometry import PAD_GREY, pixels_from_image
from vidrisk.frames.media import MAX_DURATION_S, check_file
from vidrisk.frames.photos import pixels_from_photo
from vidrisk.frames.sampling import indices_from_moments
from vidrisk.frames.video_pyav import PyAVSource
from vidrisk.runtimes.contract.specs import PixelSpec

_log = logging.getLogger(__name__)

MAX_SIDE_PX, MIN_SIDE_PX = 480, 16
MAX_QUICK_SIDE_PX = 256  # longer side of a photo's thumbnail that is made while a model waits for the next frame
MAX_QUICK_FRAME_SIDE_PX = 192  # the same for a frame of a video, which is one of several
MAX_KEPT_FRAMES = 64  # per video: decoding a few of many frames again costs little
QUALITY = 60
BYTES_PER_PIXEL = 0.06  # of a photo at that quality; determines the first guess of a picture's size
QUICK_BYTES_PER_PIXEL = 0.085  # more than most pictures take, so that the first guess fits
MARGIN = 0.93  # because smaller pictures need more bytes per pixel
MAX_SHRINK = 0.3


@dataclass(frozen=True)
class Thumbnail:
    """A small picture: ``webp`` is its file in base64, ``time_s`` is None for photos."""

    webp: str
    width: int
    height: int
    time_s: float | None

    @property
    def bytes(self) -> int:
        return len(self.webp) * 3 // 4

    @property
    def uri(self) -> str:
        return f"data:image/webp;base64,{self.webp}"


def thumbnails_at(
    path: str, moments_s: Sequence[float], max_bytes: int, on_frame: Callable[[], None] = lambda: None
) -> tuple[Thumbnail, ...]:
    """Return one picture per moment, in at most ``max_bytes`` together (before base64).

    A photo is the same at every moment. The result is empty if the source is gone or no longer readable. ``on_frame``
    is called after every frame of a video.

    Raises:
        MemoryError: it needs more memory than there is.
    """
    max_bytes //= len(moments_s)
    side_px = side_from_bytes(max_bytes)
    try:
        # "pad" keeps the aspect; the padding is cut off again.
        frames, times_s = _frames_at(Path(path), moments_s, PixelSpec(side_px, side_px, resize="pad"), on_frame)
    except Exception as error:  # the file may have been replaced by anything since
        if isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError):
            raise MemoryError from error
        _log.debug("no thumbnail of %r", path, exc_info=True)
        return ()
    return tuple(
        _encode_webp(Image.fromarray(frame), time_s, max_bytes)
        for frame, time_s in zip(without_padding(frames), times_s, strict=True)
    )


def without_padding(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Cut off the rows and columns at the edges that are padding in all frames ``(T, H, W, 3)``."""
    content = (frames != PAD_GREY).any(axis=0).any(axis=2)
    rows, columns = np.flatnonzero(content.any(axis=1)), np.flatnonzero(content.any(axis=0))
    if not len(rows):
        return frames
    return frames[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _frames_at(
    path: Path, moments_s: Sequence[float], pixel: PixelSpec, on_frame: Callable[[], None]
) -> tuple[npt.NDArray[np.uint8], list[float | None]]:
    """Return the frames shown at the moments, uint8 ``(T, H, W, 3)``, and their start times.

    Frames in between are not decoded.
    """
    if check_file(path) == "image":
        return np.repeat(pixels_from_photo(path, pixel)[None], len(moments_s), axis=0), [None] * len(moments_s)
    with PyAVSource(path) as source:
        times_s = source.timeline.times_s
        indices = indices_from_moments(np.asarray(moments_s, np.float64), times_s).tolist()
        shown = {}
        for frame in source.frames_at(sorted(set(indices))):
            shown[frame.index] = pixels_from_image(Image.fromarray(frame.rgb), pixel), float(times_s[frame.shown])
            on_frame()
    return np.stack([shown[index][0] for index in indices]), [shown[index][1] for index in indices]


def thumbnail_from_image(image: Image.Image, time_s: float | None, max_bytes: int) -> Thumbnail:
    """Make a thumbnail of an upright RGB image, in a hundredth of the time of decoding the image.

    Raises:
        MemoryError: it needs more memory than there is.
    """
    side_px = min(MAX_QUICK_SIDE_PX if time_s is None else MAX_QUICK_FRAME_SIDE_PX, side_from_bytes(max_bytes))
    scale = min(1.0, side_px / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=1.0)
    return _encode_webp(small, time_s, max_bytes, method=0, bytes_per_pixel=QUICK_BYTES_PER_PIXEL)


def side_from_bytes(max_bytes: int) -> int:
    """Return the longer side, in pixels, of a picture of at most ``max_bytes``."""
    return min(MAX_SIDE_PX, math.ceil(math.sqrt(2 * max_bytes / BYTES_PER_PIXEL)))


def thumbnail_from_values(values: Sequence[Any], max_bytes: int) -> Thumbnail:
    """Validate the thumbnail that a worker has sent, without decoding it: nothing in it can harm a page.

    Raises:
        ValueError, TypeError: not a thumbnail, or larger than ``max_bytes``.
    """
    thumbnail = Thumbnail(*values)
    webp = base64.b64decode(thumbnail.webp, validate=True)
    sides = thumbnail.width, thumbnail.height
    if (webp[:4], webp[8:12]) != (b"RIFF", b"WEBP") or not all(
        type(side) is int and 0 < side <= MAX_SIDE_PX for side in sides
    ):
        raise ValueError(f"a picture of {sides}")
    if thumbnail.time_s is not None and not 0 <= thumbnail.time_s <= MAX_DURATION_S:
        raise ValueError(f"a picture at {thumbnail.time_s!r} s")
    if len(webp) > max_bytes:
        raise ValueError(f"{len(webp)} bytes where {max_bytes} were asked for")
    return thumbnail


def _encode_webp(
    image: Image.Image,
    time_s: float | None,
    max_bytes: int,
    *,
    method: int = 2,
    bytes_per_pixel: float = BYTES_PER_PIXEL,
) -> Thumbnail:
    scale = min(1.0, math.sqrt(max_bytes / bytes_per_pixel / (image.width * image.height)))
    while True:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        buffer = io.BytesIO()
        image.resize(size, Image.Resampling.BILINEAR).save(buffer, "WEBP", quality=QUALITY, method=method)
        if buffer.tell() <= max_bytes or max(size) <= MIN_SIDE_PX:
            encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
            return Thumbnail(encoded, *size, time_s)
        scale *= max(MAX_SHRINK, MARGIN * math.sqrt(max_bytes / buffer.tell()))
