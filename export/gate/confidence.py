"""Confidence on both sides of a hop: how far probabilities move, and whether they still say how often answers are right.

Accuracy alone lets a variant pass whose probabilities have collapsed: every threshold that was set for it is dead then.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from vidrisk.calibration.temperature import matched_temperature
from vidrisk.export.gate.outputs import FloatArray, Ints
from vidrisk.export.gate.report import Change
from vidrisk.runtimes.contract.contract import Target
from vidrisk.runtimes.contract.probabilities import expected_calibration_error, probabilities_from_logits

CLASS_SAMPLES = 10  # of a class, from which on its confidence is judged alone
RESAMPLES = 400  # of the bootstrap
ECE_SHARE = 0.5  # of what confidence may move: errors that cancel in a single answer's probability do not cancel here


def confidence_refusal(change: Change, before: FloatArray, after: FloatArray, truth: Ints, allowed: float,
                        temperature: float, matched: float) -> str:
    """Why the probabilities of one target cannot be relied on any more; empty when they can."""
    if change.confidence_points > allowed + 1e-9:
        where = f" of {change.confidence_class!r}" if change.confidence_class else ""
        return (f"the confidence of {change.target}{where} moves by {change.confidence_points:.1f} points where the answer stays, "
                f"at most {allowed:g} are allowed: thresholds that were set for it no longer hold")
    allowed_rise = (ECE_SHARE * allowed + max(0.0, change.drop_points)) / 100
    if change.ece_after - change.ece_before <= allowed_rise:
        return ""
    sure_before, sure_after = probabilities_from_logits(before, temperature), probabilities_from_logits(after, matched)
    if _least_ece_rise(sure_before, sure_after, truth) <= allowed_rise:
        return ""  # so few samples, so uneven: chance
    return (f"the calibration error of {change.target} rises from {100 * change.ece_before:.1f} to {100 * change.ece_after:.1f} "
            f"points, at most {100 * allowed_rise:.1f} more are allowed")


def match_temperatures(before: Mapping[str, FloatArray], after: Mapping[str, FloatArray],
                       temperature: Mapping[str, float]) -> dict[str, float]:
    """Find, by target, the temperature at which the logits after a hop give probabilities nearest to those before it.

    Args:
        temperature: of the logits before, by target.
    """
    return {target: matched_temperature(logits, probabilities_from_logits(before[target], temperature.get(target, 1.0)))
            for target, logits in after.items()}


def confidence_shift(target: Target, before: FloatArray, after: FloatArray) -> tuple[float, str]:
    """Mean shift of the top label's probability in points, where a prediction stays: of all samples, or of the class in which it is
    largest."""
    top = before.argmax(axis=1)
    stays = np.isfinite(before).all(axis=1) & np.isfinite(after).all(axis=1) & (top == after.argmax(axis=1))
    if not stays.any():
        return math.nan, ""
    shift = 100 * np.abs(np.take_along_axis(before - after, top[:, None], axis=1)[stays, 0])
    members = np.bincount(top[stays], minlength=len(target.labels))
    means = np.bincount(top[stays], weights=shift, minlength=len(target.labels)) / np.maximum(members, 1)
    means[members < CLASS_SAMPLES] = 0
    worst = int(means.argmax())
    return max((float(shift.mean()), ""), (float(means[worst]), target.labels[worst]))


def calibration_error(probabilities: FloatArray, truth: Ints) -> float:
    """Return the expected calibration error of the top-1 confidence; NaN where a probability is not finite."""
    if not np.isfinite(probabilities).all():
        return math.nan
    return expected_calibration_error(probabilities.max(axis=1), probabilities.argmax(axis=1) == truth)


def _least_ece_rise(before: FloatArray, after: FloatArray, truth: Ints) -> float:
    """Return the lower end (5 %) of what the calibration error rises by, over resamples of the same pairs."""
    rng = np.random.default_rng(0)
    rises = [calibration_error(after[rows], truth[rows]) - calibration_error(before[rows], truth[rows])
             for rows in rng.integers(0, len(truth), (RESAMPLES, len(truth)))]
    return float(np.quantile(rises, 0.05))
