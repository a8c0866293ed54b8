from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidrisk.files.lines import DIGITS
from vidrisk.frames.sampling import windows_from_duration
from vidrisk.inference.predictions import Prediction
from vidrisk.jobs.segments import (
    SEGMENTS,
    Hysteresis,
    Segment,
    read_segments,
    segment_from_json,
    segments_from_predictions,
    write_segments,
)
from vidrisk.runtimes.contract.errors import DataError, SettingsError
from vidrisk.runtimes.contract.specs import TimeSpec

LABELS = ("a", "b", "c")
DEFAULT = Hysteresis()


def window(
    start_s: float | None, end_s: float | None, *scores: float, path: str = "/v.mp4", severity: float | None = None
) -> Prediction:
    """Return a prediction with these probabilities of the labels a, b, c."""
    best = max(range(len(scores)), key=scores.__getitem__)
    return Prediction(
        path,
        start_s,
        end_s,
        LABELS[best],
        scores[best],
        False,
        severity,
        None,
        None,
        {"action": dict(zip(LABELS, scores, strict=False)), "other": {"x": 1.0}},
    )


def seconds(*scores: tuple[float, ...], length_s: float = 1.0) -> list[Prediction]:
    """Return predictions of windows that start every second."""
    return [window(float(start_s), start_s + length_s, *row) for start_s, row in enumerate(scores)]


def merged(predictions: list[Prediction], hysteresis: Hysteresis = DEFAULT) -> list[Segment]:
    return list(segments_from_predictions(predictions, hysteresis))


def told(predictions: list[Prediction], hysteresis: Hysteresis = DEFAULT) -> list[tuple[str, float, float]]:
    return [(segment.label, segment.start_s, segment.end_s) for segment in merged(predictions, hysteresis)]


def label_at(segments: list[Segment], time_s: float) -> str | None:
    return next((segment.label for segment in segments if segment.start_s <= time_s < segment.end_s), None)


probabilities = st.lists(st.floats(0.01, 1), min_size=3, max_size=3).map(
    lambda weights: tuple(round(weight / sum(weights), DIGITS) for weight in weights)
)


@st.composite
def videos(draw: st.DrawFn) -> list[Prediction]:
    """Draw windows as the frame reader creates them, with arbitrary probabilities."""
    window_s = draw(st.floats(0.2, 4))
    stride_s = window_s * draw(st.floats(0.1, 1))
    spec = TimeSpec(4, window_s, min(stride_s, window_s))
    intervals = [
        (round(w.start_s, DIGITS), round(w.end_s, DIGITS))
        for w in windows_from_duration(draw(st.floats(0.5, 30)), spec)
    ][:12]
    return [window(*interval, *draw(probabilities)) for interval in intervals]


@st.composite
def thresholds(draw: st.DrawFn) -> Hysteresis:
    enter = draw(st.floats(0.01, 0.99))
    return Hysteresis(enter, draw(st.floats(0.01, enter)))


def test_a_label_enters_once_and_goes_on_until_it_leaves() -> None:
    scores = [(0.4, 0.35, 0.25), (0.6, 0.2, 0.2), (0.36, 0.4, 0.24), (0.34, 0.4, 0.26), (0.45, 0.3, 0.25)]
    assert told(seconds(*scores)) == [("a", 1.0, 3.0)]


def test_another_label_that_enters_ends_it() -> None:
    scores = [(0.6, 0.4, 0.0), (0.45, 0.55, 0.0), (0.45, 0.45, 0.1), (0.6, 0.4, 0.0)]
    assert told(seconds(*scores)) == [("a", 0.0, 1.0), ("b", 1.0, 3.0), ("a", 3.0, 4.0)]


def test_overlapping_windows_share_their_time() -> None:
    assert told(seconds((0.9, 0.1), (0.9, 0.1), (0.1, 0.9), length_s=2.0)) == [("a", 0.0, 2.5), ("b", 2.5, 4.0)]


def test_a_last_window_that_is_cut_short_owns_its_own_time() -> None:
    assert told([window(0, 2, 0.9, 0.1), window(2, 3, 0.1, 0.9)]) == [("a", 0, 2), ("b", 2, 3)]


