"""Accuracy, calibration and agreement of a classifier, computed from its probabilities. numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vidrisk.runtimes.contract.errors import SpecError
from vidrisk.runtimes.contract.probabilities import expected_calibration_error
from vidrisk.runtimes.precision import average_precision

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]

SUM_TOLERANCE = 1e-2  # allows for half precision and rounding in files


@dataclass(frozen=True)
class ClassMetrics:
    """One-vs-rest metrics of one class, each 0–1.

    If there is no case to divide by, ``ap`` is None and the others are 0. ``ap`` is also None if all samples are of
    this class, since any scores would give 1.
    """

    label: str
    precision: float
    recall: float
    f1: float
    ap: float | None
    support: int


@dataclass(frozen=True, repr=False)
class Metrics:
    """Result of ``classification_report``; every score is 0–1.

    Attributes:
        n: samples.
        top1, top5: share of samples whose true class is the most probable, or among the five most probable; ``top5`` is
            None for five classes or fewer.
        macro_f1: mean F1 over the classes that occur in the truth or in the predictions.
        mean_average_precision: mean over the classes with samples of the one-vs-rest average precision
            (sum over thresholds of recall gained x precision); None if all samples are of one class.
        ece: expected calibration error of the top-1 confidence, 15 equal-width bins (Guo et al. 2017).
        per_class: in the order of the labels.
        confusion: ``confusion[true][predicted]`` samples.
        mean_absolute_level_error: mean distance in levels; None unless the labels are ordered.
        quadratic_kappa: agreement of ordered levels beyond chance, by squared distances (Cohen 1968): 1 is perfect, 0
            chance. None unless the labels are ordered, and if truth and predictions are all of one level.
    """

    n: int
    top1: float
    top5: float | None
    macro_f1: float
    mean_average_precision: float | None
    ece: float
    per_class: tuple[ClassMetrics, ...]
    confusion: tuple[tuple[int, ...], ...]
    mean_absolute_level_error: float | None = None
    quadratic_kappa: float | None = None

    def __repr__(self) -> str:
        mean_ap = "n/a" if self.mean_average_precision is None else f"{self.mean_average_precision:.4f}"
        return (
            f"Metrics(n={self.n}, classes={len(self.per_class)}, top1={self.top1:.4f}, macro_f1={self.macro_f1:.4f}, "
            f"mAP={mean_ap}, ece={self.ece:.4f})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, strings and containers, ready for JSON."""
        return asdict(self)


def classification_report(
    truth: Ints, probabilities: Floats, labels: Sequence[str], *, ordered: bool = False
) -> Metrics:
    """Score a classifier.

    Args:
        truth: class indices ``(N,)``, N ≥ 1.
        probabilities: ``(N, C)``, each row sums to 1.
        labels: C class names.
        ordered: whether the labels are levels, from the least to the most severe.

    Raises:
        SpecError: shapes do not match, an index has no label, or rows are not probabilities.
    """
    truth, probabilities = _check_inputs(truth, probabilities, len(labels))
    n, classes = probabilities.shape
    predicted = probabilities.argmax(axis=1)
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (truth, predicted), 1)
    hits, support, guesses = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    precision, recall, f1 = ratio(hits, guesses), ratio(hits, support), ratio(2 * hits, support + guesses)
    ap = [average_precision(truth == c, probabilities[:, c]) if 0 < support[c] < n else None for c in range(classes)]
    known_ap = [value for value in ap if value is not None]
    return Metrics(
        n=n,
        top1=float(np.mean(predicted == truth)),
        top5=_top_k(truth, probabilities, 5) if classes > 5 else None,
        macro_f1=float(f1[support + guesses > 0].mean()),
        mean_average_precision=float(np.mean(known_ap)) if known_ap else None,
        ece=expected_calibration_error(probabilities.max(axis=1), predicted == truth),
        per_class=tuple(
            ClassMetrics(label, float(precision[c]), float(recall[c]), float(f1[c]), ap[c], int(support[c]))
            for c, label in enumerate(labels)
        ),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        mean_absolute_level_error=float(np.abs(predicted - truth).mean()) if ordered else None,
        quadratic_kappa=quadratic_kappa(confusion) if ordered else None,
    )


def quadratic_kappa(confusion: Ints) -> float | None:
    """Return the agreement of ordered levels beyond chance, by squared distances (Cohen 1968).

    Returns None if truth and predictions are all of one level.

    Args:
        confusion: samples by true and by predicted level ``(C, C)``, at least one.
    """
    places = np.arange(len(confusion))
    distances = (places[:, None] - places) ** 2
    by_chance = np.outer(confusion.sum(axis=1), confusion.sum(axis=0)) / confusion.sum()
    expected = float((distances * by_chance).sum())
    return 1 - float((distances * confusion).sum()) / expected if expected else None


def _check_inputs(truth: Ints, probabilities: Floats, classes: int) -> tuple[Ints, Floats]:
    truth, probabilities = np.asarray(truth), np.asarray(probabilities, np.float64)
    if truth.ndim != 1 or len(truth) == 0 or probabilities.shape != (len(truth), classes):
        raise SpecError(
            f"truth {truth.shape} and probabilities {probabilities.shape} for {classes} labels",
            allowed="(N,) and (N, C) with N of at least 1",
        )
    if not np.issubdtype(truth.dtype, np.integer) or truth.min() < 0 or truth.max() >= classes:
        raise SpecError("truth has values that are not class indices", allowed=f"integers from 0 to {classes - 1}")
    sums = probabilities.sum(axis=1)
    if not (np.isfinite(probabilities).all() and probabilities.min() >= 0 and np.abs(sums - 1).max() <= SUM_TOLERANCE):
        raise SpecError(
            "rows that are not probabilities",
            allowed="numbers from 0 that sum to 1",
            fix="apply a softmax to logits first",
        )
    return truth, probabilities


def ratio(part: Ints, whole: Ints) -> Floats:
    """Return ``part / whole``, or 0 if both are 0."""
    return part / np.maximum(whole, 1)


def _top_k(truth: Ints, probabilities: Floats, k: int) -> float:
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return float(np.mean((best == truth[:, None]).any(axis=1)))


def agreement(a: Floats, b: Floats) -> float:
    """Return the share of rows in which two models prefer the same class.

    Args:
        a: probabilities or logits of the first model ``(N, C)``, N ≥ 1.
        b: those of the second model, of the same shape.

    Raises:
        SpecError: shapes differ, or there are no rows.
    """
    if a.shape != b.shape or a.ndim != 2 or len(a) == 0:
        raise SpecError(f"shapes {a.shape} and {b.shape}", allowed="(N, C) twice, with N of at least 1")
    return float(np.mean(a.argmax(axis=1) == b.argmax(axis=1)))


def worst_errors(truth: Ints, probabilities: Floats, limit: int = 20) -> list[int]:
    """Return the row indices of at most ``limit`` wrong predictions, the most confident first.

    ``truth`` and ``probabilities`` are as in ``classification_report``.
    """
    confidence = probabilities.max(axis=1)
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != truth)
    order = np.argsort(-confidence[wrong], kind="stable")[:limit]
    return [int(i) for i in wrong[order]]
