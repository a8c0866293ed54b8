"""Tests of the learning curve: a power law is recovered, and its forecast covers later measurements."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidrisk.metrics.learning_curve import fit_learning_curve
from vidrisk.runtimes.contract.errors import SpecError

SIZES = (50, 70, 100, 140, 200, 280, 400)
MANY = 10**7  # samples that scores are measured on: so many that it does not matter which


def measured(
    floor: float, scale: float, rate: float, noise: float, seed: int, sizes: tuple[int, ...] = SIZES, repeats: int = 3
) -> dict[int, list[float]]:
    rng = np.random.default_rng(seed)
    return {
        size: np.clip(1 - floor - scale * size**-rate + noise * rng.normal(size=repeats), 0, 1).tolist()
        for size in sizes
    }


@settings(max_examples=15, deadline=None)
@given(st.floats(0, 0.2), st.floats(0.5, 2), st.floats(0.3, 0.8))
def test_a_law_without_noise_is_found_again(floor: float, scale: float, rate: float) -> None:
    found = fit_learning_curve(measured(floor, scale, rate, 0.0, 0), MANY)
    expected = np.clip(1 - floor - scale * 800**-rate, 0, 1)
    assert found.forecast.samples == 800 and found.forecast.score == pytest.approx(expected, abs=0.01)


def test_nine_of_ten_forecasts_hold_what_is_measured_at_twice_the_data() -> None:
    inside = []
    for seed in range(40):
        floor, scale, rate = 0.02 + 0.003 * seed, 1.2, 0.4 + 0.005 * seed
        low, high = fit_learning_curve(measured(floor, scale, rate, 0.015, seed), MANY).forecast.interval
        (later,) = measured(floor, scale, rate, 0.015, seed + 1000, (800,), 1)[800]
        inside.append(low <= later <= high)
    assert np.mean(inside) >= 0.85


def test_forecasts_allow_for_samples_that_are_easier_than_others() -> None:
    inside: dict[int, list[bool]] = {100: [], MANY: []}
    for seed in range(60):
        hard = np.random.default_rng(seed).uniform(
            size=200
        )  # a sample is answered rightly where the law's error is less than that

        def score(size: int, samples: np.ndarray) -> float:
            return float((samples > 0.05 + 1.2 * size**-0.4).mean())

        known = {size: [score(size, hard[:100])] * 3 for size in SIZES}
        for units in inside:
            low, high = fit_learning_curve(known, units).forecast.interval
            inside[units].append(low <= score(800, hard) <= high)
    assert np.mean(inside[100]) >= 0.85 > np.mean(inside[MANY])


def test_a_flat_curve_is_saturated_and_a_steep_one_is_not() -> None:
    assert fit_learning_curve(measured(0.1, 0.0, 0.5, 0.002, 0), MANY).is_saturated
    assert not fit_learning_curve(measured(0.0, 1.5, 0.4, 0.002, 0), MANY).is_saturated


def test_too_few_sizes_and_scores_out_of_range_are_refused() -> None:
    with pytest.raises(SpecError, match="scores at 2 numbers of samples; allowed: 3 or more"):
        fit_learning_curve({10: [0.5], 20: [0.6]}, MANY)
    with pytest.raises(SpecError, match="out of range"):
        fit_learning_curve({10: [0.5], 20: [0.6], 40: [1.2]}, MANY)
