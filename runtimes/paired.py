"""Statistics of paired samples: exact tests and intervals for few samples, and for interleaved timings."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from vidrisk.runtimes.shares import Z_95, binomial_tail

SIGNIFICANT = 0.05


def mcnemar_p(lost: int, gained: int) -> float:
    """Return the p-value of the exact two-sided McNemar test.

    It is the probability that chance alone splits the changed samples this unevenly.

    Args:
        lost: samples that were right and are wrong now.
        gained: samples that were wrong and are right now.
    """
    return min(1.0, 2 * binomial_tail(min(lost, gained), lost + gained, 0.5))


def drop_interval_points(lost: int, gained: int, samples: int) -> tuple[float, float]:
    """Return the 95 % interval of a drop in accuracy, in percentage points, from paired outcomes.

    Adjusted Wald interval of Bonett & Price 2012, which adds one sample to each discordant count. Like that of Agresti
    & Min 2005 it does not collapse when no sample changed, and its coverage is closer to 95 % (Fagerland et al. 2014).
    """
    whole = samples + 2
    fewer, more = (lost + 1) / whole, (gained + 1) / whole
    half = Z_95 * math.sqrt((fewer + more - (fewer - more) ** 2) / whole)
    return max(-100.0, 100 * (fewer - more - half)), min(100.0, 100 * (fewer - more + half))


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the median of values with its 95 % interval, as (low, median, high).

    The interval runs between two order statistics (Conover 1999, section 3.2), so it holds for any distribution. Five
    values or fewer cannot give 95 %: the interval is then their whole range.
    """
    ordered = np.sort(np.asarray(values, np.float64))
    count = len(ordered)
    outside = max((k for k in range(count // 2) if binomial_tail(k, count, 0.5) <= SIGNIFICANT / 2), default=0)
    return float(ordered[outside]), float(np.median(ordered)), float(ordered[count - 1 - outside])


def ratio_interval(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Return the median ratio of two interleaved timings with its 95 % interval, as (low, median, high)."""
    return median_interval([our / their for our, their in zip(ours, theirs, strict=True)])


def is_below(successes: int, trials: int, rate: float) -> bool:
    """Tell whether a share is below ``rate`` (0–1) beyond chance, by a one-sided exact binomial test at 5 %."""
    if not 0 < rate < 1:
        return rate == 1 and successes < trials
    return binomial_tail(successes, trials, rate) < SIGNIFICANT


def least_provable_points(samples: int) -> float:
    """Return the smallest drop, in points, that is significant with this many paired samples.

    Every changed sample counts as a loss. Above 100 if no drop is significant.
    """
    lost = next(count for count in range(1, 100) if mcnemar_p(count, 0) < SIGNIFICANT)
    return 100 * lost / samples
