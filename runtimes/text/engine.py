"""The one seam to everything that writes text: requests in, answers out, in their order.

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

OnText = Callable[[int, str], None]  # number of the request, from 0 on, and the text that it goes on with


class TextEngine(ABC):
    """Writes answers. Subclasses implement ``_answers``.

    Attributes:
        name: of the engine.
        prompts: kind of prompt that it takes.
    """

    name: str = ""
    prompts: type[Prompt] | type[Chat] = Prompt

    def __init__(self) -> None:
        self._is_closed = self._is_busy = False

    def answers(self, requests: Iterable[Request], on_text: OnText | None = None) -> Iterator[Answer]:
        """Answer requests, several at a time; one answer each, in their order.

        Args:
            requests: read as they are needed, and only a few ahead of the answers.
            on_text: called with every piece of text as it is written; pieces of several answers come mixed.

        Raises:
            SettingsError: a request that the engine cannot serve (``check``), when it is its turn.
            RuntimeFailure: the engine failed, is closed, or answers other requests at the moment.
        """
        if self._is_closed or self._is_busy:
            raise RuntimeFailure(
                f"{self.name} is {'closed' if self._is_closed else 'answering other requests'}",
                fix="open it again" if self._is_closed else "wait for these answers, or close their iterator",
            )
        self._is_busy = True
        try:
            yield from self._answers(self._checked(requests), on_text or _ignore)
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
            SettingsError: as said.
        """
        if not isinstance(request.prompt, self.prompts):
            raise SettingsError(
                f"{self.name} got a {type(request.prompt).__name__}", allowed=f"a {self.prompts.__name__}"
            )
        self._check(request)

    def _check(self, request: Request) -> None:  # noqa: B027
        """Refuse what this engine in particular cannot serve."""

    def _checked(self, requests: Iterable[Request]) -> Iterator[Request]:
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
    """An engine around a plain function, for tests and for trying a pipeline without a model."""

    name = "fake"

    def __init__(self, function: Callable[[Request], Answer], prompts: type[Prompt] | type[Chat] = Prompt) -> None:
        super().__init__()
        self._function, self.prompts = function, prompts

    def _answers(self, requests: Iterator[Request], on_text: OnText) -> Iterator[Answer]:
        for number, request in enumerate(requests):
            answer = self._function(request)
            on_text(number, answer.text)
            yield answer
