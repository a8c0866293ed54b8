"""Which trial of a search is taken: the simplest one of those that the best one does not beat beyond a standard error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vidrisk.metrics.standard_error import Losses, standard_error


@dataclass(frozen=True)
class Chosen:
    """The trial that is taken, the one with the least loss, and why."""

    trial: int
    best: int
    why: str


def choose_trial(
    losses: Mapping[int, Losses], units: Sequence[str], simplicity: Mapping[int, tuple[int, ...]]
) -> Chosen:
    """Take the simplest trial within one paired standard error of the least mean loss (Breiman et al. 1984).

    Of equally simple ones number 0, the default, is taken, else the one with the least loss.

    Args:
        losses: out of fold, by trial, of the same samples in the same order ``(N,)``; infinite where a trial failed.
            Number 0 is there, and finite.
        units: what each sample shows: samples of one unit are no independent evidence.
        simplicity: by trial, the smaller the simpler.
    """
    means = {trial: float(each.mean()) for trial, each in losses.items()}
    best = min(means, key=lambda trial: (means[trial], trial))
    near = [
        trial
        for trial in losses
        if np.isfinite(means[trial])
        and means[trial] - means[best] <= standard_error(losses[trial] - losses[best], units)
    ]
    trial = min(near, key=lambda trial: (simplicity[trial], trial != 0, means[trial], trial))
    if trial == best:
        why = (
            f"trial {trial} has the least loss, {means[trial]:.4f}, and none within one standard error of it is simpler"
        )
    else:
        error = standard_error(losses[trial] - losses[best], units)
        why = (
            f"trial {best} has the least loss, {means[best]:.4f}; trial {trial} is as simple or simpler and within one standard "
            f"error of it: {means[trial] - means[best]:.4f} more, standard error {error:.4f}"
        )
    return Chosen(trial, best, why)
