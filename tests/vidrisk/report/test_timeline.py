from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vidrisk.report
from vidrisk.jobs.segments import Segment
from vidrisk.report.timeline import (
    BAR_UNITS,
    COLOURS,
    MAX_LISTED,
    MAX_PEAKS,
    OTHER,
    Limits,
    Timeline,
    kinds_from_labels,
    limits_from_cards,
    timeline_from_segments,
)

KINDS = {"a": "label-0", "b": "label-1", "c": "label-2"}
MANY = Limits(listed=40, steps=1000)


def segment(start_s: float, end_s: float, label: str = "a", severity: float | None = None) -> Segment:
    return Segment("/v.mp4", start_s, end_s, label, 0.8, severity, 3, start_s, end_s, 0.9)


def runs(timeline: Timeline) -> list[tuple[int, int, str]]:
    """Return the start, end and kind of each section of the bar, in order."""
    return sorted(
        (int(start), int(start) + int(length), kind)
        for kind, path in timeline.bars
        for start, length in re.findall(r"M(\d+) 0h(\d+)", path)
    )


@st.composite
def segments_of_a_video(draw: st.DrawFn) -> tuple[list[Segment], float]:
    edges = sorted(draw(st.lists(st.floats(0, 1), min_size=2, max_size=30, unique=True)))
    rated = draw(st.booleans())
    parts = [
        segment(start, end, draw(st.sampled_from("abcd")), draw(st.floats(0, 100)) if rated else None)
        for start, end in pairwise(edges)
        if end - start > 1e-6 and draw(st.booleans())
    ]
    return parts, 1.0


def test_the_bar_shows_every_segment_where_it_is_and_leaves_the_gaps() -> None:
    timeline = timeline_from_segments([segment(1, 2.5), segment(2.5, 4, "b"), segment(9, 10)], 10.0, KINDS, MANY)
    assert runs(timeline) == [(100, 250, "label-0"), (250, 400, "label-1"), (900, 1000, "label-0")]
    assert [(entry.name, entry.kind, entry.total_s) for entry in timeline.legend] == [
        ("a", "label-0", 2.5),
        ("b", "label-1", 1.5),
    ]
    assert (timeline.empty_s, timeline.step_s, timeline.total) == (6.0, None, 3)


def test_severities_decide_the_colour() -> None:
    timeline = timeline_from_segments(
        [segment(0, 1, "a", 10), segment(1, 2, "b", 80), segment(2, 4, "a", 90)], 4.0, KINDS, MANY
    )
    assert runs(timeline) == [(0, 250, "low"), (250, 1000, "severe")]
    assert [(entry.name, entry.total_s) for entry in timeline.legend] == [("severe", 3), ("low", 1)]


def test_a_moment_is_seen_in_a_long_video() -> None:
    timeline = timeline_from_segments([segment(1800.0, 1800.5)], 3600.0, KINDS, MANY)
    assert runs(timeline) == [(500, 501, "label-0")]


def test_the_most_severe_is_seen_where_the_bar_is_too_coarse() -> None:
    parts = [segment(0, 0.4, "a", 10), segment(0.4, 0.5, "b", 95), segment(0.5, 0.9, "c", 10)]
    assert runs(timeline_from_segments(parts, 10.0, KINDS, Limits(5, 2))) == [(0, 500, "severe")]


@given(segments_of_a_video(), st.integers(1, 50), st.integers(1, 50))
def test_what_is_shown_has_a_limit_and_an_order(video: tuple[list[Segment], float], listed: int, steps: int) -> None:
    segments, duration_s = video
    timeline = timeline_from_segments(segments, duration_s, KINDS, Limits(listed, steps))
    assert timeline.total == len(segments) and len(timeline.listed) == min(listed, len(segments))
    assert len(timeline.peaks) <= MAX_PEAKS and set(timeline.peaks) <= set(timeline.listed)
    for shown in (timeline.listed, timeline.peaks):
        assert all(before.start_s < after.start_s for (before, _), (after, _) in pairwise(shown))
    drawn = runs(timeline)
    assert all(before[1] <= after[0] for before, after in pairwise(drawn))
    assert all(0 <= start < end <= BAR_UNITS for start, end, _ in drawn)
    assert bool(drawn) == bool(segments)
    assert len(drawn) <= (len(segments) if timeline.step_s is None else steps)
    covered_s = sum(entry.total_s for entry in timeline.legend)
    assert covered_s + timeline.empty_s == pytest.approx(duration_s)


