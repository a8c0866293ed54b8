"""Conversion of conversation turns to parts of a prompt: token ids and photo places, for training and inference.

User text is encoded as plain text: ``<|im_end|>`` in it is not a special token that ends a turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from vidrisk.runtimes.contract.report import ChatPieces
from vidrisk.runtimes.text.requests import Ids


class Encoder(Protocol):
    """Tokenizer interface: ``Vocabulary``."""

    def encode(self, text: str, *, special: bool = False) -> Ids: ...


@dataclass(frozen=True)
class Photo:
    """Place of a photo's visual tokens in a prompt.

    Attributes:
        number: index of the photo in the conversation, from 0.
    """

    number: int


@dataclass(frozen=True)
class Exchange:
    """Question, number of photos before it, and answer (None if it is still to be generated)."""

    question: str
    photos: int = 0
    answer: str | None = None


Part = Ids | Photo


@dataclass(frozen=True)
class Parts:
    """Conversation as a model reads it.

    Attributes:
        parts: parts in order; the first one is the same for every conversation with the same system text.
        answers: for every part whether it is an answer, which a model learns to generate; an answer includes the token
            that ends it.
    """

    parts: tuple[Part, ...]
    answers: tuple[bool, ...]


def parts_from_exchanges(
    encoder: Encoder, pieces: ChatPieces, end: int, system: str | None, exchanges: Sequence[Exchange]
) -> Parts:
    """Assemble the parts of a conversation.

    Args:
        encoder: tokenizer.
        pieces: text pieces of the chat template.
        end: id of the token that ends an answer.
        system: system text; None for no text.
        exchanges: the last one may lack an answer.
    """
    first = pieces.begin_bare if system is None else pieces.begin
    opening = [encoder.encode(first, special=True)]
    if system is not None:
        opening += [encoder.encode(system), encoder.encode(pieces.to_question, special=True)]
    found: list[tuple[Part, bool]] = [(np.concatenate(opening), False)]
    number = 0
    waiting: list[Ids] = []

    def flush() -> None:
        ids = np.concatenate(waiting) if waiting else np.empty(0, np.int64)
        waiting.clear()
        if len(ids):
            found.append((ids, False))

    for place, exchange in enumerate(exchanges):
        if place:  # the answer already contains its end token
            behind = encoder.encode(pieces.to_next, special=True)
            waiting.append(behind[1:] if behind[:1] == [end] else behind)
        for _ in range(exchange.photos):
            waiting.append(encoder.encode(pieces.photo_open, special=True))
            flush()
            found.append((Photo(number), False))
            waiting.append(encoder.encode(pieces.photo_close, special=True))
            number += 1
        waiting += [encoder.encode(exchange.question), encoder.encode(pieces.to_answer, special=True)]
        flush()
        if exchange.answer is not None:
            found.append((np.append(encoder.encode(exchange.answer), np.int64(end)), True))
    flush()
    return Parts(tuple(part for part, _ in found), tuple(is_answer for _, is_answer in found))
