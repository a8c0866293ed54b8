"""Evaluation: a bundle or a run over labelled data, through the very pipeline that ``infer`` runs."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from vidrisk.data import Sample, Table
from vidrisk.data.targets import truth_from_table
from vidrisk.decode.messages import Input
from vidrisk.decode.pool import DecodePool
from vidrisk.decode.session import Limits
from vidrisk.files.lines import json_from_value
from vidrisk.inference.model import Classifier
from vidrisk.inference.stream import stream_answers
from vidrisk.jobs.run_settings import InferSettings
from vidrisk.metrics.certainty import Certainty, certainty_report
from vidrisk.metrics.classification import Metrics, worst_errors
from vidrisk.metrics.multi_label import worst_labels
from vidrisk.metrics.target_report import TargetMetrics, labelled_rows, report_on_target, right_answers
from vidrisk.runtimes.contract import versions
from vidrisk.runtimes.contract.contract import Target
from vidrisk.runtimes.contract.errors import DataError, is_installed
from vidrisk.runtimes.contract.progress import OnProgress, ignore_progress

log = logging.getLogger(__name__)

WORST = 20


@dataclass(frozen=True)
class Evaluation:
    """Metrics per target, the errors made with most confidence, and the samples that could not be read.

    Attributes:
        metrics: per target that any sample is labelled for.
        certainty: per target with one label, what its certain answers are worth.
        probabilities: ``(N, C)`` per target, of the readable samples in the table's order.
        rows: places of these samples in the table.
        by_source: per target and source (the group of a sample, else its folder) how many samples, and the share of right answers.
        data_notes: what was assumed when the table was read.
    """

    metrics: Mapping[str, TargetMetrics]
    probabilities: Mapping[str, npt.NDArray[np.float64]]
    worst: Mapping[str, list[dict[str, Any]]]
    unreadable: list[dict[str, str]]
    runtime: str
    variant: str
    provenance: Mapping[str, str]
    settings: Mapping[str, Any]
    certainty: Mapping[str, Certainty]
    data_notes: tuple[str, ...] = ()
    rows: tuple[int, ...] = field(default=(), repr=False)
    by_source: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)

    def to_json(self) -> str:
        content = {"runtime": self.runtime, "variant": self.variant, "provenance": dict(self.provenance),
                   "settings": dict(self.settings),
                   "metrics": {target: metrics.to_dict() for target, metrics in self.metrics.items()},
                   "certainty": {target: certainty.to_dict() for target, certainty in self.certainty.items()},
                   "by_source": self.by_source, "worst_errors": self.worst, "unreadable": self.unreadable,
                   "data_notes": list(self.data_notes)}
        return json_from_value(versions.EVALUATION.stamp(content), indent=2)


def evaluate(classifier: Classifier, table: Table, settings: InferSettings | None = None,
             on_progress: OnProgress = ignore_progress, *,
             pool: DecodePool | None = None) -> Evaluation:
    """Score a classifier on a table. Clips of several windows count once, by the mean of their probabilities.

    Args:
        pool: that decodes; None makes one, of ``settings.workers``.

    Raises:
        DataError: labels that the model does not know, no sample, or none that can be read.
    """
    if not len(table):
        raise DataError(f"{table.root.name} has no sample to score", fix="give data with samples, or name another split")
    settings = settings or InferSettings()
    contract = classifier.contract
    truth = truth_from_table(table, contract.targets)
    inputs = (Input(index, str(sample.path), sample.interval) for index, sample in enumerate(table.samples))
    answers: dict[int, dict[str, npt.NDArray[np.float64]]] = {}
    failed: dict[int, dict[str, str]] = {}
    notes: dict[int, str] = {}
    with nullcontext(pool) if pool else DecodePool(settings.workers) as opened, closing(stream_answers(
            inputs, classifier, opened, settings.for_reading(classifier), batch_frames=settings.batch_frames,
            limits=Limits(settings.file_timeout_s))) as results:
        for done, answer in enumerate(results):
            on_progress("evaluating", done, len(table))
            index, predictions, end = answer.input.id, list(answer.predictions), answer.end
            if predictions:
                if end.reason:
                    notes[index] = end.reason
                answers[index] = {target.name: np.mean([[p.targets[target.name][label] for label in target.labels]
                                                        for p in predictions], axis=0) for target in contract.targets}
            else:
                failed[index] = {**table.samples[index].identity, "state": end.state, "reason": end.reason}
    if not answers:
        raise DataError(f"none of {len(table)} samples can be read; the first: {failed[min(failed)]['reason']}")
    if notes:
        first = min(notes)
        log.warning("%d of %d samples are read with a reservation; the first: %s: %s", len(notes), len(table),
                    table.samples[first].title, notes[first])
    kept = np.array(sorted(answers))
    metrics, certainty, worst, probabilities, by_source = {}, {}, {}, {}, {}
    for target in contract.targets:
        probabilities[target.name] = scores = np.stack([answers[index][target.name] for index in kept])
        found = report_on_target(target, truth[target.name][kept], scores, classifier.decision.get(target.name))
        if found is None:
            log.warning("no sample is labelled for %s", target.name)
            continue
        metrics[target.name] = found
        rows = np.flatnonzero(labelled_rows(truth[target.name][kept]))
        chosen, scores = truth[target.name][kept][rows], scores[rows]
        right = right_answers(target, chosen, scores, classifier.decision.get(target.name))
        by_source[target.name] = _by_source([table.samples[kept[row]] for row in rows], right)
        if not target.multi_label:
            certainty[target.name] = certainty_report(chosen, scores, target, classifier.uncertainty)
        worst[target.name] = [{**table.samples[kept[rows[i]]].identity, **error}
                              for i, error in _worst_errors(target, chosen, scores)]
    return Evaluation(metrics, probabilities, worst, [failed[index] for index in sorted(failed)], classifier.runtime,
                      classifier.variant, classifier.provenance, asdict(settings), certainty, table.notes, tuple(kept.tolist()),
                      by_source)


def _by_source(samples: Sequence[Sample], right: npt.NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Count samples and right answers of each source; nothing where there is one source alone."""
    found: dict[str, list[bool]] = {}
    for sample, is_right in zip(samples, right.tolist(), strict=True):
        found.setdefault(sample.group or str(PurePosixPath(sample.name).parent), []).append(is_right)
    rows = [{"source": source, "n": len(each), "right": round(sum(each) / len(each), 6)} for source, each in found.items()]
    return sorted(rows, key=lambda row: (row["right"], -row["n"])) if len(rows) > 1 else []


