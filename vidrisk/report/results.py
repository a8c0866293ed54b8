"""Contents of the page, computed by streaming ``summary.json``, the ledger and ``predictions.jsonl``."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from vidrisk.inference.predictions import Prediction, read_predictions
from vidrisk.jobs.kept_thumbnails import MAX_CARDS
from vidrisk.jobs.ledger import Row, read_ledger
from vidrisk.jobs.summary import Summary, read_summary

MAX_FAILURES = 1000
EXAMPLES_PER_CLASS = 5
HISTOGRAM_BINS = 10
BANDS = ("low", "moderate", "high", "severe")


@dataclass(frozen=True)
class InputResult:
    """One input of the gallery: its most relevant window, the number of its windows, and where the last one ends."""

    prediction: Prediction
    windows: int
    end_s: float | None


@dataclass
class ClassLine:
    """Statistics of one label of the first target.

    ``mean_severity`` is None if the contract has no severities.
    """

    label: str
    count: int = 0
    uncertain: int = 0
    score_sum: float = 0.0
    severity_sum: float | None = None

    @property
    def mean_score(self) -> float:
        return self.score_sum / self.count if self.count else 0.0

    @property
    def mean_severity(self) -> float | None:
        return None if self.severity_sum is None or not self.count else self.severity_sum / self.count


@dataclass(frozen=True)
class Level:
    label: str
    count: int
    band: str


@dataclass
class Results:
    """Contents of the page.

    Attributes:
        classes: labels of the first target, most frequent first; empty if a question was asked.
        levels: of the target ``level``, least severe first; empty if there is none.
        histogram: predictions per tenth of the severity scale; empty without severities.
        gallery: at most ``MAX_CARDS`` inputs, in the order given by ``by_severity``.
        gallery_total: inputs with a prediction.
        failures: inputs that were not read, or only in part; at most ``MAX_FAILURES`` of ``failures_total``.
    """

    summary: Summary
    by_severity: bool
    classes: list[ClassLine] = field(default_factory=list)
    levels: list[Level] = field(default_factory=list)
    histogram: list[int] = field(default_factory=list)
    gallery: list[InputResult] = field(default_factory=list)
    gallery_total: int = 0
    failures: list[Row] = field(default_factory=list)
    failures_total: int = 0


def read_results(out: str | os.PathLike[str]) -> Results:
    """Read the results of a finished run.

    Raises:
        DataError: the run has not finished, or its files are not of this version.
        VidriskError: there is no ledger.
    """
    summary = read_summary(out)
    results = Results(summary, by_severity=summary.mean_severity is not None)
    not_whole = [row for row in read_ledger(out) if row.state not in ("ok", "pending")]
    results.failures, results.failures_total = not_whole[:MAX_FAILURES], len(not_whole)
    _count(results, out)
    results.gallery_total = sum(summary.states.get(state, 0) for state in ("ok", "partial"))
    results.gallery = _gallery(out, results.by_severity)
    return results


def band_from_severity(severity: float) -> str:
    """Return ``low`` under 25, ``moderate`` under 50, ``high`` under 75, else ``severe``."""
    return BANDS[min(int(severity // 25), 3)]


def _count(results: Results, out: str | os.PathLike[str]) -> None:
    targets = results.summary.targets
    lines = {label: ClassLine(label) for target in targets[:1] for label in target["labels"]}
    if results.by_severity:
        results.histogram = [0] * HISTOGRAM_BINS
    for prediction in read_predictions(out):
        line = lines.get(prediction.label)
        if line is None:  # the answer names no level
            continue
        line.count += 1
        line.uncertain += bool(prediction.uncertain)
        line.score_sum += prediction.score
        if prediction.severity is not None:
            line.severity_sum = (line.severity_sum or 0.0) + prediction.severity
            results.histogram[min(int(prediction.severity * HISTOGRAM_BINS / 100), HISTOGRAM_BINS - 1)] += 1
    results.classes = sorted(lines.values(), key=lambda line: -line.count)
    for target in targets:
        if target["name"] == "level" and target["severity"] is not None:
            counts = results.summary.labels["level"]
            results.levels = [
                Level(label, counts[label], band_from_severity(severity))
                for label, severity in zip(target["labels"], target["severity"], strict=True)
            ]


def _gallery(out: str | os.PathLike[str], by_severity: bool) -> list[InputResult]:
    """Return the most urgent inputs; without severities also the surest examples of every class."""
    shown = heapq.nsmallest(MAX_CARDS, _inputs(out), key=_urgency)
    if by_severity or len(shown) < MAX_CARDS:
        return shown
    surest: dict[str, list[InputResult]] = {}
    for result in _inputs(out):
        label = result.prediction.label
        surest[label] = heapq.nsmallest(EXAMPLES_PER_CLASS, [*surest.get(label, []), result], key=_doubt)
    examples = [
        surest[label][place]
        for place in range(EXAMPLES_PER_CLASS)
        for label in sorted(surest)
        if place < len(surest[label])
    ]
    chosen = {result.prediction.path: result for result in examples[: MAX_CARDS // 2]}
    for result in shown:
        if len(chosen) < MAX_CARDS:
            chosen.setdefault(result.prediction.path, result)
    return sorted(chosen.values(), key=_urgency)


def _inputs(out: str | os.PathLike[str]) -> Iterator[InputResult]:
    for _, windows in groupby(read_predictions(out), key=attrgetter("path")):
        yield _result_from_windows(windows)


def _result_from_windows(windows: Iterator[Prediction]) -> InputResult:
    """Reduce the windows of one input, holding two at a time, since a long video has thousands."""
    first = next(windows)
    result = InputResult(first, 1, first.end_s)
    for prediction in windows:
        most = min(result, InputResult(prediction, 1, prediction.end_s), key=_urgency)
        result = InputResult(most.prediction, result.windows + 1, prediction.end_s)
    return result


def _urgency(result: InputResult) -> tuple[float, float, str]:
    """Return a sort key: the most severe first, or without severities the least certain first.

    Inputs finish in any order, but the page must not depend on it: ties, such as answers to a question, are sorted by
    path.
    """
    prediction = result.prediction
    return (0.0 if prediction.severity is None else -prediction.severity, prediction.score, prediction.path)


def _doubt(result: InputResult) -> tuple[float, str]:
    """Return a sort key: the surest first."""
    return (-result.prediction.score, result.prediction.path)


def common_folder(paths: Sequence[str]) -> Path:
    """Return the deepest folder that contains all ``paths``."""
    return Path(os.path.commonpath([Path(path).parent for path in paths])) if paths else Path()
