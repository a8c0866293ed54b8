"""Risk: from probabilities to a severity between 0 and 100, and to texts with advice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from vidrisk.runtimes.contract.contract import Guidance, Target

NO_GUIDANCE = Guidance()


def severity_from_probabilities(
    targets: Sequence[Target], probabilities: Mapping[str, npt.NDArray[np.float32]]
) -> float | None:
    """Compute the expected severity, ``Σ p · severity`` over the labels of the target that has severities.

    Args:
        targets: targets of the contract; ``level`` takes precedence over other targets with severities.
        probabilities: per target ``(labels,)``, summing to 1.

    Returns:
        0–100, or None if no target has severities.
    """
    rated = sorted((t for t in targets if t.severity is not None), key=lambda t: t.name != "level")
    if not rated or rated[0].severity is None:
        return None
    expected = float(np.dot(probabilities[rated[0].name].astype(np.float64), np.asarray(rated[0].severity)))
    return min(max(expected, 0.0), 100.0)


def guidance_for(guidance: Iterable[Guidance], *, defect: str | None, level: str | None) -> Guidance:
    """Return the texts that fit best: for this defect at this level, else for this level, else for this defect.

    An entry for another defect or another level never fits. The texts are empty if no entry fits.
    """

    def rank(entry: Guidance) -> int:
        return 2 * (entry.level is not None) + (entry.defect is not None)

    fitting = [
        entry
        for entry in guidance
        if entry.defect in (None, defect) and entry.level in (None, level) and rank(entry) > 0
    ]
    return max(fitting, key=rank, default=NO_GUIDANCE)
