"""The split of samples into those that choose and those that judge, and the optimism if they are the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from vidrisk.calibration.points import Budget, Outcome, Point, choose_point
from vidrisk.export.gate.outputs import Ints, Validation

# Of quantised predictions with floating-point ones: the search aims for it, while the gate judges the drop.
AGREEMENT_AIM = 0.985
SEPARATE_FROM = 200  # number of samples from which they are split
CHOOSING = 3  # one in this many chooses
RESAMPLES = 200


@dataclass(frozen=True)
class Parts:
    """Rows of the samples that choose the precision of the blocks, and of those that judge the result.

    Both are ``int64 (N,)``.
    """

    choosing: Ints
    judging: Ints

    @property
    def is_separate(self) -> bool:
        """Whether no sample is in both."""
        return not np.isin(self.choosing, self.judging).any()


def agreement_aim(max_drop: float) -> float:
    """Return the share of predictions, 0–1, that the search aims to keep.

    A larger allowed drop allows as many changes.
    """
    return min(AGREEMENT_AIM, max(0.0, 1 - max_drop / 100))


def separate_samples(validation: Validation) -> Parts:
    """Split samples by class: one in three chooses, the others judge.

    Below 200 samples, or if one part would have no label of some target, all samples do both.
    """
    samples = len(validation.names)
    every = np.arange(samples)
    if samples < SEPARATE_FROM:
        return Parts(every, every)
    shuffled = np.random.default_rng(0).permutation(samples)
    keys = [column for truth in validation.truth.values() for column in truth[shuffled].reshape(samples, -1).T]
    by_class = shuffled[np.lexsort(keys)]
    parts = Parts(np.sort(by_class[::CHOOSING]), np.sort(np.delete(by_class, np.s_[::CHOOSING])))
    labelled = [np.asarray((truth.reshape(samples, -1) >= 0).all(axis=1)) for truth in validation.truth.values()]
    are_labelled = all(of_target[rows].any() for of_target in labelled for rows in (parts.choosing, parts.judging))
    return parts if are_labelled else Parts(every, every)


def estimate_optimism(points: Sequence[Point], budget: Budget) -> float | None:
    """Estimate by how many points a drop looks too small on the samples that chose the point.

    The choice is repeated on resamples by the same rule; the optimism is the mean difference between the drop on the
    samples that a resample lacks and that on the resample itself (Efron & Tibshirani 1993, chapter 17).

    Returns:
        The difference in points, at least 0; None if only one point was judged, so that there was no choice.
    """
    samples = points[0].outcome.samples
    if len(points) < 2 or samples < 2:
        return None
    rng, differences = np.random.default_rng(0), []
    for _ in range(RESAMPLES):
        rows = rng.integers(0, samples, samples)
        others = np.setdiff1d(np.arange(samples), rows)
        if not len(others):
            continue
        draw = [_judge_anew(point, _rows_of(point.outcome, rows), budget) for point in points]
        chosen, _ = choose_point(draw)
        outside = _rows_of(points[draw.index(chosen)].outcome, others)
        differences.append(outside.drop_points - chosen.outcome.drop_points)
    return max(0.0, float(np.mean(differences)))


def _judge_anew(point: Point, outcome: Outcome, budget: Budget) -> Point:
    admissible, inside = outcome.compare_with_budget(budget)
    return replace(point, outcome=outcome, admissible=admissible, inside=inside)


def _rows_of(outcome: Outcome, rows: Ints) -> Outcome:
    def draw(text: str) -> str:
        return "".join(np.array(list(text))[rows])

    return Outcome(draw(outcome.kept), tuple(map(draw, outcome.gains)), outcome.confidence_points)
