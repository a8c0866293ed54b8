"""How accuracy grows with the number of samples, and what twice as many would bring. numpy only.

The error of a model falls roughly as a power of the number of samples (Hestness et al. 2017, Deep Learning Scaling is Predictable,
Empirically): ``error = floor + scale * samples ** -rate``. The three are fitted to repeated measurements at several sizes, and the
interval of a forecast comes from refitting resamples of the repeats, from the scatter of a single measurement and from how far the
fit has been off where the largest size was left out.
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
    """What is expected at a number of samples.

    Attributes:
        score: 0–1.
        interval: that holds the score of a new measurement with 90 % probability.
    """

    samples: int
    score: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class LearningCurve:
    """Scores by number of samples, and the fitted power law.

    Attributes:
        scores: 0–1 per size, of every repeat.
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
        """Tell whether twice the data is not expected to bring more than half a point."""
        return self.forecast.score - float(np.mean(self.scores[max(self.scores)])) < 0.005


def fit_learning_curve(scores: Mapping[int, Sequence[float]]) -> LearningCurve:
    """Fit a power law.

    Args:
        scores: 0–1 per number of samples, of one or more repeats each.

    Raises:
        SpecError: fewer than three sizes, or a score outside 0 to 1.
    """
    sizes = sorted(scores)
    if len(sizes) < LEAST_SIZES or not all(len(scores[size]) for size in sizes):
        raise SpecError(f"scores at {len(sizes)} numbers of samples", allowed=f"{LEAST_SIZES} or more, each measured")
    if any(not 0 <= score <= 1 for size in sizes for score in scores[size]):
        raise SpecError("scores out of range", allowed="0 to 1")
    errors = {size: 1 - np.asarray(scores[size], np.float64) for size in sizes}
    floor, scale, rate = _fitted(errors)
    ahead = 2 * sizes[-1]
    expected = _error_at(ahead, floor, scale, rate)
    rng = np.random.default_rng(0)
    drawn = [_error_at(ahead, *_fitted({size: rng.choice(each, len(each)) for size, each in errors.items()}))
             for _ in range(RESAMPLES)]
    scatter = float(np.mean([each.std(ddof=1) for each in errors.values() if len(each) > 1] or [0.0]))
    missed = _missed(errors)
    spread = float(np.sqrt(np.var(drawn) + scatter ** 2 + missed ** 2))
    half = 1.645 * spread  # of a normal distribution, for 90 %
    score = 1 - expected
    return LearningCurve({size: tuple(map(float, scores[size])) for size in sizes}, floor, scale, rate,
                         Forecast(ahead, score, (max(0.0, score - half), min(1.0, score + half))))


def _fitted(errors: Mapping[int, Floats]) -> tuple[float, float, float]:
    """Return floor, scale and rate with the least squares, weighted by the number of samples, floor and scale not under 0."""
    sizes = np.array(list(errors), np.float64)
    means = np.array([each.mean() for each in errors.values()])
    weights = np.sqrt(sizes)
    best: tuple[float, float, float, float] = (np.inf, float(means.min()), 0.0, 1.0)
    for rate in RATES:
        powers = sizes ** -rate
        for columns in (np.stack([np.ones_like(powers), powers], axis=1), powers[:, None], np.ones((len(powers), 1))):
            found = np.linalg.lstsq(columns * weights[:, None], means * weights, rcond=None)[0]
            if (found < -1e-12).any():
                continue
            if columns.shape[1] == 2:
                floor, scale = found
            else:
                floor, scale = (0.0, found[0]) if columns[0, 0] != 1 else (found[0], 0.0)
            residual = float((weights * (floor + scale * powers - means) ** 2).sum())
            if residual < best[0] - 1e-15:
                best = residual, float(floor), float(scale), float(rate)
    return best[1:]


def _error_at(samples: int, floor: float, scale: float, rate: float) -> float:
    return float(np.clip(floor + scale * samples ** -rate, 0, 1))


def _missed(errors: Mapping[int, Floats]) -> float:
    """Return by how much the largest size is missed when it is left out; 0 where too few sizes are left."""
    sizes = sorted(errors)
    if len(sizes) <= LEAST_SIZES:
        return 0.0
    fitted = _fitted({size: errors[size] for size in sizes[:-1]})
    return abs(_error_at(sizes[-1], *fitted) - float(errors[sizes[-1]].mean()))
