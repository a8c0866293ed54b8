"""One answer of llama.cpp: conversion of the request, its response chunks, and log-probabilities of words."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from vidrisk.runtimes.contract.errors import RuntimeFailure
from vidrisk.runtimes.text.alternatives import common_length
from vidrisk.runtimes.text.requests import Answer, Comparison, Finish, Prompt, Request
from vidrisk.runtimes.text.vocabulary import Vocabulary

FORCED = 1e4  # added to a logit: more than any difference between logits
CLOSING = '}]"'


class LlamaWriter:
    """Thread-safe generator of answers with a server of xllamacpp.

    Args:
        stopped: event that ends answers in progress.
    """

    def __init__(self, server: Any, vocabulary: Vocabulary, stopped: threading.Event) -> None:
        self._server, self._vocabulary, self._stopped = server, vocabulary, stopped

    def answer(self, request: Request, on_text: Callable[[str], None]) -> Answer:
        """Generate one answer; on failure, return one with ``finish`` "failed" and the error."""
        assert isinstance(request.prompt, Prompt)
        prompt = [int(token) for part in request.prompt.parts for token in part]
        try:
            pieces = self._write(body_from_request(request, prompt), on_text)
            finish = pieces.finish(request)
            compared = None
            if request.comparison is not None:
                compared = self._compare(request.comparison, prompt, pieces)
            tokens, logprobs = pieces.tokens(self._vocabulary)
            return Answer(pieces.text, finish, tokens, logprobs, len(prompt), compared)
        except RuntimeFailure as error:
            return Answer("", "failed", prompt_tokens=len(prompt), error=str(error))

    def _write(self, body: dict[str, Any], on_text: Callable[[str], None]) -> _Pieces:
        pieces = _Pieces(on_text)

        def take(chunk: Any) -> bool:
            pieces.take(chunk)
            return self._stopped.is_set()

        self._server.handle_completions(body, take)
        return pieces.check()

    def _compare(self, comparison: Comparison, prompt: list[int], pieces: _Pieces) -> dict[str, float] | None:
        """Compare words like ``compare_alternatives`` does for a graph, one token of a word at a time."""
        place = pieces.text.find(comparison.after)
        if place < 0:
            return None
        before = pieces.text[: place + len(comparison.after)]
        tried = {
            word: self._vocabulary.encode(before + comparison.render(word)).tolist() for word in comparison.alternatives
        }
        written = list(pieces.tokens(self._vocabulary)[0]) or self._vocabulary.encode(pieces.text).tolist()
        same = min(common_length(ids, written) for ids in tried.values())
        known: dict[tuple[int, ...], float] = {}
        for ids in tried.values():
            for end in range(same + 1, len(ids) + 1):
                if (key := tuple(ids[:end])) not in known:
                    known[key] = self._log_probability(prompt + ids[: end - 1], ids[end - 1])
        return {
            word: sum(known[tuple(ids[:end])] for end in range(same + 1, len(ids) + 1)) for word, ids in tried.items()
        }

    def _log_probability(self, before: list[int], token: int) -> float:
        """Return the log-probability of a token after others.

        The token is forced, however unlikely it is, and llama.cpp reports its log-probability.
        """
        body = {**_BODY, "prompt": before, "n_predict": 1, "temperature": 0.0, "logit_bias": [[token, FORCED]]}
        pieces = self._write(body, lambda _: None)
        if [found for found, _ in pieces.known] != [token]:
            raise RuntimeFailure(
                f"llama.cpp does not report the probability of token {token}", fix="install a newer xllamacpp"
            )
        return pieces.known[0][1]


_BODY = {"stream": True, "n_probs": 1, "cache_prompt": True, "samplers": ["temperature", "top_k", "top_p"]}


def body_from_request(request: Request, prompt: list[int]) -> dict[str, Any]:
    """Convert a request to llama.cpp's format, with the same sampling steps as ours in the same order."""
    body: dict[str, Any] = {
        **_BODY,
        "prompt": prompt,
        "n_predict": request.limit,
        "temperature": request.temperature,
        "top_k": request.top_k,
        "top_p": request.top_p,
        "seed": request.seed % 2**32,
    }
    if request.stop:
        body["stop"] = list(request.stop)
    if request.banned:
        body["logit_bias"] = [[token, False] for token in request.banned]
    if request.schema is not None:
        bound = {**request.schema, "x-guidance": {"whitespace_flexible": False}}
        body["grammar"] = f"%llguidance {{}}\nstart: %json {json.dumps(bound, ensure_ascii=False)}"
    return body


class _Pieces:
    """Response chunks of one answer of llama.cpp.

    Attributes:
        known: id and log-probability of the tokens that it reports.
    """

    def __init__(self, on_text: Callable[[str], None]) -> None:
        self._on_text = on_text
        self._texts: list[str] = []
        self.known: list[tuple[int, float]] = []
        self._reason: str | None = None
        self._written: int | None = None
        self._error = ""

    @property
    def text(self) -> str:
        return "".join(self._texts)

    def take(self, chunk: Any) -> None:
        """Process the next chunk. Errors are stored, because llama.cpp would swallow an exception."""
        try:
            if "error" in chunk:
                raise RuntimeFailure(f"llama.cpp refuses a request: {chunk['error'].get('message')}")
            (choice,) = chunk["choices"]
            self.known += [
                (int(each["id"]), float(each["logprob"])) for each in (choice["logprobs"] or {}).get("content", ())
            ]
            self._reason = choice["finish_reason"] or self._reason
            if "usage" in chunk:
                self._written = int(chunk["usage"]["completion_tokens"])
            if choice["text"]:
                self._texts.append(choice["text"])
                self._on_text(choice["text"])
        except RuntimeFailure as error:
            self._error = str(error)
        except Exception as error:
            self._error = f"llama.cpp sent an unexpected response: {type(error).__name__} {error}"

    def check(self) -> _Pieces:
        """Check that the answer is complete, and return it.

        Raises:
            RuntimeFailure: the request failed, or the answer has no end.
        """
        if self._error or self._reason is None:
            raise RuntimeFailure(self._error or "llama.cpp ended an answer without saying why")
        if not np.isfinite([logprob for _, logprob in self.known]).all():
            raise RuntimeFailure("the model's logits are not finite", fix="export the GGUF again")
        return self

    def finish(self, request: Request) -> Finish:
        """Return why the answer ended.

        Raises:
            RuntimeFailure: there is a schema, but the text is not JSON.
        """
        if request.schema is None:
            return "stop" if self._reason == "stop" else "length"
        try:
            json.loads(self.text)
        except (ValueError, RecursionError) as error:
            if self._reason == "length":
                return "length"
            raise RuntimeFailure(
                f"llama.cpp writes {self.text[:40]!r}, which is not JSON, although the request has a schema",
                fix="install an xllamacpp with llguidance",
            ) from error
        # If the last allowed token closes an object, llama.cpp still expects an end-of-text token.
        return "schema" if self._reason == "stop" or self.text[-1] in CLOSING else "length"

    def tokens(self, vocabulary: Vocabulary) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Return the tokens of the answer and their log-probabilities, without the token that ends it.

        Both are empty if llama.cpp did not report all tokens.
        """
        known = self.known if len(self.known) == self._written else []
        if known and self._reason == "stop" and not vocabulary.decode([known[-1][0]]):
            known = known[:-1]
        return tuple(token for token, _ in known), tuple(logprob for _, logprob in known)
