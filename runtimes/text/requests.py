"""What a text engine is asked, and what it answers. Stated once for all engines: a graph that runs here, or a server."""

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
# stop: the end-of-text token or a stop string. schema: the JSON is complete. length: cut off by the limit. failed: see
# ``error``.
Finish = Literal["stop", "schema", "length", "failed"]

MOST_TOKENS = 2**17  # of a prompt, and of an answer
MOST_STOPS, MOST_STOP_CHARACTERS = 16, 256
MOST_ALTERNATIVES = 64


@dataclass(frozen=True, eq=False)
class Prompt:
    """A prompt for an engine that runs the model itself.

    Attributes:
        parts: token ids ``int64 (n,)`` and embeddings ``float32 (n, width)``, such as visual tokens, in their order.
        constant: how many of the first parts are the same in many requests. What they cost is paid once.

    Raises:
        SettingsError: no part, one of another type or shape, or more constant parts than there are.
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
    """A prompt for an engine that renders it itself: messages in the form of OpenAI's chat completions, images included."""

    messages: tuple[Mapping[str, Any], ...]

    def __post_init__(self) -> None:
        if not self.messages or not all("role" in message for message in self.messages):
            raise SettingsError(f"a chat of {len(self.messages)} messages", allowed="one or more, each with a role")


@dataclass(frozen=True)
class Comparison:
    """A place in an answer, and the words of which one stands there: how likely is each?

    Attributes:
        after: text that the place follows, at its first occurrence: ``"level":"``.
        alternatives: the words.
        until: text behind each, so that a word is not taken for the beginning of a longer one. Best as the answer goes
            on, ``","`` where another field follows: a model writes that as one token, and seldom a quotation mark
            alone.
        in_json: the place is in a string of JSON, where words are written with escapes.
    """

    after: str
    alternatives: tuple[str, ...]
    until: str = '"'
    in_json: bool = False

    @classmethod
    def of_field(cls, name: str, words: tuple[str, ...], *, is_last: bool) -> Comparison:
        """Compare the words of which one stands in a field of an answer in JSON without spaces.

        Args:
            is_last: whether no field follows.
        """
        return cls(f'{json.dumps(name, ensure_ascii=False)}:"', words, until='"}' if is_last else '","', in_json=True)

    def written(self, word: str) -> str:
        """Return an alternative as it stands in an answer, with the text behind it."""
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
                f"a comparison after {self.after!r}, until {self.until!r}", allowed="text in front and behind"
            )


@dataclass(frozen=True, eq=False)
class Request:
    """One answer that is wanted.

    Attributes:
        limit: most tokens of the answer.
        temperature: 0 takes the most probable token.
        top_k: only so many of the most probable tokens are drawn from; 0 for all.
        top_p: only the fewest most probable tokens whose probabilities add up to so much.
        seed: of what is drawn; an answer does not depend on what else is answered at the same time.
        stop: strings that end the answer; they are no part of it.
        banned: ids of tokens that are never written.
        schema: JSON schema of the answer, one that bounds its length (``check_schema``).

    Raises:
        SettingsError: a value that makes no sense.
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
        _check(all(token >= 0 for token in self.banned), "banned", min(self.banned, default=0), "ids of tokens")
        _check(
            len(self.stop) <= MOST_STOPS and all(0 < len(stop) <= MOST_STOP_CHARACTERS for stop in self.stop),
            "stop",
            self.stop,
            f"up to {MOST_STOPS} strings of 1 to {MOST_STOP_CHARACTERS} characters",
        )
        if self.schema is not None:
            _check(not self.stop, "stop", self.stop, "no stop strings beside a schema, which ends an answer itself")
            check_schema(self.schema)


def _check(ok: bool, name: str, value: object, allowed: str) -> None:
    if not ok:
        raise SettingsError(f"{name} {value!r} of a request", allowed=allowed)


@dataclass(frozen=True)
class Answer:
    """What came of a request.

    Attributes:
        text: without stop string and special tokens.
        tokens: ids that were written; empty where an engine does not say.
        logprobs: log-probability of each token before bans, schema and temperature; None for tokens that the schema
            left no choice about, which are not computed.
        finish: why the answer ended. ``length``: it is cut off. ``failed``: it is of no use.
        prompt_tokens: length of the prompt.
        compared: word → log-probability at the place of the request's comparison; None where there is no such place in
            the answer, and where the engine cannot tell.
        error: of a failed one, what was wrong.
        counted: length of the answer by an engine that does not give its tokens; 0 where it does not say.
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
        """Length of the answer; 0 where the engine does not say."""
        return len(self.tokens) or self.counted

    @property
    def is_whole(self) -> bool:
        return self.finish in ("stop", "schema")
