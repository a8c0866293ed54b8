"""Metrics of one target of any kind, over the samples that are labelled for it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from vidrisk.metrics.classification import Floats, Ints, Metrics, classification_report
from vidrisk.metrics.multi_label import MultiLabelMetrics, multi_label_report
from vidrisk.runtimes.contract.contract import DECISION, Target

TargetMetrics = Metrics | MultiLabelMetrics


def labelled_rows(truth: Ints) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Return a mask ``(N,)`` of the samples that are labelled for a target.

    Args:
        truth: as returned by ``data.targets.truth_from_table``.
    """
    return np.asarray((truth.reshape(len(truth), -1) >= 0).all(axis=1))


def right_answers(
    target: Target, truth: Ints, probabilities: Floats, decision: Mapping[str, float] | None = None
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Return a mask ``(N,)`` of the right answers; of a multi-label target, every label must be right.

    The arguments are those of ``report_on_target``.
    """
    if target.multi_label:
        thresholds = np.array([(decision or {}).get(label, DECISION) for label in target.labels])
        return np.asarray(((probabilities >= thresholds) == (truth == 1)).all(axis=1))
    return np.asarray(probabilities.argmax(axis=1) == truth)


def report_on_target(
    target: Target, truth: Ints, probabilities: Floats, decision: Mapping[str, float] | None = None
) -> TargetMetrics | None:
    """Score a model on one target, or return None if no sample is labelled for it.

    Args:
        target: of the model.
        truth: ``(N,)``, or ``(N, C)`` for a multi-label target.
        probabilities: ``(N, C)``.
        decision: per label of a multi-label target, the least probability at which it is decided to hold.
    """
    rows = labelled_rows(truth)
    if not rows.any():
        return None
    if target.multi_label:
        thresholds = [(decision or {}).get(label, DECISION) for label in target.labels]
        return multi_label_report(truth[rows], probabilities[rows], target.labels, thresholds)
    return classification_report(truth[rows], probabilities[rows], target.labels, ordered=target.ordered)
