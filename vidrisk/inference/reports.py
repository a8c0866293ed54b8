"""One report: what a model writes about a case, read by the scheme, and how sure it is of the level."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from vidrisk.data.answers import fields_from_answer
from vidrisk.data.cases import Case, PhotoFile
from vidrisk.data.report_prompts import text_of_case
from vidrisk.data.scheme import Scheme
from vidrisk.decode.messages import READ_STATES
from vidrisk.inference.predictions import Prediction, id_from_content
from vidrisk.inference.prompt_builders import Picture
from vidrisk.inference.risk import severity_from_probabilities
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.runtimes.contract.probabilities import probabilities_from_logits
from vidrisk.runtimes.text.requests import Answer
from vidrisk.runtimes.uncertainty import Uncertainty, is_uncertain


@dataclass(frozen=True)
class Report:
    """What became of a case.

    Attributes:
        state: one of ``messages.FINAL_STATES``: ``partial`` where photos of it, or parts of them, cannot be read, and where the
            answer is cut off or does not parse.
        reason: why the state is not ``ok``, or what there is to say all the same.
        fields: values of the scheme's fields by name, in its order; '' where there is none, or none that is allowed.
        parse_ok: every value that the scheme requires is there and allowed, and nothing is cut off.
        problems: what is wrong with the answer, one line each.
        text: the answer as it was written.
        finish: why the answer ended, see ``text.requests``; '' where nothing was asked.
        prompt_tokens, answer_tokens: their lengths; 0 where the engine does not say.
        levels: probability of each level at the place of the level; empty where the engine cannot tell.
        content: sha256 of what was looked at; '' where it is not known.
        given: the level that the text was written under, such as a classifier's; '' where the model chose it.
    """

    case: Case
    state: str
    reason: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)
    parse_ok: bool = False
    problems: tuple[str, ...] = ()
    text: str = ""
    finish: str = ""
    prompt_tokens: int = 0
    answer_tokens: int = 0
    levels: Mapping[str, float] = field(default_factory=dict)
    content: str = ""
    given: str = ""

    @property
    def own_level(self) -> str:
        """The level that the model itself finds most likely; '' where the engine cannot tell."""
        return max(self.levels, key=self.levels.__getitem__) if self.levels else ""

    @property
    def is_answered(self) -> bool:
        """Whether something was written, however useful it is."""
        return self.finish not in ("", "failed")


def failed_report(case: Case, state: str, reason: str) -> Report:
    """A report of a case that has no answer."""
    return Report(case, state, reason)


def unreadable_report(case: Case, pictures: Sequence[Picture]) -> Report | None:
    """The report of a case of whose photos none can be read; None where one can, or where there is none."""
    if not pictures or any(picture.pixels is not None for picture in pictures):
        return None
    return failed_report(case, pictures[0].state, reason_from_pictures(pictures))


def reason_from_pictures(pictures: Sequence[Picture]) -> str:
    """What there is to say of photos, each by its name where there are several."""
    if len(pictures) == 1:
        return pictures[0].reason
    return "; ".join(f"{_name_of(picture)}: {picture.reason}" for picture in pictures if picture.reason)


def report_from_answer(scheme: Scheme, case: Case, pictures: Sequence[Picture], answer: Answer, limit: int,
                       temperature: float = 1.0) -> Report:
    """Read an answer.

    Args:
        limit: of its tokens.
        temperature: that log-probabilities of levels are divided by.
    """
    parsed = fields_from_answer(scheme, answer.text)
    is_whole = answer.is_whole
    problems = parsed.problems if is_whole else (f"it is cut off after {limit} tokens",
                                                 *(each for each in parsed.problems if each != "it is cut off"))
    parse_ok = parsed.parse_ok and is_whole
    notes = [reason_from_pictures(pictures), "" if parse_ok else f"the answer does not parse: {problems[0]}"]
    has_all = all(picture.pixels is not None and picture.state == "ok" for picture in pictures)
    return Report(case, "ok" if parse_ok and has_all else "partial", "; ".join(filter(None, notes)), parsed.fields, parse_ok,
                  problems, answer.text, answer.finish, answer.prompt_tokens, len(answer.tokens),
                  levels_from_answer(answer, scheme.level_names, temperature), content_of_case(scheme, case, pictures))


def levels_from_answer(answer: Answer, names: Sequence[str], temperature: float) -> dict[str, float]:
    """Probabilities of the levels: a softmax over how likely the model finds each word where the answer names one."""
    if answer.compared is None or set(answer.compared) != set(names):
        return {}
    scores = np.array([[answer.compared[name] for name in names]], np.float32)
    found = probabilities_from_logits(scores, temperature)[0]
    return dict(zip(names, map(float, found), strict=True)) if np.isfinite(found).all() else {}


def content_of_case(scheme: Scheme, case: Case, pictures: Sequence[Picture]) -> str:
    """Hex sha256 of what is looked at: of a photo its own, else of all photos, or of the text; '' where it is not known."""
    contents = [picture.content for picture in pictures if picture.pixels is not None]
    if not all(contents):
        return ""
    if len(contents) == 1:
        return contents[0]
    text = "" if contents else text_of_case(scheme, case)
    return hashlib.sha256(json.dumps([*contents, text]).encode("utf-8", "surrogatepass")).hexdigest()


def prediction_from_report(report: Report, scheme: Scheme, contract: Contract, path: str,
                           uncertainty: Uncertainty) -> Prediction:
    """Write a report as a line of ``predictions.jsonl``: the level that is written is its label.

    Args:
        path: key of the case in the ledger.
    """
    target = contract.targets[0]
    level = report.fields.get(target.name, "") if report.parse_ok else ""
    scores = {target.name: dict(report.levels)} if report.levels else {}
    arrays = {target.name: np.array([report.levels[label] for label in target.labels], np.float32)} if scores else {}
    candidates = uncertainty.candidates(contract.targets, arrays) if scores else {}
    said = {name: report.fields.get(name, "") for name in ("risk", "advice", "description", "defect")}
    kinds = {each.name: each.kind for each in scheme.fields}
    return Prediction(
        path=path, start_s=None, end_s=None, label=level, score=report.levels.get(level, 0.0),
        uncertain=is_uncertain(candidates, {target.name: level}), severity=_severity(scheme, contract, level, arrays),
        level=level or None, defect=(said["defect"] or None) if kinds.get("defect") == "choice" else None, targets=scores,
        risk=said["risk"], advice=said["advice"],
        description=said["description"] or (said["defect"] if kinds.get("defect") == "text" else ""), state=report.state,
        candidates=candidates, id=id_from_content(report.content, (None, None), contract) if report.content else "",
        reason=report.reason, report={
            "case": report.case.id, "fields": dict(report.fields), "parse_ok": report.parse_ok, "problems": list(report.problems),
            "text": report.text, "finish": report.finish, "prompt_tokens": report.prompt_tokens,
            "answer_tokens": report.answer_tokens,
            **({"given_level": report.given, "own_level": report.own_level} if report.given else {})})


def _severity(scheme: Scheme, contract: Contract, level: str, probabilities: Mapping[str, np.ndarray]) -> float | None:
    """Expected severity; where there are no probabilities, or levels that are off the scale, that of the level."""
    if not level:
        return None
    if probabilities and contract.targets[0].severity is not None:
        return severity_from_probabilities(contract.targets, probabilities)
    return next((each.severity for each in scheme.levels if each.name == level), None)


def _name_of(picture: Picture) -> str:
    return picture.source.name if isinstance(picture.source, PhotoFile) else str(picture.source)


def is_read(picture: Picture) -> bool:
    """Whether a photo can be shown to the model."""
    return picture.state in READ_STATES and picture.pixels is not None
