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
from vidrisk.runtimes.errors import VidriskError
from vidrisk.runtimes.specs import PixelSpec, TimeSpec

_log = logging.getLogger(__name__)

# "pad" keeps the aspect; the padding is cut off again.
PHOTO = PixelSpec(height=480, width=480, resize="pad")
FRAME = PixelSpec(height=240, width=240, resize="pad")
PAD_VALUE = 128

MAX_FRAMES = 8
MIN_FRAME_BYTES = 1000
BYTES_PER_PIXEL = 0.09  # WebP of a photo at quality 60; sets the first guess of a picture's size
QUALITIES = (75, 55, 35, 15)
SHRINK = 0.7
MIN_SIDE_PX = 16


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
    is_clip = time_spec is not None
    try:
        clip = _clip_at(prediction, FRAME if is_clip else PHOTO, time_spec)
    except (VidriskError, OSError) as error:
        _log.debug("no thumbnail: %s", error)
        return ()
    if clip is None:
        return ()
    still = len(clip.frames) == 1 or clip.end_s is None
    count = 1 if still else min(len(clip.frames), MAX_FRAMES, max(3, max_bytes // MIN_FRAME_BYTES))
    chosen = np.linspace(0, len(clip.frames) - 1, count).round().astype(int)
    frames = without_padding(clip.frames[chosen])
    return tuple(_thumbnail(frame, None if still else float(clip.time_s[i]), max_bytes // count)
                 for frame, i in zip(frames, chosen, strict=True))


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
        small = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
        for quality in QUALITIES:
            buffer = io.BytesIO()
            small.save(buffer, "WEBP", quality=quality, method=4)
            if buffer.tell() <= max_bytes or (max(size) <= MIN_SIDE_PX and quality == QUALITIES[-1]):
                encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
                return Thumbnail(f"data:image/webp;base64,{encoded}", *size, time_s)
        scale *= SHRINK
