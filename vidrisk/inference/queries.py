"""Queries about the cases of a run, by a report scheme or in free text: wording, and parsing of answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from vidrisk.data.cases import Case
from vidrisk.data.scheme import Scheme
from vidrisk.inference.predictions import Prediction, id_from_content
from vidrisk.inference.prompt_builders import Picture
from vidrisk.inference.reports import Report, content_of_pictures, make_answered_report, record_from_report
from vidrisk.runtimes.contract.contract import Contract, Target
from vidrisk.runtimes.contract.errors import SettingsError
from vidrisk.runtimes.text.requests import Answer, Comparison
from vidrisk.runtimes.uncertainty import Uncertainty


@dataclass(frozen=True)
class Wording:
    """Prompt texts and answer format of a query about one case.

    Attributes:
        system: text in front of everything; None for none.
        question: text after the photos.
        schema: JSON schema of the answer; None for free text.
        comparison: a place in the answer, and the words that may stand there.
    """

    system: str | None
    question: str
    schema: Mapping[str, Any] | None = None
    comparison: Comparison | None = None


class Query(Protocol):
    """A query that is put to the model about every case."""

    @property
    def scheme(self) -> Scheme | None:
        """Scheme of the answers, which also names the columns of tables; None for free text."""

    @property
    def targets(self) -> tuple[Target, ...]:
        """Targets by which answers are counted."""

    @property
    def uncertainty(self) -> Uncertainty:
        """When an answer is uncertain."""

    @property
    def identity(self) -> Mapping[str, str]:
        """Values that are equal for two runs with the same query."""

    def why_empty(self, case: Case, photos: int) -> str:
        """Return why a case with so many readable photos gives no query; '' if it does."""

    def word(self, case: Case, photos: int) -> Wording:
        """Return the wording of the query about a case that is not empty."""

    def report(self, case: Case, pictures: Sequence[Picture], answer: Answer, limit: int) -> Report:
        """Parse an answer of at most ``limit`` tokens."""

    def prediction(self, report: Report, path: str) -> Prediction:
        """Convert an answered report to a line of ``predictions.jsonl``.

        ``path`` is the key of the case in the ledger.
        """


@dataclass(frozen=True)
class QuestionQuery:
    """One free-text question about the photos of every case.

    Attributes:
        question: not blank, and encodable as UTF-8.
        system: the bundle's text in front of questions; None for none.
        contract: contract of the bundle.
    """

    question: str
    system: str | None
    contract: Contract
    scheme: ClassVar[None] = None
    targets: ClassVar[tuple[Target, ...]] = ()
    uncertainty: ClassVar[Uncertainty] = Uncertainty()

    @property
    def identity(self) -> dict[str, str]:
        return {"task": "question", "question": self.question}

    def why_empty(self, case: Case, photos: int) -> str:
        return "" if photos else "it has no photo"

    def word(self, case: Case, photos: int) -> Wording:
        return Wording(self.system, self.question)

    def report(self, case: Case, pictures: Sequence[Picture], answer: Answer, limit: int) -> Report:
        problem = "" if answer.is_whole else cut_off(limit)
        return make_answered_report(
            case,
            pictures,
            answer,
            problem and f"the answer is {problem}",
            problems=(f"it is {problem}",) if problem else (),
            content=content_of_pictures(pictures, self.question),
        )

    def prediction(self, report: Report, path: str) -> Prediction:
        return Prediction(
            path=path,
            start_s=None,
            end_s=None,
            label="",
            score=0.0,
            uncertain=None,
            severity=None,
            level=None,
            defect=None,
            targets={},
            state=report.state,
            reason=report.reason,
            report={**record_from_report(report), "question": self.question},
            id=id_from_content(report.content, (None, None), self.contract) if report.content else "",
        )


def check_question(question: str) -> str:
    """Return a question, after checking that it is not blank.

    Raises:
        SettingsError: it is blank.
    """
    if not question.strip():
        raise SettingsError("a question without words", allowed="a question")
    return question


def cut_off(limit: int) -> str:
    """Return a description of an answer that reached the token limit."""
    return f"cut off after {limit} tokens"
