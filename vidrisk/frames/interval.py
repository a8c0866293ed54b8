"""Intervals of a video, in seconds or in frames."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from vidrisk.frames.source import Timeline
from vidrisk.runtimes.contract.errors import SpecError, UnreadableError

Unit = Literal["s", "frame"]
# An interval is read if at least this fraction lies inside the file; the rest is cut off, and a note says so.
MIN_PART_INSIDE = 0.5
MAX_ROUNDING_S = 0.1  # lengths are often rounded to a frame: no note is needed


@dataclass(frozen=True)
class Interval:
    """The half-open part [start, end) of a video.

    Attributes:
        start, end: seconds from the first frame, or frames counted from 0. The frame ``end`` is excluded.
        unit: ``s`` or ``frame``. Frames are converted to seconds with the file's own timestamps when it is read.

    Raises:
        SpecError: negative, empty, reversed or not finite; a fraction of a frame.
    """

    start: float
    end: float
    unit: Unit = "s"

    def __post_init__(self) -> None:
        if self.unit not in ("s", "frame"):
            raise SpecError(f"an interval in {self.unit!r}", allowed="s, frame")
        if not (math.isfinite(self.start) and math.isfinite(self.end)):
            raise SpecError(f"the interval {self}", allowed="finite numbers")
        if self.start < 0:
            raise SpecError(f"the interval {self} starts before the file", allowed="0 or more")
        if self.end <= self.start:
            raise SpecError(
                f"the interval {self} is {'empty' if self.end == self.start else 'reversed'}",
                allowed="an end after the start",
            )
        if self.unit == "frame" and not (float(self.start).is_integer() and float(self.end).is_integer()):
            raise SpecError(f"the interval {self}", allowed="whole frames")

    def __str__(self) -> str:
        span = (
            f"[{self.start:.10g}, {self.end:.10g})"  # as exact as the times, since the text also distinguishes samples
        )
        return f"{span} s" if self.unit == "s" else f"frames {span}"

    def overlaps(self, other: Interval) -> bool:
        """Return whether both may show the same moment; always True if their units differ."""
        return self.unit != other.unit or (self.start < other.end and other.start < self.end)

    def to_json(self) -> list[Any]:
        return [self.start, self.end, self.unit]

    def locate_s(self, timeline: Timeline, name: str) -> tuple[float, float, str]:
        """Return the start and end in seconds on a file's timeline, and a note if the end was cut.

        The end is cut to that of the file.

        Raises:
            UnreadableError: it starts after the end of the file, or less than half of it lies inside.
        """
        frames = len(timeline.times_s)
        length = timeline.duration_s if self.unit == "s" else frames
        tolerance = min(timeline.duration_s / frames, MAX_ROUNDING_S) if self.unit == "s" else 0
        inside = min(self.end, length) - self.start
        if self.start >= length or inside + tolerance < MIN_PART_INSIDE * (self.end - self.start):
            what = f"{timeline.duration_s:.2f} s" if self.unit == "s" else f"{frames} frames"
            raise UnreadableError(
                f"{name}: {self} lies outside the file, which has {what}",
                state="skipped",
                fix="correct the interval, or its unit",
            )
        if self.unit == "s":
            start_s, end_s = self.start, min(self.end, timeline.duration_s)
        else:
            start_s = float(timeline.times_s[int(self.start)])
            end_s = float(timeline.times_s[int(self.end)]) if self.end < frames else timeline.duration_s
        return start_s, end_s, f"{self} is cut to the file's end" if self.end > length + tolerance else ""


def interval_from_json(values: Any) -> Interval | None:
    """Parse the list that ``Interval.to_json`` returned; None stays None."""
    return None if values is None else Interval(*values)
