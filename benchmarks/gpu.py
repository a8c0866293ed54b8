"""Engines on a GPU beside torch and ONNX Runtime: throughput, overhead, hand-over, memory, start, parity.

    python benchmarks/gpu.py [SECTION ...] [--work DIR] [--trial]

SECTION: throughput, overhead, hand_over, memory, second_start, parity; all of them without one. Each writes its own part of
``results/gpu.json``, and leaves the others as they are.

--work: where bundles and engines are made, and kept for the next time. --trial: small models and few rounds, to see that
everything works; the result goes to the folder of temporary files.

Everything that is compared is timed in turns in one process, from frames on the host to features on the host. What is not
installed is listed with the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vidrisk.runtimes.gpu import visible_gpu

RESULT = Path(__file__).parent / "results" / "gpu.json"
BATCHES = (1, 8, 64)
OVERHEAD_CALLS = 200
POLL_S = 0.002
STARTS = 5
# What is aimed at: times as fast, microseconds, seconds, cosine.
AIMS = {"int8_over_fp16_batch_64": 1.3, "fp16_over_torch_eager_batch_1": 3.0, "fp16_over_torch_compile_batch_64": 1.5,
        "overhead_us": 50.0, "second_start_s": 2.0, "fp16_cosine": 0.999}
PACKAGES = ("tensorrt", "tensorrt-rtx-cu13-bindings", "cuda-bindings", "onnxruntime-gpu")


@dataclass(frozen=True)
class Place:
    """Where and how thoroughly to measure."""

    work: Path
    kind: Any  # of TensorRT
    models: list[Any]
    trial: bool

    @property
    def rounds(self) -> int:
        return 3 if self.trial else 50


def throughput(place: Place) -> dict[str, Any]:
    """Frames per second of every way to run an encoder in FP16, and of its quantised engine, by batch."""
    return {"rounds": place.rounds, "batches": BATCHES, "aims": AIMS,
            "models": {model.name: _throughputs(place, model) for model in place.models}}


def _throughputs(place: Place, model: Any) -> dict[str, Any]:
    from gpu_peers import bound_onnx_runtime, torch_runner

    from vidrisk.runtimes.errors import VidriskError
    from vidrisk.runtimes.registry import BUNDLE_RUNTIMES
    from vidrisk.runtimes.timing import seconds_in_turns

    rates: dict[str, dict[int, float]] = {}
    missing: dict[str, str] = {}
    graph = model.bundle.manifest.graphs["encoder"]
    ways: dict[str, Callable[[int], Any]] = {
        "torch eager fp16": lambda batch: torch_runner(model.encoder(), model.bundle, compiled=False),
        "torch.compile fp16": lambda batch: torch_runner(model.encoder(), model.bundle, compiled=True),
        "ONNX Runtime CUDA fp16, bound": lambda batch: bound_onnx_runtime(model.bundle, batch),
        "onnxruntime-cuda fp16": lambda batch: BUNDLE_RUNTIMES["onnxruntime-cuda"](
            model.bundle.path("encoder", "fp16"), graph.inputs, graph.outputs),
        f"{place.kind} fp16": lambda batch: engine(place, model, "fp16"),
        f"{place.kind} fp16, no CUDA graph": lambda batch: engine(place, model, "fp16", cuda_graphs=False),
        f"{place.kind} fp32": lambda batch: engine(place, model, "fp32"),
        f"{place.kind} {model.quantised}": lambda batch: engine(place, model, model.quantised)}
    for batch in BATCHES:
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
            for name, each in seconds_in_turns(runners, feed, place.rounds).items():
                rates.setdefault(name, {})[batch] = round(batch / each, 1)
        say(f"{model.name}, batch {batch}: { {name: found.get(batch) for name, found in rates.items()} }")
    return {"frames_per_s": rates, "missing": missing, "quantised": model.quantised,
            "ratios": _ratios(rates, place.kind, model.quantised)}


def _ratios(rates: Mapping[str, Mapping[int, float]], kind: str, quantised: str) -> dict[str, float]:
    """Those that are aimed at, where both sides were measured."""
    fp16 = f"{kind} fp16"
    wanted = {"int8_over_fp16_batch_64": (f"{kind} {quantised}", fp16, 64),
              "fp16_over_torch_eager_batch_1": (fp16, "torch eager fp16", 1),
              "fp16_over_torch_compile_batch_64": (fp16, "torch.compile fp16", 64),
              "cuda_graph_batch_1": (fp16, f"{fp16}, no CUDA graph", 1)}
    return {name: round(rates[one][batch] / rates[other][batch], 3) for name, (one, other, batch) in wanted.items()
            if batch in rates.get(one, {}) and batch in rates.get(other, {})}


def overhead(place: Place) -> dict[str, Any]:
    """Microseconds of a call beyond what the GPU works for it: one frame, copied, run and copied back from a CUDA graph."""
    rows = {model.name: _overhead(place, model) for model in place.models}
    say(str(rows))
    return {"aim_us": AIMS["overhead_us"], "calls": OVERHEAD_CALLS, "models": rows}


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
    return {"call_us": round(call_us, 1), "gpu_us": round(on_gpu_s * 1e6, 1), "overhead_us": round(call_us - on_gpu_s * 1e6, 1)}


def _gpu_seconds(runner: Any) -> float | None:
    """Of one upload and one launch, when many are queued one behind the other. Looks inside the runner: nobody else has to."""
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


def hand_over(place: Place) -> dict[str, Any]:
    """Milliseconds from a clip to its probabilities: features handed over on the GPU, and by way of the host."""
    from vidrisk.infer.classifier import open_classifier

    rows = {}
    for model in place.models:
        clip = model.photos(0, model.bundle.contract.frames)
        with open_classifier(model.root, runtime=place.kind, variant="fp16") as classifier:
            ways = {"on the GPU": lambda c=classifier, x=clip: c.classify(x[None]),
                    "through the host": lambda c=classifier, x=clip: c.probabilities(c.features(x)[None])}
            times: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(place.rounds):
                for name, call in ways.items():
                    call()
                    begin = time.perf_counter()
                    call()
                    times[name].append(time.perf_counter() - begin)
        rows[model.name] = {name: round(statistics.median(found[1:]) * 1e3, 4) for name, found in times.items()}
        say(f"{model.name}: {rows[model.name]}")
    return {"rounds": place.rounds, "frames_per_clip": place.models[0].bundle.contract.frames, "ms_per_clip": rows}


def memory(place: Place) -> dict[str, Any]:
    """Peak memory of the GPU and of the host while a process runs one frame and then batches of 32."""
    rows: dict[str, dict[str, Any]] = {}
    for model in place.models:
        for variant in ("fp32", "fp16", model.quantised):
            engine(place, model, variant).close()  # built before it counts
            for runtime in (place.kind, "onnxruntime-cuda"):
                rows.setdefault(model.name, {})[f"{runtime} {variant}"] = _footprint(model.root, runtime, variant)
        say(f"{model.name}: {rows[model.name]}")
    return {"batch": 32, "models": rows}


def _footprint(bundle: Path, runtime: str, variant: Any) -> dict[str, Any]:
    from vidrisk.bench.alone import Candidate, footprint_of
    from vidrisk.runtimes.errors import RuntimeFailure
    from vidrisk.runtimes.tensorrt.device import current_device

    free: list[int] = [current_device().free_bytes]
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(POLL_S):
            free.append(current_device().free_bytes)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        found = footprint_of(bundle, Candidate(runtime, variant), None)
    except RuntimeFailure as error:
        return {"problem": str(error)}
    finally:
        is_over.set()
        watcher.join()
    return {"gpu_mb": round((free[0] - min(free)) / 1e6, 1), "host_mb": round(found.peak_bytes / 1e6, 1)}


def second_start(place: Place) -> dict[str, Any]:
    """Seconds from the start of ``vidrisk infer`` on a photo to its prediction in the file, with the engine in the cache."""
    from processes import adopt_orphans, spent_by

    adopt_orphans()
    rows: dict[str, dict[str, float]] = {}
    for model in place.models:
        for variant in ("fp16", model.quantised):
            engine(place, model, variant).close()
            seen_s: list[float] = []
            for _ in range(1 + (1 if place.trial else STARTS)):
                with tempfile.TemporaryDirectory(dir=place.work) as scratch:
                    photo, out = Path(scratch) / "photo.png", Path(scratch) / "out"
                    Image.fromarray(model.photos(0, 1)[0]).save(photo)
                    command = [sys.executable, "-m", "vidrisk", "infer", model.root, photo, "-o", out, "--no-report",
                               "--runtime", place.kind, "--variant", variant]
                    seen_s.append(_seconds_to_first_line(out / "predictions.jsonl", command, spent_by, place.work))
            rows.setdefault(model.name, {})[variant] = round(statistics.median(seen_s[1:]), 3)
        say(f"{model.name}: {rows[model.name]}")
    return {"aim_s": AIMS["second_start_s"], "starts": STARTS, "models": rows}


def _seconds_to_first_line(file: Path, command: list[Any], spent_by: Any, work: Path) -> float:
    seen_s: list[float] = []
    begin = time.perf_counter()

    def watch() -> None:
        if not seen_s and file.is_file() and file.stat().st_size:
            seen_s.append(time.perf_counter() - begin)

    spent = spent_by(command, work=work, environment={}, watch=watch, every_s=POLL_S)
    return (seen_s or [spent.wall_s])[0]


def parity(place: Place) -> dict[str, Any]:
    """Cosine of every variant's features with those of torch in float32, photo by photo."""
    import torch
    from gpu_models import PARITY

    rows: dict[str, dict[str, dict[str, float]]] = {}
    for model in place.models:
        photos = model.photos(200, 8 if place.trial else PARITY)
        with torch.inference_mode():
            expected = model.encoder()(torch.from_numpy(photos)).numpy().astype(np.float64)
        for variant in ("fp32", "fp16", model.quantised):
            with engine(place, model, variant) as runner:
                found = runner.infer({"frames": photos})["features"].astype(np.float64)
            cosines = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
            rows.setdefault(model.name, {})[variant] = {name: round(float(each), 6) for name, each in
                                                        (("least", cosines.min()), ("mean", cosines.mean()))}
        say(f"{model.name}: {rows[model.name]}")
    return {"aim_fp16": AIMS["fp16_cosine"], "photos": PARITY, "models": rows}


