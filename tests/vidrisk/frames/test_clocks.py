"""Tests of frame times from stored time stamps.

Valid stamps are kept and broken ones are repaired. Times are derived from the frame count only if a stream
has no usable stamps.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidrisk.frames.clocks import MAX_PAUSE_S, NO_STAMP, Ticks, ticks_from_stamps

MILLI = Fraction(1, 1000)


def ticks_of(stamps: list[int | None], rate_step: float = 40) -> Ticks:
    return ticks_from_stamps(
        np.array([NO_STAMP if stamp is None else stamp for stamp in stamps], np.int64), rate_step, MILLI
    )


def times_of(stamps: list[int | None]) -> list[float]:
    return ticks_of(stamps).ticks.tolist()


@given(steps=st.lists(st.integers(0, 90_000), min_size=1, max_size=50), first=st.integers(-(10**9), 10**9))
def test_stamps_in_order_are_kept(steps: list[int], first: int) -> None:
    stamps = np.cumsum([first, *steps, 50]).tolist()
    if stamps[-1] != stamps[-2]:
        assert times_of(stamps) == [stamp - first for stamp in stamps]


def test_shared_stamps_and_pauses_are_kept() -> None:
    bursts = [0, 0, 200, 200, 60_200, 60_200, 60_400, 60_400]
    assert times_of(bursts) == bursts and ticks_of(bursts).step == 200


@pytest.mark.parametrize("missing", [[1], [3, 4, 5], [0], [0, 1], [9], [8, 9], [0, 4, 9], [1, 2, 3, 4, 6, 7, 8]])
def test_missing_stamps_are_interpolated(missing: list[int]) -> None:
    whole = [40 * n for n in range(10)]
    assert np.allclose(times_of([None if n in missing else stamp for n, stamp in enumerate(whole)]), whole)


def test_times_between_stamps_know_the_pause_around_them() -> None:
    assert times_of([0, None, 80, 120, 60_120, None, 60_200]) == [0, 40, 80, 120, 60_120, 60_160, 60_200]


@pytest.mark.parametrize("off", [-100_000, -150, -41, 41, 150, 9_000, 10**9])
@pytest.mark.parametrize("at", [1, 5, 18])
@pytest.mark.parametrize("run", [1, 2, 8])
def test_a_run_of_stamps_that_are_off_moves_no_other_frame(off: int, at: int, run: int) -> None:
    stamps = [40 * n + off * (at <= n < at + run) for n in range(40)]
    if (np.diff(stamps) < 0).any():
        assert np.allclose(times_of(stamps), 40 * np.arange(40)) and not ticks_of(stamps).is_cut


def test_an_uneven_clock_with_one_stamp_that_is_off() -> None:
    stamps = np.cumsum([0, 40, 40, 120, 40, 200] * 5).tolist()
    broken = [stamp + 3_000 * (n == 14) for n, stamp in enumerate(stamps)]
    times = times_of(broken)
    assert times[:14] == stamps[:14] and times[15:] == stamps[15:] and stamps[13] < times[14] < stamps[15]


@pytest.mark.parametrize("second", [0, 100, 700, 390])
def test_files_end_to_end_follow_each_other(second: int) -> None:
    ticks = ticks_of([*range(0, 400, 40), *range(second, second + 800, 40)])
    assert ticks.is_cut == (second < 360)
    if ticks.is_cut:
        assert np.allclose(ticks.ticks, 40 * np.arange(30))


def test_after_a_cut_no_step_is_longer_than_the_longest_pause() -> None:
    hour = 3_600_000
    stamps = [*range(0, 400, 40), *range(-hour, -hour + 400, 40), *range(hour, hour + 400, 40)]
    assert np.allclose(times_of(stamps), 40 * np.arange(30)) and 2 * hour > MAX_PAUSE_S * 1000


@pytest.mark.parametrize("stamps", [[None] * 5, [7] * 5, [None, 7, None, 7, None], [7, None, None, None, None]])
def test_only_a_stream_without_two_stamps_is_counted(stamps: list[int | None]) -> None:
    ticks = ticks_of(stamps)
    assert ticks.is_counted and ticks.ticks.tolist() == [0, 40, 80, 120, 160]


def test_one_frame_needs_no_stamp() -> None:
    assert not ticks_of([None]).is_counted and not ticks_of([5]).is_counted


def test_a_clock_that_stands_still_at_the_end_goes_on() -> None:
    assert times_of([0, 100, 200, 300, 300, 300]) == [0, 100, 200, 300, 400, 500]
    assert times_of([0, 0, 200, 200, 400, 400, 400]) == [0, 0, 200, 200, 400, 400, 600]


@given(st.lists(st.one_of(st.none(), st.integers(-(2**62), 2**62)), min_size=1, max_size=60))
def test_any_stamps_give_times_in_order(stamps: list[int | None]) -> None:
    times = ticks_of(stamps).ticks
    assert len(times) == len(stamps) and times[0] == 0 and (np.diff(times) >= 0).all() and np.isfinite(times).all()


def test_stamps_that_never_agree_take_no_square_of_their_number() -> None:
    stamps = np.random.default_rng(3).integers(0, 2**40, 200_000)
    assert (np.diff(ticks_from_stamps(stamps, 40, MILLI).ticks) >= 0).all()
