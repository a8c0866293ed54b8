"""Tests of the one-standard-error rule.

It takes the simplest trial that the best one does not beat beyond chance. The default wins ties.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidrisk.metrics.standard_error import standard_error
from vidrisk.train.tune_choice import choose_trial

UNITS = [str(number) for number in range(40)]


def losses(mean: float, spread: float = 0.0, seed: int = 0) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    noise = np.random.default_rng(seed).normal(0, 1, 40)
    return mean + spread * (noise - noise.mean())


def test_the_best_is_taken_where_nothing_simpler_is_near() -> None:
    chosen = choose_trial({0: losses(1.0), 1: losses(0.5), 2: losses(0.8, 0.1)}, UNITS, {0: (0,), 1: (5,), 2: (0,)})
    assert (chosen.trial, chosen.best) == (1, 1) and "none within one standard error of it is simpler" in chosen.why


def test_a_simpler_trial_is_taken_within_a_standard_error() -> None:
    near = {0: losses(1.0), 1: losses(0.5), 2: losses(0.51, 0.1)}  # standard error 0.016
    assert choose_trial(near, UNITS, {0: (0,), 1: (5,), 2: (2,)}).trial == 2
    assert choose_trial({**near, 2: losses(0.52, 0.1)}, UNITS, {0: (0,), 1: (5,), 2: (2,)}).trial == 1
    assert choose_trial(near, UNITS, {0: (0,), 1: (2,), 2: (5,)}).trial == 1


def test_the_default_wins_ties() -> None:
    near = {0: losses(0.51, 0.1), 1: losses(0.5), 2: losses(0.505, 0.1, seed=1)}
    chosen = choose_trial(near, UNITS, dict.fromkeys(near, (1,)))
    assert (chosen.trial, chosen.best) == (
        0,
        1,
    ) and "trial 1 has the least loss, 0.5000; trial 0 is as simple" in chosen.why
    assert choose_trial(near, UNITS, {0: (2,), 1: (1,), 2: (1,)}).trial == 1


def test_samples_of_one_unit_count_once() -> None:
    values = np.repeat(np.random.default_rng(0).normal(0, 1, 10), 4)
    alone = standard_error(values, UNITS)
    together = standard_error(values, [str(number // 4) for number in range(40)])
    assert together == pytest.approx(values[::4].std(ddof=1) / np.sqrt(10)) and together > 1.9 * alone
    assert alone == pytest.approx(values.std(ddof=1) / np.sqrt(40))
    assert standard_error(values, ["one"] * 40) == np.inf


def test_a_trial_that_failed_is_never_taken() -> None:
    chosen = choose_trial({0: losses(1.0), 1: np.full(40, np.inf)}, UNITS, {0: (9,), 1: (0,)})
    assert (chosen.trial, chosen.best) == (0, 0)


@given(st.lists(st.tuples(st.floats(0.1, 3), st.floats(0, 0.5), st.integers(0, 3)), min_size=1, max_size=6))
def test_what_is_taken_is_near_the_best_and_none_near_is_simpler(drawn: list[tuple[float, float, int]]) -> None:
    found = {number: losses(mean, spread, number) for number, (mean, spread, _) in enumerate(drawn)}
    simple = {number: (each,) for number, (_, _, each) in enumerate(drawn)}
    chosen = choose_trial(found, UNITS, simple)
    assert found[chosen.best].mean() == min(each.mean() for each in found.values())

    def is_near(number: int) -> bool:
        gap = found[number] - found[chosen.best]
        return bool(found[number].mean() - found[chosen.best].mean() <= standard_error(gap, UNITS))

    assert is_near(chosen.trial) and all(simple[number] >= simple[chosen.trial] for number in found if is_near(number))
