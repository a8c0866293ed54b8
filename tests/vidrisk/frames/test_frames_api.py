"""Tests of the public interface, and of the checks and the representation of ``Clip``."""

from __future__ import annotations

import numpy as np
import pytest

from vidrisk.frames import Clip, kind_of
from vidrisk.runtimes.contract.errors import SpecError


def test_suffixes_in_any_case() -> None:
    assert kind_of("A.JPG") == "image" and kind_of("清 🎥.Mp4") == "video"
    assert kind_of("a.txt") is None and kind_of("mp4") is None


def test_repr_shows_shapes() -> None:
    clip = Clip(np.zeros((2, 4, 5, 3), np.uint8), np.zeros(2), 0.0, 1.5, "a.mp4")
    assert repr(clip) == "Clip('a.mp4', [0.000, 1.500) s, frames: uint8[2, 4, 5, 3])"


@pytest.mark.parametrize(("shape", "times"), [((2, 4, 5, 1), 2), ((4, 5, 3), 4), ((2, 4, 5, 3), 3)])
def test_wrong_shapes_are_refused(shape: tuple[int, ...], times: int) -> None:
    with pytest.raises(SpecError):
        Clip(np.zeros(shape, np.uint8), np.zeros(times), None, None, "a.png")
