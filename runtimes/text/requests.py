"""Requests and answers of text engines, common to local graphs and servers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vidrisk.runtimes.contract.errors import SettingsError
from vidrisk.runtimes.text.schema import check_schema

Ids = npt.NDArray[np.int64]
Embeddings = npt.NDArray[np.float32]
# stop: end-of-text token or stop string. schema: the JSON is complete. length: truncated by the limit. failed: see
# ``error``.
Finish = Literal["stop", "schema", "length", "failed"]

MOST_TOKENS = 2**17  # of a prompt, and of an answer
MOST_STOPS, MOST_STOP_CHARACTERS = 16, 256
MOST_ALTERNATIVES = 64


@dataclass(frozen=True, eq=False)
class Prompt:
    """Prompt for an engine that runs the model itself.

    Attributes:
        parts: token ids ``int64 (n,)`` and embeddings ``float32 (n, width)``, such as visual tokens, in order.
        constant: number of leading parts that are the same in many requests; they are computed only once.

    Raises:
        SettingsError: there are no parts, a part has another type or shape, or more parts are constant than exist.
    """

    parts: tuple[npt.NDArray[Any], ...]
    constant: int = 0

    def __post_init__(self) -> None:
        for part in self.parts:
            is_ids = part.dtype == np.int64 and part.ndim == 1
            if not is_ids and not (part.dtype == np.float32 and part.ndim == 2):
                raise SettingsError(
                    f"a part of a prompt is {part.dtype}{list(part.shape)}",
                    allowed="token ids int64[n], embeddings float32[n, width]",
                )
        if not 1 <= self.tokens <= MOST_TOKENS:
            raise SettingsError(f"a prompt of {self.tokens} tokens", allowed=f"1 to {MOST_TOKENS}")
        if not 0 <= self.constant <= len(self.parts):
            raise SettingsError(
                f"{self.constant} constant parts of {len(self.parts)}", allowed=f"0 to {len(self.parts)}"
            )

    @property
    def tokens(self) -> int:
        return sum(len(part) for part in self.parts)

    def __repr__(self) -> str:
        parts = ", ".join(f"{'ids' if part.ndim == 1 else 'embeddings'}{list(part.shape)}" for part in self.parts)
        return f"Prompt({parts}; {self.constant} constant)"


@dataclass(frozen=True)
class Chat:
    """Prompt for an engine that applies the chat template: messages as in OpenAI's chat completions, with images."""

    messages: tuple[Mapping[str, Any], ...]

    def __post_init__(self) -> None:
        if not self.messages or not all("role" in message for message in self.messages):
            raise SettingsError(f"a chat of {len(self.messages)} messages", allowed="one or more, each with a role")


@dataclass(frozen=True)
class Comparison:
    """Place in an answer with alternative words, whose probabilities are to be compared.

    Attributes:
        after: text before the place, at its first occurrence: ``"level":"``.
        alternatives: the words.
        until: text after each word, which keeps a word from matching the beginning of a longer one. It should be what
            follows in the answer, such as ``","`` if another field follows: models write that as one token, and rarely
            a single quotation mark.
        in_json: whether the place is in a JSON string, where words are escaped.
    """

    after: str
    alternatives: tuple[str, ...]
    until: str = '"'
    in_json: bool = False

    @classmethod
    def of_field(cls, name: str, words: tuple[str, ...], *, is_last: bool) -> Comparison:
        """Compare the possible values of a string field in an answer of JSON without spaces.

        ``is_last`` tells whether no other field follows.
        """
        return cls(f'{json.dumps(name, ensure_ascii=False)}:"', words, until='"}' if is_last else '","', in_json=True)

    def render(self, word: str) -> str:
        """Return an alternative as it appears in an answer, with the text after it."""
        return (json.dumps(word, ensure_ascii=False)[1:-1] if self.in_json else word) + self.until

    def __post_init__(self) -> None:
        if not 2 <= len(set(self.alternatives)) == len(self.alternatives) <= MOST_ALTERNATIVES or not all(
            self.alternatives
        ):
            raise SettingsError(
                f"alternatives {', '.join(map(repr, self.alternatives))}",
                allowed=f"2 to {MOST_ALTERNATIVES} different words",
            )
        if not self.after or not self.until:
            raise SettingsError(
                f"a comparison after {self.after!r}, until {self.until!r}",
                allowed="non-empty text before and after the place",
            )


