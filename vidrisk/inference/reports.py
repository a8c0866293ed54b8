"""Reports: the text that a model writes about a case, for any query."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vidrisk.data.cases import Case, PhotoFile
from vidrisk.data.photo_records import record_from_photo
from vidrisk.decode.messages import READ_STATES
from vidrisk.inference.prompt_builders import Picture
from vidrisk.runtimes.text.requests import Answer


@dataclass(frozen=True)
class Report:
    """The result of a case.

    Attributes:
        state: one of ``messages.FINAL_STATES``: ``partial`` if photos of it, or parts of them, cannot be read, or if
            the answer is cut off or does not parse.
        reason: why the state is not ``ok``, or a remark on a case that is.
        fields: values of the scheme's fields by name, in its order; '' if missing or not allowed. Empty for a free-text
            question.
        parse_ok: the answer is not cut off, and every value that the scheme requires is present and allowed.
        problems: what is wrong with the answer, one line each.
        text: the answer as it was written.
        finish: why the answer ended, see ``text.requests``; '' if nothing was asked.
        prompt_tokens, answer_tokens: their lengths; 0 if the engine does not report them.
        levels: probability of each level at the place of the level; empty if the engine does not report it.
        content: sha256 of the evaluated content; '' if unknown.
        given: the level that the text was written for, such as a classifier's; '' if the model chose it.
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
        """Level that the model itself finds most likely; '' if the engine reports no probabilities."""
        return max(self.levels, key=self.levels.__getitem__) if self.levels else ""

    @property
    def is_answered(self) -> bool:
        """Whether something was written, however useful it is."""
        return self.finish not in ("", "failed")


def make_failed_report(case: Case, state: str, reason: str) -> Report:
    """Return a report of a case that has no answer."""
    return Report(case, state, reason)


def unreadable_report(case: Case, pictures: Sequence[Picture]) -> Report | None:
    """Return the report of a case without a readable photo; None if one is readable, or there are none."""
    if not pictures or any(picture.pixels is not None for picture in pictures):
        return None
    return make_failed_report(case, pictures[0].state, reason_from_pictures(pictures))


def reason_from_pictures(pictures: Sequence[Picture]) -> str:
    """Return the reasons and remarks of photos, with their names if there are several."""
    if len(pictures) == 1:
        return pictures[0].reason
    return "; ".join(f"{_name_of(picture)}: {picture.reason}" for picture in pictures if picture.reason)


def make_answered_report(
    case: Case,
    pictures: Sequence[Picture],
    answer: Answer,
    complaint: str,
    *,
    problems: Sequence[str],
    content: str,
    fields: Mapping[str, str] | None = None,
    levels: Mapping[str, float] | None = None,
    given: str = "",
) -> Report:
    """Return a report of a case that has an answer.

    ``complaint`` says why the answer is unusable; '' if it is usable. For the other arguments, see ``Report``.
    """
    has_all = all(picture.pixels is not None and picture.state == "ok" for picture in pictures)
    reason = "; ".join(filter(None, (reason_from_pictures(pictures), complaint)))
    return Report(
        case,
        "partial" if complaint or not has_all else "ok",
        reason,
        fields or {},
        not complaint,
        tuple(problems),
        answer.text,
        answer.finish,
        answer.prompt_tokens,
        answer.answer_tokens,
        levels or {},
        content,
        given,
    )


def content_of_pictures(pictures: Sequence[Picture], words: str = "") -> str:
    """Return the hex sha256 of the evaluated content; '' if unknown.

    For a single photo it is the photo's own, otherwise that of all photos and the words.
    """
    contents = [picture.content for picture in pictures if picture.pixels is not None]
    if not all(contents):
        return ""
    if len(contents) == 1 and not words:
        return contents[0]
    return hashlib.sha256(json.dumps([*contents, words]).encode("utf-8", "surrogatepass")).hexdigest()


def record_from_report(report: Report) -> dict[str, Any]:
    """Return the part of a line of ``predictions.jsonl`` that all answers have."""
    return {
        "case": report.case.id,
        "fields": dict(report.fields),
        "parse_ok": report.parse_ok,
        "problems": list(report.problems),
        "text": report.text,
        "finish": report.finish,
        "prompt_tokens": report.prompt_tokens,
        "answer_tokens": report.answer_tokens,
        "photos": [record_from_photo(photo) for photo in report.case.photos],
    }


def _name_of(picture: Picture) -> str:
    return picture.source.name if isinstance(picture.source, PhotoFile) else str(picture.source)


def is_read(picture: Picture) -> bool:
    """Return whether a photo can be shown to the model."""
    return picture.state in READ_STATES and picture.pixels is not None
