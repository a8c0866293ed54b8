"""Temperature scaling: one number per target that calibrates the confidence of a model.

Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from vidrisk.runtimes.contract.probabilities import probabilities_from_logits, questions_from_labels

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
MIN_SAMPLES = 10
HALVINGS = 40  # of a log-temperature range six wide: far below the noise of any sample


def fit_temperature(logits: npt.NDArray[np.float32], truth: npt.NDArray[np.int64]) -> float:
    """Return the temperature at which the true classes are most likely.

    This is the minimum of the mean negative log-likelihood. It is 1 (no change) if the samples are not conclusive:
    fewer than ten, all of one class, or all predicted correctly (the likelihood then only grows as the temperature
    falls to 0).

    Args:
        logits: ``float32 (N, C)``. Rows that are not finite are left out.
        truth: label indices ``int64 (N,)``; for a multi-label target ``int64 (N, C)``, of which each label is a
            separate question. Negative values are unlabelled, and left out.

    Returns:
        A temperature from 0.05 to 20.
    """
    if truth.ndim == 2:
        logits, truth = questions_from_labels(logits), truth.reshape(-1)
    rows = np.isfinite(logits).all(axis=1) & (truth >= 0)
    logits, truth = logits[rows], truth[rows]
    if len(truth) < MIN_SAMPLES or len(np.unique(truth)) < 2 or (logits.argmax(axis=1) == truth).all():
        return 1.0
    return _solve(logits, float(np.take_along_axis(logits, truth[:, None], axis=1).mean(dtype=np.float64)))


def match_temperature(
    logits: npt.NDArray[np.float32], probabilities: npt.NDArray[np.float32], *, multi_label: bool = False
) -> float:
    """Find the temperature at which logits give probabilities nearest to known ones.

    This is the minimum of the mean KL divergence. Logits that are a multiple of those behind the known probabilities
    reproduce them exactly, within the limits. No labels are needed, so a handful of samples is enough, and equal logits
    get an equal temperature.

    Args:
        logits: ``float32 (N, C)``.
        probabilities: ``float32 (N, C)``. Rows are left out if they are not finite in either array, or differ in the
            most probable label: they do not determine a scale.
        multi_label: the probabilities are of labels of which any number may hold.

    Returns:
        A temperature from 0.05 to 20; 1 if no row determines one.
    """
    if multi_label:
        yes = probabilities.reshape(-1)
        logits, probabilities = questions_from_labels(logits), np.stack([1 - yes, yes], axis=1)
    finite = np.isfinite(logits).all(axis=1) & np.isfinite(probabilities).all(axis=1)
    rows = finite & (logits.argmax(axis=1) == probabilities.argmax(axis=1)) & (np.ptp(logits, axis=1) > 0)
    if not rows.any():
        return 1.0
    logits = logits[rows]
    return _solve(logits, float((probabilities[rows] * logits).sum(axis=1).mean(dtype=np.float64)))


def _solve(logits: npt.NDArray[np.float32], wanted: float) -> float:
    """Find the temperature at which the mean expected logit is ``wanted``.

    The likelihood is log-concave in 1/T. Its slope in 1/T is the difference of the wanted and the expected logits,
    which only rises with T, so its single zero can be found by bisection.
    """
    low, high = math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        expected = float(
            (probabilities_from_logits(logits, math.exp(middle)) * logits).sum(axis=1).mean(dtype=np.float64)
        )
        low, high = (middle, high) if expected > wanted else (low, middle)
    return math.exp((low + high) / 2)
