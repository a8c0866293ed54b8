"""When an answer is uncertain: the one rule, for the export that fits its thresholds and for everything that applies them.

Split conformal prediction gives every label a threshold. The *set* of an input holds the labels whose probability
reaches
theirs: those that cannot be excluded. The answer, the most probable label, is certain where it alone is in the set. No
    label in
it: the model is less sure of every label than it usually is of the true one; two or more: undecided between them;
    another one
alone: no support for the answer. So a model that is right more often than the coverage asked is uncertain of about the
    rest.

Two words, the same everywhere: *coverage* is the share of inputs whose true label lies in their set, *kept* the share
of inputs with a certain answer. (Papers on risk–coverage curves call the latter coverage, too.)

Vovk, Gammerman & Shafer, Algorithmic Learning in a Random World, 2005. Sadinle, Lei & Wasserman, Least ambiguous
set-valued classifiers with bounded error levels, JASA 2019.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from vidrisk.runtimes.contract.bundle import Variant
    from vidrisk.runtimes.contract.contract import Target

Floats = npt.NDArray[np.floating[Any]]
Bools = npt.NDArray[np.bool_]
OLD_BUNDLE = "the bundle holds no threshold; export it again"


def label_sets(probabilities: Floats, thresholds: Floats) -> Bools:
    """Find the labels that cannot be excluded.

    Args:
        probabilities: ``(N, C)``. A row that is not finite excludes all labels.
        thresholds: ``float64 (C,)``, or ``(N, C)`` where every row has its own.

    Returns:
        ``(N, C)``.
    """
    return np.asarray(probabilities, np.float64) >= thresholds


def certain_rows(probabilities: Floats, sets: Bools) -> Bools:
    """Tell which rows have a certain answer: the most probable label, alone in its set. Both ``(N, C)`` → ``(N,)``."""
    rows = np.arange(len(sets))
    certain: Bools = (sets.sum(axis=1) == 1) & sets[rows, probabilities.argmax(axis=1)]
    return certain


@dataclass(frozen=True)
class Uncertainty:
    """What a model knows about its own doubt.

    Attributes:
        coverage: what was asked of the thresholds, 0–1; None where there are none, or nobody wrote it down.
        thresholds: per target that has them one per label, in the contract's order.
        reasons: per target that has none, why.
    """

    coverage: float | None = None
    thresholds: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)

    def candidates(self, targets: Sequence[Target], scores: Mapping[str, Floats]) -> dict[str, list[str]]:
        """Name the labels that cannot be excluded for one input, per target that has thresholds, the most probable first.

        Args:
            scores: per target the probabilities ``(C,)``.
        """
        found = {}
        for target in targets:
            if target.name in self.thresholds:
                of_target = scores[target.name]
                inside = label_sets(of_target[None], np.asarray(self.thresholds[target.name]))[0]
                found[target.name] = [target.labels[i] for i in np.argsort(-of_target, kind="stable") if inside[i]]
        return found


def doubtful_targets(candidates: Mapping[str, Sequence[str]], answers: Mapping[str, str]) -> list[str]:
    """Name the targets whose answer is uncertain.

    Args:
        candidates: see ``Uncertainty.candidates``.
        answers: per target the most probable label.
    """
    return [target for target, labels in candidates.items() if list(labels) != [answers[target]]]


def is_uncertain(candidates: Mapping[str, Sequence[str]], answers: Mapping[str, str]) -> bool | None:
    """Tell whether any target's answer is uncertain; None where no target has thresholds.

    Any: a prediction is read and acted on as a whole, so a sure defect of an unsure level is no sure prediction. A
    target without thresholds has no say; ``Uncertainty.reasons`` tells of it. Arguments as of ``doubtful_targets``.
    """
    return bool(doubtful_targets(candidates, answers)) if candidates else None


def uncertainty_from_variant(variant: Variant, targets: Sequence[Target]) -> Uncertainty:
    """Read the thresholds of a bundle's variant; labels without one of their own take that of the target."""
    thresholds, reasons = {}, {}
    for target in targets:
        shared = variant.threshold.get(target.name)
        if shared is None:
            reasons[target.name] = variant.no_threshold.get(target.name, OLD_BUNDLE)
        else:
            own = variant.label_threshold.get(target.name, {})
            thresholds[target.name] = tuple(own.get(label, shared) for label in target.labels)
    return Uncertainty(variant.coverage if thresholds else None, thresholds, reasons)
