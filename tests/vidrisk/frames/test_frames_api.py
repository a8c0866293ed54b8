"""The public surface, and what a clip refuses and shows."""

from __future__ import annotations

import numpy as np
import pytest

from vidrisk import frames
from vidrisk.frames import Clip, is_image, is_video
from vidrisk.runtimes.errors import SpecError


def test_suffixes_in_any_case() -> None:
    assert is_image("A.JPG") and is_video("清 🎥.Mp4")
    assert not is_image("a.mp4") and not is_video("a.txt") and not is_video("mp4")
    assert all(is_image(f"x{suffix}") != is_video(f"x{suffix}") for suffix in frames.MEDIA_SUFFIXES)


def test_repr_shows_shapes() -> None:
    clip = Clip(np.zeros((2, 4, 5, 3), np.uint8), np.zeros(2), 0.0, 1.5, "a.mp4")
    assert repr(clip) == "Clip('a.mp4', [0.000, 1.500) s, frames: uint8[2, 4, 5, 3])"


@pytest.mark.parametrize(("shape", "times"), [((2, 4, 5, 1), 2), ((4, 5, 3), 4), ((2, 4, 5, 3), 3)])
def test_wrong_shapes_are_refused(shape: tuple[int, ...], times: int) -> None:
    with pytest.raises(SpecError):
        Clip(np.zeros(shape, np.uint8), np.zeros(times), None, None, "a.png")
