"""Generation state of one request: its tokens, its text, and when it ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from vidrisk.runtimes.contract.errors import RuntimeFailure
from vidrisk.runtimes.text.requests import Answer, Finish, Request
from vidrisk.runtimes.text.sampling import choose_token, log_probability
from vidrisk.runtimes.text.schema import Constraint
from vidrisk.runtimes.text.stream import StopStrings, TokenStream
from vidrisk.runtimes.text.vocabulary import Vocabulary

FEWER_BANS = "ban fewer tokens, or change the schema"


class Sequence:
    """Generation state of one request, which consumes logits and produces tokens, independent of any graph.

    Args:
        on_text: called with every piece of text.

    Attributes:
        pending: chosen tokens that the graph has not read; ``advance`` needs the logits after the last one.
        written: all tokens of the answer.
        finish: why the answer ended; None while it is in progress.
    """

    def __init__(
        self, request: Request, vocabulary: Vocabulary, constraint: Constraint | None, on_text: Callable[[str], None]
    ) -> None:
        self.request = request
        self.pending: list[int] = []
        self.written: list[int] = []
        self.finish: Finish | None = None
        self._logprobs: list[float | None] = []
        self._texts: list[str] = []
        self._error = ""
        self._ends = frozenset(vocabulary.ends)
        self._banned = np.array(request.banned, np.int64)
        self._constraint, self._on_text = constraint, on_text
        self._stream, self._stops = TokenStream(vocabulary.decode), StopStrings(request.stop)
        self._rng = np.random.default_rng(request.seed)
        self._guard(self._take_forced)

    @property
    def text(self) -> str:
        return "".join(self._texts)

    def advance(self, logits: npt.NDArray[np.float32]) -> None:
        """Choose the next token, and append those that the schema forces after it.

        ``logits`` ``(vocabulary,)`` are those after the last pending token; they are not modified.
        """
        self.pending = []
        self._guard(lambda: self._choose(logits))

    def _choose(self, logits: npt.NDArray[np.float32]) -> None:
        request = self.request
        scores = logits
        if self._constraint is not None:
            scores = np.where(self._constraint.compute_mask(), logits, np.float32(-np.inf))
        if len(self._banned):
            scores = logits.copy() if scores is logits else scores
            scores[self._banned] = -np.inf
        token = choose_token(scores, request.temperature, request.top_k, request.top_p, self._rng)
        logprob = log_probability(logits, token)
        if not np.isfinite(logprob):
            raise RuntimeFailure("the model's logits are not finite", fix="export the model again")
        if scores[token] == -np.inf:
            raise RuntimeFailure("every token that the schema allows is banned", fix=FEWER_BANS)
        self._take(token, logprob)
        self._take_forced()

    def _take_forced(self) -> None:
        while self._constraint is not None and self.finish is None:
            forced = self._constraint.find_forced()
            if not forced:
                break
            for token in forced:
                if token in self.request.banned:
                    raise RuntimeFailure(f"the schema requires token {token}, which is banned", fix=FEWER_BANS)
                if self.finish is None:
                    self._take(token, None)

    def _take(self, token: int, logprob: float | None) -> None:
        if token in self._ends:
            self._end("stop" if self._constraint is None else "schema")
            return
        self.written.append(token)
        self.pending.append(token)
        self._logprobs.append(logprob)
        self._say(self._stops.push(self._stream.push(token)))
        if self._constraint is not None:
            self._constraint.consume(token)
        if self._stops.is_found:
            self._end("stop")
        elif self._constraint is not None and self._constraint.is_complete:
            self._end("schema")
        elif len(self.written) >= self.request.limit:
            self._end("length")

    def _end(self, finish: Finish) -> None:
        self._say(self._stops.push(self._stream.finish()))
        if self._stops.is_found and finish == "length":
            finish = "stop"
        self._say(self._stops.finish())
        self.finish = finish

    def _say(self, text: str) -> None:
        if text:
            self._texts.append(text)
            self._on_text(text)

    def _guard(self, work: Callable[[], Any]) -> None:
        """Run ``work`` and record its failure, so that other answers can go on."""
        try:
            work()
        except RuntimeFailure as error:
            self.finish, self._error = "failed", str(error)

    def answer(self, prompt_tokens: int, compared: dict[str, float] | None) -> Answer:
        """Return the finished answer."""
        assert self.finish is not None
        return Answer(
            self.text, self.finish, tuple(self.written), tuple(self._logprobs), prompt_tokens, compared, self._error
        )
