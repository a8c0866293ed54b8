"""Measure whole processes on the GPU: their memory, and the time from a second start to the first prediction."""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpu_place import AIMS, Part, Place, engine, say
from PIL import Image

POLL_S = 0.002
STARTS = 5


def memory(place: Place) -> Iterator[Part]:
    """Measure the peak memory of GPU and host while a process runs one frame and then batches of 32."""
    rows: dict[str, dict[str, Any]] = {}
    for model in place.models:
        for variant in ("fp32", "fp16", model.quantized):
            engine(place, model, variant).close()  # built before it counts
            for runtime in (place.kind, "onnxruntime-cuda"):
                rows.setdefault(model.name, {})[f"{runtime} {variant}"] = _footprint(model.root, runtime, variant)
        say(f"{model.name}: {rows[model.name]}")
    yield {"batch": 32, "models": rows}


def _footprint(bundle: Path, runtime: str, variant: Any) -> dict[str, Any]:
    from vidrisk.bench.alone import Candidate, footprint_of
    from vidrisk.runtimes.contract.errors import RuntimeFailure
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


def second_start(place: Place) -> Iterator[Part]:
    """Return the seconds from the start of ``vidrisk infer`` on a photo to its prediction in the file.

    The engine is in the cache. Without TensorRT, ONNX Runtime on CUDA is started.
    """
    from process_costs import adopt_orphans, measure_costs

    adopt_orphans()
    runtime = place.kind or "onnxruntime-cuda"
    rows: dict[str, dict[str, float]] = {}
    for model in place.models:
        for variant in ("fp16", model.quantized):
            if place.kind:
                engine(place, model, variant).close()
            seen_s: list[float] = []
            for _ in range(1 if place.fake else 2 if place.trial else 1 + STARTS):
                with tempfile.TemporaryDirectory(dir=place.work) as scratch:
                    photo, out = Path(scratch) / "photo.png", Path(scratch) / "out"
                    Image.fromarray(model.photos(0, 1)[0]).save(photo)
                    command = [
                        *place.program,
                        "infer",
                        model.root,
                        photo,
                        "-o",
                        out,
                        "--no-report",
                        "--runtime",
                        runtime,
                        "--variant",
                        variant,
                    ]
                    seen_s.append(_seconds_to_first_line(out / "predictions.jsonl", command, measure_costs, place.work))
            rows.setdefault(model.name, {})[variant] = round(statistics.median(seen_s[1:] or seen_s), 3)
            yield {
                "aim_s": AIMS["second_start_s"],
                "runtime": runtime,
                "starts": STARTS,
                "models": rows,
                "headline": f"{runtime}, seconds: {rows}",
            }
        say(f"{model.name}: {rows[model.name]}")


def _seconds_to_first_line(file: Path, command: list[Any], measure_costs: Any, work: Path) -> float:
    seen_s: list[float] = []
    begin = time.perf_counter()

    def watch() -> None:
        if not seen_s and file.is_file() and file.stat().st_size:
            seen_s.append(time.perf_counter() - begin)

    spent = measure_costs(command, work=work, environment={}, watch=watch, every_s=POLL_S)
    return (seen_s or [spent.wall_s])[0]
