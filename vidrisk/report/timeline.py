"""The timeline of a video: its segments as a bar, a legend and a list, none of which grows with the video's length."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from vidrisk.jobs.segments import SEGMENTS, Segment, read_segments
from vidrisk.report.results import InputResult, Results, band_from_severity

COLOURS = 6  # distinguishable by any reader: --label-0 … of the style sheet
OTHER = "other"
BAR_UNITS = 1000  # width of the bar's drawing
MAX_PEAKS = 4

MAX_LISTED, MIN_LISTED = 40, 5
MAX_STEPS, MIN_STEPS = BAR_UNITS, 100
# Limits for the whole page, so that 500 timelines leave room for their pictures.
PAGE_LISTED, PAGE_STEPS = 2_000, 50_000


Painted = tuple[Segment, str]  # a segment and its kind: see Timeline


@dataclass(frozen=True)
class Limits:
    """Limits of one card.

    Attributes:
        listed: most segments in the list.
        steps: equal parts of the bar, if there are more segments than that.
    """

    listed: int
    steps: int


@dataclass(frozen=True)
class LegendEntry:
    name: str
    kind: str
    total_s: float


@dataclass(frozen=True)
class Timeline:
    """Timeline of one video.

    A kind is a colour and a class of the style sheet: of a label or, if there are severities, of a band.

    Attributes:
        duration_s: length covered by the windows.
        total: number of segments.
        step_s: resolution of the bar if it cannot show every segment, else None.
        bars: per kind its parts of the bar, as an SVG path of horizontal lines.
        legend: per kind its name and the time that it covers, the longest first.
        empty_s: time in no segment.
        listed: at most ``Limits.listed`` of the segments, with their kinds, in order of time.
        peaks: at most ``MAX_PEAKS`` of those, to be shown as pictures.
    """

    duration_s: float
    total: int
    step_s: float | None
    bars: tuple[tuple[str, str], ...]
    legend: tuple[LegendEntry, ...]
    empty_s: float
    listed: tuple[Painted, ...]
    peaks: tuple[Painted, ...]

    @property
    def peak_moments_s(self) -> list[float]:
        """Midpoints of the peaks' windows."""
        return [(segment.peak_start_s + segment.peak_end_s) / 2 for segment, _ in self.peaks]


def read_timelines(out: str | os.PathLike[str], results: Results) -> dict[str, Timeline]:
    """Return a timeline by path for each input of the gallery with several windows; empty without ``segments.jsonl``.

    Raises:
        DataError: ``segments.jsonl`` is of another version.
    """
    if not (Path(out) / SEGMENTS).is_file():
        return {}
    videos = {result.prediction.path: result for result in results.gallery if result.windows > 1}
    kinds = kinds_from_labels(results.summary.targets[0]["labels"], [line.label for line in results.classes])
    limits = limits_from_cards(len(results.gallery))

    def timeline(result: InputResult, segments: Iterable[Segment]) -> Timeline:
        return timeline_from_segments(segments, result.end_s or 0.0, kinds, limits)

    found = {
        path: timeline(videos[path], segments)
        for path, segments in groupby(read_segments(out), key=attrgetter("path"))
        if path in videos
    }
    return {path: found.get(path) or timeline(result, ()) for path, result in videos.items()}


