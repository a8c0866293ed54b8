"""Accuracy and calibration of a model for which any number of labels may hold, from its probabilities. numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vidrisk.metrics.classification import ClassMetrics, Floats, Ints, ratio
from vidrisk.runtimes.contract.errors import SpecError
from vidrisk.runtimes.contract.probabilities import expected_calibration_error
from vidrisk.runtimes.precision import average_precision


@dataclass(frozen=True, repr=False)
class MultiLabelMetrics:
    """Result of ``multi_label_report``; every score is 0–1.

    Attributes:
        n: samples.
        mean_average_precision: mean over the labels that hold for some samples and not for others; None if there is no
            such label.
        micro_f1: F1 over all decisions at the thresholds.
        macro_f1: mean F1 over the labels that hold or are predicted for any sample.
        exact_match: share of samples for which every label is decided correctly.
        ece: expected calibration error of all probabilities, 15 equal-width bins.
        thresholds: per label, the least probability at which it is decided to hold.
        per_class: in the order of the labels, at the thresholds.
    """

    n: int
    mean_average_precision: float | None
    micro_f1: float
    macro_f1: float
    exact_match: float
    ece: float
    thresholds: tuple[float, ...]
    per_class: tuple[ClassMetrics, ...]

    def __repr__(self) -> str:
        mean_ap = "n/a" if self.mean_average_precision is None else f"{self.mean_average_precision:.4f}"
        return (
            f"MultiLabelMetrics(n={self.n}, labels={len(self.per_class)}, mAP={mean_ap}, micro_f1={self.micro_f1:.4f}, "
            f"exact_match={self.exact_match:.4f}, ece={self.ece:.4f})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, strings and containers, ready for JSON."""
        return asdict(self)


def multi_label_report(
    truth: Ints, probabilities: Floats, labels: Sequence[str], thresholds: Sequence[float]
) -> MultiLabelMetrics:
    """Score a multi-label model.

    Args:
        truth: ``(N, C)``, 1 if a label holds and 0 if it does not, N ≥ 1.
        probabilities: ``(N, C)``, 0 to 1.
        labels: C names.
        thresholds: per label, the least probability at which it is decided to hold.

    Raises:
        SpecError: shapes do not match, or values are out of range.
    """
    truth, probabilities = np.asarray(truth), np.asarray(probabilities, np.float64)
    shape = (len(truth), len(labels))
    if not len(truth) or truth.shape != shape or probabilities.shape != shape or len(thresholds) != len(labels):
        raise SpecError(
            f"truth {truth.shape} and probabilities {probabilities.shape} for {len(labels)} labels",
            allowed="(N, C) twice with N of at least 1, and a threshold per label",
        )
    if not np.isin(truth, (0, 1)).all() or not (
        np.isfinite(probabilities).all() and (np.abs(probabilities - 0.5) <= 0.5).all()
    ):
        raise SpecError("truth or probabilities out of range", allowed="0 and 1, and numbers from 0 to 1")
    holds, found = truth == 1, probabilities >= np.asarray(thresholds)
    hits, support, guesses = (holds & found).sum(axis=0), holds.sum(axis=0), found.sum(axis=0)
    precision, recall, f1 = ratio(hits, guesses), ratio(hits, support), ratio(2 * hits, support + guesses)
    occurs = support + guesses > 0
    ap = [
        average_precision(holds[:, c], probabilities[:, c]) if 0 < support[c] < len(truth) else None
        for c in range(len(labels))
    ]
    known_ap = [value for value in ap if value is not None]
    return MultiLabelMetrics(
        n=len(truth),
        mean_average_precision=float(np.mean(known_ap)) if known_ap else None,
        micro_f1=float(ratio(2 * hits.sum(), support.sum() + guesses.sum())),
        macro_f1=float(f1[occurs].mean()) if occurs.any() else 0.0,
        exact_match=float((holds == found).all(axis=1).mean()),
        ece=expected_calibration_error(probabilities.reshape(-1), holds.reshape(-1)),
        thresholds=tuple(map(float, thresholds)),
        per_class=tuple(
            ClassMetrics(label, float(precision[c]), float(recall[c]), float(f1[c]), ap[c], int(support[c]))
            for c, label in enumerate(labels)
        ),
    )


def worst_labels(truth: Ints, probabilities: Floats, limit: int = 20) -> list[tuple[int, int]]:
    """Return sample and label index of at most ``limit`` wrong decisions, the most confident first.

    ``truth`` and ``probabilities`` are as in ``multi_label_report``.
    """
    wrong = np.abs(probabilities - truth).reshape(-1)
    order = np.argsort(-wrong, kind="stable")[:limit]
    return [divmod(int(place), truth.shape[1]) for place in order if wrong[place] > 0.5]
