"""Text engine on an exported graph, with continuous batching: sequences enter the batch when there is room.

In every step, sequences with several tokens to read (a new prompt, or tokens forced by a schema) read them one after
another; then all sequences generate one token together. An answer does not depend on the other sequences: each has its
own length in the cache, its own constraint and its own random generator.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from vidrisk.runtimes.contract.errors import BundleError, SettingsError
from vidrisk.runtimes.text.alternatives import compare_alternatives
from vidrisk.runtimes.text.engine import OnText, TextEngine
from vidrisk.runtimes.text.prefixes import Prefixes, key_of
from vidrisk.runtimes.text.requests import Answer, Embeddings, Prompt, Request
from vidrisk.runtimes.text.schema import Constraint
from vidrisk.runtimes.text.sequence import Sequence
from vidrisk.runtimes.text.session import TextSession
from vidrisk.runtimes.text.vocabulary import Vocabulary

AHEAD = 4  # finished answers per active sequence that may wait for an earlier one


class GraphEngine(TextEngine):
    """Text engine on a text graph.

    Args:
        session: the graph with its cache; closed with the engine.
        vocabulary: tokenizer of the model.
        prefixes: cache of the constant parts of prompts.

    Raises:
        BundleError: the tokenizer has more tokens than the model.
    """

    def __init__(self, session: TextSession, vocabulary: Vocabulary, prefixes: Prefixes | None = None) -> None:
        super().__init__()
        self.name, self.session, self.vocabulary = session.runtime, session, vocabulary
        self.prefixes = Prefixes() if prefixes is None else prefixes
        if vocabulary.size > session.shape.vocabulary:
            raise BundleError(
                f"the tokenizer has {vocabulary.size} tokens, but the model {session.shape.vocabulary}",
                fix="use the tokenizer and the graph of the same export",
            )

    def _check(self, request: Request) -> None:
        assert isinstance(request.prompt, Prompt)
        session, length = self.session, request.prompt.tokens
        if length + request.limit > session.tokens:
            raise SettingsError(
                f"a prompt of {length} tokens and an answer of up to {request.limit}",
                allowed=f"{session.tokens} together",
                fix="open the session for longer sequences, or lower the limit",
            )
        known = len(session.embeddings)
        for part in request.prompt.parts:
            if part.ndim == 1 and len(part) and not 0 <= part.min() <= part.max() < known:
                raise SettingsError(
                    f"token {part.max() if part.max() >= known else part.min()} in a prompt",
                    allowed=f"0 to {known - 1}",
                    fix="use the tokenizer and the graph of the same export",
                )
            if part.ndim == 2 and (part.shape[1] != session.shape.width or not np.isfinite(part).all()):
                raise SettingsError(
                    f"embeddings float32{list(part.shape)} in a prompt",
                    allowed=f"finite ones of width {session.shape.width}",
                )
        if max(request.banned, default=0) >= session.shape.vocabulary:
            raise SettingsError(
                f"token {max(request.banned)} is banned", allowed=f"0 to {session.shape.vocabulary - 1}"
            )

        if request.schema is not None:
            self.constraint(request.schema)

    def constraint(self, schema: Mapping[str, Any]) -> Constraint:
        """Return a new constraint for an answer with a schema.

        Raises:
            SettingsError: llguidance refuses the schema.
        """
        return self.vocabulary.constrainer(self.session.shape.vocabulary).constraint(schema)

    def _answers(self, requests: Iterator[Request], on_text: OnText) -> Iterator[Answer]:
        batch = _Batch(self, requests, on_text)
        while True:
            batch.fill()
            yield from batch.ready()
            if batch.is_at_work:
                batch.write()
            elif batch.is_exhausted:
                return

    def close(self) -> None:
        super().close()
        self.session.close()


@dataclass
class _Row:
    """Active sequence. ``prompt_end`` is the embedding of its prompt's last token, ``(1, width)``."""

    number: int
    sequence: Sequence
    prompt_end: Embeddings


