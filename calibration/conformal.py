"""Thresholds by split conformal prediction: sets of labels that contain the true one at a requested rate.

The threshold of a label is a low quantile of the probabilities that validation samples assign to their true class,
corrected for the number of samples: of n samples, the ⌈(n + 1) · coverage⌉-th highest. The set of a new sample of the
same kind then contains its true label with at least the requested probability, whatever the model. Given these n
samples, the share of sets that do is distributed as Beta(⌈(n + 1) · coverage⌉, the rest of n + 1) (Vovk 2012,
Conditional validity of inductive conformal predictors).

Class by class (Mondrian: Vovk et al. 2005, section 4.5), this holds for the samples of each class. A class needs enough
samples for that: classes with fewer than ``own_samples`` share a threshold with the next larger ones until the group
has that many. A single group of all classes is the marginal case. (If only small classes used the marginal threshold,
the guarantee would not hold for all samples.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vidrisk.runtimes.contract.errors import SettingsError
from vidrisk.runtimes.shares import beta_interval
from vidrisk.runtimes.uncertainty import certain_rows, label_sets

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]

# With this many samples of a class under its threshold, the share of all its inputs under the threshold is, with 90 %
# probability, 0.4 to 1.8 times the requested one. One is the minimum that gives a threshold at all, and is hardly
# informative.
OWN_OUTSIDE = 5
TIE = 1e-6  # two engines may compute probabilities that differ by this much; a lower threshold only covers more
EXACT = 9  # digits to round to: in floating point, 0.1 + 0.2 is not 0.3


@dataclass(frozen=True)
class LabelGroup:
    """Labels that share a threshold.

    Attributes:
        labels: their names.
        samples: number of samples of these labels that the threshold was fitted on, n.
        threshold: a label whose probability is lower is excluded.
        interval: 5 % and 95 % points of the coverage of these labels.
    """

    labels: tuple[str, ...]
    samples: int
    threshold: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Fit:
    """Thresholds of one target, and their expected quality.

    ``kept``, ``accuracy_of_kept`` and ``kept_samples`` judge every sample by thresholds that were fitted without it.
    (The coverage measured this way is ⌈n · coverage⌉ / n by construction; ``interval`` says what is known about it.)

    Attributes:
        coverage: requested coverage, 0–1.
        samples: number of samples that the thresholds were fitted on.
        accuracy: accuracy on all these samples.
        groups: groups of labels, together all labels. Empty if there is no threshold.
        interval: 5 % and 95 % points of the coverage of all samples.
        kept: share of the samples with a certain answer.
        kept_samples: their number.
        accuracy_of_kept: None if no sample has a certain answer.
        reason: why there is no threshold.
    """

    coverage: float
    samples: int
    accuracy: float | None = None
    groups: tuple[LabelGroup, ...] = ()
    interval: tuple[float, float] | None = None
    kept: float | None = None
    kept_samples: int | None = None
    accuracy_of_kept: float | None = None
    reason: str = ""

    @property
    def is_per_class(self) -> bool:
        return len(self.groups) > 1


def check_coverage(coverage: float) -> None:
    """Reject a coverage that no threshold can have.

    Raises:
        SettingsError: it is not above 0 and below 1.
    """
    if not 0 < coverage < 1:
        raise SettingsError(f"a coverage of {coverage}", allowed="above 0 and under 1, such as 0.9")


def place_of_threshold(samples: int, coverage: float) -> int:
    """Return k such that the threshold is the k-th highest of this many probabilities.

    There must be enough samples.
    """
    return max(1, math.ceil(round((samples + 1) * coverage, EXACT)))


def samples_for(outside: int, coverage: float) -> int:
    """Return the least number n of samples that leaves ``outside`` places of n + 1 below the threshold."""
    return math.ceil(round(outside / (1 - coverage), EXACT)) - 1


def own_samples(coverage: float) -> int:
    """Return how many samples a class needs for its own threshold: 49 for 90 %, 99 for 95 %."""
    return samples_for(OWN_OUTSIDE, coverage)


def fit_thresholds(probabilities: Floats, truth: Ints, labels: Sequence[str], coverage: float) -> Fit:
    """Fit the thresholds of one target.

    Args:
        probabilities: ``(N, C)``, after the temperature. Rows that are not finite are left out.
        truth: label indices ``int64 (N,)``.
        labels: C names.
        coverage: how often the set must contain the true label.

    Raises:
        SettingsError: see ``check_coverage``.
    """
    check_coverage(coverage)
    finite = np.isfinite(probabilities).all(axis=1)
    probabilities, truth = np.asarray(probabilities[finite], np.float64), truth[finite]
    samples = len(truth)
    correct = probabilities.argmax(axis=1) == truth
    accuracy = float(correct.mean()) if samples else None
    reason = _lack(truth, coverage)
    if reason:
        return Fit(coverage, samples, accuracy, reason=reason)
    own = probabilities[np.arange(samples), truth]
    without = np.zeros_like(probabilities)  # row i: the thresholds fitted without sample i
    groups = []
    for members in group_labels(np.bincount(truth, minlength=len(labels)), own_samples(coverage)):
        inside = np.isin(truth, members)
        descending = np.sort(own[inside])[::-1]
        place = place_of_threshold(len(descending), coverage)
        threshold = float(_lower(descending[place - 1]))
        groups.append(
            LabelGroup(
                tuple(labels[i] for i in members),
                len(descending),
                threshold,
                beta_interval(place, len(descending) + 1 - place),
            )
        )
        without[:, members] = threshold
        for label in members:
            without[inside, label] = _thresholds_without_each(descending, own[inside], coverage)
    kept = certain_rows(probabilities, label_sets(probabilities, without))
    places = sum(place_of_threshold(group.samples, coverage) for group in groups)
    rest = sum(group.samples + 1 for group in groups) - places
    return Fit(
        coverage,
        samples,
        accuracy,
        tuple(groups),
        beta_interval(places, rest),
        float(kept.mean()),
        int(kept.sum()),
        float(correct[kept].mean()) if kept.any() else None,
    )


def group_labels(counts: Sequence[int] | Ints, least: int) -> list[list[int]]:
    """Group labels: each with ``least`` samples alone, rarer ones together.

    The group of rare labels also takes the next larger ones until it has ``least`` samples.
    """
    order = [int(label) for label in np.argsort(counts, kind="stable")]
    shared, inside = 0, 0
    while inside < len(order) and (counts[order[inside]] < least or (inside and shared < least)):
        shared += int(counts[order[inside]])
        inside += 1
    return [sorted(order[:inside])] * bool(inside) + [[label] for label in sorted(order[inside:])]


def _lack(truth: Ints, coverage: float) -> str:
    """Return why these samples give no threshold, or an empty string if they do."""
    samples, least = len(truth), samples_for(1, coverage) + 1  # each sample is also judged by the others
    if samples < least:
        return f"{samples} validation samples; a coverage of {100 * coverage:g} % needs at least {least}"
    if len(np.unique(truth)) < 2:
        return f"all {samples} validation samples are of one class"
    return ""


def _thresholds_without_each(descending: Floats, own: Floats, coverage: float) -> Floats:
    """Return, for every sample, the threshold that the other samples give.

    Args:
        descending: probabilities of the true classes in descending order, including the sample's own.
        own: the same, by sample.
        coverage: how often the set must contain the true label.
    """
    place = place_of_threshold(len(descending) - 1, coverage)
    # Without one of the ``place`` highest, the next one moves up.
    return _lower(np.where(own >= descending[place - 1], descending[place], descending[place - 1]))


def _lower(thresholds: Floats) -> Floats:
    lowered: Floats = np.maximum(0.0, thresholds - TIE)
    return lowered
