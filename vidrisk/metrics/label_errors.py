"""Detection of probably wrong labels by confident learning from out-of-fold probabilities. numpy only.

Northcutt, Jiang & Chuang, Confident Learning: Estimating Uncertainty in Dataset Labels, JAIR 2021. The threshold of a
class is the mean probability that the samples with its label have for it. Among the classes that reach their
threshold, the most probable one is a sample's likely class; the sample is suspected if that is not its label. Samples
are ranked by how far the probability of their label falls short of the most probable other class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vidrisk.runtimes.contract.errors import SpecError

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class LabelErrors:
    """Suspected label errors of one target.

    Attributes:
        order: samples, the most suspected first ``(N,)``.
        margin: per sample ``(N,)``, probability of its label minus that of the most probable other label, -1 to 1.
        likely: per sample ``(N,)``, its most probable label other than the given one.
        suspected: whether confident learning counts the label as wrong ``(N,)``.
        confident_joint: ``confident_joint[given][likely]`` samples.
    """

    order: Ints
    margin: Floats
    likely: Ints
    suspected: npt.NDArray[np.bool_]
    confident_joint: Ints

    @property
    def share(self) -> float:
        """Estimated share of wrong labels, 0–1."""
        return float(self.suspected.mean())


def find_label_errors(truth: Ints, probabilities: Floats) -> LabelErrors:
    """Rank samples by how probably their label is wrong.

    Args:
        truth: given labels ``(N,)``, N ≥ 1.
        probabilities: ``(N, C)`` of models that were not trained on the sample.

    Raises:
        SpecError: shapes do not match.
    """
    fits = truth.ndim == 1 and len(truth) and probabilities.ndim == 2 and len(probabilities) == len(truth)
    if not fits or probabilities.shape[1] < 2:
        raise SpecError(
            f"truth {truth.shape} and probabilities {probabilities.shape}",
            allowed="(N,) and (N, C), with C of at least 2",
        )
    rows, classes = np.arange(len(truth)), probabilities.shape[1]
    own = probabilities[rows, truth]
    counts = np.bincount(truth, minlength=classes)
    thresholds = np.bincount(truth, weights=own, minlength=classes) / np.maximum(counts, 1)
    thresholds[counts == 0] = np.inf  # no sample has the label, so no sample can be suspected of it
    reaches = probabilities >= thresholds
    likely = np.where(reaches, probabilities, -1.0).argmax(axis=1)
    likely = np.where(reaches.any(axis=1), likely, truth)
    joint = np.zeros((classes, classes), np.int64)
    counted = reaches.any(axis=1)
    np.add.at(joint, (truth[counted], likely[counted]), 1)
    others = probabilities.copy()
    others[rows, truth] = -np.inf
    margin = own - others.max(axis=1)
    likely = np.where(likely == truth, others.argmax(axis=1), likely)
    suspected = counted & (np.where(reaches, probabilities, -1.0).argmax(axis=1) != truth)
    return LabelErrors(np.argsort(margin, kind="stable"), margin, likely, suspected, joint)
