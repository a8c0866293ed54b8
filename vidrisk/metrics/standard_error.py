"""Standard error of a mean over samples that are not all independent. numpy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Losses = npt.NDArray[np.float64]


def standard_error(values: Losses, units: Sequence[str]) -> float:
    """Return the standard error of the mean of values ``(N,)``, clustered by unit.

    Values of one unit are taken together; the result is infinite if there is only one unit.
    """
    numbers = np.unique(np.asarray(units), return_inverse=True)[1]
    count = int(numbers.max()) + 1
    if count < 2:
        return float("inf")
    sums = np.bincount(numbers, weights=values - values.mean())
    return float(np.sqrt(count / (count - 1) * np.square(sums).sum()) / len(values))