def test_nobody_knows_what_lies_between_windows_that_do_not_touch() -> None:
    assert told([window(0, 1, 0.9), window(1, 2, 0.9), window(5, 6, 0.9)]) == [("a", 0, 2), ("a", 5, 6)]


def test_scores_and_peaks() -> None:
    (segment,) = merged(seconds((0.6, 0.4), (0.9, 0.1), (0.9, 0.1), (0.4, 0.6), length_s=2.0), Hysteresis(0.6, 0.1))[:1]
    assert (segment.label, segment.windows, segment.score) == ("a", 3, pytest.approx(0.8))
    assert (segment.peak_start_s, segment.peak_end_s, segment.peak_score) == (1.0, 3.0, 0.9)


def test_the_severity_is_that_of_the_worst_window() -> None:
    windows = [replace(w, severity=s) for w, s in zip(seconds((0.9,), (0.9,), (0.9,)), (0.0, 80.0, 10.0), strict=True)]
    assert [segment.severity for segment in merged(windows)] == [80.0]
    assert [segment.severity for segment in merged(seconds((0.9,), (0.9,)))] == [None]


def test_one_window_or_a_photo_has_none() -> None:
    assert merged([]) == merged([window(0, 1, 0.9)]) == merged([window(None, None, 0.9)]) == []
    with pytest.raises(DataError, match="without an interval"):
        merged([window(0, 1, 0.9), window(None, None, 0.9)])


@given(videos(), thresholds())
def test_segments_are_in_order_disjoint_and_inside_the_video(
    predictions: list[Prediction], hysteresis: Hysteresis
) -> None:
    segments = merged(predictions, hysteresis)
    ends_s = [0.0, *(segment.end_s for segment in segments)]
    for before_s, segment in zip(ends_s, segments, strict=False):
        assert before_s <= segment.start_s < segment.end_s
        assert hysteresis.leave - 1e-9 <= segment.score <= segment.peak_score + 1e-9
        assert segment.peak_score >= hysteresis.enter
        assert (segment.peak_start_s, segment.peak_end_s) in [(p.start_s, p.end_s) for p in predictions]
    assert ends_s[-1] <= (predictions[-1].end_s or 0)
    assert sum(segment.windows for segment in segments) <= len(predictions)


@given(videos(), thresholds())
def test_a_window_that_enters_lies_in_a_segment_of_its_label(
    predictions: list[Prediction], hysteresis: Hysteresis
) -> None:
    segments = merged(predictions, hysteresis)
    for prediction in predictions if len(predictions) > 1 else []:
        if prediction.score >= hysteresis.enter:
            middle_s = ((prediction.start_s or 0) + (prediction.end_s or 0)) / 2
            assert any(
                segment.label == prediction.label and segment.start_s <= middle_s <= segment.end_s
                for segment in segments
            )


@given(videos(), thresholds(), st.floats(0, 1))
def test_a_lower_leave_loses_no_time(predictions: list[Prediction], high: Hysteresis, part: float) -> None:
    low = merged(predictions, Hysteresis(high.enter, max(high.leave * part, 0.001)))
    for segment in merged(predictions, high):
        assert label_at(low, segment.start_s) == label_at(low, segment.end_s - 1e-9) == segment.label


# Only there: under a half, a label that no longer enters can leave the time to another one that stays longer.
@given(videos(), st.floats(0.51, 0.9), st.floats(0, 1))
def test_with_leave_over_a_half_a_higher_enter_adds_no_time(
    predictions: list[Prediction], leave: float, part: float
) -> None:
    enter = leave + part * (0.99 - leave)
    low = merged(predictions, Hysteresis(leave, leave))
    for segment in merged(predictions, Hysteresis(enter, leave)):
        assert label_at(low, segment.start_s) == label_at(low, segment.end_s - 1e-9) == segment.label


@given(videos(), thresholds())
def test_equal_windows_are_one_segment(predictions: list[Prediction], hysteresis: Hysteresis) -> None:
    equal = [replace(p, label="a", score=0.99, targets={"action": {"a": 0.99, "b": 0.01}}) for p in predictions]
    segments = merged(equal, hysteresis)
    assert [(s.start_s, s.end_s, s.windows) for s in segments] == (
        [(0.0, equal[-1].end_s, len(equal))] if len(equal) > 1 else []
    )