def engine(place: Place, model: Any, variant: Any, *, cuda_graphs: bool = True) -> Any:
    """The encoder's engine, built where it is missing."""
    from vidrisk.export.engines import ensured_engines
    from vidrisk.runtimes.errors import EngineMissing
    from vidrisk.runtimes.tensorrt.runner import TensorRtRunner

    graph = model.bundle.manifest.graphs["encoder"]

    def opened() -> Any:
        return TensorRtRunner(model.bundle.path("encoder", variant), graph.inputs, graph.outputs, kind=place.kind,
                              cuda_graphs=cuda_graphs)

    try:
        return opened()
    except EngineMissing:
        say(f"building {place.kind} engines of {model.name} {variant}")
        ensured_engines(model.bundle, place.kind, [variant])
        return opened()


def say(line: str) -> None:
    print(f"  {line}", flush=True)


def described_gpu(kind: Any) -> dict[str, Any]:
    """The machine, with its GPU and the libraries that it takes."""
    from machine import described

    from vidrisk.runtimes.tensorrt.api import open_api
    from vidrisk.runtimes.tensorrt.device import current_device

    installed = {each.metadata["Name"]: each.version for each in metadata.distributions()}
    device = current_device()
    return {**described(), "gpu": device.name, "compute_capability": device.compute_capability, "driver": device.driver,
            "gpu_mb": round(device.total_bytes / 1e6), kind: open_api(kind).version,
            "gpu_packages": {name: installed[name] for name in PACKAGES if name in installed}}


