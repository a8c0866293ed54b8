"""Real clips encoded on the spot for the tests; the pixels of every frame show the number of the frame."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
import numpy.typing as npt
from av.video.stream import VideoStream

MILLI = Fraction(1, 1000)
BITS = 8


def numbered_picture(number: int, width: int, height: int) -> npt.NDArray[np.uint8]:
    """Return a picture whose 8 vertical bars are the bits of ``number``, black or white, lowest bit on the left."""
    bits = np.array([number >> bit & 1 for bit in range(BITS)], np.uint8)
    row = np.repeat(bits * 255, -(-width // BITS))[:width]
    return np.broadcast_to(row[None, :, None], (height, width, 3)).copy()


def number_in_picture(picture: npt.NDArray[np.uint8]) -> int:
    """Return the number that ``numbered_picture`` drew.

    It survives any encoder, and any resize that keeps the order of the bars.
    """
    height, width = picture.shape[:2]
    bar = -(-width // BITS)
    bits = [
        picture[height // 4 : -(height // 4), bit * bar + bar // 4 : (bit + 1) * bar - bar // 4].mean() > 127
        for bit in range(BITS)
    ]
    return sum(int(bit) << place for place, bit in enumerate(bits))


def write_clip(
    path: Path,
    frames: int = 30,
    *,
    codec: str = "libx264",
    width: int = 64,
    height: int = 48,
    rate: int = 25,
    pts_ms: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    rotation: int = 0,
    pix_fmt: str = "yuv420p",
) -> Path:
    """Encode ``frames`` numbered pictures.

    ``pts_ms`` gives the time of each picture; without it, the pictures come at ``rate``.
    """
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = cast(VideoStream, container.add_stream(codec, rate=rate, options=options or {}))
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        if rotation:
            stream.set_display_rotation(rotation)
        if pts_ms is not None:
            stream.codec_context.time_base = MILLI
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(numbered_picture(number, width, height), "rgb24")
            if pts_ms is not None:
                frame.pts, frame.time_base = pts_ms[number], MILLI
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_sound(path: Path) -> Path:
    """Write an MP4 with one second of sound and no video."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
