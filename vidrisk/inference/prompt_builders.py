"""Prompts of a case for text engines: visual and text tokens for a graph, or messages with JPEGs for a server."""

from __future__ import annotations

import base64
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vidrisk.data.case_frames import read_case_frames
from vidrisk.data.case_photos import read_case_photos
from vidrisk.data.cases import Case, PhotoSource
from vidrisk.decode.messages import PhotoSettings
from vidrisk.decode.pool import DecodePool
from vidrisk.decode.session import Limits
from vidrisk.runtimes.chain import run_stages
from vidrisk.runtimes.contract.report import ChatPieces
from vidrisk.runtimes.contract.specs import PixelSpec
from vidrisk.runtimes.contract.stages import Stage
from vidrisk.runtimes.runner import Runner
from vidrisk.runtimes.text.requests import MOST_TOKENS, Chat, Embeddings, Prompt
from vidrisk.runtimes.text.turns import Exchange, Photo, parts_from_exchanges
from vidrisk.runtimes.text.vocabulary import Vocabulary

BATCH_PHOTOS = 8
MAX_MEMORY_MB = 2048
SERVER_SIDE_PX = 1024  # longest side of a photo that is sent to a server


@dataclass(frozen=True, eq=False)
class Picture:
    """A photo of a case after reading.

    Attributes:
        pixels: a frame or a JPEG, depending on the builder; None if the photo cannot be read.
        state: one of ``messages.FINAL_STATES``.
        reason: why it cannot be read, or a remark on a readable photo; '' if there is none.
        content: sha256 of the photo; '' if unknown.
    """

    source: PhotoSource | None
    pixels: Any = field(repr=False)
    state: str = "ok"
    reason: str = ""
    content: str = ""


Pictured = tuple[Case, tuple[Picture, ...]]


class PromptTooLong(Exception):
    """Raised if a conversation leaves no room for its answer; the caller adds the context."""


class PromptBuilder(ABC):
    """Reads photos in the form that an engine takes, and builds its prompts."""

    @abstractmethod
    def read(
        self, cases: Iterable[Case], pool: DecodePool, max_memory_mb: int = MAX_MEMORY_MB, limits: Limits | None = None
    ) -> Iterator[Pictured]:
        """Yield cases with their pictures, in order.

        Args:
            cases: cases to read.
            pool: the decode processes.
            max_memory_mb: memory that a decode worker may allocate beyond what it starts with.
            limits: when to give up on a photo; None takes the pool's limits.

        Raises:
            RuntimeFailure: decode workers cannot be started.
            DataError: a Parquet file cannot be opened any more.
        """

    @abstractmethod
    def see(self, pictures: Sequence[Picture]) -> list[Any]:
        """Return the prompt part of each picture, all of which must be readable."""

    @abstractmethod
    def build(
        self, system: str | None, exchanges: Sequence[Exchange], seen: Sequence[Any], limit: int
    ) -> Prompt | Chat:
        """Build the prompt of a conversation.

        Args:
            system: text in front of the conversation; None for none.
            exchanges: questions and answers, ending with the question to be answered.
            seen: prompt parts of the photos, in order.
            limit: most tokens of the answer.

        Raises:
            PromptTooLong: no room is left for the answer.
        """

    @abstractmethod
    def close(self) -> None:
        """Release all resources. Safe to call twice."""


class GraphPrompts(PromptBuilder):
    """Prompts for the text graph of a bundle.

    Args:
        stages, runners: compute visual tokens ``float32 (n, tokens, width)``, the last output, from frames; the runners
            are closed with this object.
        pixel: size of the frames.
        vocabulary: the tokenizer.
        pieces: texts of the chat template.
        end: id of the token that ends an answer.
        tokens: most tokens of a sequence, prompt and answer.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        runners: Sequence[Runner],
        pixel: PixelSpec,
        vocabulary: Vocabulary,
        pieces: ChatPieces,
        end: int,
        tokens: int,
    ) -> None:
        self._stages, self._runners, self._pixel = tuple(stages), tuple(runners), pixel
        self._vocabulary, self._pieces, self._end, self._tokens = vocabulary, pieces, end, min(tokens, MOST_TOKENS)

    def read(
        self, cases: Iterable[Case], pool: DecodePool, max_memory_mb: int = MAX_MEMORY_MB, limits: Limits | None = None
    ) -> Iterator[Pictured]:
        for case, frames in read_case_frames(cases, pool, self._pixel, max_memory_mb=max_memory_mb, limits=limits):
            yield case, tuple(Picture(one.source, one.frame, one.state, one.reason, one.content) for one in frames)

    def see(self, pictures: Sequence[Picture]) -> list[Embeddings]:
        found: list[Embeddings] = []
        for start in range(0, len(pictures), BATCH_PHOTOS):
            frames = [picture.pixels for picture in pictures[start : start + BATCH_PHOTOS]]
            # An engine may compute a single row differently from several: results must not depend on the batch.
            batch = np.stack(frames if len(frames) > 1 else [*frames, *frames])
            found += list(run_stages(self._stages, self._runners, batch)[self._stages[-1].outputs[0].name])[
                : len(frames)
            ]
        return found

    def build(
        self, system: str | None, exchanges: Sequence[Exchange], seen: Sequence[Embeddings], limit: int
    ) -> Prompt:
        parts = [
            seen[part.number] if isinstance(part, Photo) else part
            for part in parts_from_exchanges(self._vocabulary, self._pieces, self._end, system, exchanges).parts
        ]
        tokens = sum(map(len, parts))
        if tokens + limit > self._tokens:
            raise PromptTooLong(
                f"its prompt of {tokens} tokens and an answer of up to {limit} exceed the model's {self._tokens}"
            )
        return Prompt(tuple(parts), constant=1)

    def close(self) -> None:
        with ExitStack() as stack:
            for runner in self._runners:
                stack.callback(runner.close)


class ChatPrompts(PromptBuilder):
    """Prompts for a server with its own chat template and vision tower: photos are sent as JPEGs of bounded size."""

    def read(
        self, cases: Iterable[Case], pool: DecodePool, max_memory_mb: int = MAX_MEMORY_MB, limits: Limits | None = None
    ) -> Iterator[Pictured]:
        settings = PhotoSettings(SERVER_SIDE_PX, SERVER_SIDE_PX, max_memory_mb=max_memory_mb)
        for case, photos in read_case_photos(cases, pool, settings, limits):
            yield case, tuple(Picture(one.source, one.jpeg, one.state, one.reason, one.content) for one in photos)

    def see(self, pictures: Sequence[Picture]) -> list[str]:
        return [
            f"data:image/jpeg;base64,{base64.b64encode(picture.pixels.data).decode('ascii')}" for picture in pictures
        ]

    def build(self, system: str | None, exchanges: Sequence[Exchange], seen: Sequence[str], limit: int) -> Chat:
        """Build messages; the server enforces the maximum length."""
        messages: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": system}]
        urls = iter(seen)
        for exchange in exchanges:
            shown = [{"type": "image_url", "image_url": {"url": next(urls)}} for _ in range(exchange.photos)]
            content = [*shown, {"type": "text", "text": exchange.question}] if shown else exchange.question
            messages.append({"role": "user", "content": content})
            if exchange.answer is not None:
                messages.append({"role": "assistant", "content": exchange.answer})
        return Chat(tuple(messages))

    def close(self) -> None:
        """Do nothing: there are no resources."""
