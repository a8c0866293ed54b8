"""Learning curve: accuracy by number of samples, and a forecast for twice as many. numpy only.

The error of a model falls roughly as a power of the number of samples (Hestness et al. 2017, Deep Learning Scaling is
Predictable, Empirically): ``error = floor + scale * samples ** -rate``. The three parameters are fitted to repeated
measurements at several sizes. The interval of a forecast combines four sources: refits to resampled repeats, the
scatter of a single measurement, the error of the fit at the largest size when that size is left out, and the samples
themselves, since all scores are measured on the same ones, which may be easier or harder than future samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vidrisk.runtimes.contract.errors import SpecError

Floats = npt.NDArray[np.float64]

RATES = np.linspace(0.05, 1.5, 59)
RESAMPLES = 400
SHARE = 0.9
LEAST_SIZES = 3


@dataclass(frozen=True)
class Forecast:
    """Expected score at a number of samples.

    Attributes:
        score: 0–1.
        interval: contains, with 90 % probability, the score of a new measurement on the present samples and as many new
            ones.
    """

    samples: int
    score: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class LearningCurve:
    """Scores by number of samples, and the fitted power law.

    Attributes:
        scores: 0–1 per size, one per repeat.
        floor, scale, rate: of ``error = floor + scale * samples ** -rate``.
        forecast: at twice the largest size.
    """

    scores: Mapping[int, tuple[float, ...]]
    floor: float
    scale: float
    rate: float
    forecast: Forecast

    @property
    def is_saturated(self) -> bool:
        """Whether twice the data is expected to bring less than half a point."""
        return self.forecast.score - float(np.mean(self.scores[max(self.scores)])) < 0.005


def fit_learning_curve(scores: Mapping[int, Sequence[float]], units: int) -> LearningCurve:
    """Fit a power law.

    Args:
        scores: 0–1 per number of training samples, one or more repeats each.
        units: number of independent samples that all scores are measured on.

    Raises:
        SpecError: fewer than three sizes, or a score outside 0 to 1.
    """
    sizes = sorted(scores)
    if len(sizes) < LEAST_SIZES or not all(len(scores[size]) for size in sizes):
        raise SpecError(f"scores at {len(sizes)} numbers of samples", allowed=f"{LEAST_SIZES} or more, each measured")
    if any(not 0 <= score <= 1 for size in sizes for score in scores[size]):
        raise SpecError("scores out of range", allowed="0 to 1")
    errors = [1 - np.asarray(scores[size], np.float64) for size in sizes]
    numbers = np.array(sizes, np.float64)
    law = _fit_laws(numbers, np.array([[each.mean() for each in errors]]))[0]
    ahead = 2 * sizes[-1]
    rng = np.random.default_rng(0)
    resampled = np.stack([rng.choice(each, (RESAMPLES, len(each))).mean(axis=1) for each in errors], axis=1)
    drawn = _error_at(ahead, _fit_laws(numbers, resampled))
    scatter = float(np.mean([each.std(ddof=1) for each in errors if len(each) > 1] or [0.0]))
    missed = 0.0
    if len(sizes) > LEAST_SIZES:  # error of the fit at the largest size when that size is left out
        earlier = _fit_laws(numbers[:-1], np.array([[each.mean() for each in errors[:-1]]]))
        missed = abs(float(_error_at(sizes[-1], earlier)[0]) - float(errors[-1].mean()))
    score = 1 - float(_error_at(ahead, law[None])[0])
    # Variance of a mean over the present samples and as many new ones: it differs from the mean over the present
    # samples by half as much as the mean over the new ones does.
    sampled = score * (1 - score) / (2 * units)
    half = 1.645 * float(
        np.sqrt(np.var(drawn) + scatter**2 + missed**2 + sampled)
    )  # 90 % quantile of a normal distribution
    floor, scale, rate = map(float, law)
    return LearningCurve(
        {size: tuple(map(float, scores[size])) for size in sizes},
        floor,
        scale,
        rate,
        Forecast(ahead, score, (max(0.0, score - half), min(1.0, score + half))),
    )


def _fit_laws(sizes: Floats, means: Floats) -> Floats:
    """Fit floor, scale and rate by least squares, weighted by the number of samples.

    Floor and scale are at least 0.

    Args:
        sizes: numbers of samples ``(K,)``.
        means: mean errors of R resamples at these sizes ``(R, K)``.

    Returns:
        ``(R, 3)``.
    """
    weights = np.sqrt(sizes)
    powers = sizes[None, :] ** -RATES[:, None]  # (rates, K)
    best, found = np.full(len(means), np.inf), np.zeros((len(means), 3))
    for rate, power in zip(RATES, powers, strict=True):
        for columns in ((1.0, power), (0.0, power), (1.0, np.zeros_like(power))):
            basis = np.stack([np.broadcast_to(column, power.shape) for column in columns], axis=1)
            pair = means @ (np.linalg.pinv(basis * weights[:, None]) * weights).T  # (R, 2): floor and scale
            residual = (weights * (pair @ basis.T - means) ** 2).sum(axis=1)
            is_better = (pair >= -1e-12).all(axis=1) & (residual < best - 1e-15)
            best[is_better] = residual[is_better]
            found[is_better] = np.column_stack([pair, np.full(len(pair), rate)])[is_better]
    return found


def _error_at(samples: int, laws: Floats) -> Floats:
    """Return the error of each law ``(R, 3)`` at a number of samples ``(R,)``."""
    return np.clip(laws[:, 0] + laws[:, 1] * samples ** -laws[:, 2], 0, 1)
