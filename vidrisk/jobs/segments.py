"""Segments: neighbouring windows of a video with the same label, merged; one line of JSON each in ``segments.jsonl``.

Overlapping windows share their time: each owns the time between the middles of its overlaps with its neighbours, the
first one from its start, the last one to its end. So segments never overlap, and a video of equal windows is one
segment. For a multi-label target, each label has segments of its own, which may overlap those of others.

    windows   |------a------|
                     |------a------|
                            |------b------|
    segments  |---------a---------|---b---|
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise
from operator import attrgetter
from pathlib import Path

from vidrisk.files.lines import line_from_record, record_from_line
from vidrisk.inference.predictions import PREDICTIONS, Prediction, read_predictions
from vidrisk.jobs.checks import check_instance
from vidrisk.jobs.folder import refuse_folders_without, replace_file
from vidrisk.runtimes.contract import versions
from vidrisk.runtimes.contract.errors import DataError, SettingsError

SEGMENTS = versions.SEGMENTS.file
# Adjacent windows may be this far apart after the rounding of their times; a larger gap was seen by no window.
MAX_HOLE_S = 1e-3


@dataclass(frozen=True)
class Hysteresis:
    """Two thresholds, as in a Schmitt trigger.

    With a single one, a probability that fluctuates around it would split one event into many.

    Attributes:
        enter: a label begins in a window in which it is the most probable one and has at least this probability. For a
            multi-label target, a label begins in a window in which it holds, whatever this value is: the model has a
            threshold for each label.
        leave: it continues while its own probability is at least this, even if it is no longer the most probable one,
            until another label enters; for a multi-label target, while it holds or has this probability.

    Raises:
        SettingsError: unless numbers with 0 < leave <= enter < 1.
    """

    enter: float = 0.5
    leave: float = 0.35

    def __post_init__(self) -> None:
        for name in ("enter", "leave"):
            check_instance(self, name, int | float, "a number")
        if not 0 < self.leave <= self.enter < 1:
            raise SettingsError(
                f"a label enters at {self.enter} and leaves below {self.leave}", allowed="0 < leave <= enter < 1"
            )


@dataclass(frozen=True)
class Segment:
    """A part of a video with one label.

    Attributes:
        path: absolute path of the video.
        start_s, end_s: the half-open interval; segments of a video are disjoint and in order, except for multi-label
            targets: then those of one label are disjoint, and all are in the order of their ends.
        label: of the first target.
        score: mean probability of the label over the windows.
        severity: the maximum over the windows, 0–100; None if the contract has none.
        windows: number of merged windows.
        peak_start_s, peak_end_s: the first window with the highest probability of the label.
        peak_score: its probability there.
    """

    path: str
    start_s: float
    end_s: float
    label: str
    score: float
    severity: float | None
    windows: int
    peak_start_s: float
    peak_end_s: float
    peak_score: float

    @property
    def length_s(self) -> float:
        return self.end_s - self.start_s

    def to_json(self) -> bytes:
        """Return one line of UTF-8: see ``lines.line_from_record``."""
        return line_from_record(self, versions.SEGMENTS)


def segment_from_json(line: str | bytes) -> Segment:
    """Parse a line of ``Segment.to_json``, up to the rounding.

    Raises:
        DataError: ``to_json`` did not write this line.
    """
    return record_from_line(Segment, line, versions.SEGMENTS)


@dataclass(frozen=True)
class _Owned:
    """A window, and the part [start_s, end_s) of the video that it alone decides."""

    prediction: Prediction
    start_s: float
    end_s: float


@dataclass
class _Growing:
    """A segment that has not ended yet."""

    label: str
    start_s: float
    end_s: float
    peak: Prediction
    score_sum: float = 0.0
    severity: float | None = None
    windows: int = 0

    def add(self, window: _Owned) -> None:
        prediction = window.prediction
        self.end_s = window.end_s
        self.windows += 1
        self.score_sum += _score(prediction, self.label)
        if _score(prediction, self.label) > _score(self.peak, self.label):
            self.peak = prediction
        if prediction.severity is not None:
            self.severity = max(prediction.severity, self.severity or 0.0)

    def segment(self) -> Segment:
        peak_start_s, peak_end_s = _interval_s(self.peak)
        return Segment(
            self.peak.path,
            self.start_s,
            self.end_s,
            self.label,
            self.score_sum / self.windows,
            self.severity,
            self.windows,
            peak_start_s,
            peak_end_s,
            _score(self.peak, self.label),
        )


def segments_from_predictions(predictions: Iterable[Prediction], hysteresis: Hysteresis) -> Iterator[Segment]:
    """Merge the windows of one video; a single window, or a photo, has no segments.

    Args:
        predictions: of one input, in order of time. Only two are held at once.
        hysteresis: where labels begin and end.

    Raises:
        DataError: there are several predictions, and one of them has no interval.
    """
    growing: _Growing | None = None
    several: dict[str, _Growing] = {}
    for window in _assign_time(predictions):
        if next(iter(window.prediction.targets)) in window.prediction.labels:
            yield from _grow_several(several, window, hysteresis)
            continue
        seen = growing is not None and window.start_s == growing.end_s
        label = _label(window.prediction, growing.label if growing and seen else None, hysteresis)
        if growing and not (seen and label == growing.label):
            yield growing.segment()
            growing = None
        if label is not None:
            growing = growing or _Growing(label, window.start_s, window.end_s, window.prediction)
            growing.add(window)
    for each in (growing, *several.values()):
        if each:
            yield each.segment()


def _grow_several(growing: dict[str, _Growing], window: _Owned, hysteresis: Hysteresis) -> Iterator[Segment]:
    """Start or extend the segment of every label that holds; yield those that end before the window."""
    prediction = window.prediction
    holding = prediction.labels[next(iter(prediction.targets))]
    for label in list(growing):
        goes_on = label in holding or _score(prediction, label) >= hysteresis.leave
        if not (goes_on and growing[label].end_s == window.start_s):
            yield growing.pop(label).segment()
    for label in dict.fromkeys((*growing, *holding)):
        if label not in growing:
            growing[label] = _Growing(label, window.start_s, window.end_s, prediction)
        growing[label].add(window)


def write_segments(out: Path, hysteresis: Hysteresis) -> int:
    """Write ``segments.jsonl`` from ``predictions.jsonl``, completely or not at all.

    Returns:
        The number of segments.

    Raises:
        DataError: the folder holds no ``predictions.jsonl``, or one of another version.
        VidriskError: the folder cannot be written.
    """
    refuse_folders_without(out / PREDICTIONS)
    count = 0
    with replace_file(out / SEGMENTS) as path, path.open("wb") as file:
        for _, windows in groupby(read_predictions(out), key=attrgetter("path")):
            for segment in segments_from_predictions(windows, hysteresis):
                file.write(segment.to_json())
                count += 1
    return count


def read_segments(out: str | os.PathLike[str]) -> Iterator[Segment]:
    """Stream the segments of an output folder: those of a video together, in order of time.

    Raises:
        DataError: a line is invalid.
    """
    with (Path(out) / SEGMENTS).open("rb") as file:
        yield from map(segment_from_json, file)


def _label(prediction: Prediction, current: str | None, hysteresis: Hysteresis) -> str | None:
    """Return the label of a window, given the label ``current`` of the previous one."""
    if prediction.score >= hysteresis.enter:
        return prediction.label
    return current if current is not None and _score(prediction, current) >= hysteresis.leave else None


def _assign_time(predictions: Iterable[Prediction]) -> Iterator[_Owned]:
    """Assign the time to windows. The gap between two windows that do not touch belongs to neither."""
    start_s: float | None = None
    for window, following in pairwise(predictions):
        (first_s, end_s), (next_s, last_s) = _interval_s(window), _interval_s(following)
        middle_s = (end_s + next_s) / 2
        hole = next_s - end_s > MAX_HOLE_S
        yield _Owned(window, first_s if start_s is None else start_s, end_s if hole else middle_s)
        start_s = next_s if hole else middle_s
    if start_s is not None:
        yield _Owned(following, start_s, last_s)


def _score(prediction: Prediction, label: str) -> float:
    """Return the probability of a label of the first target."""
    return next(iter(prediction.targets.values()))[label]


def _interval_s(prediction: Prediction) -> tuple[float, float]:
    if prediction.start_s is None or prediction.end_s is None:
        raise DataError(f"{prediction.path!r} has several predictions, and one without an interval")
    return prediction.start_s, prediction.end_s
