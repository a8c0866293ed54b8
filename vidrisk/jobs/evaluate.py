"""Evaluation of a bundle or a run on labelled data, through the pipeline that ``infer`` runs."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from vidrisk.data import Sample, Table
from vidrisk.data.io import check_vacant
from vidrisk.data.split import choose_split, count_splits
from vidrisk.data.targets import truth_from_table
from vidrisk.decode.pool import DecodePool
from vidrisk.files.lines import json_from_value
from vidrisk.inference.input_views import ONE_VIEW, Views
from vidrisk.inference.model import Classifier
from vidrisk.jobs.ask_samples import ask_samples
from vidrisk.jobs.run_settings import InferSettings
from vidrisk.jobs.worst import WorstError, find_worst
from vidrisk.metrics.certainty import Certainty, certainty_report
from vidrisk.metrics.classification import Metrics
from vidrisk.metrics.target_report import TargetMetrics, labelled_rows, report_on_target, right_answers
from vidrisk.runtimes.contract import versions
from vidrisk.runtimes.contract.bundle import MANIFEST
from vidrisk.runtimes.contract.errors import DataError, is_installed
from vidrisk.runtimes.contract.progress import OnProgress, ignore_progress

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """Metrics per target, the errors made with most confidence, and the unreadable samples.

    Attributes:
        metrics: per target that any sample is labelled for.
        certainty: per single-label target, the quality of its certain answers.
        probabilities: ``(N, C)`` per target, of the readable samples in the table's order.
        errors: per target those made with most confidence, and where to see them.
        rows: places of the readable samples in the table.
        by_source: per target and source (the group of a sample, else its folder) the number of samples and the share of
            right answers.
        data_notes: what was assumed when the table was read.
        views: whose mean was scored.
        one_view: metrics of the model's own view alone, if there are several views.
        splits: number of the scored samples in each split; those without a split are not counted.
    """

    metrics: Mapping[str, TargetMetrics]
    probabilities: Mapping[str, npt.NDArray[np.float64]]
    errors: Mapping[str, list[WorstError]] = field(repr=False)
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
    splits: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> str:
        content = {
            "runtime": self.runtime,
            "variant": self.variant,
            "provenance": dict(self.provenance),
            "settings": dict(self.settings),
            "splits": dict(self.splits),
            "metrics": {target: metrics.to_dict() for target, metrics in self.metrics.items()},
            "certainty": {target: certainty.to_dict() for target, certainty in self.certainty.items()},
            "by_source": self.by_source,
            "unreadable": self.unreadable,
            "data_notes": list(self.data_notes),
            "worst_errors": {target: [error.told for error in errors] for target, errors in self.errors.items()},
        }
        if self.views.count > 1:
            content["views"] = {
                "offsets": self.views.offsets,
                "mirrored": self.views.is_mirrored,
                "count": self.views.count,
                "one_view": {target: metrics.to_dict() for target, metrics in self.one_view.items()},
            }
        return json_from_value(versions.EVALUATION.stamp(content), indent=2)


def evaluate(
    classifier: Classifier,
    table: Table,
    settings: InferSettings | None = None,
    on_progress: OnProgress = ignore_progress,
    *,
    pool: DecodePool | None = None,
    views: Views = ONE_VIEW,
) -> Evaluation:
    """Score a classifier on a table.

    Clips with several windows or views count once, by the mean of their probabilities.

    Args:
        classifier: to score.
        table: with the labelled samples.
        settings: of the run.
        on_progress: reports the number of samples done.
        pool: that decodes; None makes one with ``settings.workers``.
        views: of each sample.

    Raises:
        DataError: labels that the model does not know, no sample, or none that can be read.
        SettingsError: views that the model cannot answer.
    """
    if not len(table):
        raise DataError(
            f"{table.root.name} has no sample to score", fix="give data with samples, or name another split"
        )
    settings = settings or InferSettings()
    contract = classifier.contract
    truth = truth_from_table(table, contract.targets)
    found = ask_samples(classifier, table, settings, on_progress, pool=pool, views=views)
    answers, own = found.mean, found.own
    if not answers:
        raise DataError(
            f"none of {len(table)} samples can be read; the first: {found.failed[min(found.failed)]['reason']}"
        )
    if found.notes:
        first = min(found.notes)
        log.warning(
            "%d of %d samples were read with reservations; the first: %s: %s",
            len(found.notes),
            len(table),
            table.samples[first].title,
            found.notes[first],
        )
    kept = np.array(sorted(answers))
    metrics, certainty, errors, probabilities, by_source = {}, {}, {}, {}, {}
    one_view: dict[str, TargetMetrics] = {}
    for target in contract.targets:
        probabilities[target.name] = scores = np.stack([answers[index][target.name] for index in kept])
        report = report_on_target(target, truth[target.name][kept], scores, classifier.decision.get(target.name))
        if report is None:
            log.warning("no sample is labelled for %s", target.name)
            continue
        metrics[target.name] = report
        if own:
            alone = report_on_target(
                target,
                truth[target.name][kept],
                np.stack([own[index][target.name] for index in kept]),
                classifier.decision.get(target.name),
            )
            one_view |= {target.name: alone} if alone else {}
        rows = np.flatnonzero(labelled_rows(truth[target.name][kept]))
        chosen, scores = truth[target.name][kept][rows], scores[rows]
        right = right_answers(target, chosen, scores, classifier.decision.get(target.name))
        by_source[target.name] = _by_source([table.samples[kept[row]] for row in rows], right)
        if not target.multi_label:
            certainty[target.name] = certainty_report(chosen, scores, target, classifier.uncertainty)
        errors[target.name] = [
            WorstError.of(table.samples[kept[rows[i]]], told, found.spans_s.get(int(kept[rows[i]])))
            for i, told in find_worst(target, chosen, scores)
        ]
    return Evaluation(
        metrics,
        probabilities,
        errors,
        [found.failed[index] for index in sorted(found.failed)],
        classifier.runtime,
        classifier.variant,
        classifier.provenance,
        asdict(settings),
        certainty,
        table.notes,
        tuple(kept.tolist()),
        by_source,
        views,
        one_view,
        count_splits(table.samples[row] for row in kept),
    )


def choose_scored(table: Table, split: str | None, *models: Path) -> Table:
    """Return the samples of a split (see ``choose_split``), and log how many of them each run was trained on.

    Args:
        table: the labelled samples.
        split: name of a split, ``all``, or None for the default.
        models: runs or bundles to score; a bundle does not record its training samples.

    Raises:
        SettingsError: no such split.
    """
    chosen = choose_split(table, split)
    for model in models:
        _warn_of_training_samples(model, chosen)
    return chosen


def _warn_of_training_samples(model: Path, table: Table) -> None:
    if (model / MANIFEST).is_file():
        return
    from vidrisk.data.choice import Shown
    from vidrisk.models.run import SPLIT, Run

    if not (model / SPLIT).is_file():
        return
    trained = Shown(Run.open(model).read_split().of_split("train"))
    if seen := sum(sample in trained for sample in table.samples):
        log.warning(
            "%s was trained on %d of the %d scored samples, so the figures are too good", model, seen, len(table)
        )


def _by_source(samples: Sequence[Sample], right: npt.NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Count samples and right answers of each source; return nothing if there is only one source."""
    found: dict[str, list[bool]] = {}
    for sample, is_right in zip(samples, right.tolist(), strict=True):
        found.setdefault(sample.group or str(PurePosixPath(sample.name).parent), []).append(is_right)
    rows = [
        {"source": source, "n": len(each), "right": round(sum(each) / len(each), 6)} for source, each in found.items()
    ]
    return sorted(rows, key=lambda row: (row["right"], -row["n"])) if len(rows) > 1 else []


