"""Tests of the risk–coverage curve and the counts of certain answers against counts by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidrisk.metrics.certainty import MAX_POINTS, certainty_report, risk_curve
from vidrisk.runtimes import Target
from vidrisk.runtimes.shares import share_interval
from vidrisk.runtimes.uncertainty import Uncertainty

TARGET = Target(name="t", labels=("a", "b", "c"))
answers = st.lists(st.tuples(st.booleans(), st.sampled_from([0.2, 0.4, 0.5, 0.9, 1.0])), min_size=1, max_size=60)


def test_the_curve_by_hand() -> None:
    """The curve matches a count by hand.

    From the most certain answer on: one right, one wrong, then two of equal probability, of which one is wrong.
    """
    curve = risk_curve(np.array([False, True, True, False]), np.array([0.6, 0.9, 0.6, 0.8]))
    assert curve.kept == (0.25, 0.5, 1.0)
    assert curve.error == (0.0, 0.5, 0.5)
    assert curve.area == pytest.approx(0.25 * 0 + 0.25 * 0.5 + 0.5 * 0.5)


@given(answers, st.randoms())
def test_the_curve_does_not_depend_on_the_order(pairs: list[tuple[bool, float]], random: np.random.Generator) -> None:
    def curve_of(of: list[tuple[bool, float]]) -> object:
        return risk_curve(np.array([right for right, _ in of]), np.array([sure for _, sure in of]))

    mixed = list(pairs)
    random.shuffle(mixed)
    assert curve_of(mixed) == curve_of(pairs)


@given(answers)
def test_the_curve_ends_at_the_error_of_all(pairs: list[tuple[bool, float]]) -> None:
    curve = risk_curve(np.array([right for right, _ in pairs]), np.array([sure for _, sure in pairs]))
    assert curve.kept[-1] == 1 and list(curve.kept) == sorted(set(curve.kept))
    assert curve.error[-1] == pytest.approx(np.mean([not right for right, _ in pairs]))
    assert 0 <= curve.area <= 1 and len(curve.kept) == len({sure for _, sure in pairs})


def test_the_area_without_ties_is_the_mean_of_all_errors_so_far() -> None:
    """The area equals the definition of AURC (Geifman & El-Yaniv 2019), although the points are thinned out."""
    rng = np.random.default_rng(0)
    correct, sure = rng.random(5000) < 0.8, rng.random(5000)
    curve = risk_curve(correct, sure)
    errors = np.cumsum(~correct[np.argsort(-sure)]) / np.arange(1, 5001)
    assert curve.area == pytest.approx(errors.mean())
    assert len(curve.kept) == MAX_POINTS and curve.kept[-1] == 1 and curve.error[-1] == errors[-1]


def test_certain_answers_by_hand() -> None:
    probabilities = np.array([[0.8, 0.1, 0.1], [0.5, 0.45, 0.05], [0.4, 0.3, 0.3], [0.1, 0.7, 0.2], [0.3, 0.1, 0.6]])
    truth = np.array([0, 1, 0, 2, 2])
    found = certainty_report(truth, probabilities, TARGET, Uncertainty(0.9, {"t": (0.45, 0.45, 0.45)}))
    # kept: the first, fourth and last; the second is undecided, the third less sure than usual
    assert (found.samples, found.kept_samples, found.kept, found.accuracy_of_kept, found.accuracy) == (
        5,
        3,
        0.6,
        2 / 3,
        0.6,
    )
    assert (found.asked, found.coverage) == (0.9, 0.6)
    assert (found.coverage_interval, found.accuracy_of_kept_interval) == (share_interval(3, 5), share_interval(2, 3))


def test_nothing_kept_has_no_accuracy() -> None:
    found = certainty_report(
        np.array([0, 1]), np.array([[0.4, 0.3, 0.3]] * 2), TARGET, Uncertainty(0.9, {"t": (0.9,) * 3})
    )
    assert (found.kept, found.accuracy_of_kept, found.accuracy_of_kept_interval, found.coverage) == (0, None, None, 0)


def test_without_thresholds_there_is_a_reason_and_the_curve() -> None:
    found = certainty_report(
        np.array([0, 1]), np.array([[0.9, 0.1, 0], [0.6, 0.4, 0]]), TARGET, Uncertainty(reasons={"t": "few"})
    )
    assert (found.coverage, found.kept, found.reason, found.accuracy) == (None, None, "few", 0.5)
    assert found.curve.area == pytest.approx(0.25)
