"""Tests of the choice of the decay of the probe that training starts at."""

from __future__ import annotations

import numpy as np

from vidrisk.train.probe_choice import choose_decay


def test_the_largest_decay_is_taken_of_those_that_are_as_good() -> None:
    rng = np.random.default_rng(0)
    best = rng.gamma(2, 0.2, 200)
    noise = rng.normal(0, 0.5, 200)
    losses = {10.0: best + 0.3, 1.0: best + noise - noise.mean() + 0.01, 0.1: best, 0.01: best + 0.001}
    alone = [str(number) for number in range(200)]
    assert choose_decay(losses, alone, errors=1.0) == 1.0
    assert choose_decay(losses, alone, errors=0.0) == 0.1


def test_samples_of_one_group_are_one_piece_of_evidence() -> None:
    best, more = np.full(200, 0.3), np.repeat(np.random.default_rng(0).normal(0.02, 0.1, 10), 20)
    more += 0.02 - more.mean()
    losses, alone = {1.0: best + more, 0.1: best}, [str(number) for number in range(200)]
    assert choose_decay(losses, alone, errors=1.0) == 0.1
    assert choose_decay(losses, [str(number // 20) for number in range(200)], errors=1.0) == 1.0


def test_a_decay_that_is_surely_worse_is_not_taken() -> None:
    best = np.linspace(0.1, 0.5, 50)
    assert choose_decay({30.0: best + 0.01, 0.1: best}, [*map(str, range(50))], errors=1.0) == 0.1
