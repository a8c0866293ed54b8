"""Statistics of shares: the binomial tail, and confidence intervals based on it. Needs only numpy."""

from __future__ import annotations

import math

import numpy as np

Z_95 = 1.959963984540054
HALVINGS = 50  # bisection steps from 0 to 1


def binomial_tail(successes: int, trials: int, rate: float) -> float:
    """Return the probability of at most ``successes`` out of ``trials`` at the success rate ``rate`` (0 < rate < 1)."""
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, trials + 1)))])
    k = np.arange(successes + 1)
    ways = log_factorial[trials] - log_factorial[k] - log_factorial[trials - k]
    return min(1.0, float(np.exp(ways + k * math.log(rate) + (trials - k) * math.log1p(-rate)).sum()))


def share_interval(successes: int, trials: int) -> tuple[float, float]:
    """Return the 95 % score interval of a share (Wilson 1927), 0–1."""
    whole = trials + Z_95**2
    middle = (successes + Z_95**2 / 2) / whole
    half = Z_95 / whole * math.sqrt(successes * (trials - successes) / trials + Z_95**2 / 4)
    return max(0.0, middle - half), min(1.0, middle + half)


def beta_interval(a: int, b: int, outside: float = 0.1) -> tuple[float, float]:
    """Return the central interval of Beta(a, b), outside which it lies with probability ``outside``.

    ``a`` and ``b`` are integers from 1: P(Beta(a, b) ≤ x) is then the probability of ``a`` or more successes in
    ``a + b - 1`` trials at rate x.
    """

    def quantile(probability: float) -> float:
        low, high = 0.0, 1.0
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if 1 - binomial_tail(a - 1, a + b - 1, middle) < probability else (low, middle)
        return (low + high) / 2

    return quantile(outside / 2), quantile(1 - outside / 2)
