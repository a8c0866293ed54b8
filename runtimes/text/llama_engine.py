"""The text engine over llama.cpp (MIT, https://github.com/ggml-org/llama.cpp), by the package xllamacpp: GGUF files.

llama.cpp batches by itself: every slot of it is one sequence, and a sequence begins with what its slot has in common
with the prompt, so that constant parts are read once per slot. It takes ids of tokens; embeddings, and so the visual
tokens of a bundle, it does not take. JSON by schema is llguidance's there, too, with the very grammar of our own
graphs.
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

AHEAD = 2  # requests per slot that are begun before an earlier answer is there
PROMPT_CACHE_MB = 256  # of prompts that a slot has left; llama.cpp's own choice is 8 GB
OTHER = "take GGUF and tokenizer of the same export"


class LlamaEngine(TextEngine):
    """Writes answers by llama.cpp, in this process.

    ``Answer.tokens`` and ``logprobs`` are empty where a character of the answer was written in several tokens, of which
    llama.cpp names the last alone; text, finish and comparison are there. With a temperature, its random numbers are
    other ones than ours.

    Args:
        gguf: the model; ``export.text.gguf`` writes one.
        vocabulary: of the same model: requests have ids of its tokens.
        digest: of the export that the file must be of; None takes any whose vocabulary is right.
        sequences, tokens: most sequences at a time, and most tokens of each, prompt and answer.
        threads: None lets llama.cpp take the physical cores.

    Raises:
        SettingsError: sizes that make no sense.
        BundleError: a file that is damaged, of another export, or of another tokenizer.
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
        )  # it rounds to this, and says less
        params.cache_ram_mib, params.fit_params, params.ctx_shift, params.offline = PROMPT_CACHE_MB, False, False, True
        if threads:
            params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.verbosity = -1
        # It also listens, on 127.0.0.1 alone; nobody but us shall use it, and we call it without HTTP.
        params.api_keys, params.ui, params.endpoint_slots = [secrets.token_hex(16)], False, False
        params.n_threads_http = 1
        try:
            self._server: Any = llama.Server(params)
            # A server that is closed before its loop runs waits for itself for ever: a token is written first.
            self._server.handle_completions({"prompt": [vocabulary.ends[0]], "n_predict": 1, "cache_prompt": False})
        except Exception as error:  # RuntimeError, and whatever C++ throws
            raise RuntimeFailure(f"llama.cpp cannot load {gguf.name}: {error}", fix="export the GGUF again") from error

    def _check(self, request: Request) -> None:
        assert isinstance(request.prompt, Prompt)
        if any(part.ndim != 1 for part in request.prompt.parts):
            raise SettingsError(
                "a prompt with visual tokens, which llama.cpp does not take",
                allowed="ids of tokens",
                fix="write with the bundle's own graph, or with a server that has the whole model",
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
        if request.schema is not None:  # llama.cpp would write without one that it does not understand
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
            f"{name} is of export {json.dumps((header.digest or 'unknown')[:16])}",
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
