"""Small pictures of an input, read again from its source by the same frame reader that fed the model."""

from __future__ import annotations

import base64
import io
import logging
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from vidrisk.frames import Clip, read_clips
from vidrisk.infer.predictions import Prediction
from vidrisk.runtimes.specs import PixelSpec, TimeSpec

_log = logging.getLogger(__name__)

PAD_VALUE = 128  # of ``resize="pad"``
MAX_SIDE_PX, MIN_SIDE_PX = 480, 16
MAX_FRAMES, MIN_FRAMES = 8, 3
MIN_FRAME_BYTES = 1000
QUALITY = 60
BYTES_PER_PIXEL = 0.06  # of a photo at that quality; sets the first guess of a picture's size
MARGIN = 0.93  # smaller pictures need more bytes per pixel
MAX_SHRINK = 0.3


@dataclass(frozen=True)
class Thumbnail:
    """A WebP picture as a data URI. ``time_s`` is None for photos."""

    uri: str
    width: int
    height: int
    time_s: float | None


def thumbnails_from_prediction(prediction: Prediction, time_spec: TimeSpec | None,
                               max_bytes: int) -> tuple[Thumbnail, ...]:
    """The photo, or up to 8 of the frames that the model saw, in at most ``max_bytes`` together (before base64).

    Empty when the source has gone or can no longer be read.
    """
    moments = time_spec.frames if time_spec else 1
    count = min(moments, MAX_FRAMES, max(MIN_FRAMES, max_bytes // MIN_FRAME_BYTES))
    side_px = min(MAX_SIDE_PX, math.ceil(math.sqrt(2 * max_bytes / count / BYTES_PER_PIXEL)))
    try:
        # "pad" keeps the aspect; the padding is cut off again.
        clip = _clip_at(prediction, PixelSpec(side_px, side_px, resize="pad"), time_spec)
    except Exception:  # the file may have become anything since; the page must not fail because of it
        _log.debug("no thumbnail of %r", prediction.path, exc_info=True)
        return ()
    if clip is None:
        return ()
    if clip.end_s is None:  # a photo shows the same at every moment
        count = 1
    chosen = np.linspace(0, len(clip.frames) - 1, count).round().astype(int)
    frames = without_padding(clip.frames[chosen])
    times_s = [None if moments == 1 or clip.end_s is None else float(clip.time_s[i]) for i in chosen]
    return tuple(_thumbnail(frame, time_s, max_bytes // count)
                 for frame, time_s in zip(frames, times_s, strict=True))


def without_padding(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Cut the rows and columns at the edges that are padding in every one of the frames ``(T, H, W, 3)``."""
    content = (frames != PAD_VALUE).any(axis=(0, 3))
    rows, columns = np.flatnonzero(content.any(axis=1)), np.flatnonzero(content.any(axis=0))
    if not len(rows):
        return frames
    return frames[:, rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]


def _clip_at(prediction: Prediction, pixel: PixelSpec, time_spec: TimeSpec | None) -> Clip | None:
    for clip in read_clips(prediction.path, pixel, time_spec):
        if prediction.start_s is None or clip.start_s is None or abs(clip.start_s - prediction.start_s) < 1e-3:
            return clip
    return None


def _thumbnail(frame: npt.NDArray[np.uint8], time_s: float | None, max_bytes: int) -> Thumbnail:
    image = Image.fromarray(frame)
    scale = min(1.0, math.sqrt(max_bytes / BYTES_PER_PIXEL / (image.width * image.height)))
    while True:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        buffer = io.BytesIO()
        image.resize(size, Image.Resampling.BILINEAR).save(buffer, "WEBP", quality=QUALITY, method=2)
        if buffer.tell() <= max_bytes or max(size) <= MIN_SIDE_PX:
            encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
            return Thumbnail(f"data:image/webp;base64,{encoded}", *size, time_s)
        scale *= max(MAX_SHRINK, MARGIN * math.sqrt(max_bytes / buffer.tell()))
