"""Small clips and photos for the tests, written by PyAV and Pillow."""

from __future__ import annotations

import os
from pathlib import Path

import av
import numpy as np
from PIL import Image

RGB = {"red": (220, 30, 30), "green": (30, 220, 30), "blue": (30, 30, 220), "grey": (90, 90, 90), "black": (0, 0, 0)}


def write_photo(path: str | Path, colour: str = "red", *, size: tuple[int, int] = (48, 36)) -> str:
    with Path(path).open("wb") as file:
        Image.new("RGB", size, RGB[colour]).save(file, "PNG")
    return os.fspath(path)


def write_video(path: str | Path, colours: tuple[str, ...] = ("red",), *, fps: int = 8) -> str:
    """Write a video with one second of each colour, as MPEG-4 of 64x48 pixels."""
    with av.open(os.fspath(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for colour in colours:
            frame = np.full((48, 64, 3), RGB[colour], np.uint8)
            for _ in range(fps):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return os.fspath(path)


def write_cut_video(path: str | Path) -> str:
    """Write an AVI of four seconds that breaks off in the middle of its frames."""
    write_video(path, ("red", "green", "blue", "red"))
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: (content.index(b"movi") + content.rindex(b"idx1")) // 2])
    return os.fspath(path)


def write_sound(path: str | Path) -> str:
    """Write an MP4 with a sound track and without pictures."""
    with av.open(os.fspath(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return os.fspath(path)