def test_thousands_of_windows_are_read_one_by_one() -> None:
    read = 0

    def endless() -> Iterator[Prediction]:
        nonlocal read
        while True:
            read += 1
            yield window(float(read), read + 1.0, *((0.9, 0.1) if read % 2 else (0.1, 0.9)))

    assert next(segments_from_predictions(endless(), DEFAULT)).windows == 1
    assert read <= 3


@pytest.mark.parametrize(("enter", "leave"), [(0.3, 0.4), (0.5, 0.0), (1.0, 0.5), (0.5, -0.1), (float("nan"), 0.1)])
def test_thresholds_that_make_no_sense(enter: float, leave: float) -> None:
    with pytest.raises(SettingsError, match="0 < leave <= enter < 1"):
        Hysteresis(enter, leave)


paths = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(["\udc80", '"', "\\", "\n"]))
times = st.floats(0, 1e5).map(lambda value: round(value, DIGITS))


@given(
    st.builds(
        Segment,
        path=paths,
        start_s=times,
        end_s=times,
        label=st.text(st.characters(exclude_categories=["Cs"])),
        score=times,
        severity=st.none() | times,
        windows=st.integers(1, 10**6),
        peak_start_s=times,
        peak_end_s=times,
        peak_score=times,
    )
)
def test_a_line_comes_back_as_it_was(segment: Segment) -> None:
    line = segment.to_json()
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert segment_from_json(line) == segment


@pytest.mark.parametrize("line", ["", "[]", "{}", '{"path": 1'])
def test_other_lines_are_refused(line: str) -> None:
    with pytest.raises(DataError, match=r"segments\.jsonl"):
        segment_from_json(line)


def write_predictions(out: Path, *predictions: Prediction) -> None:
    (out / "predictions.jsonl").write_bytes(b"".join(p.to_json() for p in predictions))


def test_a_folder_of_several_inputs(tmp_path: Path) -> None:
    first, second = seconds((0.9, 0.1), (0.1, 0.9)), seconds((0.9, 0.1), (0.9, 0.1))
    write_predictions(
        tmp_path,
        *first,
        window(None, None, 0.9, path="/photo.png"),
        window(0, 9, 0.9, path="/short.mp4"),
        *(replace(p, path="/w.mp4") for p in second),
    )
    assert write_segments(tmp_path, DEFAULT) == 3
    assert [(s.path, s.label, s.start_s, s.end_s) for s in read_segments(tmp_path)] == [
        ("/v.mp4", "a", 0, 1),
        ("/v.mp4", "b", 1, 2),
        ("/w.mp4", "a", 0, 2),
    ]
    assert write_segments(tmp_path, Hysteresis(0.95, 0.9)) == 0 == (tmp_path / SEGMENTS).stat().st_size
    assert sorted(p.name for p in tmp_path.iterdir()) == ["predictions.jsonl", SEGMENTS]


def test_whole_or_not_at_all(tmp_path: Path) -> None:
    write_predictions(tmp_path, *seconds((0.9, 0.1), (0.9, 0.1)))
    write_segments(tmp_path, DEFAULT)
    before = (tmp_path / SEGMENTS).read_bytes()
    with (tmp_path / "predictions.jsonl").open("ab") as file:
        file.write(b"no JSON\n")
    with pytest.raises(DataError, match=r"predictions\.jsonl"):
        write_segments(tmp_path, DEFAULT)
    assert (tmp_path / SEGMENTS).read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["predictions.jsonl", SEGMENTS]


@pytest.mark.parametrize("name", [".", "nowhere"])
def test_a_folder_without_predictions(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"holds no predictions\.jsonl of a run; fix: vidrisk infer"):
        write_segments(tmp_path / name, DEFAULT)
    assert not list(tmp_path.iterdir())


