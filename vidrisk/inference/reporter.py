"""A bundle that writes reports, ready to be asked: cases in, reports out, or a conversation about photos."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from types import TracebackType
from typing import cast

import numpy as np
from typing_extensions import Self

from vidrisk.data.cases import Case
from vidrisk.data.report_prompts import prompt_from_case, system_text, text_of_case
from vidrisk.data.scheme import Scheme
from vidrisk.data.scheme_target import comparisons_from_scheme
from vidrisk.inference.prompt_builders import BATCH_PHOTOS, Picture, Pictured, PromptBuilder
from vidrisk.inference.reports import Report, failed_report, is_read, report_from_answer, unreadable_report
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.runtimes.contract.errors import BundleError, SettingsError
from vidrisk.runtimes.text.engine import OnText, TextEngine
from vidrisk.runtimes.text.requests import Answer, Comparison, Request
from vidrisk.runtimes.text.schema import schema_with_value
from vidrisk.runtimes.text.turns import Exchange
from vidrisk.runtimes.uncertainty import Uncertainty


@dataclass(frozen=True)
class _Asked:
    """A case whose turn is to come: its request is at the engine, or it has a report without one.

    Attributes:
        given: the level that its text is written under; '' for none.
    """

    case: Case
    pictures: tuple[Picture, ...]
    report: Report | None = None
    given: str = ""


def no_level(case: Case) -> str:
    """Give no case a level."""
    return ""


class Reporter:
    """Writes reports. Use it as a context manager, or ``close`` it. For one thread.

    Attributes:
        contract: pixels, and the level as target.
        scheme: fields and levels; None where the model answers questions alone.
        runtime, variant: what computes, for the ledger and the summary.
        provenance: where the model came from: name, digest, versions.
        answer_tokens: limit of an answer.
        threads: of the engines, as asked for; None leaves them to it.
        uncertainty: when a level is uncertain.
    """

    def __init__(self, contract: Contract, scheme: Scheme | None, prompts: PromptBuilder, engine: TextEngine, *,
                 system: str | None, runtime: str, variant: str, provenance: Mapping[str, str], answer_tokens: int,
                 is_server: bool, temperature: Mapping[str, float], uncertainty: Uncertainty, threads: int | None) -> None:
        self.contract, self.scheme, self.runtime, self.variant = contract, scheme, runtime, variant
        self.prompts, self.engine = prompts, engine
        self.provenance, self.answer_tokens, self.threads = dict(provenance), answer_tokens, threads
        self.uncertainty = uncertainty
        self._system = system
        self._is_server = is_server
        self._comparison, self._temperature = None, 1.0
        if scheme is not None:
            target = contract.targets[0]
            self._temperature = temperature.get(target.name, 1.0)
            if not is_server:
                self._comparison = comparison_of_level(scheme, target.name)

    def reports(self, cases: Iterable[Pictured], level_of: Callable[[Case], str] = no_level) -> Generator[Report, None, None]:
        """Write a report of each case, in order; a few cases are read ahead, and memory does not grow with their number.

        Args:
            cases: with their pictures, as ``prompts.read`` gives them.
            level_of: gives the level that the text of a case is to be written under, such as a classifier's; '' leaves it to the
                model. How likely the model finds each level itself is told all the same.

        Raises:
            SettingsError: the bundle has no scheme, or a level is none of it.
            RuntimeFailure: the engine failed; what fails for one case alone is in its report.
        """
        scheme = self.needed_scheme()
        waiting: deque[_Asked] = deque()

        def requests() -> Iterator[Request]:
            for asked, request in self._requests(scheme, cases, level_of):
                waiting.append(asked)
                if request is not None:
                    yield request

        answers = cast("Generator[Answer, None, None]", self.engine.answers(requests()))
        with closing(answers):
            for answer in answers:
                yield from _without_answer(waiting)
                asked = waiting.popleft()
                yield self._report(scheme, asked, answer)
                yield from _without_answer(waiting)
        yield from _without_answer(waiting)

    def ask(self, pictures: Sequence[Picture], question: str, history: Sequence[Exchange] = (),
            on_text: OnText | None = None, limit: int | None = None) -> Answer:
        """Answer a question in free words.

        Args:
            pictures: photos that the conversation is about, all of which could be read; they stand in front of its first question.
            history: exchanges before, with their answers and without photos.
            on_text: called with every piece of text as it is written.
            limit: most tokens of the answer; None takes the bundle's.

        Raises:
            SettingsError: no question, or a conversation that leaves no room for an answer.
            RuntimeFailure: the engine failed.
        """
        if not question.strip():
            raise SettingsError("a question without words", allowed="a question")
        turns = [*history, Exchange(_encodable(question))]
        turns[0] = Exchange(turns[0].question, len(pictures), turns[0].answer)
        prompt = self.prompts.build(self._system, turns, self.prompts.see(pictures))
        limit = limit or self.answer_tokens
        if reason := self.prompts.why_too_long(prompt, limit):
            raise SettingsError(f"the conversation is too long: {reason}", fix="begin a new one, show fewer photos, or let answers "
                                "have fewer tokens")
        return self.engine.answer(Request(prompt, limit), on_text)

    def _requests(self, scheme: Scheme, cases: Iterable[Pictured],
                  level_of: Callable[[Case], str]) -> Iterator[tuple[_Asked, Request | None]]:
        free, field = scheme.json_schema(), scheme.level_fields[0].name
        for case, pictures, seen in self._seen(cases):
            failed = unreadable_report(case, pictures)
            if failed is None and not seen and not text_of_case(scheme, case):
                failed = failed_report(case, "skipped", "it has neither a photo nor a text")
            if not all(np.isfinite(tokens).all() for tokens in seen if isinstance(tokens, np.ndarray)):
                failed = failed_report(case, "corrupt", "the model computes of its photos what is not finite")
            if failed is not None:
                yield _Asked(case, pictures, failed), None
                continue
            asked = prompt_from_case(scheme, case, photos=len(seen))
            prompt = self.prompts.build(system_text(scheme), [Exchange(_encodable(asked.question), len(seen))], seen)
            if reason := self.prompts.why_too_long(prompt, self.answer_tokens):
                yield _Asked(case, pictures, failed_report(case, "too_large", reason)), None
                continue
            given = level_of(case)
            schema = schema_with_value(free, field, given) if given else free
            yield _Asked(case, pictures, given=given), Request(prompt, self.answer_tokens, schema=schema,
                                                               comparison=self._comparison)

    def _seen(self, cases: Iterable[Pictured]) -> Iterator[tuple[Case, tuple[Picture, ...], list[object]]]:
        """Cases with what goes into their prompts for the photos that can be read, computed for several cases at once."""
        waiting: list[Pictured] = []
        for pictured in cases:
            waiting.append(pictured)
            if sum(len(pictures) for _, pictures in waiting) >= BATCH_PHOTOS or len(waiting) >= BATCH_PHOTOS:
                yield from self._seen_of(waiting)
                waiting = []
        yield from self._seen_of(waiting)

    def _seen_of(self, cases: Sequence[Pictured]) -> Iterator[tuple[Case, tuple[Picture, ...], list[object]]]:
        shown = [picture for _, pictures in cases for picture in pictures if is_read(picture)]
        seen = iter(self.prompts.see(shown))
        for case, pictures in cases:
            yield case, pictures, [next(seen) for picture in pictures if is_read(picture)]

    def _report(self, scheme: Scheme, asked: _Asked, answer: Answer) -> Report:
        if answer.finish == "failed":  # of a server, another run may have more luck
            return failed_report(asked.case, "skipped" if self._is_server else "corrupt",
                                 f"the model gives no answer: {answer.error}")
        report = report_from_answer(scheme, asked.case, asked.pictures, answer, self.answer_tokens, self._temperature)
        return replace(report, given=asked.given) if asked.given else report

    def needed_scheme(self) -> Scheme:
        """Return the scheme.

        Raises:
            SettingsError: there is none.
        """
        if self.scheme is None:
            name = self.provenance.get("model", "the bundle")
            raise SettingsError(f"{name} has no scheme of reports", allowed="a bundle of a model that was trained on cases",
                                fix=f"vidrisk ask {name} PHOTO QUESTION")
        return self.scheme

    def close(self) -> None:
        """Free the engines. Safe to call twice."""
        with ExitStack() as stack:
            stack.callback(self.engine.close)
            stack.callback(self.prompts.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def comparison_of_level(scheme: Scheme, level: str) -> Comparison:
    """The place of a level in an answer, and the levels that may stand there.

    Raises:
        BundleError: the scheme has no level of that name.
    """
    found = comparisons_from_scheme(scheme).get(level)
    if found is None or level not in [field.name for field in scheme.level_fields]:
        raise BundleError(f"the scheme {scheme.name} has no level {level!r}",
                          allowed=", ".join(field.name for field in scheme.answer_fields), fix="export it again")
    return found


def _encodable(text: str) -> str:
    """A text without halves of characters, which no tokenizer takes: an escape in JSON, or bytes on a command line, may be one."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _without_answer(waiting: deque[_Asked]) -> Iterator[Report]:
    """Reports of cases at the head of the queue that nothing was asked about."""
    while waiting and waiting[0].report is not None:
        report = waiting.popleft().report
        assert report is not None
        yield report
