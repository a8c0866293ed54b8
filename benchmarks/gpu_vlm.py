"""Qwen2.5-VL-3B at full size as a classifier of windows of 8 frames of 224² on the GPU: training steps and prefill.

The weights are random, and created on the GPU (``qwen_3b.py``). Results are recorded as soon as they are known:
training first, then the engines, and last what torch compiles.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from gpu_place import Part, Place, say
from gpu_vlm_graphs import STAGES, backbone_of, build_classifier, export_graphs, free_memory

BATCH, STEPS, WARM_STEPS = 4, 10, 3
FAKE_STEPS = WARM_STEPS + 2  # the fewest that have a time between them
CACHE_GB = "24"  # engines of billions of weights, beside those of other steps
EAGER, COMPILED = "torch bf16", "torch.compile bf16"


def vlm(place: Place) -> Iterator[Part]:
    """Measure training and the stages.

    For training, with LoRA on bfloat16 weights, with and without gradient checkpointing: step time and peak memory. For
    the vision and text stages, as engines and in torch: milliseconds per window.
    """
    os.environ["VIDRISK_ENGINE_CACHE_GB"] = CACHE_GB
    told: Part = {"batch": BATCH, "training": {}, "prefill_ms": {}, "cosine": {}, "missing": {}, "seconds": {}}
    for name, is_checkpointed in (("without checkpointing", False), ("with checkpointing", True)):
        told["training"][name] = _training(place, is_checkpointed)
        yield _log_result(told)
    folder = export_graphs(place, told["seconds"])
    for is_compiled in (False, True):
        for stage in STAGES:
            _prefill(place, folder, stage, told, is_compiled=is_compiled)
            yield _log_result(told)


def _log_result(told: Part) -> Part:
    training = [
        f"{name} {row['step_s']:.3g} s" + (f", {row['peak_mb']:.0f} MB" if row["peak_mb"] else "")
        for name, row in told["training"].items()
    ]
    prefill = [f"{stage} {way} {ms:.3g} ms" for stage, row in told["prefill_ms"].items() for way, ms in row.items()]
    told["headline"] = "; ".join([*training, *prefill])
    say(told["headline"])
    return told


def _training(place: Place, is_checkpointed: bool) -> dict[str, Any]:
    """Measure ``train_run`` with the frozen tower in every step: median time and peak memory of a step."""
    import torch
    from qwen_3b import build_qwen, qwen_config
    from small_clips import StepClock, write_clips

    from vidrisk.train import train as training

    has_gpu = torch.cuda.is_available()
    settings = {"gradient_checkpointing": is_checkpointed, "views": 0, "optim.epochs": 1, "optim.batch_size": BATCH}
    config, clock = qwen_config(backbone_of(place), small=place.trial, **settings), StepClock()

    def on_progress(what: str, done: int, total: int) -> None:
        clock(what, done, total)
        if has_gpu and clock.begins and len(clock.begins[-1]) == WARM_STEPS:
            torch.cuda.reset_peak_memory_stats()

    def build(*given: Any, **further: Any) -> Any:
        return build_qwen(*given, device=place.device).cpu()  # training takes it where it wants it

    real, training.build_classifier = training.build_classifier, build
    steps = FAKE_STEPS if place.fake else STEPS
    try:
        with tempfile.TemporaryDirectory(dir=place.work) as scratch:
            training.train_run(
                write_clips(Path(scratch) / "clips", BATCH * steps),
                config,
                Path(scratch) / "run",
                on_progress=on_progress,
            )
    finally:
        training.build_classifier = real
    found = {
        "step_s": statistics.median(end - begin for begin, end in pairwise(clock.begins[-1][WARM_STEPS:])),
        "peak_mb": torch.cuda.max_memory_allocated() / 1e6 if has_gpu else None,
    }
    free_memory()
    return found


def _prefill(place: Place, folder: Path, stage: str, told: Part, *, is_compiled: bool) -> None:
    """Time the ways to run a stage, in turns; with ``is_compiled``, torch's compiled one and the first engine."""
    from qwen_stages import distance, feed_of, read_stages

    from vidrisk.runtimes.contract.errors import VidriskError
    from vidrisk.runtimes.timing import seconds_in_turns

    free_memory()
    stages, values = read_stages(folder)
    of_stage, feed = stages[stage], feed_of(stages[stage], values)
    with ExitStack() as stack:
        runners = {}
        for name, opened in _ways(place, folder, of_stage, values, is_compiled=is_compiled).items():
            try:
                runner = stack.enter_context(opened())
                told["cosine"].setdefault(stage, {})[name] = round(
                    distance(of_stage, runner.infer(feed), values)["cosine"], 6
                )
                runners[name] = runner
            except (VidriskError, RuntimeError) as error:
                told["missing"][f"{stage}, {name}"] = str(error)
        found = {name: round(1e3 * each, 3) for name, each in seconds_in_turns(runners, feed, place.rounds).items()}
    told["prefill_ms"].setdefault(stage, {}).update(
        found
        if not is_compiled
        else {name if name == COMPILED else f"{name}, beside {COMPILED}": ms for name, ms in found.items()}
    )


