"""Tests of tails and intervals against scipy."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from vidrisk.runtimes.shares import beta_interval, binomial_tail, share_interval


@given(st.integers(0, 600), st.integers(0, 600), st.floats(1e-6, 1 - 1e-6))
def test_the_tail_is_scipys(successes: int, trials: int, rate: float) -> None:
    successes = min(successes, trials)
    theirs = float(stats.binom.cdf(successes, trials, rate))
    assert binomial_tail(successes, trials, rate) == pytest.approx(theirs, rel=1e-8, abs=1e-280)


def test_the_tail_of_a_long_run_is_quick_and_finite() -> None:
    assert binomial_tail(0, 100_000, 0.5) == 0
    assert math.isclose(binomial_tail(50_000, 100_000, 0.5), 0.5, rel_tol=0.01)


@given(st.integers(1, 400), st.data())
def test_the_score_interval_is_scipys(trials: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, trials))
    theirs = stats.binomtest(successes, trials).proportion_ci(method="wilson")
    assert share_interval(successes, trials) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@settings(deadline=None)
@given(st.integers(1, 500), st.integers(1, 500), st.floats(0.01, 0.5))
def test_the_beta_interval_is_scipys(a: int, b: int, outside: float) -> None:
    assert beta_interval(a, b, outside) == pytest.approx(stats.beta.ppf((outside / 2, 1 - outside / 2), a, b), abs=1e-9)
