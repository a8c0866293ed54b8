"""Converts Label Studio's times, frames of its own counting from 1 with the last one included, to seconds.

Label Studio does not count the frames of a file: its frames are times, multiplied by the rate of the project's Video
tag. The default rate is 24, and 25 in Label Studio Enterprise; exports do not contain it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vidrisk.data.formats.json_lists import is_number
from vidrisk.data.intervals import MAX_RATE
from vidrisk.frames import Interval
from vidrisk.runtimes.contract.errors import DataError

RATE_NAMES = ("fps", "framerate", "frame_rate")  # task data from which a Video tag may take its rate
BEYOND, CUT = "intervals beyond the end of their video left out", "intervals cut to the end of their video"
ZERO = "frame numbers 0 read as frame 1, the first in Label Studio"
MAX_FRAME, MAX_SECONDS = 2**31, 1e9


@dataclass(frozen=True)
class Clock:
    """How a task counts time.

    Attributes:
        where: the task, for errors.
        rate: frames per second, or None if unknown.
        frames: number of frames of its video, or None if the export does not have it.
        duration_s: duration of its video, or None if the export does not have it.
    """

    where: str
    rate: float | None
    frames: int | None = None
    duration_s: float | None = None

    def interval(self, first: int, last: int, counts: Counter[str]) -> Interval | None:
        """Return the part of a video between two frames, counted from 1 and both included, or None beyond the end.

        Raises:
            DataError: the rate is unknown.
        """
        rate = self.rate
        if rate is None and self.frames and self.duration_s:
            rate = self.frames / self.duration_s
        if rate is None:
            raise DataError(
                f"{self.where} counts in frames, but its file does not contain the frame rate",
                allowed="the rate of the project's Video tag: 24 by default, 25 in Label Studio Enterprise",
                fix="give the rate of the labels",
            )
        if self.frames is not None and last > self.frames:
            last = self.frames
            counts[CUT if first <= last else BEYOND] += 1
        return self._in_seconds((first - 1) / rate, last / rate, 1 / rate, counts) if first <= last else None

    def seconds(self, start_s: float, end_s: float, counts: Counter[str]) -> Interval | None:
        """Return the part of a video between two times, or None if it lies beyond the end."""
        return self._in_seconds(start_s, end_s, 0.0, counts)

    def _in_seconds(self, start_s: float, end_s: float, tolerance_s: float, counts: Counter[str]) -> Interval | None:
        if self.duration_s is not None and end_s > self.duration_s:
            counts[CUT] += end_s - self.duration_s > tolerance_s and start_s < self.duration_s
            counts[BEYOND] += start_s >= self.duration_s
            end_s = self.duration_s
        return Interval(start_s, end_s) if start_s < end_s else None


def clock_of(where: str, data: Mapping[str, Any], values: Sequence[Mapping[str, Any]], rate: float | None) -> Clock:
    """Determine how a task counts time.

    The inputs are the ``data`` of the task, the ``values`` of its results, and the ``rate`` that the user gives.

    Raises:
        DataError: an invalid rate.
    """
    stated = next(
        (value for name, value in data.items() if name.casefold() in RATE_NAMES and value not in (None, "")), rate
    )
    try:
        number = None if stated is None else float(stated)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if number is not None and not 0 < number <= MAX_RATE:
        raise DataError(
            f"{where}: the rate {str(stated)[:40]!r} is invalid", allowed=f"frames per second up to {MAX_RATE}"
        )
    frames = [_number_up_to(MAX_FRAME, value.get(name)) for value in values for name in ("framesCount", "frameCount")]
    durations = [_number_up_to(MAX_SECONDS, value.get("duration")) for value in values]
    return Clock(where, number, int(max(frames, default=0)) or None, max(durations, default=0.0) or None)


def frames_of_ranges(value: Mapping[str, Any], where: str, counts: Counter[str]) -> Iterator[tuple[int, int]]:
    """Yield the first and the last frame of each range of a timeline label, counted from 1.

    Raises:
        DataError: not a list of ranges, or a range that ends before it begins.
    """
    ranges = value.get("ranges")
    if not isinstance(ranges, list):
        raise DataError(f"{where} has no ranges", allowed='{"ranges": [{"start": 1, "end": 10}]}')
    for one in ranges:
        first, last = (
            _frame(one.get(name) if isinstance(one, dict) else None, where, counts) for name in ("start", "end")
        )
        if last < first:
            raise DataError(
                f"{where} has a range from {first} to {last}", allowed="a last frame that is not before the first"
            )
        yield first, last


def lifespans(value: Mapping[str, Any], where: str, frames: int | None, counts: Counter[str]) -> list[tuple[int, int]]:
    """Return the first and the last frame of each part of a video in which a box is present.

    Between two key frames it is present if it is ``enabled`` at the first one; at a key frame it always is. After the
    last one it is present to the end, if it is enabled and the end is known.

    Raises:
        DataError: no key frames, or an invalid frame number.
    """
    sequence = value.get("sequence")
    if not isinstance(sequence, list) or not all(isinstance(key, dict) for key in sequence):
        raise DataError(
            f"{where} has no sequence of key frames", allowed='{"sequence": [{"frame": 1, "enabled": true}]}'
        )
    keys = sorted((_frame(key.get("frame"), where, counts), key.get("enabled", True) is not False) for key in sequence)
    found: list[tuple[int, int]] = []
    for place, (frame, is_enabled) in enumerate(keys):
        following = keys[place + 1][0] if place + 1 < len(keys) else (frames or frame) + 1
        last = max(frame, following - 1) if is_enabled else frame
        if found and found[-1][1] + 1 >= frame:
            found[-1] = found[-1][0], max(last, found[-1][1])
        else:
            found.append((frame, last))
    return found


def _frame(value: Any, where: str, counts: Counter[str]) -> int:
    """Return a frame number from 1; a 0, which the format does not have, becomes 1 and is counted.

    Raises:
        DataError: a negative number, a fraction, or not a number.
    """
    if not is_number(value) or not 0 <= value <= MAX_FRAME or not float(value).is_integer():
        raise DataError(f"{where}: {str(value)[:40]!r} is not a frame number", allowed="whole numbers from 1")
    counts[ZERO] += value == 0
    return max(1, int(value))


def _number_up_to(most: float, value: Any) -> float:
    """Return a number above 0, or 0 for anything else."""
    return float(value) if is_number(value) and 0 < value <= most else 0.0