def _ways(
    place: Place, folder: Path, stage: Any, values: Mapping[str, Any], *, is_compiled: bool
) -> dict[str, Callable[[], Any]]:
    from gpu_compare import gpu_runtimes
    from qwen_stages import constants_of

    from vidrisk.runtimes.registry import BUNDLE_RUNTIMES, ENGINE_KINDS
    from vidrisk.runtimes.tensorrt.build.builder import BuildOptions
    from vidrisk.runtimes.tensorrt.build.engines import ensure_engine
    from vidrisk.runtimes.tensorrt.cache import Batches

    rows = len(values[stage.variable_inputs[0].name])

    def open_stage(runtime: str, variant: str) -> Any:
        path = folder / f"{stage.name}.{variant}.onnx"
        if runtime in ENGINE_KINDS:
            ensure_engine(
                stage.name, path, stage.inputs, ENGINE_KINDS[runtime], options=BuildOptions(Batches(1, rows, rows))
            )
        return BUNDLE_RUNTIMES[runtime](path, stage.inputs, stage.outputs, constants=constants_of(stage, values))

    engines = {
        f"{runtime} {variant}": partial(open_stage, runtime, variant)
        for runtime in gpu_runtimes(place)
        for variant in STAGES[stage.name]
        if runtime in ENGINE_KINDS or (runtime, variant) == ("onnxruntime-cuda", "fp16")
    }
    if is_compiled:
        return {**dict([*engines.items()][:1]), COMPILED: partial(_torch, place, stage, is_compiled=True)}
    return {**engines, EAGER: partial(_torch, place, stage, is_compiled=False)}  # engines are built while there is room


def _torch(place: Place, stage: Any, *, is_compiled: bool) -> Any:
    """Return the stage as in training, from host arrays to host arrays, with the causal mask of torch's kernels."""
    import torch

    from vidrisk.models.vlm.decoder import decode
    from vidrisk.runtimes import FakeRunner

    model = build_classifier(place)[0].eval()
    backbone, layout, positions = model.backbone, model.fixed.layout, model.positions(model.fixed).to(place.device)
    with torch.inference_mode():
        prompt = backbone.embed(torch.from_numpy(layout.text).to(place.device))
    order = torch.from_numpy(layout.order).to(place.device)
    compute: Any = (
        backbone.vision
        if stage.name == "vision"
        else (lambda visual: decode(backbone.decoder, order, visual.flatten(1, 2), prompt, positions)[:, -1])
    )
    if is_compiled:
        torch.compiler.reset()
        compute = torch.compile(compute, dynamic=False, backend="eager" if place.fake else "inductor")

    def run(feed: Mapping[str, Any]) -> dict[str, Any]:
        with torch.inference_mode():
            given = torch.from_numpy(feed[stage.variable_inputs[0].name]).to(place.device)
            return {stage.outputs[0].name: compute(given).float().cpu().numpy()}

    return FakeRunner(stage.variable_inputs, stage.outputs, run)
