"""Conversion of logits to probabilities, and their calibration error. Needs only numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

ECE_BINS = 15


def probabilities_from_logits(
    logits: npt.NDArray[np.float32], temperature: float = 1.0, *, multi_label: bool = False
) -> npt.NDArray[np.float32]:
    """Return the softmax of ``logits / temperature`` row by row.

    A row whose logits are not all finite becomes NaN throughout.

    Args:
        logits: ``float32 (N, C)``.
        temperature: above 0; a higher value makes the probabilities less confident.
        multi_label: compute the sigmoid of each logit instead, since any number of labels may hold.
    """
    scaled = np.asarray(logits, np.float64) / temperature
    finite = np.isfinite(scaled).all(axis=1)
    if not finite.all():
        scaled[~finite] = np.nan
    if multi_label:
        sure: npt.NDArray[np.float32] = (0.5 * (1 + np.tanh(0.5 * scaled))).astype(np.float32)
        return sure
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    result: npt.NDArray[np.float32] = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    return result


def questions_from_labels(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Convert logits of a multi-label target to logits of yes-no questions.

    Args:
        logits: ``float32 (N, C)``.

    Returns:
        ``float32 (N * C, 2)`` for no and yes; the second column of its softmax is the sigmoid of the logit.
    """
    yes = np.asarray(logits, np.float32).reshape(-1)
    return np.stack([np.zeros_like(yes), yes], axis=1)


def expected_calibration_error(
    confidence: npt.NDArray[np.floating[Any]], correct: npt.NDArray[np.bool_], bins: int = ECE_BINS
) -> float:
    """Return the mean gap between confidence and accuracy over equal-width bins, weighted by their samples.

    Bins are half-open, ``(lower, upper]``. Guo et al., On Calibration of Modern Neural Networks, ICML 2017.

    Args:
        confidence: top-1 probabilities ``(N,)``.
        correct: whether the top-1 class was right ``(N,)``.
        bins: number of bins.
    """
    index = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gap = np.bincount(index, weights=confidence - correct, minlength=bins)
    return float(np.abs(gap).sum() / len(confidence))
