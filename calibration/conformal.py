"""Thresholds by split conformal prediction: a set of labels per input that holds the true one as often as asked.

The threshold of a label is a low quantile of the probabilities that validation samples give to their true class, with
the correction for their number: of n samples, the ⌈(n + 1) · coverage⌉-th highest. Then the set of a new sample of the
same kind holds its true label with at least the probability asked, whatever the model, and given these n samples the
share that does is Beta(⌈(n + 1) · coverage⌉, the rest of n + 1) (Vovk 2012, Conditional validity of inductive conformal
predictors).

Class by class (Mondrian: Vovk et al. 2005, section 4.5), this holds for the samples of each class. A class needs
samples for that: those with fewer than ``own_samples`` share a threshold with the next larger ones, until they have
that many together. All of them together are the marginal case. (Were the marginal threshold lent to small classes
alone, nothing would hold for all samples.)
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

# With so many samples of a class under its threshold, the share of all its inputs that lie under it is with 90 %
# probability 0.4 to 1.8 times what was asked. One is the least that gives a threshold at all, and says little.
OWN_OUTSIDE = 5
TIE = 1e-6  # two engines may compute a probability that differs by as much; a lower threshold only covers more
EXACT = 9  # digits: 0.1 + 0.2 is no 0.3


@dataclass(frozen=True)
class LabelGroup:
    """Labels that share a threshold.

    Attributes:
        labels: their names.
        samples: of these labels that it was fitted on, n.
        threshold: a probability under it excludes a label.
        interval: of the coverage of these labels, 5 % and 95 % points.
    """

    labels: tuple[str, ...]
    samples: int
    threshold: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Fit:
    """Thresholds of one target, and what holds of them.

    ``kept``, ``accuracy_of_kept`` and ``kept_samples`` judge every sample by thresholds that were fitted without it.
    (The coverage that this gives is ⌈n · coverage⌉ / n by construction: ``interval`` says what is known of it.)

    Attributes:
        coverage: asked, 0–1.
        samples: that they were fitted on.
        accuracy: of all these.
        groups: of labels; together they are all. Empty where there is no threshold.
        interval: of the coverage of all samples, 5 % and 95 % points.
        kept: share of the samples with a certain answer.
        kept_samples: their number.
        accuracy_of_kept: None where none is kept.
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
    """Refuse a coverage that no threshold can have.

    Raises:
        SettingsError: it is not above 0 and under 1.
    """
    if not 0 < coverage < 1:
        raise SettingsError(f"a coverage of {coverage}", allowed="above 0 and under 1, such as 0.9")


def place_of_threshold(samples: int, coverage: float) -> int:
    """Return k: the threshold is the k-th highest of so many probabilities, for which there must be enough."""
    return max(1, math.ceil(round((samples + 1) * coverage, EXACT)))


def samples_for(outside: int, coverage: float) -> int:
    """Return the least number of samples that leave so many places of n + 1 under the threshold."""
    return math.ceil(round(outside / (1 - coverage), EXACT)) - 1


def own_samples(coverage: float) -> int:
    """Return how many samples a class needs for a threshold of its own: 49 for 90 %, 99 for 95 %."""
    return samples_for(OWN_OUTSIDE, coverage)


def fit_thresholds(probabilities: Floats, truth: Ints, labels: Sequence[str], coverage: float) -> Fit:
    """Fit the thresholds of one target.

    Args:
        probabilities: ``(N, C)``, after the temperature. Rows that are not finite say nothing and are left out.
        truth: label indices ``int64 (N,)``.
        labels: C names.
        coverage: how often the set is to hold the true label.

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
    without = np.zeros_like(probabilities)  # row i: the thresholds that are fitted without sample i
    groups = []
    for members in group_labels(np.bincount(truth, minlength=len(labels)), own_samples(coverage)):
        inside = np.isin(truth, members)
        descending = np.sort(own[inside])[::-1]
        place = place_of_threshold(len(descending), coverage)
        threshold = float(_lowered(descending[place - 1]))
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
    """Share labels out: each with ``least`` samples alone, the rarer ones together, with as many of the next as they need."""
    order = [int(label) for label in np.argsort(counts, kind="stable")]
    shared, inside = 0, 0
    while inside < len(order) and (counts[order[inside]] < least or (inside and shared < least)):
        shared += int(counts[order[inside]])
        inside += 1
    return [sorted(order[:inside])] * bool(inside) + [[label] for label in sorted(order[inside:])]


def _lack(truth: Ints, coverage: float) -> str:
    """Say why these samples give no threshold; empty where they do."""
    samples, least = len(truth), samples_for(1, coverage) + 1  # each is judged by the others, too
    if samples < least:
        return f"{samples} validation samples, and a coverage of {100 * coverage:g} % needs {least} at least"
    if len(np.unique(truth)) < 2:
        return f"all {samples} validation samples are of one class"
    return ""


def _thresholds_without_each(descending: Floats, own: Floats, coverage: float) -> Floats:
    """For every sample, the threshold that the others give.

    Args:
        descending: probabilities of the true classes, its own among them, in order.
        own: the same by sample.
    """
    place = place_of_threshold(len(descending) - 1, coverage)
    # Without one of the highest ``place``, the next one moves up.
    return _lowered(np.where(own >= descending[place - 1], descending[place], descending[place - 1]))


def _lowered(thresholds: Floats) -> Floats:
    lowered: Floats = np.maximum(0.0, thresholds - TIE)
    return lowered
