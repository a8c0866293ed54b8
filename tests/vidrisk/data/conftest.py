"""Fixtures that create small real files: drawn photos and encoded clips."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def shared_data() -> Path:
    default = Path(__file__).parents[4] / "shared" / "data"
    root = Path(os.environ.get("VIDRISK_TEST_DATA", default))
    if not root.is_dir():
        pytest.skip(f"no real data at {root} (set VIDRISK_TEST_DATA)")
    return root


@pytest.fixture
def photo() -> Callable[[Path], Path]:
    def make(path: Path, colour: tuple[int, int, int] = (200, 30, 30)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 8), colour).save(path)
        return path

    return make


@pytest.fixture
def clip() -> Callable[[Path], Path]:
    def make(path: Path, frames: int = 8) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=8)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for i in range(frames):
                image = np.full((48, 64, 3), 20 + 200 * i // frames, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode(None))
        return path

    return make