SECTIONS: dict[str, Callable[[Place], dict[str, Any]]] = {
    section.__name__: section for section in (throughput, overhead, hand_over, memory, second_start, parity)}


def place_from(arguments: argparse.Namespace) -> Place:
    """Make the bundles that are not there yet.

    Raises:
        SystemExit: no GPU, or no TensorRT.
    """
    gpu = visible_gpu()
    if gpu is None:
        raise SystemExit("no NVIDIA GPU is visible: there is nothing to measure (`vidrisk doctor` says more)")
    from vidrisk.runtimes.tensorrt.api import installed_kinds

    kinds = installed_kinds()
    if not kinds:
        raise SystemExit("no TensorRT is installed: there is nothing to measure (`vidrisk doctor` says how to install it)")
    work = arguments.work.resolve() / ("trial" if arguments.trial else "full")
    work.mkdir(parents=True, exist_ok=True)
    os.environ["VIDRISK_CACHE"] = str(work / "cache")
    print(f"{gpu}, {kinds[0]}", flush=True)
    from gpu_models import models_in

    return Place(work, kinds[0], models_in(work, trial=arguments.trial), arguments.trial)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "vidrisk-gpu")
    parser.add_argument("--trial", action="store_true")
    arguments = parser.parse_args()
    if unknown := set(arguments.sections) - set(SECTIONS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; choose from {', '.join(SECTIONS)}")
    place = place_from(arguments)
    result = Path(tempfile.gettempdir()) / "gpu-trial.json" if arguments.trial else RESULT
    for name in arguments.sections or SECTIONS:
        print(f"{name}:", flush=True)
        begin = time.perf_counter()
        part = SECTIONS[name](place) | {"seconds_in_all": round(time.perf_counter() - begin), "machine": described_gpu(place.kind)}
        written = json.loads(result.read_text(encoding="utf-8")) if result.is_file() else {}
        result.write_text(json.dumps({**written, name: part}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
