"""Confidence on both sides of a hop: the shift of probabilities, and their calibration.

Accuracy alone would admit a variant whose probabilities have collapsed, which invalidates every threshold that was set
for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vidrisk.calibration.temperature import match_temperature
from vidrisk.export.gate.outputs import FloatArray, Ints
from vidrisk.export.gate.report import Change
from vidrisk.runtimes.contract.contract import Target
from vidrisk.runtimes.contract.probabilities import expected_calibration_error, probabilities_from_logits

Floats = npt.NDArray[np.floating[Any]]

CLASS_SAMPLES = 10  # samples of a class from which its confidence is judged separately
RESAMPLES = 400  # of the bootstrap
# share of the allowed confidence shift: errors that cancel in a single answer's probability do not cancel here
ECE_SHARE = 0.5


def confidence_refusal(
    change: Change, target: Target, sure_before: FloatArray, sure_after: FloatArray, truth: Ints, allowed: float
) -> str:
    """Return why the probabilities of one target are no longer reliable, or an empty string if they are.

    Args:
        change: the effect of the hop on the target.
        target: the target.
        sure_before: probabilities ``(N, C)`` before the hop, after their temperature.
        sure_after: the same after the hop.
        truth: labels of the samples.
        allowed: points by which confidence may move, 0–100.
    """
    if change.confidence_points > allowed + 1e-9:
        where = f" of {change.confidence_class!r}" if change.confidence_class else ""
        return (
            f"the confidence of {change.target}{where} moves by {change.confidence_points:.1f} points where the answer "
            f"stays, at most {allowed:g} are allowed: thresholds that were set for it are no longer valid"
        )
    allowed_rise = (ECE_SHARE * allowed + max(0.0, change.drop_points)) / 100
    if change.ece_after - change.ece_before <= allowed_rise:
        return ""
    if _least_ece_rise(target, sure_before, sure_after, truth) <= allowed_rise:
        return ""  # within chance for so few and uneven samples
    return (
        f"the calibration error of {change.target} rises from {100 * change.ece_before:.1f} to "
        f"{100 * change.ece_after:.1f} points, at most {100 * allowed_rise:.1f} more are allowed"
    )


def match_temperatures(
    targets: Sequence[Target],
    before: Mapping[str, FloatArray],
    after: Mapping[str, FloatArray],
    temperature: Mapping[str, float],
) -> dict[str, float]:
    """Find, by target, the temperature that brings the probabilities after a hop nearest to those before it.

    Args:
        targets: of the model.
        before: logits before the hop, by target.
        after: logits after the hop, by target.
        temperature: of the logits before, by target.
    """
    return {
        target.name: match_temperature(
            after[target.name],
            probabilities_from_logits(
                before[target.name], temperature.get(target.name, 1.0), multi_label=target.multi_label
            ),
            multi_label=target.multi_label,
        )
        for target in targets
    }


def confidence_shift(target: Target, before: FloatArray, after: FloatArray, decision: Floats) -> tuple[float, str]:
    """Find the mean shift of a probability in points, over samples with the same prediction.

    It is the mean over all samples, or over the class in which it is largest. The probability is that of the top label,
    or, for a multi-label target, of each predicted label.

    Args:
        target: the target.
        before: probabilities ``(N, C)`` before the hop.
        after: the same after it.
        decision: thresholds ``(C,)`` of a multi-label target.
    """
    finite = np.asarray(np.isfinite(before).all(axis=1) & np.isfinite(after).all(axis=1))
    rows, labels = _common_predictions(target, before, after, finite, decision)
    if not len(rows):
        return math.nan, ""
    shift = 100 * np.abs(before[rows, labels] - after[rows, labels])
    members = np.bincount(labels, minlength=len(target.labels))
    means = np.bincount(labels, weights=shift, minlength=len(target.labels)) / np.maximum(members, 1)
    means[members < CLASS_SAMPLES] = 0
    worst = int(means.argmax())
    return max((float(shift.mean()), ""), (float(means[worst]), target.labels[worst]))


def _common_predictions(
    target: Target, before: FloatArray, after: FloatArray, finite: npt.NDArray[np.bool_], decision: Floats
) -> tuple[Ints, Ints]:
    """Return the row and label of predictions that both sides share."""
    if target.multi_label:
        rows, labels = np.nonzero(finite[:, None] & (before >= decision) & (after >= decision))
    else:
        top = before.argmax(axis=1)
        rows = np.flatnonzero(finite & (top == after.argmax(axis=1)))
        labels = top[rows]
    return rows, labels


def calibration_error(target: Target, probabilities: FloatArray, truth: Ints) -> float:
    """Return the expected calibration error of the top-1 confidence, or of all probabilities of a multi-label target.

    It is NaN if a probability is not finite, or no sample is labelled.
    """
    labelled = truth >= 0 if truth.ndim == 1 else (truth >= 0).all(axis=1)
    probabilities, truth = probabilities[labelled], truth[labelled]
    if not len(truth) or not np.isfinite(probabilities).all():
        return math.nan
    if target.multi_label:
        return expected_calibration_error(probabilities.reshape(-1), truth.reshape(-1) == 1)
    return expected_calibration_error(probabilities.max(axis=1), probabilities.argmax(axis=1) == truth)


def _least_ece_rise(target: Target, before: FloatArray, after: FloatArray, truth: Ints) -> float:
    """Return the lower end (5 %) of the rise in calibration error, over resamples of the same pairs."""
    rng = np.random.default_rng(0)
    rises = [
        calibration_error(target, after[rows], truth[rows]) - calibration_error(target, before[rows], truth[rows])
        for rows in rng.integers(0, len(truth), (RESAMPLES, len(truth)))
    ]
    return float(np.nanquantile(rises, 0.05))
