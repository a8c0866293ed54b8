"""Selection of the frames that a ``TimeSpec`` requires: pure arithmetic on presentation times, without file access."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vidrisk.runtimes.contract.errors import SpecError
from vidrisk.runtimes.contract.specs import TimeSpec

# Presentation times are rationals rounded to float64; a moment this close before a frame's time already shows it.
TOLERANCE_S = 1e-6
# Windows after the first are kept if at least this fraction of them lies inside the clip.
MIN_PART_OF_WINDOW = 0.5
MAX_WINDOWS = 1_000_000


@dataclass(frozen=True, eq=False)
class Window:
    """The half-open part [start_s, end_s) of a clip, and its moments, float64 (T,), sorted.

    ``end_s`` never exceeds the clip's end; the moments of an incomplete last window keep their spacing, so some may lie
    after the end and show the clip's last frame.
    """

    start_s: float
    end_s: float
    moments_s: npt.NDArray[np.float64]


def windows_from_duration(duration_s: float, time: TimeSpec) -> Iterator[Window]:
    """Yield the windows of a clip of ``duration_s`` seconds, in order.

    Without ``time.window_s`` there is one, the clip. With it, windows start every ``time.stride_s`` seconds while the
    start lies inside the clip, and one that is less than half inside is dropped, unless it is the first.

    Raises:
        SpecError: the duration is not positive, or there are more than MAX_WINDOWS windows.
    """
    if not (math.isfinite(duration_s) and duration_s > 0):
        raise SpecError(f"a clip of {duration_s} s", allowed="a positive duration")
    if time.window_s is None:
        yield Window(0.0, duration_s, moments_from_window(0.0, duration_s, time.frames))
        return
    stride_s = time.stride_s or time.window_s
    if duration_s / stride_s > MAX_WINDOWS:
        raise SpecError(
            f"a stride of {stride_s} s in a clip of {duration_s:.0f} s",
            allowed=f"at most {MAX_WINDOWS} windows",
            fix="a longer stride",
        )
    for number in range(max(1, math.ceil(duration_s / stride_s))):
        start_s = number * stride_s
        inside_s = min(time.window_s, duration_s - start_s)
        if number and inside_s < MIN_PART_OF_WINDOW * time.window_s - TOLERANCE_S:
            return
        yield Window(start_s, start_s + inside_s, moments_from_window(start_s, time.window_s, time.frames))


def windows_from_interval(start_s: float, end_s: float, time: TimeSpec) -> Iterator[Window]:
    """Yield the windows of the part [start_s, end_s) of a clip.

    They are those of a clip of its length, shifted to its start.

    Raises:
        SpecError: as ``windows_from_duration``.
    """
    for window in windows_from_duration(end_s - start_s, time):
        yield Window(start_s + window.start_s, start_s + window.end_s, start_s + window.moments_s)


def moments_from_window(start_s: float, window_s: float, frames: int) -> npt.NDArray[np.float64]:
    """Return the centres of ``frames`` equal parts of a window: float64 (frames,), sorted, inside it."""
    return start_s + (np.arange(frames, dtype=np.float64) + 0.5) * np.float64(window_s / frames)


def indices_from_moments(
    moments_s: npt.NDArray[np.float64], frame_times_s: npt.NDArray[np.float64]
) -> npt.NDArray[np.intp]:
    """Return the index of the frame shown at each moment.

    This is the last frame whose presentation time is not after the moment, or the first frame if there is none.
    """
    return np.maximum(np.searchsorted(frame_times_s, moments_s + TOLERANCE_S, side="right") - 1, 0)