def test_without_severities_every_label_is_listed_before_the_longest_of_one() -> None:
    parts = [segment(float(i), i + 1.0) for i in range(20)] + [segment(20, 20.1, "b"), segment(21, 21.2, "c")]
    timeline = timeline_from_segments(parts, 22.0, KINDS, Limits(3, 1000))
    assert [(s.label, s.start_s) for s, _ in timeline.listed] == [("a", 0), ("b", 20), ("c", 21)]


def test_with_severities_the_worst_are_listed() -> None:
    parts = [segment(float(i), i + 1.0, "a", float(i)) for i in range(20)]
    timeline = timeline_from_segments(parts, 20.0, KINDS, Limits(3, 1000))
    assert [s.start_s for s, _ in timeline.listed] == [17, 18, 19]


def test_few_labels_keep_their_colours_and_many_share_one() -> None:
    assert kinds_from_labels(["x", "y"], ["y", "x"]) == {"x": "label-0", "y": "label-1"}
    labels = [f"label {number}" for number in range(COLOURS + 2)]
    kinds = kinds_from_labels(labels, labels[::-1])
    assert kinds[labels[-1]] == "label-0" and [kinds[label] for label in labels[:2]] == [OTHER, OTHER]
    parts = [segment(0, 1, labels[0]), segment(1, 2, labels[1]), segment(2, 3, labels[-1])]
    timeline = timeline_from_segments(parts, 3.0, kinds, MANY)
    assert [entry.name for entry in timeline.legend] == ["other labels", labels[-1]]


def test_more_cards_show_less_each() -> None:
    assert limits_from_cards(1) == limits_from_cards(0) == Limits(MAX_LISTED, BAR_UNITS)
    assert limits_from_cards(500).listed * 500 <= 2_500 and limits_from_cards(500).steps * 500 <= 50_000


# Dichromats' view of linear RGB: Machado, Oliveira and Fernandes (2009), severity 1.
VIEWS = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]]
    ),
}
# Linear RGB to Oklab, whose distances are those that are seen: Ottosson (2020).
LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
OKLAB = np.array(
    [
        [0.2104542553, 0.793617785, -0.0040720468],
        [1.9779984951, -2.428592205, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.808675766],
    ]
)
MIN_DISTANCE, MIN_CONTRAST = 0.1, 3.0  # five times what is just noticeable; WCAG 2.1, 1.4.11


def colours_of(scheme: int) -> dict[str, np.ndarray]:
    """Return the label colours of the first (light) or second (dark) ``:root`` of the style sheet in linear RGB."""
    css = (Path(vidrisk.report.__file__).parent / "report.css").read_text(encoding="utf-8")
    found = re.findall(r"--(label-\d|other|empty): #(\w{6})", re.findall(r":root \{(.*?)\}", css, re.DOTALL)[scheme])
    encoded = {
        name: np.array([int(value[place : place + 2], 16) for place in (0, 2, 4)]) / 255 for name, value in found
    }
    return {name: np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) for name, c in encoded.items()}


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_any_reader_can_tell_the_colours_apart(scheme: int) -> None:
    colours = colours_of(scheme)
    empty = colours.pop("empty")
    assert sorted(colours) == sorted([*(f"label-{place}" for place in range(COLOURS)), OTHER])
    for view in VIEWS.values():
        seen = {name: OKLAB @ np.cbrt(LMS @ np.clip(view @ colour, 0, 1)) for name, colour in colours.items()}
        for one in seen:
            assert all(np.linalg.norm(seen[one] - seen[other]) > MIN_DISTANCE for other in seen if other != one)
    luminance = {
        name: float(np.dot(colour, [0.2126, 0.7152, 0.0722])) for name, colour in {**colours, "empty": empty}.items()
    }
    for name in colours:
        lighter, darker = sorted((luminance[name], luminance["empty"]), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= MIN_CONTRAST, name


def test_labels_that_hold_at_the_same_time() -> None:
    """A timeline shows overlapping segments of several labels, even if their start and length are equal."""
    both = [segment(0, 6, "b"), segment(0, 6, "a"), segment(4, 8, "c")]
    timeline = timeline_from_segments(both, 10.0, KINDS, MANY)
    assert timeline.empty_s == 2 and [part.label for part, _ in timeline.listed] == ["a", "b", "c"]
    assert {entry.name: entry.total_s for entry in timeline.legend} == {"a": 6, "b": 6, "c": 4}
    assert [part.label for part, _ in timeline_from_segments(both, 10.0, KINDS, Limits(1, 1000)).listed] == ["a"]
