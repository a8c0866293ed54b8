"""Common interface to all text engines, which answer requests in order.

with GraphEngine(session, vocabulary) as engine:
    for answer in engine.answers(requests):
        print(answer.text)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType

from typing_extensions import Self

from vidrisk.runtimes.contract.errors import RuntimeFailure, SettingsError
from vidrisk.runtimes.text.requests import Answer, Chat, Prompt, Request

OnText = Callable[[int, str], None]  # number of the request, from 0, and the next piece of its text


class TextEngine(ABC):
    """Base class of text engines. Subclasses implement ``_answers``.

    Attributes:
        name: name of the engine.
        prompts: type of prompt that it accepts.
    """

    name: str = ""
    prompts: type[Prompt] | type[Chat] = Prompt

    def __init__(self) -> None:
        self._is_closed = self._is_busy = False

    def answers(self, requests: Iterable[Request], on_text: OnText | None = None) -> Iterator[Answer]:
        """Answer requests, several at a time; yield one answer each, in their order.

        Args:
            requests: consumed lazily, only a few ahead of the answers.
            on_text: called with every piece of text as it is written; pieces of several answers are interleaved.

        Raises:
            SettingsError: the engine cannot serve a request (``check``); raised when its turn comes.
            RuntimeFailure: the engine failed, is closed, or is answering other requests.
        """
        if self._is_closed or self._is_busy:
            raise RuntimeFailure(
                f"{self.name} is {'closed' if self._is_closed else 'answering other requests'}",
                fix="open it again" if self._is_closed else "wait for these answers, or close their iterator",
            )
        self._is_busy = True
        try:
            yield from self._answers(self._check_each(requests), on_text or _ignore)
        finally:
            self._is_busy = False

    def answer(self, request: Request, on_text: OnText | None = None) -> Answer:
        """Answer one request."""
        (answer,) = self.answers([request], on_text)
        return answer

    @abstractmethod
    def _answers(self, requests: Iterator[Request], on_text: OnText) -> Iterator[Answer]:
        """Answer checked requests in their order."""

    def check(self, request: Request) -> None:
        """Refuse a request that the engine cannot serve.

        Raises:
            SettingsError: it cannot.
        """
        if not isinstance(request.prompt, self.prompts):
            raise SettingsError(
                f"{self.name} got a {type(request.prompt).__name__}", allowed=f"a {self.prompts.__name__}"
            )
        self._check(request)

    def _check(self, request: Request) -> None:  # noqa: B027
        """Refuse requests that this particular engine cannot serve."""

    def _check_each(self, requests: Iterable[Request]) -> Iterator[Request]:
        for request in requests:
            self.check(request)
            yield request

    def close(self) -> None:
        """Release the engine. Safe to call twice."""
        self._is_closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _ignore(number: int, text: str) -> None:
    pass


class FakeTextEngine(TextEngine):
    """Engine around a plain function, for tests and for trying a pipeline without a model."""

    name = "fake"

    def __init__(self, function: Callable[[Request], Answer], prompts: type[Prompt] | type[Chat] = Prompt) -> None:
        super().__init__()
        self._function, self.prompts = function, prompts

    def _answers(self, requests: Iterator[Request], on_text: OnText) -> Iterator[Answer]:
        for number, request in enumerate(requests):
            answer = self._function(request)
            on_text(number, answer.text)
            yield answer