class _Batch:
    """Batch of active rows, which are the first sequences of the session in the same order.

    Attributes:
        is_exhausted: whether no requests are left.
    """

    def __init__(self, engine: GraphEngine, requests: Iterator[Request], on_text: OnText) -> None:
        self._engine, self._session, self._on_text = engine, engine.session, on_text
        self._requests = enumerate(requests)
        self._rows: list[_Row] = []
        self._done: dict[int, Answer] = {}
        self._next = 0
        self.is_exhausted = False

    @property
    def is_at_work(self) -> bool:
        return bool(self._rows)

    def fill(self) -> None:
        """Accept requests while there is room, and read their prompts."""
        most = AHEAD * self._session.sequences
        while (
            len(self._rows) < self._session.sequences
            and len(self._rows) + len(self._done) < most
            and not self.is_exhausted
        ):
            number, request = next(self._requests, (-1, None))
            if request is None:
                self.is_exhausted = True
                return
            self._enter(number, request)
            self._read_pending(len(self._rows) - 1)
            self._leave()

    def ready(self) -> Iterator[Answer]:
        """Yield the finished answers that are next in order."""
        while self._next in self._done:
            yield self._done.pop(self._next)
            self._next += 1

    def write(self) -> None:
        """Generate one token for every sequence, or several if a schema leaves no choice."""
        last = np.array([row.sequence.pending[0] for row in self._rows], np.int64)
        logits = self._session.step(self._session.embed(last))
        for row, of_row in zip(self._rows, logits, strict=True):
            row.sequence.advance(of_row)
        for slot in range(len(self._rows)):
            self._read_pending(slot)
        self._leave()

    def _enter(self, number: int, request: Request) -> None:
        engine, session, slot = self._engine, self._session, len(self._rows)
        prompt, constraint = request.prompt, None
        assert isinstance(prompt, Prompt)
        if request.schema is not None:
            constraint = engine.constraint(request.schema)
        sequence = Sequence(request, engine.vocabulary, constraint, partial(self._on_text, number))
        left = self._begin(slot, prompt)
        self._rows.append(_Row(number, sequence, left[-1:]))
        if sequence.finish is None:
            forced = session.embed(np.array(sequence.pending, np.int64))
            sequence.advance(session.extend(slot, np.concatenate([left, forced]))[0])
        elif request.comparison is not None:  # the schema forced the whole answer
            session.extend(slot, left)

    def _begin(self, slot: int, prompt: Prompt) -> Embeddings:
        """Put the constant part of a prompt into the cache; return the rest, at least one token."""
        session, prefixes = self._session, self._engine.prefixes
        session.truncate(slot, 0)
        embedded = [session.embed(part) if part.ndim == 1 else part for part in prompt.parts]
        every: Embeddings = np.concatenate(embedded)
        constant = min(sum(len(part) for part in embedded[: prompt.constant]), len(every) - 1)
        if constant == 0:
            return every
        key = f"{key_of(prompt.parts[: prompt.constant])} {constant}"
        if (kept := prefixes.find(key)) is not None:
            session.copy_in(slot, kept)
        else:
            session.extend(slot, every[:constant])
            prefixes.keep(key, session.copy_out(slot))
        return every[constant:]

    def _read_pending(self, slot: int) -> None:
        sequence = self._rows[slot].sequence
        while sequence.finish is None and len(sequence.pending) > 1:
            new = self._session.embed(np.array(sequence.pending, np.int64))
            sequence.advance(self._session.extend(slot, new)[0])

    def _leave(self) -> None:
        """Remove finished sequences; the last sequence moves into the free place."""
        for slot in reversed(range(len(self._rows))):
            row = self._rows[slot]
            if row.sequence.finish is None:
                continue
            self._done[row.number] = self._answer(slot, row)
            self._session.move(len(self._rows) - 1, slot)
            self._rows[slot] = self._rows[-1]
            self._rows.pop()

    def _answer(self, slot: int, row: _Row) -> Answer:
        sequence, compared = row.sequence, None
        comparison, prompt = sequence.request.comparison, sequence.request.prompt
        assert isinstance(prompt, Prompt)
        if comparison is not None and sequence.finish != "failed":
            compared = compare_alternatives(
                self._session,
                slot,
                self._engine.vocabulary,
                comparison,
                sequence.text,
                sequence.written,
                prompt.tokens,
                row.prompt_end,
            )
        return sequence.answer(prompt.tokens, compared)