def several(*scores: tuple[float, ...], least: float = 0.5, length_s: float = 1.0) -> list[Prediction]:
    """Return windows that start every second; every label holds from the probability ``least`` on."""
    return [
        replace(w, labels={"action": [label for label, score in w.targets["action"].items() if score >= least]})
        for w in seconds(*scores, length_s=length_s)
    ]


def test_labels_that_hold_together_have_segments_of_their_own() -> None:
    windows = several((0.9, 0.1), (0.8, 0.7), (0.1, 0.9), (0.1, 0.1))
    assert told(windows) == [("a", 0, 2), ("b", 1, 3)]
    first, second = merged(windows)
    assert (first.windows, first.score, first.peak_start_s, first.peak_score) == (2, pytest.approx(0.85), 0, 0.9)
    assert (second.score, second.peak_start_s) == (pytest.approx(0.8), 2)


def test_overlapping_windows_share_their_time_among_several_labels_too() -> None:
    assert told(several((0.9, 0.1), (0.9, 0.9), (0.1, 0.9), length_s=2.0)) == [("a", 0, 2.5), ("b", 1.5, 4)]


def test_a_label_begins_where_it_holds_and_goes_on_while_it_has_enough() -> None:
    """A label of a multi-label target starts where it holds; ``enter`` does not apply to it.

    The model has a threshold for each label of such a target. ``enter`` is for targets of which one label holds.
    """
    scores = [(0.3, 0.0), (0.6, 0.0), (0.4, 0.0), (0.36, 0.0), (0.34, 0.0), (0.4, 0.0)]
    assert told(several(*scores), Hysteresis(0.95, 0.35)) == [("a", 1, 4)]
    assert told(several(*scores, least=0.2), Hysteresis(0.95, 0.35)) == [
        ("a", 0, 6)
    ]  # it holds under what it would leave at


def test_no_label_at_all_has_no_segment_and_a_gap_ends_all() -> None:
    assert told(several((0.1, 0.2), (0.3, 0.2))) == []
    early, late = (
        several((0.9, 0.9), (0.9, 0.9)),
        [replace(w, start_s=(w.start_s or 0) + 5, end_s=(w.end_s or 0) + 5) for w in several((0.9, 0.1), (0.9, 0.1))],
    )
    assert told([*early, *late]) == [("a", 0, 2), ("b", 0, 2), ("a", 5, 7)]


def test_the_first_target_has_the_segments_whatever_kind_the_others_are() -> None:
    """The first target, one action, has the segments, although a second one holds any number of defects.

    A window without a defect still has an action.
    """
    windows = [
        replace(w, targets={**w.targets, "defect": {"x": 0.1}}, labels={"defect": []})
        for w in seconds((0.9, 0.1), (0.9, 0.1))
    ]
    assert told(windows) == [("a", 0, 2)]


@given(videos(), st.floats(0.1, 0.9), thresholds())
def test_segments_of_each_label_are_disjoint_and_hold_every_window_that_has_it(
    predictions: list[Prediction], least: float, hysteresis: Hysteresis
) -> None:
    windows = [
        replace(p, labels={"action": [label for label, score in p.targets["action"].items() if score >= least]})
        for p in predictions
    ]
    segments = merged(windows, hysteresis)
    assert [s.end_s for s in segments] == sorted(s.end_s for s in segments)
    for label in LABELS:
        own = [s for s in segments if s.label == label]
        assert all(one.end_s <= other.start_s for one, other in pairwise(own))
        holding = [w for w in windows if label in w.labels["action"]] if len(windows) > 1 else []
        assert bool(own) == bool(holding)
        for w in holding:
            middle_s = ((w.start_s or 0) + (w.end_s or 0)) / 2
            assert any(s.start_s <= middle_s <= s.end_s for s in own)
        assert all(s.peak_score >= min(least, hysteresis.leave) and s.windows <= len(windows) for s in own)


def test_segments_of_several_labels_come_back_from_a_folder(tmp_path: Path) -> None:
    write_predictions(tmp_path, *several((0.9, 0.9), (0.9, 0.1)))
    assert write_segments(tmp_path, DEFAULT) == 2
    assert [(s.label, s.start_s, s.end_s) for s in read_segments(tmp_path)] == [("b", 0, 1), ("a", 0, 2)]
