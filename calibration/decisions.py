"""Decision thresholds of multi-label targets: per label, the probability threshold with the highest F1."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from vidrisk.runtimes.contract.contract import DECISION

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]

OWN_POSITIVES = 5  # a label with at least this many positives gets its own threshold; fewer are not informative


def fit_decisions(probabilities: Floats, truth: Ints) -> npt.NDArray[np.float64]:
    """Fit the thresholds of one target.

    A threshold lies midway between two probabilities that occur, and so does not depend on the last digit of either.
    Labels with fewer than ``OWN_POSITIVES`` positive samples share the threshold that has the highest F1 over all
    decisions.

    Args:
        probabilities: ``(N, C)``. Rows that are not finite are left out.
        truth: ``(N, C)``, 1 if a label holds; rows with a negative value are unlabelled and left out.

    Returns:
        ``float64 (C,)``, 0 to 1; ``DECISION`` if no label holds in any sample.
    """
    rows = np.isfinite(probabilities).all(axis=1) & (truth >= 0).all(axis=1)
    scores, holds = np.asarray(probabilities[rows], np.float64), truth[rows] == 1
    shared = _best_threshold(scores.reshape(-1), holds.reshape(-1)) if holds.any() else DECISION
    return np.array(
        [
            _best_threshold(scores[:, label], holds[:, label]) if holds[:, label].sum() >= OWN_POSITIVES else shared
            for label in range(truth.shape[1])
        ]
    )


def _best_threshold(scores: Floats, holds: npt.NDArray[np.bool_]) -> float:
    order = np.argsort(-scores, kind="stable")
    ordered, hits = scores[order], np.cumsum(holds[order])
    last_of_ties = np.flatnonzero(np.append(np.diff(ordered) != 0, True))
    f1 = 2 * hits[last_of_ties] / (last_of_ties + 1 + hits[-1])
    best = int(last_of_ties[f1.argmax()])
    below = float(ordered[best + 1]) if best + 1 < len(ordered) else 0.0
    return (float(ordered[best]) + below) / 2
