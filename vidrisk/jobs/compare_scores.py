"""Scores of generated reports, accumulated one by one: levels, choices, texts, confidence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from vidrisk.data.scheme import ReportField, Scheme
from vidrisk.jobs.compared import Compared, Lead
from vidrisk.metrics.names import NameScores, name_scores
from vidrisk.runtimes.contract.probabilities import expected_calibration_error
from vidrisk.runtimes.shares import share_interval


@dataclass(frozen=True)
class Share:
    """A share with its 95 % interval (Wilson 1927)."""

    count: int
    of: int
    share: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class TextScores:
    """Texts of one field compared with the true ones; means over reports whose true text is known, 0–1.

    Attributes:
        missing: reports without a text; they score 0.
        exact: share of texts that are equal.
        length_ratio: characters written per true character.
    """

    n: int
    missing: int
    rouge_l: float
    chrf: float
    exact: float
    length_ratio: float


@dataclass(frozen=True)
class ReportScores:
    """Scores of generated reports.

    Attributes:
        reports: reports that have a case in the truth, or all if no truth was given.
        parsed: share of these that could be parsed as the scheme requires.
        levels: per field of kind level; empty if no true level is known.
        choices: per field of kind choice.
        texts: per text field.
        ece: expected calibration error of the confidence in the level, over ``with_confidence`` reports whose true
            level is known; None if there are none.
        abstained: share of uncertain reports among those that say whether they are certain; None if no report does.
        finish: number of reports by the reason why their answer ended.
        answer_tokens: mean number.
        lead: of the classifier's level; None without a classifier, or without a true level.
        agreement: share of reports with the classifier's level, among those that have a level and whose photo it has
            seen; None without a classifier.
    """

    reports: int
    parsed: Share | None
    levels: Mapping[str, NameScores]
    choices: Mapping[str, NameScores]
    texts: Mapping[str, TextScores]
    ece: float | None
    with_confidence: int
    abstained: Share | None
    finish: Mapping[str, int]
    answer_tokens: float
    lead: NameScores | None = None
    agreement: Share | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, strings and containers, ready for JSON."""
        return asdict(self)


@dataclass
class _Names:
    labels: tuple[str, ...]
    ordered: tuple[bool, ...]
    truth: list[int] = field(default_factory=list)
    found: list[int | None] = field(default_factory=list)

    def add(self, truth: str, found: str) -> None:
        if truth in self.labels:
            self.truth.append(self.labels.index(truth))
            self.found.append(self.labels.index(found) if found in self.labels else None)

    def scores(self) -> NameScores | None:
        return name_scores(self.truth, self.found, self.labels, self.ordered) if self.truth else None


@dataclass
class _Texts:
    n: int = 0
    missing: int = 0
    exact: int = 0
    rouge_l: float = 0.0
    chrf: float = 0.0
    written: int = 0
    wanted: int = 0

    def add(self, truth: str, found: str, rouge_l: float, chrf: float) -> None:
        self.n += 1
        self.missing += not found
        self.exact += found == truth
        self.rouge_l += rouge_l
        self.chrf += chrf
        self.written += len(found)
        self.wanted += len(truth)

    def scores(self) -> TextScores:
        n = self.n
        return TextScores(n, self.missing, self.rouge_l / n, self.chrf / n, self.exact / n, self.written / self.wanted)


class ScoreCounter:
    """Accumulator of the scores of reports, which stores a few numbers of each."""

    def __init__(self, scheme: Scheme) -> None:
        on_scale = tuple(level.severity is not None for level in scheme.levels)
        self._level = scheme.level_fields[0].name
        self._levels = {each.name: _Names(scheme.level_names, on_scale) for each in scheme.level_fields}
        self._choices = {
            each.name: _Names(each.choices, (False,) * len(each.choices))
            for each in scheme.fields
            if each.kind == "choice"
        }
        self._texts = {each.name: _Texts() for each in text_fields(scheme)}
        self._lead = _Names(scheme.level_names, on_scale)
        self._confidence: list[float] = []
        self._right: list[bool] = []
        self._counts: Counter[str] = Counter()
        self._finish: Counter[str] = Counter()

    def add(self, report: Compared, finish: str, answer_tokens: int) -> None:
        """Count a report."""
        counts = self._counts
        counts["reports"] += 1
        counts["parsed"] += report.parse_ok
        counts["tokens"] += answer_tokens
        self._finish[finish or "unknown"] += 1
        if report.uncertain is not None:
            counts["asked"] += 1
            counts["abstained"] += report.uncertain
        if report.disagrees is not None:
            counts["led"] += 1
            counts["agrees"] += not report.disagrees
        if report.truth is not None:
            self._add_beside_truth(report, report.truth, report.lead)

    def _add_beside_truth(self, report: Compared, truth: Mapping[str, str], lead: Lead | None) -> None:
        for name, names in (self._levels | self._choices).items():
            names.add(truth.get(name, ""), report.counted.get(name, ""))
        for name, texts in self._texts.items():
            if name in report.rouge_l:
                texts.add(truth[name], report.counted.get(name, ""), report.rouge_l[name], report.chrf[name])
        if lead is not None:
            self._lead.add(truth.get(self._level, ""), lead.level)
        if report.confidence is not None and report.is_wrong is not None:
            self._confidence.append(report.confidence)
            self._right.append(not report.is_wrong)

    def scores(self) -> ReportScores:
        """Return the scores of all reports added."""
        counts = self._counts
        return ReportScores(
            reports=counts["reports"],
            parsed=share_of(counts["parsed"], counts["reports"]),
            levels=_compute_scores(self._levels),
            choices=_compute_scores(self._choices),
            texts={name: texts.scores() for name, texts in self._texts.items() if texts.n},
            ece=expected_calibration_error(np.array(self._confidence), np.array(self._right))
            if self._confidence
            else None,
            with_confidence=len(self._confidence),
            abstained=share_of(counts["abstained"], counts["asked"]),
            finish=dict(self._finish.most_common()),
            answer_tokens=counts["tokens"] / max(counts["reports"], 1),
            lead=self._lead.scores(),
            agreement=share_of(counts["agrees"], counts["led"]),
        )


def share_of(count: int, of: int) -> Share | None:
    """Return a share with its interval, or None if the whole is 0."""
    return Share(count, of, count / of, share_interval(count, of)) if of else None


def text_fields(scheme: Scheme) -> tuple[ReportField, ...]:
    """Return the free-text fields, in the order of the scheme."""
    return tuple(each for each in scheme.fields if each.kind == "text")


def _compute_scores(names: Mapping[str, _Names]) -> dict[str, NameScores]:
    found = {name: each.scores() for name, each in names.items()}
    return {name: scores for name, scores in found.items() if scores is not None}
