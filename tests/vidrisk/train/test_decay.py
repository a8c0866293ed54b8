"""Which decay a probe has that training begins at."""

from __future__ import annotations

import numpy as np

from vidrisk.train.probe_start import choose_decay


def test_the_largest_decay_is_taken_of_those_that_are_as_good() -> None:
    rng = np.random.default_rng(0)
    best = rng.gamma(2, 0.2, 200)
    losses = {10.0: best + 0.3, 1.0: best + rng.normal(0, 0.5, 200) - 0.01, 0.1: best, 0.01: best + 0.001}
    losses[1.0] += max(0.0, float((best - losses[1.0]).mean()))  # not better in the mean
    assert choose_decay(losses, errors=1.0) == 1.0
    assert choose_decay(losses, errors=0.0) in (0.1, 1.0) and losses[choose_decay(losses, errors=0.0)].mean() <= best.mean() + 1e-12


def test_a_decay_that_is_surely_worse_is_not_taken() -> None:
    best = np.linspace(0.1, 0.5, 50)
    assert choose_decay({30.0: best + 0.01, 0.1: best}, errors=1.0) == 0.1
