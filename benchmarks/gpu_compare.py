"""Compare an engine on the GPU with the same graph in ONNX Runtime on the processor, and list such runtimes.

    python benchmarks/gpu_compare.py BUNDLE RUNTIME VARIANT [--fake]

This compares one engine and prints JSON; as a separate process, it may crash without ending the others.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from gpu_families import family_bundle, frames
from gpu_place import Part, Place

FRAMES = 70  # more than an engine takes at once
LEAST_COSINE = {"fp32": 0.9999, "fp16": 0.999}
LEAST_COSINE_INTEGER = 0.99  # of the same integers in ONNX Runtime, which sums and rounds in another order
ALONE_LIMIT_S = 45.0
WORKING = "runtimes.json"  # in the work folder: those that the step ``first`` has found to work


def gpu_runtimes(place: Place) -> list[str]:
    """Return the installed runtimes on the GPU that compute exactly what the ONNX file says, those of TensorRT first.

    If ``first`` has tried them, return only those that work.
    """
    from vidrisk.runtimes.registry import GPU_RUNTIMES, exact_runtimes

    tried = place.work / WORKING
    works = json.loads(tried.read_text(encoding="utf-8")) if tried.is_file() else exact_runtimes()
    return [name for name in GPU_RUNTIMES if name in works]


def working_kind(place: Place) -> Any:
    """Return the first TensorRT that runs a small model here with correct outputs, or None."""
    from vidrisk.runtimes.registry import ENGINE_KINDS

    bundle = family_bundle(place.work, place.families[0])
    kinds = (name for name in gpu_runtimes(place) if name in ENGINE_KINDS)
    return next((kind for kind in kinds if compare_answers(bundle, kind, "fp32").get("equal")), None)


def compare_answers(bundle: Any, runtime: str, variant: str) -> Part:
    """Compare an encoder on the GPU with ONNX Runtime on the processor; return the problem if it does not run."""
    from vidrisk.runtimes.contract.errors import VidriskError
    from vidrisk.runtimes.registry import BUNDLE_RUNTIMES, ENGINE_KINDS
    from vidrisk.runtimes.tensorrt.build.engines import ensure_engine

    graph, path, feed = (
        bundle.manifest.stage("encoder"),
        bundle.path("encoder", variant),
        {"frames": frames(FRAMES, seed=3)},
    )
    with BUNDLE_RUNTIMES["onnxruntime"](path, graph.inputs, graph.outputs) as processor:
        expected = np.array(processor.infer(feed)["features"], np.float64)
    begin = time.perf_counter()
    try:
        if runtime in ENGINE_KINDS:
            ensure_engine("encoder", path, graph.inputs, ENGINE_KINDS[runtime])
        with BUNDLE_RUNTIMES[runtime](path, graph.inputs, graph.outputs) as runner:
            found = np.array(runner.infer(feed)["features"], np.float64)
    except (VidriskError, RuntimeError) as error:
        return {"problem": str(error)}
    seconds = round(time.perf_counter() - begin, 2)
    if not np.isfinite(found).all():
        return {"equal": False, "not_finite": int((~np.isfinite(found)).sum()), "seconds": seconds}
    cosine = float(cosines(found, expected).min())
    return {
        "equal": cosine >= LEAST_COSINE.get(variant, LEAST_COSINE_INTEGER),
        "least_cosine": round(cosine, 6),
        "largest_difference": float(f"{np.abs(found - expected).max():.3g}"),
        "seconds": seconds,
    }


def cosines(one: Any, other: Any) -> Any:
    """Return the cosine of each pair of rows; not finite where a row is not."""
    return (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)


def compare_alone(place: Place, bundle: Any, runtime: str) -> Part:
    """Run ``compare_answers`` in a separate process, because a library may crash on a GPU that it does not support."""
    command = [sys.executable, __file__, str(bundle.root), runtime, "fp32", *(["--fake"] if place.fake else [])]
    try:
        end = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=ALONE_LIMIT_S, check=False
        )
        if end.returncode < 0:
            return {"problem": f"crashes ({signal.strsignal(-end.returncode)})"}
        told: Part = json.loads(end.stdout.splitlines()[-1])
        return told
    except subprocess.TimeoutExpired:
        return {"problem": f"no answer within {ALONE_LIMIT_S:.0f} s"}
    except (IndexError, ValueError):
        return {"problem": (end.stderr.strip().splitlines() or [f"exit code {end.returncode}"])[-1]}


def main() -> None:
    from vidrisk.runtimes import Bundle

    if "--fake" in sys.argv:
        from gpu_fake import fake_gpu

        fake_gpu()
    print(json.dumps(compare_answers(Bundle.open(Path(sys.argv[1])), sys.argv[2], sys.argv[3])))


if __name__ == "__main__":
    main()
