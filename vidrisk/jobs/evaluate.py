"""Evaluation: a bundle or a run over labelled data, through the very pipeline that ``infer`` runs."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
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
from vidrisk.inference.input_views import ONE_VIEW, Views
from vidrisk.inference.model import Classifier
from vidrisk.inference.stream import stream_answers
from vidrisk.jobs.run_settings import InferSettings
from vidrisk.jobs.worst import WorstError, find_worst
from vidrisk.metrics.certainty import Certainty, certainty_report
from vidrisk.metrics.classification import Metrics
from vidrisk.metrics.target_report import TargetMetrics, labelled_rows, report_on_target, right_answers
from vidrisk.runtimes.contract import versions
from vidrisk.runtimes.contract.errors import DataError, is_installed
from vidrisk.runtimes.contract.progress import OnProgress, ignore_progress

log = logging.getLogger(__name__)


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
        views: whose mean was scored.
        one_view: metrics of the model's own view alone, where there are several.
        errors: those of ``worst``, with where they are to be seen.
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
    views: Views = ONE_VIEW
    one_view: Mapping[str, TargetMetrics] = field(default_factory=dict)
    errors: Mapping[str, list[WorstError]] = field(default_factory=dict, repr=False)

    def to_json(self) -> str:
        content = {"runtime": self.runtime, "variant": self.variant, "provenance": dict(self.provenance),
                   "settings": dict(self.settings),
                   "metrics": {target: metrics.to_dict() for target, metrics in self.metrics.items()},
                   "certainty": {target: certainty.to_dict() for target, certainty in self.certainty.items()},
                   "by_source": self.by_source, "worst_errors": self.worst, "unreadable": self.unreadable,
                   "data_notes": list(self.data_notes)}
        if self.views.count > 1:
            content["views"] = {"offsets": self.views.offsets, "mirrored": self.views.is_mirrored, "count": self.views.count,
                                "one_view": {target: metrics.to_dict() for target, metrics in self.one_view.items()}}
        return json_from_value(versions.EVALUATION.stamp(content), indent=2)


def evaluate(classifier: Classifier, table: Table, settings: InferSettings | None = None,
             on_progress: OnProgress = ignore_progress, *,
             pool: DecodePool | None = None, views: Views = ONE_VIEW) -> Evaluation:
    """Score a classifier on a table. Clips of several windows, and views, count once, by the mean of their probabilities.

    Args:
        pool: that decodes; None makes one, of ``settings.workers``.

    Raises:
        DataError: labels that the model does not know, no sample, or none that can be read.
        SettingsError: views that the model cannot answer.
    """
    if not len(table):
        raise DataError(f"{table.root.name} has no sample to score", fix="give data with samples, or name another split")
    settings = settings or InferSettings()
    contract = classifier.contract
    truth = truth_from_table(table, contract.targets)
    inputs = (Input(index, str(sample.path), sample.interval) for index, sample in enumerate(table.samples))
    answers: dict[int, dict[str, npt.NDArray[np.float64]]] = {}
    own: dict[int, dict[str, npt.NDArray[np.float64]]] = {}  # of the one view that the model has without others
    reading = settings.for_reading(classifier)
    views.check(contract, reading.time)
    failed: dict[int, dict[str, str]] = {}
    spans: dict[int, tuple[float, float]] = {}
    notes: dict[int, str] = {}
    with nullcontext(pool) if pool else DecodePool(settings.workers) as opened, closing(stream_answers(
            inputs, classifier, opened, views.for_reading(reading), batch_frames=settings.batch_frames,
            limits=Limits(settings.file_timeout_s), tap=views.split)) as results:
        for done, answer in enumerate(results):
            on_progress("evaluating", done, len(table))
            index, predictions, end = answer.input.id, list(answer.predictions), answer.end
            if predictions:
                if predictions[0].start_s is not None:
                    spans[index] = min(p.start_s or 0.0 for p in predictions), max(p.end_s or 0.0 for p in predictions)
                if end.reason:
                    notes[index] = end.reason
                found = {target.name: np.array([[p.targets[target.name][label] for label in target.labels] for p in predictions])
                         for target in contract.targets}
                if views.count == 1:
                    answers[index] = {name: scores.mean(axis=0) for name, scores in found.items()}
                    continue
                means = {target.name: views.mean(found[target.name], target.labels) for target in contract.targets}
                answers[index] = {name: mean for name, (mean, _) in means.items()}
                own[index] = {name: one for name, (_, one) in means.items()}
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
    one_view: dict[str, TargetMetrics] = {}
    for target in contract.targets:
        probabilities[target.name] = scores = np.stack([answers[index][target.name] for index in kept])
        report = report_on_target(target, truth[target.name][kept], scores, classifier.decision.get(target.name))
        if report is None:
            log.warning("no sample is labelled for %s", target.name)
            continue
        metrics[target.name] = report
        if own:
            alone = report_on_target(target, truth[target.name][kept], np.stack([own[index][target.name] for index in kept]),
                                     classifier.decision.get(target.name))
            one_view |= {target.name: alone} if alone else {}
        rows = np.flatnonzero(labelled_rows(truth[target.name][kept]))
        chosen, scores = truth[target.name][kept][rows], scores[rows]
        right = right_answers(target, chosen, scores, classifier.decision.get(target.name))
        by_source[target.name] = _by_source([table.samples[kept[row]] for row in rows], right)
        if not target.multi_label:
            certainty[target.name] = certainty_report(chosen, scores, target, classifier.uncertainty)
        worst[target.name] = [WorstError.of(table.samples[kept[rows[i]]], told, spans.get(int(kept[rows[i]])))
                              for i, told in find_worst(target, chosen, scores)]
    told = {target: [error.told for error in errors] for target, errors in worst.items()}
    return Evaluation(metrics, probabilities, told, [failed[index] for index in sorted(failed)], classifier.runtime,
                      classifier.variant, classifier.provenance, asdict(settings), certainty, table.notes, tuple(kept.tolist()),
                      by_source, views, one_view, worst)


def _by_source(samples: Sequence[Sample], right: npt.NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Count samples and right answers of each source; nothing where there is one source alone."""
    found: dict[str, list[bool]] = {}
    for sample, is_right in zip(samples, right.tolist(), strict=True):
        found.setdefault(sample.group or str(PurePosixPath(sample.name).parent), []).append(is_right)
    rows = [{"source": source, "n": len(each), "right": round(sum(each) / len(each), 6)} for source, each in found.items()]
    return sorted(rows, key=lambda row: (row["right"], -row["n"])) if len(rows) > 1 else []


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
