"""Value of certain answers on labelled data: coverage, share kept and its accuracy, risk–coverage curve. numpy only."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vidrisk.metrics.classification import Floats, Ints
from vidrisk.runtimes.contract.contract import Target
from vidrisk.runtimes.shares import share_interval
from vidrisk.runtimes.uncertainty import Uncertainty, certain_rows, label_sets

MAX_POINTS = 200  # per curve; more could not be distinguished in a plot

Interval = tuple[float, float]


@dataclass(frozen=True, repr=False)
class RiskCurve:
    """Risk–coverage curve (El-Yaniv & Wiener 2010).

    The error of the answers with the highest probabilities, by their share of all answers.

    Attributes:
        kept: shares in ascending order, the last one 1; answers of equal probability are kept together.
        error: of these answers, 0–1.
        area: under all points, as steps; the mean error over all shares.
    """

    kept: tuple[float, ...]
    error: tuple[float, ...]
    area: float


@dataclass(frozen=True)
class Certainty:
    """Certain answers to one target.

    Shares are 0–1, intervals 95 %. Fields are None if there is no threshold; ``reason`` then says why.

    Attributes:
        asked: coverage that the thresholds were fitted for.
        coverage: share of the samples whose true label is not excluded.
        kept: share of the samples with a certain answer; ``kept_samples`` is their number.
        accuracy_of_kept: None also if nothing is kept.
        curve: needs no threshold.
    """

    samples: int
    accuracy: float
    curve: RiskCurve
    asked: float | None = None
    coverage: float | None = None
    coverage_interval: Interval | None = None
    kept: float | None = None
    kept_samples: int | None = None
    accuracy_of_kept: float | None = None
    accuracy_of_kept_interval: Interval | None = None
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, strings and containers, ready for JSON."""
        return asdict(self)


def certainty_report(truth: Ints, probabilities: Floats, target: Target, knows: Uncertainty) -> Certainty:
    """Compare a model's uncertainty with the truth.

    Args:
        truth: label indices ``(N,)``, N ≥ 1.
        probabilities: finite, ``(N, C)``.
        target: the target that the samples are labelled for.
        knows: thresholds of the model.
    """
    samples = len(truth)
    correct = probabilities.argmax(axis=1) == truth
    accuracy, curve = float(correct.mean()), risk_curve(correct, probabilities.max(axis=1))
    if target.name not in knows.thresholds:
        return Certainty(samples, accuracy, curve, reason=knows.reasons.get(target.name, ""))
    sets = label_sets(probabilities, np.asarray(knows.thresholds[target.name]))
    covered = int(sets[np.arange(samples), truth].sum())
    certain = certain_rows(probabilities, sets)
    kept, right = int(certain.sum()), int(correct[certain].sum())
    return Certainty(
        samples,
        accuracy,
        curve,
        knows.coverage,
        covered / samples,
        share_interval(covered, samples),
        kept / samples,
        kept,
        right / kept if kept else None,
        share_interval(right, kept) if kept else None,
    )


def risk_curve(correct: np.ndarray[Any, np.dtype[np.bool_]], confidence: Floats) -> RiskCurve:
    """Compute the error of the most confident answers by their share of all answers.

    Args:
        correct: whether each answer is right, ``(N,)``, N ≥ 1.
        confidence: probability of each answer, ``(N,)``.
    """
    order = np.argsort(-confidence, kind="stable")
    last_of_ties = np.flatnonzero(np.append(np.diff(confidence[order]) != 0, True))
    count = last_of_ties + 1
    error = np.cumsum(~correct[order])[last_of_ties] / count
    kept = count / len(order)
    shown = np.unique(np.linspace(0, len(kept) - 1, min(len(kept), MAX_POINTS)).round().astype(int))
    return RiskCurve(
        tuple(kept[shown].tolist()), tuple(error[shown].tolist()), float(np.sum(np.diff(kept, prepend=0) * error))
    )