def errors_page(path: Path) -> Path:
    """Return the path of the page of errors beside the JSON of an evaluation."""
    return path.with_name(f"{path.stem}-errors.html")


def check_new_evaluation(path: Path, targets: Iterable[str] = ()) -> None:
    """Refuse a path where an evaluation would overwrite a file, before anything is computed.

    Args:
        path: of the JSON.
        targets: names of the model's targets, for the plots beside it; none while they are not known yet.

    Raises:
        DataError: the JSON, the page of errors or a plot exists.
        SettingsError: the path lies below a file.
    """
    plots = [path.with_name(f"{path.stem}-{kind}-{target}.png") for target in targets for kind in ("confusion", "risk")]
    for each in (path, errors_page(path), *plots):
        check_vacant(each)


def write_evaluation(evaluation: Evaluation, path: Path) -> None:
    """Write the JSON and, if matplotlib is installed, plots beside it.

    The plots are a confusion matrix and a risk–coverage curve per target.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(evaluation.to_json() + "\n", encoding="utf-8")
    if is_installed("matplotlib"):
        from vidrisk.metrics.plots import plot_confusion, plot_risk

        for target, metrics in evaluation.metrics.items():
            if isinstance(metrics, Metrics):
                plot_confusion(path.with_name(f"{path.stem}-confusion-{target}.png"), metrics)
                plot_risk(path.with_name(f"{path.stem}-risk-{target}.png"), evaluation.certainty[target])
