"""Comparison of two models on the same samples: which is better, or how many samples would decide. numpy only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vidrisk.metrics.classification import Floats, Ints, ratio
from vidrisk.runtimes.paired import SIGNIFICANT, drop_interval_points, mcnemar_p
from vidrisk.runtimes.precision import average_precision

Verdict = Literal["better", "worse", "undecided"]
Measure = Literal["top1", "macro_f1", "mean_average_precision"]
RESAMPLES = 2000
Z_95, Z_POWER = 1.959964, 0.841621  # normal quantiles of a two-sided test at 5 %, and of a power of 80 %


@dataclass(frozen=True)
class Compared:
    """One metric of two models, ``first`` and ``second``.

    Attributes:
        measure: metric that is compared.
        first, second: 0–1.
        interval_points: 95 % interval of the gain of the second model, in percentage points.
        p_value: how likely chance alone explains the difference.
        test: ``McNemar`` (exact), or ``bootstrap`` (paired; over groups, if the samples have groups).
        verdict: whether the second is better.
        samples, groups: numbers compared; groups is None if every sample is independent.
        samples_to_decide: number of samples with which such a difference would be found four times out of five; None if
            the models do not differ at all.
    """

    measure: Measure
    first: float
    second: float
    interval_points: tuple[float, float]
    p_value: float
    test: str
    verdict: Verdict
    samples: int
    groups: int | None
    samples_to_decide: int | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, strings and containers, ready for JSON."""
        return asdict(self)


def compare_answers(
    first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_], groups: Sequence[str | None] | None = None
) -> Compared:
    """Compare the shares of right answers of two models.

    Samples of one group are not independent evidence: if there are groups, whole groups are resampled instead of
    applying McNemar's test.

    Args:
        first: whether each answer of the first model is right ``(N,)``, N ≥ 1.
        second: the same for the second model.
        groups: group per sample; None if every sample is independent.
    """
    lost, gained, samples = int((first & ~second).sum()), int((~first & second).sum()), len(first)
    of_groups = _group_numbers(groups, samples)
    if of_groups is None:
        low, high = drop_interval_points(gained, lost, samples)
        p_value, test, count = mcnemar_p(lost, gained), "McNemar", None
    else:
        drawn = 100 * _resample_means(second.astype(float) - first, of_groups)
        low, high, p_value = _interval_and_p_value(drawn)
        test, count = "bootstrap", int(of_groups.max()) + 1
    return Compared(
        "top1",
        float(first.mean()),
        float(second.mean()),
        (low, high),
        p_value,
        test,
        _verdict(gained - lost, p_value),
        samples,
        count,
        _samples_to_decide(lost, gained, samples),
    )


def compare_scores(
    measure: Measure, truth: Ints, first: Floats, second: Floats, groups: Sequence[str | None] | None = None
) -> Compared | None:
    """Compare macro-F1 or mean average precision by a paired bootstrap.

    Args:
        measure: ``macro_f1`` or ``mean_average_precision``.
        truth: ``(N,)``, or ``(N, C)`` for a multi-label target.
        first: probabilities of the first model ``(N, C)``; for macro-F1 of a multi-label target its decisions, 1 or 0.
        second: the same for the second model.
        groups: as in ``compare_answers``.

    Returns:
        None if the metric is undefined on these samples: no label separates one of them from another.
    """
    samples = len(truth)
    of_groups = _group_numbers(groups, samples)
    score = _macro_f1 if measure == "macro_f1" else _mean_precision
    whole = score(truth, first), score(truth, second)
    if not all(map(math.isfinite, whole)):
        return None
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(RESAMPLES // 4):
        rows = _draw_rows(rng, samples, of_groups)
        drawn.append(100 * (score(truth[rows], second[rows]) - score(truth[rows], first[rows])))
    found = np.array([value for value in drawn if math.isfinite(value)] or [0.0])
    low, high, p_value = _interval_and_p_value(found)
    gain, deviation = 100 * (whole[1] - whole[0]), float(found.std())
    needed = None if abs(gain) < 1e-12 else math.ceil(samples * ((Z_95 + Z_POWER) * deviation / abs(gain)) ** 2)
    return Compared(
        measure,
        *whole,
        (low, high),
        p_value,
        "bootstrap",
        _verdict(gain, p_value),
        samples,
        None if of_groups is None else int(of_groups.max()) + 1,
        needed,
    )


def _verdict(gain: float, p_value: float) -> Verdict:
    if p_value >= SIGNIFICANT or gain == 0:
        return "undecided"
    return "better" if gain > 0 else "worse"


def _samples_to_decide(lost: int, gained: int, samples: int) -> int | None:
    """Return how many pairs McNemar's test needs to find such a difference four times out of five (Connor 1987)."""
    changed, difference = (lost + gained) / samples, abs(gained - lost) / samples
    if not difference:
        return None
    return math.ceil(
        ((Z_95 * math.sqrt(changed) + Z_POWER * math.sqrt(max(changed - difference**2, 0))) / difference) ** 2
    )


def _group_numbers(groups: Sequence[str | None] | None, samples: int) -> Ints | None:
    """Return the group number of each sample, or None if no group has two samples.

    A sample without a group is a group of its own.
    """
    if groups is None or not any(groups):
        return None
    names = [group if group else f"\0{place}" for place, group in enumerate(groups)]
    numbers = np.unique(names, return_inverse=True)[1]
    return None if len(set(names)) == samples else np.asarray(numbers)


def _resample_means(values: Floats, groups: Ints) -> Floats:
    sums, sizes = np.bincount(groups, weights=values), np.bincount(groups)
    counts = np.random.default_rng(0).multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), RESAMPLES)
    means: Floats = (counts @ sums) / (counts @ sizes)
    return means


def _draw_rows(rng: np.random.Generator, samples: int, groups: Ints | None) -> Ints:
    if groups is None:
        return rng.integers(0, samples, samples)
    chosen = rng.integers(0, groups.max() + 1, groups.max() + 1)
    return np.concatenate([np.flatnonzero(groups == group) for group in chosen])


def _interval_and_p_value(drawn: Floats) -> tuple[float, float, float]:
    """Return the 95 % interval and the two-sided p-value of resampled differences."""
    low, high = np.quantile(drawn, (0.025, 0.975))
    beyond = min(float((drawn <= 0).mean()), float((drawn >= 0).mean()))
    return float(low), float(high), min(1.0, 2 * max(beyond, 1 / (2 * len(drawn))))


def _macro_f1(truth: Ints, found: Floats) -> float:
    if truth.ndim == 2:
        holds, guessed = truth == 1, found > 0
        hits, support, guesses = (holds & guessed).sum(axis=0), holds.sum(axis=0), guessed.sum(axis=0)
    else:
        classes, predicted = found.shape[1], found.argmax(axis=1)
        support, guesses = np.bincount(truth, minlength=classes), np.bincount(predicted, minlength=classes)
        hits = np.bincount(truth[truth == predicted], minlength=classes)
    occurs = support + guesses > 0
    return float(ratio(2 * hits, support + guesses)[occurs].mean()) if occurs.any() else math.nan


def _mean_precision(truth: Ints, scores: Floats) -> float:
    holds = truth == 1 if truth.ndim == 2 else truth[:, None] == np.arange(scores.shape[1])
    found = [
        average_precision(holds[:, label], scores[:, label])
        for label in range(scores.shape[1])
        if holds[:, label].any() and not holds[:, label].all()
    ]
    return float(np.mean(found)) if found else math.nan
