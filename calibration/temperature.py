"""Temperature scaling: one number per target that makes the confidence of a model believable.

Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from vidrisk.runtimes.contract.probabilities import probabilities_from_logits, questions_from_labels

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
MIN_SAMPLES = 10
HALVINGS = 40  # of a range of log temperature six wide: far below the noise of any sample


def fitted_temperature(logits: npt.NDArray[np.float32], truth: npt.NDArray[np.int64]) -> float:
    """The temperature at which the true classes are most likely: the minimum of the mean negative log-likelihood.

    1, that is no change, where the samples cannot say: fewer than ten, all of one class, or every one of them right
    (then the likelihood only grows as the temperature falls to 0).

    Args:
        logits: ``float32 (N, C)``. Rows that are not finite say nothing and are left out.
        truth: label indices ``int64 (N,)``, or of a multi-label target ``int64 (N, C)``, whose every label is then a
            question of its own. What is under 0 is not labelled, and left out.

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


def matched_temperature(
    logits: npt.NDArray[np.float32], probabilities: npt.NDArray[np.float32], *, multi_label: bool = False
) -> float:
    """Find the temperature at which logits give probabilities nearest to known ones: the minimum of the mean KL divergence.

    Logits that are a multiple of those behind the known probabilities give these back whole, within the limits. No
    labels are needed, so a handful of samples is enough, and equal logits get an equal temperature.

    Args:
        logits: ``float32 (N, C)``.
        probabilities: ``float32 (N, C)``. Rows that are not finite in either, or whose most probable label is another
            one, say nothing of a scale and are left out.
        multi_label: the probabilities are of labels of which any number may hold.

    Returns:
        A temperature from 0.05 to 20; 1 where no row says anything.
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

    The likelihood is log-concave in 1/T. Its slope there is what the wanted logits exceed the expected ones by, and
    that only rises with T: so its one zero can be found by halving.
    """
    low, high = math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        expected = float(
            (probabilities_from_logits(logits, math.exp(middle)) * logits).sum(axis=1).mean(dtype=np.float64)
        )
        low, high = (middle, high) if expected > wanted else (low, middle)
    return math.exp((low + high) / 2)
