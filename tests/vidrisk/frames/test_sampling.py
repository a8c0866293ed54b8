"""Tests of moments, of windows and of the frame that is shown at a moment."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidrisk.frames.sampling import TOLERANCE_S, indices_from_moments, moments_from_window, windows_from_duration
from vidrisk.runtimes.contract.errors import SpecError
from vidrisk.runtimes.contract.specs import TimeSpec

seconds = st.floats(0.01, 1000)


@st.composite
def windowed(draw: st.DrawFn) -> tuple[float, TimeSpec]:
    """Draw a duration of at most about 300 strides and a ``TimeSpec`` with windows."""
    window_s = draw(st.floats(0.05, 20))
    stride_s = window_s * draw(st.floats(0.1, 1))
    return stride_s * draw(st.floats(0.01, 300)), TimeSpec(draw(st.integers(1, 16)), window_s, stride_s)


@given(seconds, seconds, st.integers(1, 64))
def test_moments_are_the_middles_of_equal_parts(start_s: float, window_s: float, frames: int) -> None:
    moments_s = moments_from_window(start_s, window_s, frames)
    assert moments_s.shape == (frames,) and moments_s.dtype == np.float64
    assert (moments_s > start_s).all() and (moments_s < start_s + window_s).all()
    assert np.allclose(np.diff(moments_s), window_s / frames, atol=1e-9)
    assert np.isclose(moments_s.mean(), start_s + window_s / 2)


@given(seconds, st.integers(1, 64))
def test_the_whole_clip_is_one_window(duration_s: float, frames: int) -> None:
    (window,) = windows_from_duration(duration_s, TimeSpec(frames))
    assert (window.start_s, window.end_s) == (0.0, duration_s)
    assert (window.moments_s < duration_s).all()


@given(windowed())
def test_windows_cover_the_clip(case: tuple[float, TimeSpec]) -> None:
    duration_s, time = case
    assert time.window_s is not None and time.stride_s is not None
    windows = list(windows_from_duration(duration_s, time))
    assert windows[0].start_s == 0
    for number, window in enumerate(windows):
        assert window.start_s == pytest.approx(number * time.stride_s)
        assert 0 < window.end_s - window.start_s <= time.window_s * (1 + 1e-9)
        assert window.end_s <= duration_s * (1 + 1e-9)
        assert window.end_s - window.start_s >= time.window_s / 2 - 2 * TOLERANCE_S or number == 0
        assert np.allclose(window.moments_s - window.start_s, windows[0].moments_s)  # every window has the same rate
    assert duration_s - windows[-1].end_s < time.window_s / 2  # no more than the dropped part of a window stays unseen


def test_which_incomplete_windows_stay() -> None:
    def starts(duration_s: float, stride_s: float) -> list[float]:
        return [window.start_s for window in windows_from_duration(duration_s, TimeSpec(4, 2.0, stride_s))]

    assert starts(6.0, 2.0) == [0, 2, 4]
    assert starts(7.0, 2.0) == [0, 2, 4, 6]  # half a window stays
    assert starts(6.9, 2.0) == [0, 2, 4]  # less does not
    assert starts(0.3, 2.0) == [0]  # unless it is all there is
    assert starts(4.0, 1.0) == [0, 1, 2, 3]


@pytest.mark.parametrize("duration_s", [0.0, -1.0, float("nan"), float("inf")])
def test_no_duration_is_refused(duration_s: float) -> None:
    with pytest.raises(SpecError, match="a positive duration"):
        list(windows_from_duration(duration_s, TimeSpec()))


def test_a_tiny_stride_is_refused_before_memory_is_taken() -> None:
    with pytest.raises(SpecError, match="at most 1000000 windows"):
        next(windows_from_duration(3600.0, TimeSpec(8, 1.0, 1e-6)))


@given(st.lists(st.integers(1, 100_000), min_size=0, max_size=60), st.lists(st.floats(0, 120), min_size=1, max_size=20))
def test_a_moment_shows_the_last_frame_before_it(steps_ms: list[int], moments: list[float]) -> None:
    times_s = np.cumsum([0, *steps_ms]) / 1000
    moments_s = np.sort(np.array(moments))
    for moment_s, index in zip(moments_s, indices_from_moments(moments_s, times_s), strict=True):
        assert times_s[index] <= moment_s + TOLERANCE_S
        assert index == len(times_s) - 1 or times_s[index + 1] > moment_s + TOLERANCE_S


def test_a_frame_is_shown_from_its_own_time_on_despite_rounding() -> None:
    times_s = np.array([0, 0.1, 0.2, 0.1 * 3])
    assert indices_from_moments(np.array([0.3 - 1e-12, 0.3, 99.0]), times_s).tolist() == [3, 3, 3]
    assert indices_from_moments(np.array([0.0]), np.array([0.0])).tolist() == [0]
