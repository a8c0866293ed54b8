"""Confidence on both sides of a hop: how far probabilities move, and whether they still say how often answers are right.

Accuracy alone lets a variant pass whose probabilities have collapsed: every threshold that was set for it is dead then.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vidrisk.calibration.temperature import matched_temperature
from vidrisk.export.gate.outputs import FloatArray, Ints
from vidrisk.export.gate.report import Change
from vidrisk.runtimes.contract.contract import Target
from vidrisk.runtimes.contract.probabilities import expected_calibration_error, probabilities_from_logits

Floats = npt.NDArray[np.floating[Any]]

CLASS_SAMPLES = 10  # of a class, from which on its confidence is judged alone
RESAMPLES = 400  # of the bootstrap
ECE_SHARE = 0.5  # of what confidence may move: errors that cancel in a single answer's probability do not cancel here


def confidence_refusal(
    change: Change, target: Target, sure_before: FloatArray, sure_after: FloatArray, truth: Ints, allowed: float
) -> str:
    """Say why the probabilities of one target cannot be relied on any more; empty when they can.

    Args:
        sure_before, sure_after: probabilities ``(N, C)`` on both sides of the hop, after their temperatures.
    """
    if change.confidence_points > allowed + 1e-9:
        where = f" of {change.confidence_class!r}" if change.confidence_class else ""
        return (
            f"the confidence of {change.target}{where} moves by {change.confidence_points:.1f} points where the answer stays, "
            f"at most {allowed:g} are allowed: thresholds that were set for it no longer hold"
        )
    allowed_rise = (ECE_SHARE * allowed + max(0.0, change.drop_points)) / 100
    if change.ece_after - change.ece_before <= allowed_rise:
        return ""
    if _least_ece_rise(target, sure_before, sure_after, truth) <= allowed_rise:
        return ""  # so few samples, so uneven: chance
    return (
        f"the calibration error of {change.target} rises from {100 * change.ece_before:.1f} to {100 * change.ece_after:.1f} "
        f"points, at most {100 * allowed_rise:.1f} more are allowed"
    )


def match_temperatures(
    targets: Sequence[Target],
    before: Mapping[str, FloatArray],
    after: Mapping[str, FloatArray],
    temperature: Mapping[str, float],
) -> dict[str, float]:
    """Find, by target, the temperature at which the logits after a hop give probabilities nearest to those before it.

    Args:
        temperature: of the logits before, by target.
    """
    return {
        target.name: matched_temperature(
            after[target.name],
            probabilities_from_logits(
                before[target.name], temperature.get(target.name, 1.0), multi_label=target.multi_label
            ),
            multi_label=target.multi_label,
        )
        for target in targets
    }


def confidence_shift(target: Target, before: FloatArray, after: FloatArray, decision: Floats) -> tuple[float, str]:
    """Find the mean shift of a probability in points, where a prediction stays.

    It is that of all samples, or of the class in which it is largest. The probability is that of the top label, or,
    where any number of labels may hold, of each label that does.

    Args:
        decision: thresholds ``(C,)`` of a multi-label target.
    """
    finite = np.asarray(np.isfinite(before).all(axis=1) & np.isfinite(after).all(axis=1))
    rows, labels = _predicted_labels(target, before, after, finite, decision)
    if not len(rows):
        return math.nan, ""
    shift = 100 * np.abs(before[rows, labels] - after[rows, labels])
    members = np.bincount(labels, minlength=len(target.labels))
    means = np.bincount(labels, weights=shift, minlength=len(target.labels)) / np.maximum(members, 1)
    means[members < CLASS_SAMPLES] = 0
    worst = int(means.argmax())
    return max((float(shift.mean()), ""), (float(means[worst]), target.labels[worst]))


def _predicted_labels(
    target: Target, before: FloatArray, after: FloatArray, finite: npt.NDArray[np.bool_], decision: Floats
) -> tuple[Ints, Ints]:
    """Return row and label of what both sides predict."""
    if target.multi_label:
        rows, labels = np.nonzero(finite[:, None] & (before >= decision) & (after >= decision))
    else:
        top = before.argmax(axis=1)
        rows = np.flatnonzero(finite & (top == after.argmax(axis=1)))
        labels = top[rows]
    return rows, labels


def calibration_error(target: Target, probabilities: FloatArray, truth: Ints) -> float:
    """Return the expected calibration error of the top-1 confidence, or of all probabilities of a multi-label target.

    NaN where a probability is not finite, or no sample is labelled.
    """
    labelled = truth >= 0 if truth.ndim == 1 else (truth >= 0).all(axis=1)
    probabilities, truth = probabilities[labelled], truth[labelled]
    if not len(truth) or not np.isfinite(probabilities).all():
        return math.nan
    if target.multi_label:
        return expected_calibration_error(probabilities.reshape(-1), truth.reshape(-1) == 1)
    return expected_calibration_error(probabilities.max(axis=1), probabilities.argmax(axis=1) == truth)


def _least_ece_rise(target: Target, before: FloatArray, after: FloatArray, truth: Ints) -> float:
    """Return the lower end (5 %) of what the calibration error rises by, over resamples of the same pairs."""
    rng = np.random.default_rng(0)
    rises = [
        calibration_error(target, after[rows], truth[rows]) - calibration_error(target, before[rows], truth[rows])
        for rows in rng.integers(0, len(truth), (RESAMPLES, len(truth)))
    ]
    return float(np.nanquantile(rises, 0.05))
