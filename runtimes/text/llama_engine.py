"""Text engine for GGUF files on llama.cpp (MIT, https://github.com/ggml-org/llama.cpp), through the package xllamacpp.

llama.cpp does its own batching: each of its slots is one sequence, which reuses the prefix that its slot has in common
with the prompt, so constant parts are read once per slot. It accepts token ids but not embeddings, and therefore not
the visual tokens of a bundle. Schemas are enforced by llguidance with the same grammar as for our own graphs.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from vidrisk.runtimes.contract.errors import BundleError, RuntimeFailure, SettingsError, require
from vidrisk.runtimes.text.engine import OnText, TextEngine
from vidrisk.runtimes.text.gguf_header import GgufHeader, read_gguf
from vidrisk.runtimes.text.llama_answer import LlamaWriter
from vidrisk.runtimes.text.requests import Answer, Prompt, Request
from vidrisk.runtimes.text.vocabulary import Vocabulary

AHEAD = 2  # requests per slot that are started before an earlier answer is finished
PROMPT_CACHE_MB = 256  # for prompts evicted from slots; llama.cpp's default is 8 GB
OTHER = "use the GGUF and the tokenizer of the same export"


class LlamaEngine(TextEngine):
    """Text engine on llama.cpp, in this process.

    ``Answer.tokens`` and ``logprobs`` are empty if a character of the answer consists of several tokens, because
    llama.cpp reports only the last of them; text, finish and comparison are still set. With a temperature, its random
    numbers differ from ours.

    Args:
        gguf: the model, as written by ``export.text.gguf``.
        vocabulary: tokenizer of the same model, whose token ids requests contain.
        digest: digest of the export that the file must belong to; None accepts any with a matching vocabulary.
        sequences, tokens: maximum number of concurrent sequences, and of tokens of each, prompt and answer together.
        threads: None lets llama.cpp use the physical cores.

    Raises:
        SettingsError: the sizes are invalid.
        BundleError: the file is damaged, or belongs to another export or tokenizer.
        MissingExtra: xllamacpp is not installed.
        RuntimeFailure: llama.cpp refuses the file.
    """

    name = "llama.cpp"

    def __init__(
        self,
        gguf: Path,
        vocabulary: Vocabulary,
        *,
        digest: str | None = None,
        sequences: int = 8,
        tokens: int = 1024,
        threads: int | None = None,
    ) -> None:
        super().__init__()
        if sequences < 1 or tokens < 2:
            raise SettingsError(
                f"{sequences} sequences of {tokens} tokens", allowed="1 sequence or more, of 2 tokens or more"
            )
        header = read_gguf(gguf)
        _check_export(gguf.name, header, vocabulary, digest)
        self.vocabulary, self.sequences, self.tokens = vocabulary, sequences, tokens
        self.known_tokens = len(header.tokens)
        llama: Any = require("xllamacpp", "gguf")
        params = llama.CommonParams()
        params.model.path = str(gguf)
        params.n_parallel, params.n_ctx = (
            sequences,
            sequences * -(-tokens // 256) * 256,
        )  # llama.cpp rounds up to this but reports less
        params.cache_ram_mib, params.fit_params, params.ctx_shift, params.offline = PROMPT_CACHE_MB, False, False, True
        if threads:
            params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.verbosity = -1
        # It also listens on 127.0.0.1. We call it without HTTP; a random API key keeps others out.
        params.api_keys, params.ui, params.endpoint_slots = [secrets.token_hex(16)], False, False
        params.n_threads_http = 1
        try:
            self._server: Any = llama.Server(params)
            # A server that is closed before its loop runs deadlocks, so generate a token first.
            self._server.handle_completions({"prompt": [vocabulary.ends[0]], "n_predict": 1, "cache_prompt": False})
        except Exception as error:  # RuntimeError, and C++ exceptions
            raise RuntimeFailure(f"llama.cpp cannot load {gguf.name}: {error}", fix="export the GGUF again") from error

    def _check(self, request: Request) -> None:
        assert isinstance(request.prompt, Prompt)
        if any(part.ndim != 1 for part in request.prompt.parts):
            raise SettingsError(
                "a prompt with visual tokens, which llama.cpp does not accept",
                allowed="token ids",
                fix="use the bundle's own graph, or a server that has the whole model",
            )
        length = request.prompt.tokens
        if length + request.limit > self.tokens:
            raise SettingsError(
                f"a prompt of {length} tokens and an answer of up to {request.limit}",
                allowed=f"{self.tokens} together",
                fix="open the engine for longer sequences, or lower the limit",
            )
        for ids, what in (
            (np.concatenate(request.prompt.parts), "in a prompt"),
            (np.array(request.banned, np.int64), "is banned"),
        ):
            foreign = ids[(ids < 0) | (ids >= self.known_tokens)]
            if len(foreign):
                raise SettingsError(f"token {foreign[0]} {what}", allowed=f"0 to {self.known_tokens - 1}", fix=OTHER)
        if request.schema is not None:  # llama.cpp would ignore a schema that it does not understand
            self.vocabulary.constrainer(self.known_tokens).constraint(request.schema)

    def _answers(self, requests: Iterator[Request], on_text: OnText) -> Iterator[Answer]:
        events: SimpleQueue[tuple[int, str | Answer | Exception]] = SimpleQueue()
        stopped = threading.Event()
        writer = LlamaWriter(self._server, self.vocabulary, stopped)
        done: dict[int, Answer] = {}
        begun = answered = 0
        pool = ThreadPoolExecutor(self.sequences, thread_name_prefix="vidrisk-llama")

        def write(number: int, request: Request) -> None:
            try:
                events.put((number, writer.answer(request, lambda text: events.put((number, text)))))
            except Exception as error:
                events.put((number, error))

        try:
            is_exhausted = False
            while True:
                while not is_exhausted and begun - answered < AHEAD * self.sequences:
                    request = next(requests, None)
                    if request is None:
                        is_exhausted = True
                    else:
                        pool.submit(write, begun, request)
                        begun += 1
                if answered == begun:
                    return
                number, event = events.get()
                if isinstance(event, Exception):
                    raise RuntimeFailure(f"llama.cpp failed: {event}") from event
                if isinstance(event, str):
                    on_text(number, event)
                    continue
                done[number] = event
                while answered in done:
                    yield done.pop(answered)
                    answered += 1
        finally:
            stopped.set()
            pool.shutdown(cancel_futures=True)

    def close(self) -> None:
        super().close()
        self._server = None

    def __repr__(self) -> str:
        return f"LlamaEngine({self.sequences} sequences of {self.tokens} tokens)"


def _check_export(name: str, header: GgufHeader, vocabulary: Vocabulary, digest: str | None) -> None:
    if digest is not None and header.digest != digest:
        raise BundleError(
            f"{name} belongs to export {json.dumps((header.digest or 'unknown')[:16])}",
            allowed=json.dumps(digest[:16]),
            fix="export the GGUF together with the bundle",
        )
    ids = [vocabulary.token(token) for token in header.tokens]
    wrong = [place for place, found in enumerate(ids) if found not in (place, None)]
    if wrong or len(ids) - ids.count(None) < vocabulary.size:
        raise BundleError(
            f"{name} has other tokens than the tokenizer"
            + (f": {header.tokens[wrong[0]]!r} is {wrong[0]}, not {ids[wrong[0]]}" if wrong else ""),
            fix=OTHER,
        )
    if foreign := set(vocabulary.ends) - header.ends:
        raise BundleError(
            f"{name} does not end a text at token {min(foreign)}",
            allowed=", ".join(map(str, sorted(header.ends))),
            fix=OTHER,
        )
