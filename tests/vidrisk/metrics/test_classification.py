from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from vidrisk.metrics.classification import agreement, classification_report, worst_errors
from vidrisk.runtimes.contract.errors import SpecError

Case = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    n, classes = draw(st.integers(1, 40)), draw(st.integers(2, 8))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    truth = rng.integers(0, draw(st.integers(1, classes)), n)  # often some classes without samples
    probabilities = rng.dirichlet(np.full(classes, 0.5), n)
    if draw(st.booleans()):
        probabilities = np.round(probabilities * 4) + 1  # many ties
        probabilities /= probabilities.sum(axis=1, keepdims=True)
    return truth, probabilities


@settings(max_examples=150, deadline=None)
@given(cases())
def test_equal_to_scikit_learn(case: Case) -> None:
    truth, probabilities = case
    classes = probabilities.shape[1]
    every, predicted = list(range(classes)), probabilities.argmax(axis=1)
    report = classification_report(truth, probabilities, [f"c{c}" for c in every], ordered=True)
    precision, recall, f1, support = sk.precision_recall_fscore_support(truth, predicted, labels=every, zero_division=0)
    for c, ours in enumerate(report.per_class):
        assert (ours.precision, ours.recall, ours.f1) == pytest.approx((precision[c], recall[c], f1[c]))
        assert (ours.label, ours.support) == (f"c{c}", support[c])
        if 0 < support[c] < len(truth):
            assert ours.ap == pytest.approx(sk.average_precision_score(truth == c, probabilities[:, c]))
        else:
            assert ours.ap is None
    assert report.n == len(truth)
    assert report.top1 == pytest.approx(sk.accuracy_score(truth, predicted))
    assert report.macro_f1 == pytest.approx(sk.f1_score(truth, predicted, average="macro", zero_division=0))
    if len(set(truth.tolist())) > 1:
        assert report.mean_average_precision == pytest.approx(
            np.mean([c.ap for c in report.per_class if c.ap is not None])
        )
    else:  # no rest that the class could be told from
        assert report.mean_average_precision is None and all(c.ap is None for c in report.per_class)
    assert report.mean_absolute_level_error == pytest.approx(sk.mean_absolute_error(truth, predicted))
    if len({*truth.tolist(), *predicted.tolist()}) > 1:
        assert report.quadratic_kappa == pytest.approx(
            sk.cohen_kappa_score(truth, predicted, labels=every, weights="quadratic")
        )
    else:  # no disagreement is possible by chance
        assert report.quadratic_kappa is None
    np.testing.assert_array_equal(report.confusion, sk.confusion_matrix(truth, predicted, labels=every))
    assert 0 <= report.ece <= 1
    assert report.top5 is None if classes <= 5 else report.top5 is not None and report.top5 >= report.top1


@settings(max_examples=50, deadline=None)
@given(cases())
def test_top5_without_ties(case: Case) -> None:
    truth, probabilities = case
    classes = probabilities.shape[1]
    distinct = len(np.unique(probabilities)) == probabilities.size
    if classes > 5 and distinct:
        ours = classification_report(truth, probabilities, [str(c) for c in range(classes)]).top5
        assert ours == pytest.approx(sk.top_k_accuracy_score(truth, probabilities, k=5, labels=range(classes)))


def test_ece_by_hand() -> None:
    truth = np.array([0, 0, 0, 0])
    probabilities = np.array([[0.95, 0.05], [0.95, 0.05], [0.4, 0.6], [0.35, 0.65]])
    # bin (14/15, 1]: confidence .95, accuracy 1; bin (8/15, 9/15]: .6, wrong; bin (9/15, 10/15]: .65, wrong
    report = classification_report(truth, probabilities, ["a", "b"])
    assert report.ece == pytest.approx((2 * 0.05 + 0.6 + 0.65) / 4)


def test_a_certain_and_right_model_is_calibrated() -> None:
    report = classification_report(np.array([0, 1]), np.eye(2), ["a", "b"])
    assert (report.ece, report.top1, report.macro_f1, report.mean_average_precision) == (0, 1, 1, 1)
    assert report.mean_absolute_level_error is report.quadratic_kappa is None and report.top5 is None


def test_to_dict_is_json_and_repr_is_short() -> None:
    report = classification_report(np.array([0, 1, 1]), np.full((3, 2), 0.5, np.float32), ["好", "b"])
    again = json.loads(json.dumps(report.to_dict()))
    assert again["per_class"][0]["label"] == "好" and again["confusion"] == [[1, 0], [2, 0]]
    assert "\n" not in repr(report) and len(repr(report)) < 120


def test_worst_errors_are_the_most_confident() -> None:
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.95, 0.05]])
    assert worst_errors(np.array([0, 0, 1, 1]), probabilities) == [3, 1, 2]
    assert worst_errors(np.array([0, 0, 1, 1]), probabilities, limit=1) == [3]


def test_agreement() -> None:
    a = np.array([[2.0, 1.0], [0.0, 3.0]])
    assert agreement(a, a * 5) == 1 and agreement(a, a[::-1]) == 0
    with pytest.raises(SpecError):
        agreement(a, a[:1])
    with pytest.raises(SpecError):
        agreement(a[:0], a[:0])


@pytest.mark.parametrize(
    ("truth", "probabilities", "message"),
    [
        ([], np.zeros((0, 2)), "N of at least 1"),
        ([0], np.full((1, 3), 1 / 3), "allowed: .N,. and .N, C."),
        ([2], np.full((1, 2), 0.5), "not class indices"),
        ([-1], np.full((1, 2), 0.5), "not class indices"),
        ([0], np.array([[3.0, -2.0]]), "softmax"),
        ([0], np.array([[np.nan, 1.0]]), "not probabilities"),
    ],
)
def test_refusals(truth: list[int], probabilities: npt.NDArray[np.float64], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        classification_report(np.array(truth, np.int64), probabilities, ["a", "b"])
