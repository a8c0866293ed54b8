"""Text engines behind a common interface: generate a number of tokens after prompts, and score a text."""

from __future__ import annotations

import json
import urllib.request
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vidrisk.runtimes.contract.errors import is_installed
from vidrisk.runtimes.text.graph_engine import GraphEngine
from vidrisk.runtimes.text.requests import Prompt, Request
from vidrisk.runtimes.text.sampling import log_probabilities
from vidrisk.runtimes.text.session import TextSession
from vidrisk.runtimes.text.vocabulary import Vocabulary

THREADS, TOKENS = 2, 512
ENDS = (0, 2)  # <|endoftext|>, <|im_end|>
TOKENIZER = "tokenizer.json"
Ids = npt.NDArray[np.int64]


class Lane(ABC):
    """A text engine."""

    @abstractmethod
    def write(self, prompts: list[Ids], count: int) -> None:
        """Generate a number of tokens after each prompt, for all prompts at once."""

    def logprobs(self, window: Ids) -> npt.NDArray[np.float64] | None:
        """Return the log-probability of every token of a text except the first; None if the engine has none."""
        return None


class Own(Lane):
    """vidrisk's engine, on ONNX Runtime or on OpenVINO."""

    def __init__(self, work: Path, name: str, sequences: int) -> None:
        kind, precision = name.split()
        graph, runtime = ("text", "onnxruntime") if kind == "own" else ("plain", "openvino")
        session = TextSession(
            work / f"{graph}.{precision}.onnx",
            work / "embeddings.npy",
            sequences=sequences,
            tokens=TOKENS,
            threads=THREADS,
            runtime=runtime,
        )
        self.engine = GraphEngine(session, Vocabulary(work / TOKENIZER, [2]))

    def write(self, prompts: list[Ids], count: int) -> None:
        for answer in self.engine.answers(Request(Prompt((ids,)), limit=count, banned=ENDS) for ids in prompts):
            assert len(answer.tokens) == count, answer

    def logprobs(self, window: Ids) -> npt.NDArray[np.float64]:
        session = self.engine.session
        session.truncate(0, 0)
        return _at(session.extend(0, session.embed(window), rows=len(window)), window)


class GenAi(Lane):
    """ONNX Runtime GenAI's generator."""

    def __init__(self, work: Path) -> None:
        import onnxruntime_genai

        self._genai: Any = onnxruntime_genai
        self._genai.disable_telemetry_events()
        settings = work / "genai" / "genai_config.json"
        config = json.loads(settings.read_text(encoding="utf-8"))
        config["model"]["decoder"]["session_options"]["intra_op_num_threads"] = THREADS
        settings.write_text(json.dumps(config), encoding="utf-8")
        self._model = self._genai.Model(str(work / "genai"))

    def _start(self, prompts: list[Ids], count: int) -> Any:
        params = self._genai.GeneratorParams(self._model)
        length = len(prompts[0]) + count
        params.set_search_options(max_length=length, min_length=length, batch_size=len(prompts), do_sample=False)
        generator = self._genai.Generator(self._model, params)
        generator.append_tokens(np.stack(prompts).astype(np.int32))
        return generator

    def write(self, prompts: list[Ids], count: int) -> None:
        generator = self._start(prompts, count)
        for _ in range(count):
            generator.generate_next_token()

    def logprobs(self, window: Ids) -> npt.NDArray[np.float64]:
        return _at(self._start([window], 1).get_output("logits")[0], window)


class Llama(Lane):
    """llama.cpp's server, called in this process; its slots generate several answers at once."""

    def __init__(self, work: Path, weights: str, sequences: int) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(gguf_of(work, weights))
        params.n_ctx, params.n_parallel, params.warmup = TOKENS * sequences, sequences, True
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = THREADS
        params.verbosity = -1
        self.server = xllamacpp.Server(params)
        self.complete({"prompt": [1], "n_predict": 1})  # one that is closed before it has written would never end

    def complete(self, body: dict[str, Any]) -> Any:
        return self.server.handle_completions({"temperature": 0, "stream": False, **body})

    def write(self, prompts: list[Ids], count: int) -> None:
        with ThreadPoolExecutor(len(prompts)) as pool:
            list(pool.map(lambda ids: self._complete(ids, count), prompts))

    def _complete(self, ids: Ids, count: int) -> None:
        answer = self.complete({"prompt": ids.tolist(), "n_predict": count, "ignore_eos": True, "cache_prompt": False})
        assert answer["usage"]["completion_tokens"] == count, answer

    def logprobs(self, window: Ids) -> npt.NDArray[np.float64]:
        """Score a text token by token: each token is forced, and its log-probability is returned."""
        found = []
        for place in range(1, len(window)):
            body = {
                "prompt": window[:place].tolist(),
                "n_predict": 1,
                "n_probs": 1,
                "logit_bias": [[int(window[place]), 1e4]],
            }
            (token,) = self.complete({"cache_prompt": True, **body})["choices"][0]["logprobs"]["content"]
            assert token["id"] == window[place], token
            found.append(token["logprob"])
        return np.array(found)


class LlamaServer(Llama):
    """The same server, called over HTTP."""

    def logprobs(self, window: Ids) -> None:
        """Return None: they are those of the server in this process."""

    def complete(self, body: dict[str, Any]) -> Any:
        content = json.dumps({"temperature": 0, "stream": False, **body}).encode()
        asked = urllib.request.Request(
            f"{self.server.listening_address}/v1/completions", content, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(asked, timeout=600) as answer:
            return json.load(answer)


def _at(logits: npt.NDArray[np.float32], window: Ids) -> npt.NDArray[np.float64]:
    scores: npt.NDArray[np.float64] = log_probabilities(logits[:-1])[np.arange(len(window) - 1), window[1:]].astype(
        np.float64
    )
    return scores


def gguf_of(work: Path, weights: str) -> Path:
    return work / f"model.{weights}.gguf"


OWN = ("own fp32", "own int8", "own int4")
OPENVINO = ("openvino fp32", "openvino int4")
LLAMA = tuple(
    f"{kind} {weights}"
    for kind, weights in (("llama.cpp", "Q4_1"), ("llama.cpp", "Q8_0"), ("llama.cpp-server", "Q4_1"))
)
GENAI = "onnxruntime-genai int4"
NEEDS = {
    **dict.fromkeys(OWN, "onnxruntime"),
    **dict.fromkeys(OPENVINO, "openvino"),
    GENAI: "onnxruntime_genai",
    **dict.fromkeys(LLAMA, "xllamacpp"),
}


def find_engines() -> list[str]:
    """Return the engines whose packages are installed."""
    return [name for name, package in NEEDS.items() if is_installed(package)]


def open_lane(name: str, work: Path, sequences: int) -> Lane:
    """Open an engine for a number of concurrent sequences."""
    if name in LLAMA:
        kind, weights = name.split()
        return (LlamaServer if kind.endswith("server") else Llama)(work, weights, sequences)
    return GenAi(work) if name == GENAI else Own(work, name, sequences)
