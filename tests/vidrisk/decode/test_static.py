from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidrisk.decode.static import luma_cells, without_static
from vidrisk.frames import Frame, FrameWindow


def frame(index: int, level: float | npt.NDArray[np.uint8]) -> Frame:
    pixels = np.full((48, 40, 3), level, np.uint8) if isinstance(level, int | float) else level
    return Frame(index, index / 10, pixels)


def windows_of_two(levels: list[int]) -> Iterator[Frame | FrameWindow]:
    for index, level in enumerate(levels):
        yield frame(index, level)
        if index:
            yield FrameWindow(index / 10, (index + 2) / 10, (index - 1, index))


@given(st.lists(st.integers(0, 255), min_size=1, max_size=30), st.floats(0.5, 60))
def test_every_moment_shows_a_frame_that_looks_like_its_own(levels: list[int], threshold: float) -> None:
    kept: list[int] = []
    for item in without_static(windows_of_two(levels), threshold):
        if isinstance(item, Frame):
            kept.append(item.index)
            continue
        assert list(item.indices) == sorted(item.indices) and set(item.indices) <= set(kept)
        assert item.start_s is not None
        for shown, asked in zip(item.indices, (round(item.start_s * 10) - 1, round(item.start_s * 10)), strict=True):
            assert shown <= asked and (shown == asked or abs(levels[shown] - levels[asked]) < threshold + 1e-3)
    assert kept[0] == 0
    assert all(abs(levels[a] - levels[b]) >= threshold - 1e-3 for a, b in itertools.pairwise(kept))


def test_slow_changes_add_up() -> None:
    kept = [item.index for item in without_static([frame(i, i) for i in range(100)], 10.0) if isinstance(item, Frame)]
    assert kept == list(range(0, 100, 10))


def test_a_small_thing_that_moves_is_seen() -> None:
    """A small moving object is detected, although it changes the mean of the picture by a fraction of a level."""
    before, after = np.full((224, 224, 3), 100, np.uint8), np.full((224, 224, 3), 100, np.uint8)
    after[100:108, 60:68] = 160
    assert abs(float(after.mean()) - 100) < 0.1
    assert len(list(without_static([frame(0, before), frame(1, after)], 4.0))) == 2


@pytest.mark.parametrize("shape", [(224, 224), (48, 40), (7, 5), (1, 1), (33, 250)])
def test_cells_are_means_of_luma(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    cells = luma_cells(pixels)
    assert cells.shape == (min(16, shape[0]), min(16, shape[1])) and cells.dtype == np.float32
    luma = pixels @ np.array((0.299, 0.587, 0.114))
    rows = np.linspace(0, shape[0], cells.shape[0], endpoint=False).astype(int)
    columns = np.linspace(0, shape[1], cells.shape[1], endpoint=False).astype(int)
    bottom, right = [*rows[1:], shape[0]][-1], [*columns[1:], shape[1]][-1]
    assert cells[-1, -1] == pytest.approx(luma[rows[-1] : bottom, columns[-1] : right].mean(), rel=1e-4)
    assert cells[0, 0] == pytest.approx(
        luma[: [*rows[1:], shape[0]][0], : [*columns[1:], shape[1]][0]].mean(), rel=1e-4
    )
