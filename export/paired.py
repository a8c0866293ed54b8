"""What a number of samples can say about an accuracy: exact tests and intervals that hold for few samples."""

from __future__ import annotations

import math

import numpy as np

Z_95 = 1.959963984540054
SIGNIFICANT = 0.05


def binomial_tail(successes: int, trials: int, rate: float) -> float:
    """Probability of at most ``successes`` out of ``trials``, each with probability ``rate`` (0 < rate < 1)."""
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, trials + 1)))])
    k = np.arange(successes + 1)
    ways = log_factorial[trials] - log_factorial[k] - log_factorial[trials - k]
    return min(1.0, float(np.exp(ways + k * math.log(rate) + (trials - k) * math.log1p(-rate)).sum()))


def mcnemar_p(lost: int, gained: int) -> float:
    """Exact two-sided McNemar test: how likely chance alone splits the changed samples this unevenly.

    Args:
        lost: samples that were right and are wrong now.
        gained: samples that were wrong and are right now.
    """
    return min(1.0, 2 * binomial_tail(min(lost, gained), lost + gained, 0.5))


def drop_interval_points(lost: int, gained: int, samples: int) -> tuple[float, float]:
    """95 % interval of the drop of an accuracy, from the paired table of right and wrong, in percentage points.

    Adjusted Wald interval of Bonett & Price 2012, one sample added to either way of changing; like that of Agresti & Min 2005 it
    does not shrink to nothing when no sample changed, and its coverage is nearer to 95 % (Fagerland et al. 2014).
    """
    whole = samples + 2
    fewer, more = (lost + 1) / whole, (gained + 1) / whole
    half = Z_95 * math.sqrt((fewer + more - (fewer - more) ** 2) / whole)
    return max(-100.0, 100 * (fewer - more - half)), min(100.0, 100 * (fewer - more + half))


def share_interval(successes: int, trials: int) -> tuple[float, float]:
    """95 % score interval of a share (Wilson 1927), 0–1."""
    whole = trials + Z_95**2
    middle = (successes + Z_95**2 / 2) / whole
    half = Z_95 / whole * math.sqrt(successes * (trials - successes) / trials + Z_95**2 / 4)
    return max(0.0, middle - half), min(1.0, middle + half)


def least_provable_points(samples: int) -> float:
    """The smallest drop that so many paired samples can tell from chance, with every changed sample a loss; above 100 if none."""
    lost = next(count for count in range(1, 100) if mcnemar_p(count, 0) < SIGNIFICANT)
    return 100 * lost / samples
