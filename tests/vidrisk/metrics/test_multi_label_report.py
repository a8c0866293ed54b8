"""Tests of multi-label scores: they equal those of scikit-learn, over the labelled samples only."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, precision_recall_fscore_support

from vidrisk.metrics.classification import Metrics
from vidrisk.metrics.multi_label import MultiLabelMetrics, multi_label_report, worst_labels
from vidrisk.metrics.target_report import labelled_rows, report_on_target, right_answers
from vidrisk.runtimes import Target
from vidrisk.runtimes.contract.errors import SpecError

LABELS = ("crack", "rust", "wet")
ANY = Target(name="defect", labels=LABELS, multi_label=True)
ONE = Target(name="defect", labels=LABELS)


def drawn(samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = (rng.random((samples, 3)) < rng.random(3)).astype(np.int64)
    return truth, rng.integers(0, 21, truth.shape) / 20


@given(st.integers(1, 40), st.integers(0, 999), st.lists(st.floats(0.05, 0.95), min_size=3, max_size=3))
def test_equal_to_scikit_learn(samples: int, seed: int, thresholds: list[float]) -> None:
    truth, probabilities = drawn(samples, seed)
    found = probabilities >= np.array(thresholds)
    report = multi_label_report(truth, probabilities, LABELS, thresholds)
    precision, recall, f1, support = precision_recall_fscore_support(
        truth, found, average=None, zero_division=0, labels=range(3)
    )
    assert [(each.precision, each.recall, each.f1, each.support) for each in report.per_class] == [
        pytest.approx(each) for each in zip(precision, recall, f1, support, strict=True)
    ]
    assert report.micro_f1 == pytest.approx(f1_score(truth, found, average="micro", zero_division=0))
    occurs = truth.any(axis=0) | found.any(axis=0)
    assert report.macro_f1 == pytest.approx(f1[occurs].mean() if occurs.any() else 0)
    assert report.exact_match == pytest.approx((truth == found).all(axis=1).mean())
    known = [
        average_precision_score(truth[:, label], probabilities[:, label])
        for label in range(3)
        if 0 < truth[:, label].sum() < samples
    ]
    assert report.mean_average_precision == (pytest.approx(np.mean(known)) if known else None)
    assert report.n == samples and report.thresholds == tuple(thresholds)


def test_thresholds_are_inclusive_and_each_label_has_its_own() -> None:
    report = multi_label_report(np.array([[1, 0, 1]]), np.array([[0.2, 0.5, 0.9]]), LABELS, (0.2, 0.6, 0.9))
    assert report.exact_match == 1 and [each.recall for each in report.per_class] == [1, 0, 1]


def test_confidence_that_is_right_on_average_has_no_calibration_error() -> None:
    truth = np.repeat([[1, 0], [0, 1], [1, 0], [1, 1]], 25, axis=0)
    share = truth.mean(axis=0)
    assert multi_label_report(truth, np.tile(share, (100, 1)), ("a", "b"), (0.5, 0.5)).ece == pytest.approx(0)
    assert multi_label_report(truth, np.ones((100, 2)), ("a", "b"), (0.5, 0.5)).ece == pytest.approx(1 - truth.mean())


@pytest.mark.parametrize(
    ("truth", "probabilities", "thresholds"),
    [
        (np.zeros((0, 3)), np.zeros((0, 3)), (0.5,) * 3),
        (np.zeros((2, 2)), np.zeros((2, 3)), (0.5,) * 3),
        (np.zeros((2, 3)), np.zeros((2, 3)), (0.5,) * 2),
        (np.full((2, 3), -1), np.zeros((2, 3)), (0.5,) * 3),
        (np.zeros((2, 3)), np.full((2, 3), np.nan), (0.5,) * 3),
        (np.zeros((2, 3)), np.full((2, 3), 1.1), (0.5,) * 3),
    ],
)
def test_what_does_not_fit_is_refused(
    truth: np.ndarray, probabilities: np.ndarray, thresholds: tuple[float, ...]
) -> None:
    with pytest.raises(SpecError, match="allowed: "):
        multi_label_report(truth.astype(np.int64), probabilities, LABELS, thresholds)


def test_a_report_is_plain_json_and_its_repr_shows_figures_alone() -> None:
    report = multi_label_report(*drawn(9, 0), LABELS, (0.5,) * 3)
    assert set(report.to_dict()) == {
        "n",
        "mean_average_precision",
        "micro_f1",
        "macro_f1",
        "exact_match",
        "ece",
        "thresholds",
        "per_class",
    }
    assert repr(report).startswith("MultiLabelMetrics(n=9, labels=3, mAP=0.")
    alike = multi_label_report(np.ones((2, 3), np.int64), np.ones((2, 3)), LABELS, (0.5,) * 3)
    assert alike.mean_average_precision is None and "mAP=n/a" in repr(alike)


def test_the_most_confident_errors_come_first() -> None:
    truth = np.array([[1, 0, 0], [0, 1, 0]])
    probabilities = np.array([[0.4, 0.9, 0.1], [0.55, 0.01, 0.5]])
    assert worst_labels(truth, probabilities) == [(1, 1), (0, 1), (0, 0), (1, 0)]
    assert worst_labels(truth, probabilities, 2) == [(1, 1), (0, 1)]
    assert worst_labels(truth, truth.astype(float)) == []


@pytest.mark.parametrize("target", [ONE, ANY])
def test_samples_that_nobody_has_labelled_count_for_nothing(target: Target) -> None:
    truth, probabilities = drawn(20, 1)
    known = truth if target.multi_label else np.arange(20) % 3
    scores = probabilities if target.multi_label else np.random.default_rng(0).dirichlet(np.ones(3), 20)
    more = np.concatenate([known, np.full((5, 3) if target.multi_label else 5, -1)])
    all_scores = np.concatenate([scores, np.full((5, 3), 0.99 if target.multi_label else 1 / 3)])
    report = report_on_target(target, more, all_scores)
    assert labelled_rows(more).tolist() == [True] * 20 + [False] * 5
    assert report == report_on_target(target, known, scores) and report is not None and report.n == 20
    assert isinstance(report, MultiLabelMetrics if target.multi_label else Metrics)
    assert report_on_target(target, np.full_like(more, -1), all_scores) is None


def test_labels_hold_from_their_threshold_on_or_from_a_half() -> None:
    truth = np.array([[1, 1, 0]])
    scores = np.array([[0.5, 0.3, 0.4]])
    assert not right_answers(ANY, truth, scores)[0]
    decision = {"rust": 0.3}
    assert right_answers(ANY, truth, scores, decision)[0]
    report = report_on_target(ANY, truth, scores, decision)
    assert isinstance(report, MultiLabelMetrics) and report.exact_match == 1 and report.thresholds == (0.5, 0.3, 0.5)
    assert right_answers(ONE, np.array([0, 1]), np.array([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]])).tolist() == [True, False]
