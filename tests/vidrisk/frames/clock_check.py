"""Comparison of a video's frames, their times and their grey levels with the output of ffprobe and ffmpeg."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from ffmpeg_program import output_of

from vidrisk.frames import Frame, read_frames
from vidrisk.frames.sampling import TOLERANCE_S
from vidrisk.frames.video_pyav import PyAVSource
from vidrisk.runtimes.contract.specs import PixelSpec, TimeSpec

Floats = npt.NDArray[np.float64]
MAX_INTERVALS, MAX_LEVELS = 0.5, 3.0
SEEKS, MOMENTS = 7, 20
# Times this close, in frame intervals, are the same.
ROUNDING = 0.05
# Frames that may share the last stamp.
MAX_SHARED = 3


@dataclass(frozen=True)
class Reference:
    """The times and grey levels of a video according to ffprobe and ffmpeg.

    Attributes:
        times_s: float64 (N,), relative to the first frame.
        levels: float64 (N,), mean of the RGB values of each frame.
        stated: number of times that ffprobe states; the others were interpolated, because ffprobe states none for
            them, or one out of order.
        interval_s: usual interval between two successive frames.
    """

    times_s: Floats
    levels: Floats
    stated: int
    interval_s: float


@dataclass(frozen=True)
class Difference:
    """The differences between a reader and the reference, in usual frame intervals, grey levels and frames."""

    frames: int
    expected_frames: int
    stated_times: int
    worst_intervals: float
    worst_levels: float
    worst_levels_by_seek: float
    worst_levels_by_moment: float
    note: str
    may_lack: int

    @property
    def is_right(self) -> bool:
        levels = max(self.worst_levels, self.worst_levels_by_seek, self.worst_levels_by_moment)
        has_all = 0 <= self.expected_frames - self.frames <= self.may_lack
        return has_all and self.worst_intervals <= MAX_INTERVALS and levels <= MAX_LEVELS


def reference(path: Path) -> Reference:
    stamps = (
        output_of(
            "ffprobe",
            "-v",
            "error",
            "-select_streams",
            "v:0",
            "-show_entries",
            "frame=best_effort_timestamp_time",
            "-of",
            "csv=p=0",
            str(path),
        )
        .decode()
        .split()
    )
    times_s = np.array([float("nan" if stamp.startswith("N") else stamp.rstrip(",")) for stamp in stamps])
    raw = output_of(
        "ffmpeg",
        "-v",
        "error",
        "-i",
        str(path),
        "-map",
        "0:v:0",
        "-fps_mode",
        "passthrough",
        "-vf",
        "scale=2:2:flags=area,format=rgb24",
        "-f",
        "rawvideo",
        "-",
    )
    levels = np.frombuffer(raw, np.uint8).reshape(-1, 12).mean(axis=1)
    assert len(levels) == len(times_s), f"ffprobe has {len(times_s)} frames of {path.name}, ffmpeg {len(levels)}"
    return _in_order(times_s, levels)


def _in_order(times_s: Floats, levels: Floats) -> Reference:
    """Keep the times that are not below any earlier or above any later time, and interpolate the others."""
    numbers = np.arange(len(times_s))
    known = ~np.isnan(times_s)
    highest = np.maximum.accumulate(np.where(known, times_s, -np.inf))
    lowest = np.minimum.accumulate(np.where(known, times_s, np.inf)[::-1])[::-1]
    kept = np.flatnonzero(known & (times_s >= highest) & (times_s <= lowest))
    last = np.flatnonzero(times_s[kept] == times_s[kept[-1]])
    if len(last) > MAX_SHARED:  # a clock that stands still says nothing
        kept = kept[: last[0] + 1]
    steps = np.diff(times_s[kept]) / np.diff(kept)
    interval_s = float(np.median(steps[steps > 0]))
    whole = np.interp(numbers, kept, times_s[kept])
    whole += interval_s * (np.minimum(numbers - kept[0], 0) + np.maximum(numbers - kept[-1], 0))
    return Reference(whole - whole[0], levels, len(kept), interval_s)


def difference(path: Path, rate: float | None = None, may_lack: int = 0) -> Difference:
    """Return the differences between a video as it is read and its reference.

    The video is read straight through, by seeking to single frames, and as the pipeline reads it at some moments.

    Args:
        rate: frame rate that was written, from which the expected times follow; for a file whose times ffprobe
            reports wrongly.
        may_lack: number of frames at the end that may be missing, because ffmpeg shows what a cut left of the
            last packet.
    """
    expected = reference(path)
    if rate:
        count = len(expected.times_s)
        expected = replace(expected, times_s=np.arange(count) / rate, interval_s=1 / rate, stated=0)
    with PyAVSource(path) as source:
        times_s, duration_s, note = source.timeline.times_s, source.timeline.readable_s, source.note
        levels = np.array(
            [frame.rgb.mean() if not frame.lost else np.inf for frame in source.frames_at(range(len(times_s)))]
        )
    count = min(len(times_s), len(expected.times_s))
    seeks = np.linspace(count - 1, 0, min(count, SEEKS)).astype(int).tolist()
    by_seek = [_level_at(path, number) - expected.levels[number] for number in seeks]
    moments_s = (np.arange(MOMENTS) + 0.5) * duration_s / MOMENTS
    shown = np.maximum(np.searchsorted(expected.times_s, moments_s + TOLERANCE_S, side="right") - 1, 0)
    of_moments = _levels_at_moments(path)
    by_moment = np.abs(of_moments - expected.levels[shown])
    # a moment within rounding of a frame's time may show the one before
    beside = expected.levels[np.clip(shown[:, None] + [-1, 1], 0, count - 1)]
    is_near = np.abs(expected.times_s[:, None] - moments_s).min(axis=0) < ROUNDING * expected.interval_s
    by_moment = np.where(is_near, np.minimum(by_moment, np.abs(of_moments[:, None] - beside).min(axis=1)), by_moment)
    return Difference(
        len(times_s),
        len(expected.times_s),
        expected.stated,
        float(np.abs(times_s[:count] - expected.times_s[:count]).max() / expected.interval_s),
        float(np.abs(levels[:count] - expected.levels[:count]).max()),
        float(np.abs(by_seek).max()),
        float(by_moment.max()),
        note,
        may_lack,
    )


def _level_at(path: Path, number: int) -> float:
    with PyAVSource(path) as source:
        (frame,) = source.frames_at([number])
    return float(frame.rgb.mean()) if not frame.lost else np.inf


def _levels_at_moments(path: Path) -> Floats:
    frames, indices = {}, ()
    for item in read_frames(path, PixelSpec(16, 16), TimeSpec(MOMENTS)):
        if isinstance(item, Frame):
            frames[item.index] = item.pixels.mean()
        else:
            indices = item.indices
    return np.array([frames[index] for index in indices])
