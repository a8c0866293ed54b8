"""Measure the latency of the Python API: the import, a photo from a path, a frame from memory.

    python benchmarks/python_api.py --bundle BUNDLE [--photo PHOTO] [--runtime RUNTIME] [--threads N]

BUNDLE: EfficientNet-Lite0 with an INT8 variant, for example ``demo/risk.bundle`` of ``make demo``. PHOTO: a JPEG;
default: a generated one of 1280 × 720. A frame from memory is compared with the engine alone on the same pixels, in
turns, after a warm-up; times are medians of rounds, ratios are taken within a round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe_machine
from PIL import Image
from quiet import measure_quietly

import vidrisk
from vidrisk import Model
from vidrisk.frames import read_clips
from vidrisk.runtimes.contract.stages import PIXELS

RESULT = Path(__file__).parent / "results" / "python_api.json"
ROUNDS, CALLS, IMPORTS = 9, 20, 9
LIMITS = {"photo_ms": 25.0, "frame_over_runner": 1.2, "import_ms": 30.0}
IMPORT = "import time; begin = time.perf_counter(); import vidrisk; print(time.perf_counter() - begin)"


def import_ms() -> float:
    """Return the median time of ``import vidrisk`` in new processes; the first one is not counted."""

    def import_once() -> float:
        return float(subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True).stdout)

    seconds = measure_quietly(lambda: [import_once() for _ in range(IMPORTS + 1)])
    return 1e3 * statistics.median(seconds[1:])


def write_photo(path: Path) -> Path:
    """Write a photo of 1280 × 720 with smooth random colours, and return its path."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (45, 80, 3), np.uint8))
    coarse.resize((1280, 720), Image.Resampling.BICUBIC).save(path, quality=90)
    return path


def call_ms(act: Callable[[], Any]) -> float:
    begin_s = time.perf_counter()
    for _ in range(CALLS):
        act()
    return (time.perf_counter() - begin_s) / CALLS * 1e3


def measure_calls(model: Model, photo: Path) -> dict[str, Any]:
    classifier = model.classifier
    (clip,) = read_clips(photo, model.contract.pixel, model.contract.time)
    frame = clip.frames[0]
    moments = model.contract.frames if model.contract.time else 1

    def runner() -> None:
        """Run only the engine: each stage once, on preprocessed pixels."""
        known = classifier.encode(frame[None]) | (
            {PIXELS: frame[None]} if PIXELS in classifier.plan.frame_gives else {}
        )
        classifier.logits_from_parts({name: np.repeat(values, moments, axis=0) for name, values in known.items()}, 1)

    acts: dict[str, Callable[[], Any]] = {
        "photo": lambda: model.predict(photo),
        "frame": lambda: model.predict(frame),
        "runner": runner,
    }
    for act in acts.values():
        call_ms(act)
    rounds = [measure_quietly(lambda: {name: call_ms(act) for name, act in acts.items()}) for _ in range(ROUNDS)]
    medians = {f"{name}_ms": round(statistics.median(one[name] for one in rounds), 3) for name in acts}
    ratios = sorted(one["frame"] / one["runner"] for one in rounds)
    return {
        **medians,
        "frame_over_runner": round(statistics.median(ratios), 3),
        "frame_over_runner_range": [round(ratios[0], 3), round(ratios[-1], 3)],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--photo", type=Path)
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photo = options.photo or write_photo(Path(folder) / "photo.jpg")
        with vidrisk.load(options.bundle, runtime=options.runtime, threads=options.threads) as model:
            result = {
                "limits": LIMITS,
                "rounds": ROUNDS,
                "calls": CALLS,
                "model": model.classifier.provenance["model"],
                "runtime": model.classifier.runtime,
                "variant": model.classifier.variant,
                "photo": list(Image.open(photo).size),
                **measure_calls(model, photo),
            }
    result["import_ms"] = round(import_ms(), 2)
    result["machine"] = describe_machine()
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({name: result[name] for name in ("photo_ms", "frame_ms", "runner_ms", *LIMITS)}, indent=2))


if __name__ == "__main__":
    main()
