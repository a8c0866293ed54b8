"""What is asked about every case of a run: a report by a scheme, or a question in free words. It words itself and reads answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from vidrisk.data.cases import Case
from vidrisk.data.scheme import Scheme
from vidrisk.inference.predictions import Prediction, id_from_content
from vidrisk.inference.prompt_builders import Picture
from vidrisk.inference.reports import Report, answered_report, content_of_pictures, record_from_report
from vidrisk.runtimes.contract.contract import Contract, Target
from vidrisk.runtimes.contract.errors import SettingsError
from vidrisk.runtimes.text.requests import Answer, Comparison
from vidrisk.runtimes.uncertainty import Uncertainty


@dataclass(frozen=True)
class Wording:
    """What a model is asked about one case.

    Attributes:
        system: text in front of everything; None for none.
        question: behind the photos.
        schema: JSON schema of the answer; None for free words.
        comparison: a place in the answer, and the words that may stand there.
    """

    system: str | None
    question: str
    schema: Mapping[str, Any] | None = None
    comparison: Comparison | None = None


class Query(Protocol):
    """What is asked about every case."""

    @property
    def scheme(self) -> Scheme | None:
        """What answers are written by, and columns of tables named by; None for free words."""

    @property
    def targets(self) -> tuple[Target, ...]:
        """What answers are counted by."""

    @property
    def uncertainty(self) -> Uncertainty:
        """When an answer is uncertain."""

    @property
    def identity(self) -> Mapping[str, str]:
        """What must be equal for two runs to ask the same."""

    def why_empty(self, case: Case, photos: int) -> str:
        """Say why there is nothing to ask about a case of which so many photos can be read; '' where there is."""

    def word(self, case: Case, photos: int) -> Wording:
        """Word what a model is asked about a case that is not empty."""

    def report(self, case: Case, pictures: Sequence[Picture], answer: Answer, limit: int) -> Report:
        """Read an answer of at most ``limit`` tokens."""

    def prediction(self, report: Report, path: str) -> Prediction:
        """Write an answered report as a line of ``predictions.jsonl``; ``path`` is the key of the case in the ledger."""


@dataclass(frozen=True)
class QuestionQuery:
    """One question about the photos of every case, answered in free words.

    Attributes:
        question: with words in it, and none that UTF-8 cannot hold.
        system: the bundle's text in front of questions; None for none.
        contract: of the bundle.
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
        return answered_report(
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


def checked_question(question: str) -> str:
    """Return a question that has words.

    Raises:
        SettingsError: it has none.
    """
    if not question.strip():
        raise SettingsError("a question without words", allowed="a question")
    return question


def cut_off(limit: int) -> str:
    """What has happened to an answer that is not whole."""
    return f"cut off after {limit} tokens"
