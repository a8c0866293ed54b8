"""Compare engines with torch and ONNX Runtime: throughput, overhead of a call, hand-over from encoder to head.

All are timed in turns in one process, from frames on the host to features on the host. Packages that are not installed
are listed with the reason.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
from gpu_place import AIMS, Part, Place, engine, say

OVERHEAD_CALLS = 200
COMPILED = "torch.compile fp16"

Ways = dict[str, Callable[[int], Any]]


def throughput(place: Place) -> Iterator[Part]:
    """Measure frames per second of all FP16 ways to run an encoder, and of its quantized engine, by batch.

    Compiling with torch takes minutes; it therefore comes last, in turns with the FP16 engine again.
    """
    models: dict[str, Part] = {}
    for compiles in (False, True):
        for batch in place.batches:
            for model in place.models:
                ways = {
                    name: way
                    for name, way in _ways(place, model).items()
                    if (name in (COMPILED, f"{place.kind} fp16") if compiles else name != COMPILED)
                }
                found = models.setdefault(
                    model.name,
                    {"quantised": model.quantized, "frames_per_s": {}, "beside_torch_compile": {}, "missing": {}},
                )
                rates = found["beside_torch_compile" if compiles else "frames_per_s"]
                for name, rate in _rates(place, model, batch, ways, found["missing"]).items():
                    rates.setdefault(name, {})[batch] = rate
                found["ratios"] = _ratios(found, f"{place.kind} fp16", f"{place.kind} {model.quantized}")
                say(f"{model.name}, batch {batch}: { {name: each.get(batch) for name, each in rates.items()} }")
                yield {
                    "rounds": place.rounds,
                    "batches": place.batches,
                    "aims": AIMS,
                    "models": models,
                    "headline": "; ".join(_headline(name, each) for name, each in models.items()),
                }


def _headline(name: str, found: Part) -> str:
    ratios = ", ".join(f"{ratio} {value}" for ratio, value in found["ratios"].items()) or "nothing to compare"
    return f"{name}: {ratios}" + (f" (not here: {', '.join(found['missing'])})" if found["missing"] else "")


def _ways(place: Place, model: Any) -> Ways:
    from gpu_peers import bind_onnx_runtime, torch_runner

    from vidrisk.runtimes.registry import BUNDLE_RUNTIMES

    graph = model.bundle.manifest.stage("encoder")
    engines: Ways = (
        {}
        if place.kind is None
        else {
            f"{place.kind} fp16": lambda batch: engine(place, model, "fp16"),
            f"{place.kind} fp16, no CUDA graph": lambda batch: engine(place, model, "fp16", cuda_graphs=False),
            f"{place.kind} fp32": lambda batch: engine(place, model, "fp32"),
            f"{place.kind} {model.quantized}": lambda batch: engine(place, model, model.quantized),
        }
    )
    return {
        **engines,
        "torch eager fp16": lambda batch: torch_runner(
            model.encoder(), model.bundle, compiled=False, device=place.device
        ),
        "ONNX Runtime CUDA fp16, bound": lambda batch: bind_onnx_runtime(model.bundle, batch, device=place.device),
        "onnxruntime-cuda fp16": lambda batch: BUNDLE_RUNTIMES["onnxruntime-cuda"](
            model.bundle.path("encoder", "fp16"), graph.inputs, graph.outputs
        ),
        COMPILED: lambda batch: torch_runner(model.encoder(), model.bundle, compiled=True, device=place.device),
    }


def _rates(place: Place, model: Any, batch: int, ways: Ways, missing: dict[str, str]) -> dict[str, float]:
    """Measure frames per second in turns; the reason why a runner does not work goes into ``missing``."""
    from vidrisk.runtimes.contract.errors import VidriskError
    from vidrisk.runtimes.timing import seconds_in_turns

    feed = {"frames": np.resize(model.photos(0, min(batch, 16)), (batch, *model.bundle.contract.pixel.frame_shape))}
    with ExitStack() as stack:
        runners = {}
        for name, opened in ways.items():
            try:
                runner = stack.enter_context(opened(batch))
                for _ in range(3):  # compiles, and records
                    runner.infer(feed)
                runners[name] = runner
            except (VidriskError, RuntimeError) as error:
                missing[name] = str(error)
        return {name: round(batch / each, 1) for name, each in seconds_in_turns(runners, feed, place.rounds).items()}


def _ratios(found: Part, fp16: str, quantised: str) -> dict[str, float]:
    """Return the ratios that have a target, where both sides were measured."""
    rates, compiled = found["frames_per_s"], found["beside_torch_compile"]
    wanted = {
        "int8_over_fp16_batch_64": (rates, quantised, fp16, 64),
        "fp16_over_torch_eager_batch_1": (rates, fp16, "torch eager fp16", 1),
        "fp16_over_torch_compile_batch_64": (compiled, fp16, COMPILED, 64),
        "cuda_graph_batch_1": (rates, fp16, f"{fp16}, no CUDA graph", 1),
    }
    return {
        name: round(of[one][batch] / of[other][batch], 3)
        for name, (of, one, other, batch) in wanted.items()
        if batch in of.get(one, {}) and batch in of.get(other, {})
    }


def overhead(place: Place) -> Iterator[Part]:
    """Measure the microseconds per call beyond the GPU's work, for one frame copied, run and copied back in a graph."""
    rows = {model.name: _overhead(place, model) for model in place.models}
    say(str(rows))
    yield {"aim_us": AIMS["overhead_us"], "calls": OVERHEAD_CALLS, "models": rows}


