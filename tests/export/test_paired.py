"""Intervals and tests against exact enumeration and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from vidrisk.export.paired import binomial_tail, drop_interval_points, least_provable_points, mcnemar_p, share_interval


@given(st.integers(0, 600), st.integers(0, 600), st.floats(1e-6, 1 - 1e-6))
def test_the_tail_is_scipys(successes: int, trials: int, rate: float) -> None:
    successes = min(successes, trials)
    theirs = float(stats.binom.cdf(successes, trials, rate))
    assert binomial_tail(successes, trials, rate) == pytest.approx(theirs, rel=1e-8, abs=1e-280)


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_is_the_two_sided_binomial_test(lost: int, gained: int) -> None:
    exact = stats.binomtest(lost, lost + gained, 0.5).pvalue if lost + gained else 1.0
    assert mcnemar_p(lost, gained) == pytest.approx(exact, rel=1e-8)
    assert mcnemar_p(lost, gained) == mcnemar_p(gained, lost)


@given(st.data(), st.integers(1, 1000))
def test_the_interval_holds_what_was_measured(data: st.DataObject, samples: int) -> None:
    lost = data.draw(st.integers(0, samples))
    gained = data.draw(st.integers(0, samples - lost))
    low, high = drop_interval_points(lost, gained, samples)
    assert -100 <= low <= 100 * (lost - gained) / samples <= high <= 100
    assert low < high
    assert drop_interval_points(gained, lost, samples) == pytest.approx((-high, -low))


@pytest.mark.parametrize(("p_lost", "p_gained"), [(0.02, 0.02), (0.05, 0.01), (0.1, 0.1), (0.2, 0.02), (0.4, 0.3)])
@pytest.mark.parametrize("samples", [30, 80])
def test_the_interval_covers_the_true_drop_as_often_as_it_says(samples: int, p_lost: float, p_gained: float) -> None:
    covered = 0.0
    for lost in range(samples + 1):
        for gained in range(samples + 1 - lost):
            table = [lost, gained, samples - lost - gained]
            weight = stats.multinomial.pmf(table, samples, [p_lost, p_gained, 1 - p_lost - p_gained])
            low, high = drop_interval_points(lost, gained, samples)
            covered += weight * (low <= 100 * (p_lost - p_gained) <= high)
    assert 0.935 < covered <= 1


def test_nothing_changed_proves_little() -> None:
    low, high = drop_interval_points(0, 0, 30)
    assert high == -low and high > 5


@given(st.integers(1, 400), st.data())
def test_the_score_interval_is_scipys(trials: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, trials))
    theirs = stats.binomtest(successes, trials).proportion_ci(method="wilson")
    assert share_interval(successes, trials) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@given(st.integers(1, 5000))
def test_the_least_drop_that_can_be_proved(samples: int) -> None:
    lost = round(least_provable_points(samples) * samples / 100)
    assert mcnemar_p(lost, 0) < 0.05 <= mcnemar_p(lost - 1, 0)


def test_the_tail_of_a_long_run_is_quick_and_finite() -> None:
    assert binomial_tail(0, 100_000, 0.5) == 0
    assert math.isclose(binomial_tail(50_000, 100_000, 0.5), 0.5, rel_tol=0.01)
    assert np.isfinite(mcnemar_p(40_000, 41_000))
