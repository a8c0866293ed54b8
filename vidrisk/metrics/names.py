"""Agreement of levels, or of other names, in generated reports with the truth; a missing name counts as wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vidrisk.metrics.classification import quadratic_kappa, ratio
from vidrisk.runtimes.contract.errors import SpecError
from vidrisk.runtimes.shares import share_interval


@dataclass(frozen=True)
class NameScores:
    """Agreement of names with the truth; shares are 0–1.

    Attributes:
        labels: the names, in order.
        n: reports whose true name is known.
        correct, accuracy, interval: over all reports, those without a name counted as wrong; the interval is 95 %
            (Wilson 1927).
        missing: reports without a name.
        macro_f1: mean F1 over the names that occur in the truth or in the reports.
        f1: per name; None if it does not occur.
        confusion: ``confusion[true][found]``; the last column counts the missing names.
        on_scale: reports whose true and found names are both ordered; the next four fields cover only these.
        quadratic_kappa: by squared distances (Cohen 1968); None if it is not defined.
        mean_distance: in names; None if ``on_scale`` is 0.
        too_low, too_high: reports whose name is lower or higher than the true one.
    """

    labels: tuple[str, ...]
    n: int
    correct: int
    accuracy: float
    interval: tuple[float, float]
    missing: int
    macro_f1: float
    f1: tuple[float | None, ...]
    confusion: tuple[tuple[int, ...], ...]
    on_scale: int
    quadratic_kappa: float | None
    mean_distance: float | None
    too_low: int
    too_high: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, strings and containers, ready for JSON."""
        return asdict(self)


def name_scores(
    truth: Sequence[int], found: Sequence[int | None], labels: Sequence[str], ordered: Sequence[bool] | None = None
) -> NameScores:
    """Score names.

    Args:
        truth: indices in ``labels`` of the true names, N ≥ 1.
        found: indices of the names in the reports; None if a report has no name.
        labels: all names; ordered ones from the least to the most severe.
        ordered: per name, whether it is ordered; None if no name is.

    Raises:
        SpecError: lengths do not match, or an index has no name.
    """
    classes = len(labels)
    true = np.asarray(truth, np.int64)
    got = np.asarray([-1 if place is None else place for place in found], np.int64)
    scale = np.flatnonzero(np.zeros(classes, bool) if ordered is None else np.asarray(ordered, bool))
    if not len(true) or len(true) != len(got) or (ordered is not None and len(ordered) != classes):
        raise SpecError(f"{len(true)} true and {len(got)} found names", allowed="the same number of both, at least one")
    if true.min() < 0 or max(true.max(), got.max()) >= classes or -1 in found or got.min() < -1:
        raise SpecError("an index without a name", allowed=f"0 to {classes - 1}")
    confusion = np.zeros((classes, classes + 1), np.int64)  # index -1 is the last column
    np.add.at(confusion, (true, got), 1)
    square = confusion[:, :classes]
    support, guesses = confusion.sum(axis=1), square.sum(axis=0)
    f1 = ratio(2 * square.diagonal(), support + guesses)
    occurs = support + guesses > 0
    correct = int(square.diagonal().sum())
    on_scale = square[np.ix_(scale, scale)]
    distance = _distances(len(scale))
    return NameScores(
        labels=tuple(labels),
        n=len(true),
        correct=correct,
        accuracy=correct / len(true),
        interval=share_interval(correct, len(true)),
        missing=int(confusion[:, classes].sum()),
        macro_f1=float(f1[occurs].mean()),
        f1=tuple(float(value) if known else None for value, known in zip(f1, occurs, strict=True)),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        on_scale=int(on_scale.sum()),
        quadratic_kappa=quadratic_kappa(on_scale) if on_scale.any() else None,
        mean_distance=float((np.abs(distance) * on_scale).sum() / on_scale.sum()) if on_scale.any() else None,
        too_low=int(on_scale[distance < 0].sum()),
        too_high=int(on_scale[distance > 0].sum()),
    )


def _distances(size: int) -> npt.NDArray[np.int64]:
    """Return ``found - true`` for every cell of a confusion matrix."""
    places = np.arange(size)
    return places - places[:, None]
