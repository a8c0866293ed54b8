"""The metrics of one target, whichever kind it is, over the samples that are labelled for it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from vidrisk.metrics.classification import Floats, Ints, Metrics, classification_report
from vidrisk.metrics.multi_label import MultiLabelMetrics, multi_label_report
from vidrisk.runtimes.contract.contract import DECISION, Target

TargetMetrics = Metrics | MultiLabelMetrics


def labelled_rows(truth: Ints) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Tell which samples are labelled for a target ``(N,)``.

    Args:
        truth: as ``data.targets.truth_from_table`` gives it.
    """
    return np.asarray((truth.reshape(len(truth), -1) >= 0).all(axis=1))


def right_answers(
    target: Target, truth: Ints, probabilities: Floats, decision: Mapping[str, float] | None = None
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Tell which answers are right ``(N,)``, of a multi-label target as a whole. Arguments as of ``report_on_target``."""
    if target.multi_label:
        thresholds = np.array([(decision or {}).get(label, DECISION) for label in target.labels])
        return np.asarray(((probabilities >= thresholds) == (truth == 1)).all(axis=1))
    return np.asarray(probabilities.argmax(axis=1) == truth)


def report_on_target(
    target: Target, truth: Ints, probabilities: Floats, decision: Mapping[str, float] | None = None
) -> TargetMetrics | None:
    """Score a model on one target; None where no sample is labelled for it.

    Args:
        truth: ``(N,)``, or ``(N, C)`` of a multi-label target.
        probabilities: ``(N, C)``.
        decision: per label of a multi-label target the probability from which on it holds.
    """
    rows = labelled_rows(truth)
    if not rows.any():
        return None
    if target.multi_label:
        thresholds = [(decision or {}).get(label, DECISION) for label in target.labels]
        return multi_label_report(truth[rows], probabilities[rows], target.labels, thresholds)
    return classification_report(truth[rows], probabilities[rows], target.labels, ordered=target.ordered)
