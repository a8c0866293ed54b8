"""Tests of scores for names read from reports, compared with scikit-learn and the metrics of classifiers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score, f1_score

from vidrisk.metrics.classification import classification_report
from vidrisk.metrics.names import name_scores
from vidrisk.runtimes.contract.errors import SpecError

LEVELS = ("轻微", "中等", "严重")


def test_a_missing_level_is_wrong_and_said() -> None:
    scores = name_scores([0, 1, 2, 2], [0, 2, None, 1], LEVELS, (True,) * 3)
    assert (scores.n, scores.correct, scores.missing, scores.accuracy) == (4, 1, 1, 0.25)
    assert scores.confusion == ((1, 0, 0, 0), (0, 0, 1, 0), (0, 1, 0, 1))
    assert (scores.on_scale, scores.too_low, scores.too_high, scores.mean_distance) == (3, 1, 1, pytest.approx(2 / 3))
    assert scores.f1 == (1.0, 0.0, 0.0) and scores.macro_f1 == pytest.approx(1 / 3)
    assert scores.interval[0] < 0.25 < scores.interval[1]


def test_names_off_the_scale_have_no_distance() -> None:
    labels, ordered = ("A", "B", "O"), (True, True, False)
    scores = name_scores([0, 1, 2, 0], [0, 1, 1, 2], labels, ordered)
    assert (scores.on_scale, scores.mean_distance, scores.quadratic_kappa) == (2, 0, 1)
    off = name_scores([2], [2], labels, ordered)
    assert (off.accuracy, off.on_scale, off.quadratic_kappa, off.mean_distance, off.f1) == (
        1,
        0,
        None,
        None,
        (None, None, 1.0),
    )
    unordered = name_scores([0, 1], [1, 0], labels)
    assert (unordered.quadratic_kappa, unordered.mean_distance, unordered.too_low) == (None, None, 0)


PAIRS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30)


@given(PAIRS)
def test_without_missing_names_scores_are_those_of_a_classifier(pairs: list[tuple[int, int]]) -> None:
    truth, found = map(list, zip(*pairs, strict=True))
    scores = name_scores(truth, found, LEVELS, (True,) * 3)
    report = classification_report(np.array(truth), np.eye(3)[found], LEVELS, ordered=True)
    assert (scores.accuracy, scores.macro_f1) == (pytest.approx(report.top1), pytest.approx(report.macro_f1))
    assert scores.quadratic_kappa == pytest.approx(report.quadratic_kappa)
    assert scores.mean_distance == pytest.approx(report.mean_absolute_level_error)
    assert scores.macro_f1 == pytest.approx(f1_score(truth, found, average="macro", zero_division=0))
    if scores.quadratic_kappa is not None:
        assert scores.quadratic_kappa == pytest.approx(
            cohen_kappa_score(truth, found, weights="quadratic", labels=[0, 1, 2])
        )


@pytest.mark.parametrize(
    ("truth", "found", "ordered"),
    [
        ([], [], None),
        ([0], [0, 1], None),
        ([3], [0], None),
        ([0], [3], None),
        ([-1], [0], None),
        ([0], [-1], None),
        ([0], [0], (True,)),
    ],
)
def test_rejects_what_is_no_name(truth: list[int], found: list[int | None], ordered: tuple[bool, ...] | None) -> None:
    with pytest.raises(SpecError):
        name_scores(truth, found, LEVELS, ordered)
