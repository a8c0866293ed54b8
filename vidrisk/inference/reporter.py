"""Reporter, an open bundle that writes reports on cases and answers questions about photos."""

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
from vidrisk.data.scheme import Scheme
from vidrisk.inference.prompt_builders import BATCH_PHOTOS, Picture, Pictured, PromptBuilder, PromptTooLong
from vidrisk.inference.queries import Query, QuestionQuery, check_question
from vidrisk.inference.reports import Report, is_read, make_failed_report, unreadable_report
from vidrisk.inference.scheme_query import SchemeQuery, comparison_of_level, no_level
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.runtimes.contract.errors import SettingsError
from vidrisk.runtimes.text.engine import OnText, TextEngine
from vidrisk.runtimes.text.requests import Answer, Request
from vidrisk.runtimes.text.turns import Exchange
from vidrisk.runtimes.uncertainty import Uncertainty

MOST_WAITING = 64  # reports without a request that may wait for a request before them


@dataclass(frozen=True)
class _Asked:
    """A case in the queue: its request is at the engine, or it has a report without one and needs no pictures."""

    case: Case
    pictures: tuple[Picture, ...] = ()
    report: Report | None = None


class Reporter:
    """Writes reports. Use it as a context manager, or call ``close``. For one thread.

    Attributes:
        contract: pixels, and the level as target.
        scheme: fields and levels; None if the model only answers questions.
        runtime, variant: the engine and the precision, for the ledger and the summary.
        provenance: origin of the model: name, digest, versions.
        answer_tokens: limit of an answer.
        threads: threads of the engines, as requested; None leaves the number to them.
        uncertainty: when a level is uncertain.
    """

    def __init__(
        self,
        contract: Contract,
        scheme: Scheme | None,
        prompts: PromptBuilder,
        engine: TextEngine,
        *,
        system: str | None,
        runtime: str,
        variant: str,
        provenance: Mapping[str, str],
        answer_tokens: int,
        is_server: bool,
        temperature: Mapping[str, float],
        uncertainty: Uncertainty,
        threads: int | None,
    ) -> None:
        self.contract, self.scheme, self.runtime, self.variant = contract, scheme, runtime, variant
        self.prompts, self.engine = prompts, engine
        self.provenance, self.answer_tokens, self.threads = dict(provenance), answer_tokens, threads
        self.uncertainty = uncertainty
        self._system = system
        self._is_server = is_server
        self._by_scheme: SchemeQuery | None = None
        if scheme is not None:
            level = contract.targets[0].name
            self._by_scheme = SchemeQuery(
                scheme,
                contract,
                uncertainty,
                None if is_server else comparison_of_level(scheme, level),
                temperature.get(level, 1.0),
            )

    def query(self, question: str | None = None, level_of: Callable[[Case], str] = no_level) -> Query:
        """Return the query that is put to the model about every case.

        Args:
            question: in free text; None for a report by the bundle's scheme.
            level_of: for reports, see ``SchemeQuery``.

        Raises:
            SettingsError: no question and no scheme, a blank question, or one that leaves no room for an answer.
        """
        if question is None:
            return replace(self._require_query(), level_of=level_of)
        question = _encodable(check_question(question))
        try:
            self.prompts.build(self._system, [Exchange(question)], (), self.answer_tokens)
        except PromptTooLong as error:
            raise SettingsError(
                f"the question is too long: {error}", fix="shorten it, or let answers have fewer tokens"
            ) from None
        return QuestionQuery(question, self._system, self.contract)

    def reports(self, cases: Iterable[Pictured], query: Query | None = None) -> Generator[Report, None, None]:
        """Yield a report of each case, in order.

        A few cases are read ahead; memory does not grow with their number.

        Args:
            cases: with their pictures, as ``prompts.read`` yields them.
            query: the query about each; None for a report by the bundle's scheme.

        Raises:
            SettingsError: the bundle has no scheme, or a given level is not one of it.
            RuntimeFailure: the engine failed; an error of a single case is in its report.
        """
        chosen = query or self.query()
        upcoming = self._requests(chosen, cases)
        waiting: deque[_Asked] = deque()
        is_exhausted = False

        def requests() -> Iterator[Request]:
            """Yield requests until reports without a request are waiting.

            The engine then returns its answers, and the waiting reports follow in order.
            """
            nonlocal is_exhausted
            for asked, request in upcoming:
                waiting.append(asked)
                if request is not None:
                    yield request
                    continue
                without = sum(each.report is not None for each in waiting)
                if without == len(waiting) or without >= MOST_WAITING:
                    return
            is_exhausted = True

        while not is_exhausted:
            with closing(cast("Generator[Answer, None, None]", self.engine.answers(requests()))) as answers:
                for answer in answers:
                    yield self._report(chosen, waiting.popleft(), answer)
                    yield from _without_answer(waiting)
            yield from _without_answer(waiting)

    def ask(
        self,
        pictures: Sequence[Picture],
        question: str,
        history: Sequence[Exchange] = (),
        on_text: OnText | None = None,
        limit: int | None = None,
    ) -> Answer:
        """Answer a free-text question.

        Args:
            pictures: photos that the conversation is about, all of them readable; they precede its first question.
            question: the question.
            history: previous exchanges, with their answers and without photos.
            on_text: called with every piece of text as it is written.
            limit: most tokens of the answer; None takes the bundle's.

        Raises:
            SettingsError: no question, or a conversation that leaves no room for an answer.
            RuntimeFailure: the engine failed.
        """
        turns = [*history, Exchange(_encodable(check_question(question)))]
        turns[0] = Exchange(turns[0].question, len(pictures), turns[0].answer)
        limit = limit or self.answer_tokens
        try:
            prompt = self.prompts.build(self._system, turns, self.prompts.see(pictures), limit)
        except PromptTooLong as error:
            raise SettingsError(
                f"the conversation is too long: {error}",
                fix="begin a new one, show fewer photos, or let answers have fewer tokens",
            ) from None
        return self.engine.answer(Request(prompt, limit), on_text)

    def _requests(self, query: Query, cases: Iterable[Pictured]) -> Iterator[tuple[_Asked, Request | None]]:
        for case, pictures, seen in self._see(cases):
            failed = unreadable_report(case, pictures)
            if failed is None and (reason := query.why_empty(case, len(seen))):
                failed = make_failed_report(case, "skipped", reason)
            if not all(np.isfinite(tokens).all() for tokens in seen if isinstance(tokens, np.ndarray)):
                failed = make_failed_report(case, "corrupt", "the model computes non-finite values for its photos")
            if failed is not None:
                yield _Asked(case, report=failed), None
                continue
            wording = query.word(case, len(seen))
            try:
                prompt = self.prompts.build(
                    wording.system, [Exchange(_encodable(wording.question), len(seen))], seen, self.answer_tokens
                )
            except PromptTooLong as error:
                yield _Asked(case, report=make_failed_report(case, "too_large", str(error))), None
                continue
            yield (
                _Asked(case, pictures),
                Request(prompt, self.answer_tokens, schema=wording.schema, comparison=wording.comparison),
            )

    def _see(self, cases: Iterable[Pictured]) -> Iterator[tuple[Case, tuple[Picture, ...], list[object]]]:
        """Yield cases with the prompt parts of their readable photos, computed for several cases at once."""
        waiting: list[Pictured] = []
        for pictured in cases:
            waiting.append(pictured)
            if sum(len(pictures) for _, pictures in waiting) >= BATCH_PHOTOS or len(waiting) >= BATCH_PHOTOS:
                yield from self._see_batch(waiting)
                waiting = []
        yield from self._see_batch(waiting)

    def _see_batch(self, cases: Sequence[Pictured]) -> Iterator[tuple[Case, tuple[Picture, ...], list[object]]]:
        shown = [picture for _, pictures in cases for picture in pictures if is_read(picture)]
        seen = iter(self.prompts.see(shown))
        for case, pictures in cases:
            yield case, pictures, [next(seen) for picture in pictures if is_read(picture)]

    def _report(self, query: Query, asked: _Asked, answer: Answer) -> Report:
        if answer.finish == "failed":  # a server may succeed in another run
            return make_failed_report(
                asked.case, "skipped" if self._is_server else "corrupt", f"the model gives no answer: {answer.error}"
            )
        return query.report(asked.case, asked.pictures, answer, self.answer_tokens)

    def require_scheme(self) -> Scheme:
        """Return the scheme.

        Raises:
            SettingsError: there is none.
        """
        return self._require_query().scheme

    def _require_query(self) -> SchemeQuery:
        if self._by_scheme is None:
            name = self.provenance.get("model", "the bundle")
            raise SettingsError(
                f"{name} has no scheme of reports",
                allowed="a bundle of a model that was trained on cases",
                fix="give infer a question, which is asked about each photo separately, "
                f"or vidrisk ask {name} PHOTO QUESTION",
            )
        return self._by_scheme

    def close(self) -> None:
        """Free the engines. Safe to call twice."""
        with ExitStack() as stack:
            stack.callback(self.engine.close)
            stack.callback(self.prompts.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _encodable(text: str) -> str:
    """Return a text without unpaired surrogates, which no tokenizer accepts.

    They may come from an escape in JSON, or from bytes on a command line.
    """
    return text.encode("utf-8", "replace").decode("utf-8")


def _without_answer(waiting: deque[_Asked]) -> Iterator[Report]:
    """Yield the reports at the head of the queue that need no answer."""
    while waiting and waiting[0].report is not None:
        report = waiting.popleft().report
        assert report is not None
        yield report
