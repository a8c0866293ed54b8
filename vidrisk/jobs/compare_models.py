"""Comparison of two models on the same labelled samples: which is better beyond chance, and where they differ."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vidrisk.data import Table
from vidrisk.data.split import count_splits
from vidrisk.data.targets import truth_from_table
from vidrisk.decode.pool import DecodePool
from vidrisk.files.lines import json_from_value
from vidrisk.inference.model import Classifier
from vidrisk.jobs.evaluate import Evaluation, evaluate
from vidrisk.jobs.run_settings import InferSettings
from vidrisk.metrics.paired_models import Compared, compare_answers, compare_scores
from vidrisk.metrics.target_report import labelled_rows, right_answers
from vidrisk.runtimes.contract import versions
from vidrisk.runtimes.contract.contract import Contract, Target
from vidrisk.runtimes.contract.errors import DataError
from vidrisk.runtimes.contract.progress import OnProgress, ignore_progress

log = logging.getLogger(__name__)

MAX_CHANGED = 200


@dataclass(frozen=True)
class ModelComparison:
    """Two models, the second compared with the first.

    Attributes:
        names: of the two, with runtime and variant.
        figures: per target the compared figures, the share of right answers first.
        per_class: per target and label the share of its samples that each model answers correctly, and their number.
        changed: per target the first 200 samples that one model answers correctly and the other does not.
        samples: that both could score.
        unreadable: samples that at least one of the two could not score.
        splits: number of the scored samples in each split; those without a split are not counted.
    """

    names: tuple[str, str]
    figures: Mapping[str, tuple[Compared, ...]]
    per_class: Mapping[str, list[dict[str, Any]]]
    changed: Mapping[str, list[dict[str, Any]]]
    samples: int
    unreadable: int
    data_notes: tuple[str, ...] = ()
    splits: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> str:
        content = {
            "first": self.names[0],
            "second": self.names[1],
            "samples": self.samples,
            "unreadable": self.unreadable,
            "splits": dict(self.splits),
            "figures": {target: [figure.to_dict() for figure in figures] for target, figures in self.figures.items()},
            "per_class": self.per_class,
            "changed": self.changed,
            "data_notes": list(self.data_notes),
        }
        return json_from_value(versions.MODEL_COMPARISON.stamp(content), indent=2)


def compare_models(
    first: Classifier,
    second: Classifier,
    table: Table,
    settings: InferSettings | None = None,
    on_progress: OnProgress = ignore_progress,
    *,
    pool: DecodePool | None = None,
) -> ModelComparison:
    """Score both models on a table, and compare them sample by sample.

    Samples of one group do not count as independent evidence.

    Raises:
        DataError: as ``evaluate``; models that share no target with the same labels, or no sample that both can score.
    """
    targets = common_targets(first.contract, second.contract)
    found = [evaluate(model, table, settings, on_progress, pool=pool) for model in (first, second)]
    rows = sorted(set(found[0].rows) & set(found[1].rows))
    if not rows:
        raise DataError(f"no sample of {table.root.name} can be scored by both models")
    truth = truth_from_table(table, targets)
    figures, per_class, changed = {}, {}, {}
    for target in targets:
        labelled = [row for row in rows if labelled_rows(truth[target.name][row : row + 1])[0]]
        if not labelled:
            log.warning("no sample is labelled for %s", target.name)
            continue
        known = truth[target.name][labelled]
        scores = [
            _scores_of(evaluation, model.contract, target, labelled)
            for evaluation, model in zip(found, (first, second), strict=True)
        ]
        right = [
            right_answers(target, known, each, model.decision.get(target.name))
            for each, model in zip(scores, (first, second), strict=True)
        ]
        groups = [table.samples[row].group for row in labelled]
        decided = [_apply_decision(target, each, model) for each, model in zip(scores, (first, second), strict=True)]
        further = (
            compare_scores("macro_f1", known, decided[0], decided[1], groups),
            compare_scores("mean_average_precision", known, scores[0], scores[1], groups),
        )
        figures[target.name] = (compare_answers(right[0], right[1], groups), *(figure for figure in further if figure))
        per_class[target.name] = _per_class(target, known, right)
        changed[target.name] = [
            {**table.samples[labelled[place]].identity, "right": names}
            for place, names in (
                (int(place), "second" if right[1][place] else "first")
                for place in np.flatnonzero(right[0] != right[1])[:MAX_CHANGED]
            )
        ]
    names = [f"{model.provenance.get('model', 'model')} ({model.runtime} {model.variant})" for model in (first, second)]
    splits = count_splits(table.samples[row] for row in rows)
    return ModelComparison(
        (names[0], names[1]), figures, per_class, changed, len(rows), len(table) - len(rows), table.notes, splits
    )


def common_targets(first: Contract, second: Contract) -> tuple[Target, ...]:
    """Return the targets that both models answer with the same labels, in any order.

    Raises:
        DataError: there is none.
    """
    found = tuple(
        target
        for target in first.targets
        if (other := second.target(target.name)) is not None
        and set(other.labels) == set(target.labels)
        and other.multi_label == target.multi_label
    )
    if not found:
        told = "; ".join(f"{target.name}: {len(target.labels)} labels" for target in (*first.targets, *second.targets))
        raise DataError(
            f"the models answer different questions ({told})", allowed="a target with the same labels in both"
        )
    return found


def _scores_of(evaluation: Evaluation, contract: Contract, target: Target, rows: list[int]) -> np.ndarray[Any, Any]:
    """Return the probabilities of some rows of the table, with the labels in the order of ``target``."""
    place = {row: number for number, row in enumerate(evaluation.rows)}
    own = contract.target(target.name)
    assert own is not None
    columns = [own.labels.index(label) for label in target.labels]
    return evaluation.probabilities[target.name][[place[row] for row in rows]][:, columns]


def _apply_decision(target: Target, scores: np.ndarray[Any, Any], model: Classifier) -> np.ndarray[Any, Any]:
    """Return the scores, or for a multi-label target the decisions, 1 or 0."""
    if not target.multi_label:
        return scores
    return (scores >= np.array([model.decision[target.name][label] for label in target.labels])).astype(float)


def _per_class(target: Target, truth: np.ndarray[Any, Any], right: list[np.ndarray[Any, Any]]) -> list[dict[str, Any]]:
    rows = []
    for number, label in enumerate(target.labels):
        members = truth[:, number] == 1 if target.multi_label else truth == number
        if members.any():
            rows.append(
                {
                    "label": label,
                    "n": int(members.sum()),
                    "first": round(float(right[0][members].mean()), 6),
                    "second": round(float(right[1][members].mean()), 6),
                }
            )
    return rows
