"""Evaluation: a bundle or a run over labelled data, through the very pipeline that ``infer`` runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vidrisk.data import Table
from vidrisk.data.targets import truth_from_table
from vidrisk.infer.classifier import Classifier
from vidrisk.infer.ledger import Row
from vidrisk.infer.pipeline import InferSettings, predicted
from vidrisk.infer.summary import Meter
from vidrisk.metrics import Metrics, classification_report, worst_errors
from vidrisk.runtimes.errors import DataError, is_installed

WORST = 20


@dataclass(frozen=True)
class Evaluation:
    """Metrics per target, the errors made with most confidence, and the samples that could not be read.

    Attributes:
        probabilities: ``(N, C)`` per target, of the readable samples in the table's order.
    """

    metrics: Mapping[str, Metrics]
    probabilities: Mapping[str, npt.NDArray[np.float64]]
    worst: Mapping[str, list[dict[str, Any]]]
    unreadable: list[dict[str, str]]
    runtime: str
    variant: str
    provenance: Mapping[str, str]
    settings: Mapping[str, Any]

    def to_json(self) -> str:
        content = {"runtime": self.runtime, "variant": self.variant, "provenance": dict(self.provenance),
                   "settings": dict(self.settings),
                   "metrics": {target: metrics.to_dict() for target, metrics in self.metrics.items()},
                   "worst_errors": self.worst, "unreadable": self.unreadable}
        return json.dumps(content, indent=2, ensure_ascii=False)


def evaluate(classifier: Classifier, table: Table, settings: InferSettings | None = None,
             on_progress: Callable[[str, int, int], None] = lambda what, done, total: None) -> Evaluation:
    """Score a classifier on a table. Clips of several windows count once, by the mean of their probabilities.

    Raises:
        DataError: labels that the model does not know, or no sample that can be read.
    """
    settings = settings or InferSettings()
    contract = classifier.contract
    truth = truth_from_table(table, contract.targets)
    rows = (Row(index, str(sample.path)) for index, sample in enumerate(table.samples))
    answers: dict[int, dict[str, npt.NDArray[np.float64]]] = {}
    failed: dict[int, dict[str, str]] = {}
    with closing(predicted(classifier, rows, settings, Meter())) as results:
        for done, (row, of_clip) in enumerate(results):
            on_progress("evaluating", done, len(table))
            predictions = list(of_clip)
            if predictions:
                answers[row.id] = {target.name: np.mean([[p.targets[target.name][label] for label in target.labels]
                                                         for p in predictions], axis=0) for target in contract.targets}
            else:
                failed[row.id] = {"path": table.samples[row.id].name, "state": row.state, "reason": row.reason}
    if not answers:
        raise DataError(f"none of {len(table)} samples can be read; the first: {failed[min(failed)]['reason']}")
    kept = np.array(sorted(answers))
    metrics, worst, probabilities = {}, {}, {}
    for target in contract.targets:
        chosen = truth[target.name][kept]
        probabilities[target.name] = scores = np.stack([answers[index][target.name] for index in kept])
        metrics[target.name] = classification_report(chosen, scores, target.labels, ordered=target.ordered)
        worst[target.name] = [{"path": table.samples[kept[i]].name, "true": target.labels[chosen[i]],
                               "predicted": target.labels[scores[i].argmax()], "score": round(float(scores[i].max()), 6)}
                              for i in worst_errors(chosen, scores, WORST)]
    return Evaluation(metrics, probabilities, worst, [failed[index] for index in sorted(failed)], classifier.runtime,
                      classifier.variant, classifier.provenance, asdict(settings))


def write_evaluation(evaluation: Evaluation, path: Path) -> None:
    """Write the JSON, and beside it a confusion matrix per target where matplotlib is installed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(evaluation.to_json() + "\n", encoding="utf-8")
    if is_installed("matplotlib"):
        from vidrisk.plots import plot_confusion

        for target, metrics in evaluation.metrics.items():
            plot_confusion(path.with_name(f"{path.stem}-confusion-{target}.png"), metrics)
