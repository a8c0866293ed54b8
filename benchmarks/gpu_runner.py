"""Test the runner of GPU engines: batches of all sizes, CUDA graphs, and out-of-memory."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from gpu_compare import LEAST_COSINE, compare_answers, cosines
from gpu_families import family_bundle, frames
from gpu_parity import DifferentError
from gpu_place import Part, Place, say

COUNTS = (1, 8, 64, 65, 150, 8, 1, 0)  # around the batches of an engine, 1 to 64, and back
CALLS = 200
LEAST_BYTES = 1 << 20
BELT = "vidrisk.runtimes.tensorrt.belt"


def runner(place: Place) -> Iterator[Part]:
    """Test copies, CUDA graphs and halving on out-of-memory with the fp16 engine of a small model.

    Raises:
        DifferentError: a check fails, or there is no TensorRT.
    """
    from vidrisk.runtimes.registry import BUNDLE_RUNTIMES

    if place.kind is None:
        raise DifferentError("no TensorRT works here")
    bundle = family_bundle(place.work, place.families[0])
    graph, path, feed = bundle.manifest.stage("encoder"), bundle.path("encoder", "fp16"), frames(max(COUNTS), seed=3)
    built = compare_answers(bundle, place.kind, "fp16")  # builds the engine
    if "problem" in built:
        raise DifferentError(built["problem"])
    with BUNDLE_RUNTIMES["onnxruntime"](path, graph.inputs, graph.outputs) as processor:
        expected = np.array(processor.infer({"frames": feed})["features"], np.float64)
    found: Part = {"kind": place.kind}
    for name, step in (("copies", _copies), ("cuda_graphs", _cuda_graphs), ("out_of_memory", _out_of_memory)):
        found[name] = step(place, bundle, feed, expected)
        say(f"{name}: {found[name]}")
        parts = [key for key in found if key not in ("kind", "headline")]
        found["headline"] = ", ".join(f"{part}: {'right' if found[part]['right'] else 'WRONG'}" for part in parts)
        yield found
    if wrong := [part for part in parts if not found[part]["right"]]:
        raise DifferentError(f"wrong: {', '.join(wrong)}")


def _open_engine(place: Place, bundle: Any, *, cuda_graphs: bool = True) -> Any:
    from vidrisk.runtimes.tensorrt.runner import TensorRtRunner

    graph = bundle.manifest.stage("encoder")
    return TensorRtRunner(
        bundle.path("encoder", "fp16"), graph.inputs, graph.outputs, kind=place.kind, cuda_graphs=cuda_graphs
    )


def _is_close(found: Any, expected: Any) -> bool:
    return found.shape == expected.shape and bool(
        (cosines(found.astype(np.float64), expected) >= LEAST_COSINE["fp16"]).all()
    )


def _copies(place: Place, bundle: Any, feed: Any, expected: Any) -> Part:
    with _open_engine(place, bundle) as engine:
        right = {
            count: _is_close(engine.infer({"frames": feed[:count]})["features"], expected[:count]) for count in COUNTS
        }
    return {"right": all(right.values()), "by_frames": right}


def _cuda_graphs(place: Place, bundle: Any, feed: Any, expected: Any) -> Part:
    """Compare outputs with and without CUDA graphs, and measure the gain at batch 1."""
    with _open_engine(place, bundle) as recorded, _open_engine(place, bundle, cuda_graphs=False) as plain:
        right = True
        for count in COUNTS:
            want = np.array(plain.infer({"frames": feed[:count]})["features"])
            for _ in range(4):  # recorded at the second or third
                right &= np.allclose(recorded.infer({"frames": feed[:count]})["features"], want, rtol=1e-3, atol=1e-3)
        call_us = {
            name: round(_call_us(engine, feed[:1], 10 if place.trial else CALLS), 1)
            for name, engine in (("recorded", recorded), ("not", plain))
        }
    return {"right": right, "call_us": call_us}


def _call_us(engine: Any, feed: Any, calls: int) -> float:
    seconds = []
    for _ in range(calls):
        begin = time.perf_counter()
        engine.infer({"frames": feed})
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds) * 1e6


def _out_of_memory(place: Place, bundle: Any, feed: Any, expected: Any) -> Part:
    """Check that the runner takes smaller steps or fails cleanly without free GPU memory, and recovers afterwards."""
    from vidrisk.runtimes.contract.errors import RuntimeFailure

    said: list[str] = []
    with _open_engine(place, bundle) as engine, _capture_messages(said):
        with _full_gpu() as held_bytes:
            try:
                right, ended = _is_close(engine.infer({"frames": feed})["features"], expected), "in smaller steps"
            except RuntimeFailure as error:
                right, ended = "no memory for a batch of 1" in str(error), str(error)
        halved = any("the GPU has no memory for" in line for line in said)
        again = _is_close(engine.infer({"frames": feed})["features"], expected)
    return {
        "right": right and halved and again,
        "ended": ended,
        "said": said,
        "held_mb": round(held_bytes / 1e6),
        "again": again,
    }


@contextmanager
def _full_gpu() -> Iterator[int]:
    """Allocate all of the GPU's memory except the last megabyte."""
    from vidrisk.runtimes.contract.errors import RuntimeFailure
    from vidrisk.runtimes.tensorrt.cuda import open_cuda
    from vidrisk.runtimes.tensorrt.device import current_device

    cuda, held = open_cuda(), {}
    cuda.activate()
    size = current_device().free_bytes
    try:
        while size > LEAST_BYTES:
            try:
                held[cuda.device_memory(size)] = size
            except RuntimeFailure:
                size //= 2
        yield sum(held.values())
    finally:
        for address in held:
            cuda.free_device(address)


@contextmanager
def _capture_messages(said: list[str]) -> Iterator[None]:
    """Collect the log messages of the runner."""
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(BELT)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