def _overhead(place: Place, model: Any) -> dict[str, float | None]:
    feed = {"frames": model.photos(0, 1)}
    with engine(place, model, "fp16") as runner:
        for _ in range(4):
            runner.infer(feed)
        call_s = []
        for _ in range(OVERHEAD_CALLS):
            begin = time.perf_counter()
            runner.infer(feed)
            call_s.append(time.perf_counter() - begin)
        on_gpu_s = _gpu_seconds(runner)
    call_us = statistics.median(call_s) * 1e6
    if on_gpu_s is None:  # TensorRT for RTX records by itself
        return {"call_us": round(call_us, 1), "gpu_us": None, "overhead_us": None}
    return {
        "call_us": round(call_us, 1),
        "gpu_us": round(on_gpu_s * 1e6, 1),
        "overhead_us": round(call_us - on_gpu_s * 1e6, 1),
    }


def _gpu_seconds(runner: Any) -> float | None:
    """Measure one upload and one launch when many are queued, using private attributes of the runner."""
    belt = runner._belt
    cuda, lane = belt._cuda, belt._lanes[0]
    if 1 not in lane.recordings:
        return None
    best = float("inf")
    for _ in range(5):
        begin = time.perf_counter()
        for _ in range(OVERHEAD_CALLS):
            for tensor in lane.inputs:
                cuda.upload(tensor.on_device, tensor.on_host, tensor.row_bytes, belt._computing)
            cuda.launch(lane.recordings[1], belt._computing)
        cuda.synchronise(belt._computing)
        best = min(best, (time.perf_counter() - begin) / OVERHEAD_CALLS)
    return best


def hand_over(place: Place) -> Iterator[Part]:
    """Measure milliseconds from a clip to its probabilities, with features passed on the GPU and through the host."""
    from vidrisk.inference.model import open_classifier

    rows = {}
    for model in place.models:
        clip = model.photos(0, model.bundle.contract.frames)
        with open_classifier(model.root, runtime=place.kind, variant="fp16") as classifier:
            ways = {
                "on the GPU": lambda c=classifier, x=clip: c.classify(x[None]),
                "through the host": lambda c=classifier, x=clip: c.probabilities(c.features(x)[None]),
            }
            times: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(place.rounds):
                for name, call in ways.items():
                    call()
                    begin = time.perf_counter()
                    call()
                    times[name].append(time.perf_counter() - begin)
        rows[model.name] = {name: round(statistics.median(found[1:]) * 1e3, 4) for name, found in times.items()}
        say(f"{model.name}: {rows[model.name]}")
    yield {"rounds": place.rounds, "frames_per_clip": place.models[0].bundle.contract.frames, "ms_per_clip": rows}