def limits_from_cards(cards: int) -> Limits:
    return Limits(
        max(MIN_LISTED, min(MAX_LISTED, PAGE_LISTED // max(cards, 1))),
        max(MIN_STEPS, min(MAX_STEPS, PAGE_STEPS // max(cards, 1))),
    )


def kinds_from_labels(labels: Sequence[str], most_frequent: Sequence[str]) -> dict[str, str]:
    """Assign a colour to each label.

    If there are enough colours, they follow the model's order, so that they are the same in every report of it.
    Otherwise the most frequent labels get them, and the rest share ``OTHER``.
    """
    ranked = labels if len(labels) <= COLOURS else most_frequent
    return {label: f"label-{place}" if place < COLOURS else OTHER for place, label in enumerate(ranked)}


def timeline_from_segments(
    segments: Iterable[Segment], duration_s: float, kinds: Mapping[str, str], limits: Limits
) -> Timeline:
    """Build the timeline of one video.

    Args:
        segments: of the video.
        duration_s: of the video.
        kinds: per label; severities override them if the segments have any.
        limits: of the card.
    """
    painted = [(segment, _kind(segment, kinds)) for segment in segments]
    is_exact = len(painted) <= limits.steps
    steps = BAR_UNITS if is_exact else limits.steps
    ranked = heapq.nsmallest(limits.listed, _rank(painted))
    return Timeline(
        duration_s,
        len(painted),
        None if is_exact else duration_s / steps,
        _bars(painted, duration_s, steps),
        _legend(painted),
        max(0.0, duration_s - _measure_coverage_s(painted)),
        _in_order(ranked),
        _in_order(ranked[:MAX_PEAKS]),
    )


def _measure_coverage_s(painted: Iterable[Painted]) -> float:
    """Return the time covered by any segment; segments of several labels may overlap."""
    total_s = until_s = 0.0
    for segment in sorted((segment for segment, _ in painted), key=lambda segment: segment.start_s):
        total_s += max(0.0, segment.end_s - max(segment.start_s, until_s))
        until_s = max(until_s, segment.end_s)
    return total_s


def _kind(segment: Segment, kinds: Mapping[str, str]) -> str:
    return kinds.get(segment.label, OTHER) if segment.severity is None else band_from_severity(segment.severity)


def _legend(painted: Iterable[Painted]) -> tuple[LegendEntry, ...]:
    totals_s: dict[tuple[str, str], float] = {}
    for segment, kind in painted:
        name = kind if segment.severity is not None else "other labels" if kind == OTHER else segment.label
        totals_s[name, kind] = totals_s.get((name, kind), 0.0) + segment.length_s
    return tuple(LegendEntry(*key, total_s) for key, total_s in sorted(totals_s.items(), key=lambda item: -item[1]))


def _rank(painted: Iterable[Painted]) -> Iterator[tuple[float, float, float, str, Painted]]:
    """Yield sort keys, lowest first: the most severe, then the longest.

    Without severities: the longest of each label, then the second longest of each, and so on.
    """
    place_of: dict[str, int] = {}
    for segment, kind in sorted(painted, key=lambda pair: -pair[0].length_s):
        place = place_of[segment.label] = place_of.get(segment.label, -1) + 1
        yield (
            place if segment.severity is None else -segment.severity,
            -segment.length_s,
            segment.start_s,
            segment.label,
            (segment, kind),
        )


def _in_order(ranked: Iterable[tuple[float, float, float, str, Painted]]) -> tuple[Painted, ...]:
    return tuple(sorted((painted for *_, painted in ranked), key=lambda pair: pair[0].start_s))


def _bars(painted: Iterable[Painted], duration_s: float, steps: int) -> tuple[tuple[str, str], ...]:
    """Return per kind an SVG path of its parts of the bar.

    Ends are rounded to whole steps, and no segment is shorter than one step. A step that two segments claim shows the
    more severe one, or of equal severities the one that covers more of it.
    """
    step_s = duration_s / steps
    shown = [(-1.0, 0.0, "")] * steps
    for segment, kind in painted:
        first, end = round(segment.start_s / step_s), round(segment.end_s / step_s)
        if first == end:
            first = int((segment.start_s + segment.end_s) / 2 / step_s)
        for step in range(first, max(end, first + 1)):
            part_s = min(segment.end_s, (step + 1) * step_s) - max(segment.start_s, step * step_s)
            shown[step] = max(shown[step], (segment.severity or 0.0, part_s, kind))
    paths: dict[str, str] = {}
    place = 0
    for kind, run in groupby(kind for *_, kind in shown):
        end = place + len(list(run))
        if kind:
            start_x, end_x = round(place * BAR_UNITS / steps), round(end * BAR_UNITS / steps)
            paths[kind] = f"{paths.get(kind, '')}M{start_x} 0h{end_x - start_x}"
        place = end
    return tuple(paths.items())