def _worst_errors(target: Target, truth: npt.NDArray[np.int64],
                  scores: npt.NDArray[np.float64]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Name the errors that are made with most confidence: the sample, and what is wrong with it."""
    if target.multi_label:
        for sample, label in worst_labels(truth, scores, WORST):
            yield sample, {"label": target.labels[label], "holds": bool(truth[sample, label]),
                           "score": round(float(scores[sample, label]), 6)}
        return
    for sample in worst_errors(truth, scores, WORST):
        yield sample, {"true": target.labels[truth[sample]], "predicted": target.labels[scores[sample].argmax()],
                       "score": round(float(scores[sample].max()), 6)}


def write_evaluation(evaluation: Evaluation, path: Path) -> None:
    """Write the JSON, and beside it a confusion matrix and a risk–coverage curve per target where matplotlib is installed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(evaluation.to_json() + "\n", encoding="utf-8")
    if is_installed("matplotlib"):
        from vidrisk.metrics.plots import plot_confusion, plot_risk

        for target, metrics in evaluation.metrics.items():
            if isinstance(metrics, Metrics):
                plot_confusion(path.with_name(f"{path.stem}-confusion-{target}.png"), metrics)
                plot_risk(path.with_name(f"{path.stem}-risk-{target}.png"), evaluation.certainty[target])
