"""Tests of intervals and tests for paired samples, against exact enumeration and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from vidrisk.runtimes.paired import (
    drop_interval_points,
    is_below,
    least_provable_points,
    mcnemar_p,
    median_interval,
    ratio_interval,
)


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


@given(st.integers(1, 5000))
def test_the_least_drop_that_can_be_proved(samples: int) -> None:
    lost = round(least_provable_points(samples) * samples / 100)
    assert mcnemar_p(lost, 0) < 0.05 <= mcnemar_p(lost - 1, 0)


def test_a_long_run_is_quick_and_finite() -> None:
    assert np.isfinite(mcnemar_p(40_000, 41_000))


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=60))
def test_the_interval_of_a_median_holds_it_and_is_made_of_values(values: list[float]) -> None:
    low, middle, high = median_interval(values)
    assert low <= middle <= high and middle == np.median(values)
    assert {low, high} <= set(values)
    if len(values) <= 5:
        assert (low, high) == (min(values), max(values))


@pytest.mark.parametrize("count", [6, 9, 11, 15, 22, 44])
def test_the_interval_of_a_median_covers_it_in_95_of_100_at_least(count: int) -> None:
    rng = np.random.default_rng(count)
    found = [median_interval(rng.exponential(size=count).tolist()) for _ in range(4000)]
    covered = np.mean([low <= np.log(2) <= high for low, _, high in found])
    assert 0.94 < covered <= 1


def test_a_busy_moment_that_hits_both_leaves_the_ratio_alone() -> None:
    busy = np.array([1, 1, 5, 1, 9, 1, 1, 1, 3, 1, 1.0])
    assert ratio_interval((2 * busy).tolist(), busy.tolist()) == (2, 2, 2)


@given(st.integers(1, 300), st.data(), st.floats(0.01, 0.99))
def test_below_is_scipys_one_sided_test(trials: int, data: st.DataObject, rate: float) -> None:
    successes = data.draw(st.integers(0, trials))
    p_value = stats.binomtest(successes, trials, rate, alternative="less").pvalue
    if abs(p_value - 0.05) > 1e-9:
        assert is_below(successes, trials, rate) == (p_value < 0.05)


def test_below_at_the_ends() -> None:
    assert is_below(9, 10, 1) and not is_below(10, 10, 1) and not is_below(0, 10, 0)
