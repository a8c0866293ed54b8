"""From which probability on a label of a multi-label target holds: per label the threshold with the highest F1."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from vidrisk.runtimes.contract.contract import DECISION

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]

OWN_POSITIVES = 5  # of a label, from which on it has a threshold of its own; fewer say little


def fit_decisions(probabilities: Floats, truth: Ints) -> npt.NDArray[np.float64]:
    """Fit the thresholds of one target.

    A threshold lies in the middle between two probabilities that occur, so that it does not hang on the last digit of
    either. Labels that hold for fewer than ``OWN_POSITIVES`` samples share the threshold that has the highest F1 over
    all decisions.

    Args:
        probabilities: ``(N, C)``. Rows that are not finite are left out.
        truth: ``(N, C)``, 1 where a label holds; rows with a value under 0 are not labelled and are left out.

    Returns:
        ``float64 (C,)``, 0 to 1; ``DECISION`` where no label holds anywhere.
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
