"""Text engine on an OpenAI-compatible server, such as vLLM, llama-server or TensorRT Edge-LLM."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from vidrisk.runtimes.contract.errors import RuntimeFailure, SettingsError
from vidrisk.runtimes.text.engine import OnText, TextEngine
from vidrisk.runtimes.text.http_json import JsonServer
from vidrisk.runtimes.text.requests import Answer, Chat, Finish, Request

KEY_VARIABLE = "VIDRISK_TEXT_KEY"
MOST_PARALLEL = 256


class ServerEngine(TextEngine):
    """Text engine on a server, whose pieces of text are whole answers; ``Answer.compared`` is always None.

    If the server needs a key, it is read from the environment variable ``VIDRISK_TEXT_KEY``.

    Args:
        url: ``http://host:port/v1``.
        model: name of the model that must answer.
        parallel: number of concurrent requests.
        timeout_s, attempts: limits of one request; a request without an answer fails, and the others go on.
        server: client to use instead of ``url``.

    Raises:
        SettingsError: the URL or the number of requests is invalid.
        RuntimeFailure: no server answers at the URL, or it has another model.
    """

    name = "server"
    prompts = Chat

    def __init__(
        self,
        url: str,
        model: str,
        *,
        parallel: int = 8,
        timeout_s: float = 120.0,
        attempts: int = 5,
        server: JsonServer | None = None,
    ) -> None:
        super().__init__()
        if not 1 <= parallel <= MOST_PARALLEL:
            raise SettingsError(f"{parallel} requests at a time", allowed=f"1 to {MOST_PARALLEL}")
        self.model, self._parallel = model, parallel
        self._server = server or JsonServer(url, os.environ.get(KEY_VARIABLE) or None, timeout_s, attempts)
        listed = self._server.ask("models")
        try:
            served = [str(each["id"]) for each in listed["data"]]
        except (KeyError, TypeError) as error:
            raise RuntimeFailure(
                f"{self._server.url} does not list models", fix="give the URL of an OpenAI-compatible API"
            ) from error
        if model not in served:
            raise RuntimeFailure(
                f"{self._server.url} has no model {model!r}", allowed=", ".join(served[:8]) or "none is loaded"
            )

    def _answers(self, requests: Iterator[Request], on_text: OnText) -> Iterator[Answer]:
        threads = _Threads(self._ask, self._parallel)
        waiting: deque[Future[Answer]] = deque()
        number = 0
        try:
            for request in requests:
                waiting.append(threads.submit(request))
                while len(waiting) >= 2 * self._parallel or (waiting and waiting[0].done()):
                    answer = waiting.popleft().result()
                    on_text(number, answer.text)
                    number += 1
                    yield answer
            while waiting:
                answer = waiting.popleft().result()
                on_text(number, answer.text)
                number += 1
                yield answer
        finally:
            threads.close()

    def _ask(self, request: Request) -> Answer:
        try:
            content = self._server.ask("chat/completions", body_from_request(request, self.model))
            return _answer_from_json(content, request, self.model)
        except RuntimeFailure as error:
            return Answer("", "failed", error=str(error))


class _Threads:
    """Pool of daemon threads, for which an exiting process does not wait, unlike those of ``ThreadPoolExecutor``.

    An answer may take minutes, and an interrupted process does not need it.
    """

    def __init__(self, ask: Callable[[Request], Answer], most: int) -> None:
        self._ask, self._most = ask, most
        self._started = 0
        self._work: SimpleQueue[tuple[Request, Future[Answer]] | None] = SimpleQueue()

    def submit(self, request: Request) -> Future[Answer]:
        future: Future[Answer] = Future()
        self._work.put((request, future))
        if self._started < self._most:
            self._started += 1
            Thread(target=self._run, name="vidrisk-text", daemon=True).start()
        return future

    def close(self) -> None:
        """Drop requests that have not started; ignore the answers of those that have."""
        with suppress(Empty):
            while True:
                self._work.get_nowait()
        for _ in range(self._started):
            self._work.put(None)

    def _run(self) -> None:
        while (begun := self._work.get()) is not None:
            request, future = begun
            try:
                future.set_result(self._ask(request))
            except BaseException as error:
                future.set_exception(error)


def body_from_request(request: Request, model: str) -> dict[str, Any]:
    """Convert a request to OpenAI's chat completions; ``top_k`` is an extension of vLLM and llama.cpp."""
    assert isinstance(request.prompt, Chat)
    body: dict[str, Any] = {
        "model": model,
        "messages": list(request.prompt.messages),
        "max_tokens": request.limit,
        "stream": False,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "seed": request.seed,
    }
    if request.top_k:
        body["top_k"] = request.top_k
    if request.stop:
        body["stop"] = list(request.stop)
    if request.banned:
        body["logit_bias"] = {str(token): -100 for token in request.banned}
    if request.schema is not None:
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": dict(request.schema), "strict": True},
        }
    return body


def _answer_from_json(content: Any, request: Request, model: str) -> Answer:
    """Convert a chat completion to an answer.

    Raises:
        RuntimeFailure: it is not a chat completion, comes from another model, or is not JSON despite a schema.
    """
    try:
        (choice,) = content["choices"]
        text, reason, named = choice["message"]["content"], choice["finish_reason"], content["model"]
        usage = content.get("usage") or {}
        prompt_tokens, written = (int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens"))
        if not isinstance(text, str):
            raise TypeError(f"its content is {type(text).__name__}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RuntimeFailure(
            f"the server's answer lacks something: {error}", allowed="one choice with a message, and the model's name"
        ) from error
    if named != model:
        raise RuntimeFailure(
            f"the answer is from model {named!r}", allowed=model, fix="use the server that has this model"
        )
    if reason not in ("stop", "length"):
        raise RuntimeFailure(f"the server ended an answer with finish_reason {reason!r}", allowed="stop or length")
    finish: Finish = "length" if reason == "length" else "stop" if request.schema is None else "schema"
    if finish == "schema":
        try:
            json.loads(text)
        except (ValueError, RecursionError) as error:
            raise RuntimeFailure(
                f"the server answers {text[:40]!r}, which is not JSON, although the request has a schema",
                fix="enable structured output (json_schema) on the server",
            ) from error
    return Answer(text, finish, prompt_tokens=prompt_tokens, counted=written)