@dataclass(frozen=True, eq=False)
class Request:
    """Request for one answer.

    Attributes:
        limit: maximum number of tokens of the answer.
        temperature: 0 always takes the most probable token.
        top_k: sample only from this many of the most probable tokens; 0 for all.
        top_p: sample only from the smallest set of most probable tokens whose probabilities reach this sum.
        seed: random seed; an answer does not depend on other answers generated at the same time.
        stop: strings that end the answer and are not part of it.
        banned: ids of tokens that are never written.
        schema: JSON schema of the answer, which must bound its length (``check_schema``).

    Raises:
        SettingsError: a value is invalid.
    """

    prompt: Prompt | Chat
    limit: int = 256
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    banned: tuple[int, ...] = ()
    schema: Mapping[str, Any] | None = None
    comparison: Comparison | None = None

    def __post_init__(self) -> None:
        _check(1 <= self.limit <= MOST_TOKENS, "limit", self.limit, f"1 to {MOST_TOKENS} tokens")
        _check(
            math.isfinite(self.temperature) and 0 <= self.temperature <= 10, "temperature", self.temperature, "0 to 10"
        )
        _check(self.top_k >= 0, "top_k", self.top_k, "0 (all) or more")
        _check(0 < self.top_p <= 1, "top_p", self.top_p, "above 0, at most 1")
        _check(0 <= self.seed < 2**63, "seed", self.seed, "0 to 2^63 - 1")
        _check(all(token >= 0 for token in self.banned), "banned", min(self.banned, default=0), "token ids")
        _check(
            len(self.stop) <= MOST_STOPS and all(0 < len(stop) <= MOST_STOP_CHARACTERS for stop in self.stop),
            "stop",
            self.stop,
            f"up to {MOST_STOPS} strings of 1 to {MOST_STOP_CHARACTERS} characters",
        )
        if self.schema is not None:
            _check(
                not self.stop, "stop", self.stop, "no stop strings together with a schema, which ends an answer itself"
            )
            check_schema(self.schema)


def _check(ok: bool, name: str, value: object, allowed: str) -> None:
    if not ok:
        raise SettingsError(f"{name} {value!r} of a request", allowed=allowed)


@dataclass(frozen=True)
class Answer:
    """Answer to a request.

    Attributes:
        text: without the stop string and special tokens.
        tokens: ids of the answer; empty if the engine does not report them.
        logprobs: log-probability of each token before bans, schema and temperature; None for tokens forced by the
            schema, for which it is not computed.
        finish: why the answer ended. ``length``: it is truncated. ``failed``: it is unusable.
        prompt_tokens: length of the prompt.
        compared: log-probability by word at the place of the request's comparison; None if the answer does not have
            this place, or the engine cannot compute it.
        error: reason of a failure.
        counted: length of the answer from an engine that does not report its tokens; 0 if unknown.
    """

    text: str
    finish: Finish
    tokens: tuple[int, ...] = ()
    logprobs: tuple[float | None, ...] = ()
    prompt_tokens: int = 0
    compared: Mapping[str, float] | None = field(default=None)
    error: str = ""
    counted: int = 0

    @property
    def answer_tokens(self) -> int:
        """Length of the answer in tokens; 0 if the engine does not report it."""
        return len(self.tokens) or self.counted

    @property
    def is_whole(self) -> bool:
        return self.finish in ("stop", "schema")
