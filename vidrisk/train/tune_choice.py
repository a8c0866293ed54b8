"""Choice of a trial: the simplest one whose loss is within a standard error of the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vidrisk.metrics.standard_error import Losses, standard_error


@dataclass(frozen=True)
class Chosen:
    """The chosen trial, the one with the smallest loss, and the reason."""

    trial: int
    best: int
    why: str


def choose_trial(
    losses: Mapping[int, Losses], units: Sequence[str], simplicity: Mapping[int, tuple[int, ...]]
) -> Chosen:
    """Choose the simplest trial within one paired standard error of the smallest mean loss (Breiman et al. 1984).

    Among equally simple ones, number 0, the default, wins, else the one with the smallest loss.

    Args:
        losses: out-of-fold losses by trial, of the same samples in the same order ``(N,)``; infinite if a trial failed.
            Number 0 must be present, and finite.
        units: what each sample shows: samples of one unit are not independent evidence.
        simplicity: by trial; smaller values are simpler.
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
            f"trial {best} has the least loss, {means[best]:.4f}; trial {trial} is as simple or simpler and within one "
            f"standard error of it: {means[trial] - means[best]:.4f} more, standard error {error:.4f}"
        )
    return Chosen(trial, best, why)
