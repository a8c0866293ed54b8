"""Average precision of multi-label targets, and the significance of its change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

RESAMPLES = 400  # of the bootstrap
SHARE = 0.95


@dataclass(frozen=True)
class PrecisionDrop:
    """Change of the mean average precision between two models on the same samples.

    Attributes:
        before, after: mean average precision, 0–1.
        interval_points: 95 % interval of the drop, by a paired bootstrap, in percentage points.
        p_value: two-sided, from the same bootstrap.
    """

    before: float
    after: float
    interval_points: tuple[float, float]
    p_value: float


def average_precision(positive: Bools, score: Floats) -> float:
    """Return the area under the precision-recall step curve; equal scores are one threshold.

    Both arguments are ``(N,)``. At least one sample must be positive.
    """
    return float(_weigh_precision(positive, score, np.ones((1, len(score))))[0])


def mean_precision(scores: Floats, truth: Ints) -> float:
    """Return the mean average precision over the labels that have both positive and negative samples.

    The result is NaN if there is no such label.

    Args:
        scores: ``(N, C)``.
        truth: ``(N, C)``, 1 where a label holds; rows with a value below 0 are ignored.
    """
    rows = (truth >= 0).all(axis=1)
    return float(_resample_means(scores[rows], truth[rows], np.ones((1, int(rows.sum()))))[0])


def precision_interval(scores: Floats, truth: Ints) -> tuple[float, float]:
    """Return the bootstrap 95 % interval of the mean average precision; NaN twice if it is undefined.

    The arguments are those of ``mean_precision``.
    """
    rows = (truth >= 0).all(axis=1)
    found = _resample_means(scores[rows], truth[rows], _weights(int(rows.sum())))
    found = found[np.isfinite(found)]
    low, high = np.quantile(found, ((1 - SHARE) / 2, (1 + SHARE) / 2)) if len(found) else (np.nan, np.nan)
    return float(low), float(high)


def precision_drop(before: Floats, after: Floats, truth: Ints) -> PrecisionDrop:
    """Compare two models on the same samples.

    ``before`` and ``after`` are scores ``(N, C)``; ``truth`` is ``(N, C)``, 1 where a label holds, else 0.
    """
    whole, weights = np.ones((1, len(truth))), _weights(len(truth))
    drops = _resample_means(before, truth, weights) - _resample_means(after, truth, weights)
    drops = drops[np.isfinite(drops)]
    low, high = np.quantile(drops, ((1 - SHARE) / 2, (1 + SHARE) / 2)) if len(drops) else (np.nan, np.nan)
    beyond = min(float((drops <= 0).mean()), float((drops >= 0).mean())) if len(drops) else 0.5
    return PrecisionDrop(
        float(_resample_means(before, truth, whole)[0]),
        float(_resample_means(after, truth, whole)[0]),
        (100 * float(low), 100 * float(high)),
        min(1.0, 2 * max(beyond, 1 / RESAMPLES)),
    )


def _weights(samples: int) -> npt.NDArray[np.float64]:
    """Return how often each sample occurs in each resample, ``(RESAMPLES, N)``."""
    return np.random.default_rng(0).multinomial(samples, np.full(samples, 1 / samples), RESAMPLES).astype(np.float64)


def _resample_means(scores: Floats, truth: Ints, weights: Floats) -> npt.NDArray[np.float64]:
    """Return the mean average precision of each resample ``(R,)``.

    The mean is over the labels that have both positive and negative samples in it.
    """
    found = []
    for label in range(truth.shape[1]):
        positive = truth[:, label] == 1
        if positive.any() and not positive.all() and np.isfinite(scores[:, label]).all():
            found.append(_weigh_precision(positive, scores[:, label], weights))
    if not found:
        return np.full(len(weights), np.nan)
    of_labels = np.stack(found)
    counted = np.isfinite(of_labels)
    sums: npt.NDArray[np.float64] = np.where(counted, of_labels, 0).sum(axis=0)
    with np.errstate(invalid="ignore"):
        means: npt.NDArray[np.float64] = sums / counted.sum(axis=0)
    return means


def _weigh_precision(positive: Bools, score: Floats, weights: Floats) -> npt.NDArray[np.float64]:
    """Return the average precision for each row of weights ``(R, N)``; NaN if no weighted sample is positive."""
    order = np.argsort(-score, kind="stable")
    last_of_ties = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
    counted = np.cumsum(weights[:, order], axis=1)[:, last_of_ties]
    hits = np.cumsum(weights[:, order] * positive[order], axis=1)[:, last_of_ties]
    gained = np.diff(hits, prepend=0, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(counted > 0, hits / counted, 0)
        found: npt.NDArray[np.float64] = (gained * precision).sum(axis=1) / hits[:, -1]
    return found
