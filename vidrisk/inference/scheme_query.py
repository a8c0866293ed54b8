"""Reports by a scheme: prompt, fields parsed from an answer, and probabilities of the level."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from vidrisk.data.answers import fields_from_answer
from vidrisk.data.cases import Case
from vidrisk.data.report_prompts import prompt_from_case, text_of_case
from vidrisk.data.scheme import Scheme
from vidrisk.data.scheme_target import comparisons_from_scheme
from vidrisk.inference.predictions import Prediction, id_from_content
from vidrisk.inference.prompt_builders import Picture
from vidrisk.inference.queries import Wording, cut_off
from vidrisk.inference.reports import Report, content_of_pictures, make_answered_report, record_from_report
from vidrisk.inference.risk import severity_from_probabilities
from vidrisk.runtimes.contract.contract import Contract, Target
from vidrisk.runtimes.contract.errors import BundleError
from vidrisk.runtimes.contract.probabilities import probabilities_from_logits
from vidrisk.runtimes.text.requests import Answer, Comparison
from vidrisk.runtimes.text.schema import schema_with_value
from vidrisk.runtimes.uncertainty import Uncertainty, is_uncertain


def no_level(case: Case) -> str:
    """Return '' for every case, so that no level is given."""
    return ""


@dataclass(frozen=True)
class SchemeQuery:
    """A report of every case by a scheme.

    Attributes:
        contract: contract of the bundle; its only target is the level.
        uncertainty: when a level is uncertain.
        comparison: place of the level in an answer; None if the engine reports no probabilities of words.
        temperature: divisor of the log-probabilities of levels.
        level_of: returns the level that the text of a case is to be written for, such as a classifier's; '' leaves it
            to the model. The model's own probabilities of levels are reported in either case.
    """

    scheme: Scheme
    contract: Contract
    uncertainty: Uncertainty
    comparison: Comparison | None = None
    temperature: float = 1.0
    level_of: Callable[[Case], str] = no_level

    @property
    def targets(self) -> tuple[Target, ...]:
        return self.contract.targets

    @property
    def identity(self) -> dict[str, str]:
        return {"task": "report"}

    def why_empty(self, case: Case, photos: int) -> str:
        return "" if photos or text_of_case(self.scheme, case) else "it has neither a photo nor a text"

    def word(self, case: Case, photos: int) -> Wording:
        """Return the wording of the query about a case that is not empty.

        Raises:
            SettingsError: the given level is not one of the scheme.
        """
        prompt = prompt_from_case(self.scheme, case, photos=photos)
        given = self.level_of(case)
        schema = schema_with_value(self._schema, self.scheme.level_fields[0].name, given) if given else self._schema
        return Wording(prompt.system, prompt.question, schema, self.comparison)

    def report(self, case: Case, pictures: Sequence[Picture], answer: Answer, limit: int) -> Report:
        parsed = fields_from_answer(self.scheme, answer.text)
        problems = (
            parsed.problems
            if answer.is_whole
            else (f"it is {cut_off(limit)}", *(each for each in parsed.problems if each != "it is cut off"))
        )
        parse_ok = parsed.parse_ok and answer.is_whole
        words = "" if any(picture.pixels is not None for picture in pictures) else text_of_case(self.scheme, case)
        return make_answered_report(
            case,
            pictures,
            answer,
            "" if parse_ok else f"the answer does not parse: {problems[0]}",
            problems=problems,
            content=content_of_pictures(pictures, words),
            fields=parsed.fields,
            levels=levels_from_answer(answer, self.scheme.level_names, self.temperature),
            given=self.level_of(case),
        )

    def prediction(self, report: Report, path: str) -> Prediction:
        """Convert an answered report to a line of ``predictions.jsonl``: the written level is its label."""
        target = self.contract.targets[0]
        level = report.fields.get(target.name, "") if report.parse_ok else ""
        scores = {target.name: dict(report.levels)} if report.levels else {}
        arrays = (
            {target.name: np.array([report.levels[label] for label in target.labels], np.float32)} if scores else {}
        )
        candidates = self.uncertainty.candidates(self.contract.targets, arrays) if scores else {}
        said = {name: report.fields.get(name, "") for name in ("risk", "advice", "description", "defect")}
        kinds = {each.name: each.kind for each in self.scheme.fields}
        return Prediction(
            path=path,
            start_s=None,
            end_s=None,
            label=level,
            score=report.levels.get(level, 0.0),
            uncertain=is_uncertain(candidates, {target.name: level}),
            severity=self._severity(level, arrays),
            level=level or None,
            defect=(said["defect"] or None) if kinds.get("defect") == "choice" else None,
            targets=scores,
            risk=said["risk"],
            advice=said["advice"],
            description=said["description"] or (said["defect"] if kinds.get("defect") == "text" else ""),
            state=report.state,
            candidates=candidates,
            reason=report.reason,
            id=id_from_content(report.content, (None, None), self.contract) if report.content else "",
            report={
                **record_from_report(report),
                **({"given_level": report.given, "own_level": report.own_level} if report.given else {}),
            },
        )

    @cached_property
    def _schema(self) -> dict[str, Any]:
        return self.scheme.json_schema()

    def _severity(self, level: str, probabilities: Mapping[str, np.ndarray]) -> float | None:
        """Return the expected severity.

        Without probabilities, or without severities in the contract, return the severity of the level.
        """
        if not level:
            return None
        if probabilities and self.contract.targets[0].severity is not None:
            return severity_from_probabilities(self.contract.targets, probabilities)
        return next((each.severity for each in self.scheme.levels if each.name == level), None)


def levels_from_answer(answer: Answer, names: Sequence[str], temperature: float) -> dict[str, float]:
    """Return probabilities of the levels: a softmax of the scores of each word at the place of the level."""
    if answer.compared is None or set(answer.compared) != set(names):
        return {}
    scores = np.array([[answer.compared[name] for name in names]], np.float32)
    found = probabilities_from_logits(scores, temperature)[0]
    return dict(zip(names, map(float, found), strict=True)) if np.isfinite(found).all() else {}


def comparison_of_level(scheme: Scheme, level: str) -> Comparison:
    """Return the place of a level in an answer, and the levels that may stand there.

    Raises:
        BundleError: the scheme has no level of that name.
    """
    found = comparisons_from_scheme(scheme).get(level)
    if found is None or level not in [field.name for field in scheme.level_fields]:
        raise BundleError(
            f"the scheme {scheme.name} has no level {level!r}",
            allowed=", ".join(field.name for field in scheme.answer_fields),
            fix="export it again",
        )
    return found
