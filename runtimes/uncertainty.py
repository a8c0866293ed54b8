"""The rule for uncertain answers, shared by the export that fits its thresholds and by everything that applies them.

Split conformal prediction gives every label a threshold. The *set* of an input holds the labels whose probability
reaches their threshold, i.e. those that cannot be excluded. The answer, the most probable label, is certain if it is
the only label in the set. With no label in the set, the model is less sure of every label than it usually is of the
true one; with two or more, it is undecided between them; with only another label, the answer has no support. A model
that is right more often than the requested coverage is therefore uncertain about roughly the remaining share.

Terms used throughout: *coverage* is the share of inputs whose true label lies in their set, *kept* the share
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
        thresholds: ``float64 (C,)``, or ``(N, C)`` if every row has its own.

    Returns:
        ``(N, C)``, True for the labels in the set.
    """
    return np.asarray(probabilities, np.float64) >= thresholds


def certain_rows(probabilities: Floats, sets: Bools) -> Bools:
    """Tell which rows have a certain answer, i.e. the most probable label is alone in its set.

    Both arguments are ``(N, C)``; the result is ``(N,)``.
    """
    rows = np.arange(len(sets))
    certain: Bools = (sets.sum(axis=1) == 1) & sets[rows, probabilities.argmax(axis=1)]
    return certain


@dataclass(frozen=True)
class Uncertainty:
    """Thresholds of a model's targets for uncertain answers.

    Attributes:
        coverage: the requested coverage, 0–1; None if there are no thresholds, or it was not recorded.
        thresholds: for each target that has them, one per label, in the contract's order.
        reasons: for each target without thresholds, why it has none.
    """

    coverage: float | None = None
    thresholds: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)

    def candidates(self, targets: Sequence[Target], scores: Mapping[str, Floats]) -> dict[str, list[str]]:
        """Return for each target with thresholds the labels that cannot be excluded, most probable first.

        Args:
            targets: targets of the contract.
            scores: probabilities ``(C,)`` of one input by target.
        """
        found = {}
        for target in targets:
            if target.name in self.thresholds:
                of_target = scores[target.name]
                inside = label_sets(of_target[None], np.asarray(self.thresholds[target.name]))[0]
                found[target.name] = [target.labels[i] for i in np.argsort(-of_target, kind="stable") if inside[i]]
        return found


def doubtful_targets(candidates: Mapping[str, Sequence[str]], answers: Mapping[str, str]) -> list[str]:
    """Return the targets whose answer is uncertain.

    Args:
        candidates: see ``Uncertainty.candidates``.
        answers: the most probable label by target.
    """
    return [target for target, labels in candidates.items() if list(labels) != [answers[target]]]


def is_uncertain(candidates: Mapping[str, Sequence[str]], answers: Mapping[str, str]) -> bool | None:
    """Tell whether any target's answer is uncertain; None if no target has thresholds.

    One uncertain target suffices, because a prediction is acted on as a whole: a certain defect of an uncertain level
    is not a certain prediction. Targets without thresholds are ignored; ``Uncertainty.reasons`` lists them. The
    arguments are those of ``doubtful_targets``.
    """
    return bool(doubtful_targets(candidates, answers)) if candidates else None


def uncertainty_from_variant(variant: Variant, targets: Sequence[Target]) -> Uncertainty:
    """Read the thresholds of a bundle's variant; a label without its own takes that of the target."""
    thresholds, reasons = {}, {}
    for target in targets:
        shared = variant.threshold.get(target.name)
        if shared is None:
            reasons[target.name] = variant.no_threshold.get(target.name, OLD_BUNDLE)
        else:
            own = variant.label_threshold.get(target.name, {})
            thresholds[target.name] = tuple(own.get(label, shared) for label in target.labels)
    return Uncertainty(variant.coverage if thresholds else None, thresholds, reasons)
