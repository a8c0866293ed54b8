"""Presentation times of a video's frames: the stored times, repaired if they are broken.

``ticks_from_stamps`` takes the stored timestamps of frames in presentation order. Stored values are preserved,
including equal timestamps and pauses (of two frames with one timestamp the second is seen). Missing times between two
timestamps are interpolated; before the first timestamp, and after the last one that advances, they are extrapolated
with the usual step, which is the median of the stored steps. A timestamp that goes back is one of two things:

    a stray     a run of wrong timestamps, after which the clock continues as if nothing had happened: that run is
                treated as missing
    a cut       a recorder that set its clock, or concatenated files: the frames follow each other as they are stored,
                and an implausible step is replaced by the usual one. A clock that went back may have gone ahead too:
                then no step is longer than MAX_PAUSE_S

Only a stream without two different timestamps is timed by its rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
# FFmpeg's AV_NOPTS_VALUE, for a packet without a time.
NO_STAMP = -(2**63)
MAX_PAUSE_S = 10
# A run of timestamps is a stray if the time between its neighbours matches their number of frames, within these
# factors.
MIN_PACE, MAX_PACE = 0.5, 4.0
# The longest run that is taken for a stray, in timestamps; and the number of cuts after which strays are not searched.
MAX_RUN, MAX_CUTS = 10_000, 100


@dataclass(frozen=True, eq=False)
class Ticks:
    """Presentation times in ticks of the stream's time base.

    Attributes:
        ticks: float64 (N,), sorted, the first is 0.
        step: usual step from one frame to the next.
        is_counted: whether there are no stored times, so that the frames are timed by rate.
        is_cut: whether the clock was reset midway.
    """

    ticks: npt.NDArray[np.float64]
    step: float
    is_counted: bool = False
    is_cut: bool = False


def ticks_from_stamps(stamps: Integers, rate_step: float, base: Fraction) -> Ticks:
    """Compute times from the timestamps of frames in presentation order; NO_STAMP marks a missing one.

    Args:
        stamps: int64 (N,), in units of ``base``; N is at least 1.
        rate_step: reciprocal of the rate that the container states, in the same units; used only for a stream without
            timestamps.
        base: the stream's time base, in seconds.
    """
    numbers = np.flatnonzero(stamps != NO_STAMP)
    known = stamps[numbers]
    if len(known) < 2 or (known == known[0]).all():
        return Ticks(np.arange(len(stamps), dtype=np.float64) * rate_step, rate_step, is_counted=len(stamps) > 1)
    moving = _moving(known)
    numbers, known = numbers[:moving], known[:moving]
    step = _usual_step(numbers, known) or rate_step
    cuts: list[int] = []
    if (known[1:] < known[:-1]).any():
        kept, cuts = _without_strays(numbers.tolist(), known.tolist(), step)
        numbers, known = numbers[kept], known[kept]
    # exact integers as long as possible, so that equal moments give equal floats
    elapsed = (
        known - known[0] if int(known.max()) - int(known.min()) < 2**62 else known.astype(np.float64) - float(known[0])
    )
    if cuts:
        frames = np.diff(numbers)
        steps = np.diff(elapsed.astype(np.float64))
        is_cut = (steps < 0) | (steps > float(MAX_PAUSE_S / base))
        is_cut[cuts] = True
        step = _median((steps / frames)[~is_cut]) or step
        elapsed = np.concatenate(([0.0], np.cumsum(np.where(is_cut, frames * step, steps))))
    if len(numbers) < len(stamps):
        everyone = np.arange(len(stamps))
        before, behind = np.minimum(everyone - numbers[0], 0), np.maximum(everyone - numbers[-1], 0)
        elapsed = np.interp(everyone, numbers, elapsed) + (before + behind) * step
    return Ticks((elapsed - elapsed[0]).astype(np.float64), step, is_cut=bool(cuts))


def _moving(known: Integers) -> int:
    """Return the number of timestamps before the clock stops for good.

    The clock has stopped if more frames share the last timestamp than any other.
    """
    ends = np.append(np.flatnonzero(known[1:] != known[:-1]) + 1, len(known))
    shared = np.diff(ends, prepend=0)
    return len(known) - max(0, int(shared[-1] - shared[:-1].max()))


def _usual_step(numbers: npt.NDArray[np.intp], known: Integers) -> float:
    return _median(np.diff(known.astype(np.float64)) / np.diff(numbers))


def _median(steps: npt.NDArray[np.float64]) -> float:
    """Return the median of the positive steps; 0 if there are none."""
    ahead = steps[steps > 0]
    return float(np.median(ahead)) if len(ahead) else 0.0


def _without_strays(numbers: list[int], stamps: list[int], step: float) -> tuple[list[int], list[int]]:
    """Remove stray runs.

    Returns:
        The places of the remaining timestamps, and the places in that list after which the clock was set back.
    """

    def excess(one: int, other: int) -> float:
        """Return how much longer than usual the time between two timestamps is."""
        return stamps[other] - stamps[one] - (numbers[other] - numbers[one]) * step

    def is_in_pace(one: int, other: int) -> bool:
        usual = (numbers[other] - numbers[one]) * step
        return MIN_PACE * usual <= stamps[other] - stamps[one] <= MAX_PACE * usual

    kept: list[int] = [0]
    cuts: list[int] = []
    start, place = 0, 1  # start of the part since the last cut, in ``kept``; current timestamp
    while place < len(stamps):
        last = kept[-1]
        if stamps[place] < stamps[last]:
            jump = -excess(last, place) / 2  # a stray run begins and ends with a jump
            # find where the clock continues as before, after a late run or before an early one; the shorter run wins
            runs = MAX_RUN if len(cuts) < MAX_CUTS else 0
            late = next(
                (
                    run
                    for run in range(1, min(runs, len(stamps) - place))
                    if excess(place + run - 1, place + run) >= jump and is_in_pace(last, place + run)
                ),
                None,
            )
            ahead = next(
                (
                    run
                    for run in range(1, min(runs, len(kept) - start))
                    if excess(kept[-run - 1], kept[-run]) >= jump and is_in_pace(kept[-run - 1], place)
                ),
                None,
            )
            if late is not None and late <= (ahead or late):
                place += late
            elif ahead is not None:
                del kept[-ahead:]
            else:
                cuts.append(len(kept) - 1)
                start = len(kept)
        kept.append(place)
        place += 1
    return kept, cuts
