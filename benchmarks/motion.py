"""Compare heads that use the order of frames with one that averages them, where single frames do not show the class.

    python benchmarks/motion.py [--clips 80] [-o FILE]

There are three pairs of classes: a disc moves to the left or to the right; it approaches or recedes; it lights up once,
or twice for half as long each. Position, size and colour of the disc, the noise of the scene and the timing of the
movement have the same distribution for both classes of a pair: given any single frame, or the set of all frames, both
classes are equally likely. A head that averages frames therefore cannot be better than chance with any encoder. The
encoder is the frozen EfficientNet-Lite0; half of the clips train and half test, with vidrisk's default settings except
``head.kind`` and what makes training fast.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from machine import describe_machine

from vidrisk.data import Sample, Table
from vidrisk.models.config import config_from_options
from vidrisk.models.run import METRICS
from vidrisk.train.train import train_run

RESULT = Path(__file__).parent / "results" / "motion.json"
PAIRS = {"direction": ("left", "right"), "distance": ("approach", "leave"), "count": ("once", "twice")}
KINDS = ("linear", "segments", "motion", "attention", "transformer")
SIDE, FRAMES, RATE = 112, 24, 12
SETTINGS = [
    "task=action",
    "frames=16",
    "pixel={height: 112, width: 112}",
    "lora.last_blocks=0",
    "augment=[]",
    "optim.epochs=30",
]


def frames_of(label: str, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Draw the frames of one clip, ``uint8 (H, W, 3)``."""
    colour, scene = rng.uniform(120, 255, 3), rng.uniform(20, 90, 3)
    size, place = rng.uniform(8, 20), rng.uniform(30, SIDE - 30, 2)
    phases = (np.arange(FRAMES) + 0.5) / FRAMES
    lit = np.ones(FRAMES, bool)
    if label in ("once", "twice"):
        lit[:] = False
        runs = [12] if label == "once" else [6, 6]
        gaps = rng.multinomial(FRAMES - 12 - (len(runs) - 1), np.full(len(runs) + 1, 1 / (len(runs) + 1)))
        at = 0
        for number, length in enumerate(runs):
            at += int(gaps[number]) + (number > 0)
            lit[at : at + length] = True
            at += length
    for phase, is_lit in zip(phases, lit, strict=True):
        radius, (x, y) = size, place
        if label in ("left", "right"):
            x = 14 + (SIDE - 28) * (phase if label == "right" else 1 - phase)
        elif label in ("approach", "leave"):
            radius = 5 + 22 * (phase if label == "approach" else 1 - phase)
        rows, columns = np.mgrid[:SIDE, :SIDE]
        inside = ((rows - y) ** 2 + (columns - x) ** 2 <= radius**2)[..., None] & is_lit
        yield np.clip(np.where(inside, colour, scene) + rng.normal(0, 8, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)


def write_clip(path: Path, label: str, seed: int) -> None:
    """Encode a clip as H.264."""
    rng = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        for frame in frames_of(label, rng):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def table_of(folder: Path, labels: tuple[str, ...], clips: int) -> Table:
    """Return the table of the clips of some classes: half are train, a tenth of these val, half are test."""
    samples = []
    for number in range(clips):
        for place, label in enumerate(labels):
            path = folder / f"{label}{number}.mp4"
            if not path.exists():
                write_clip(path, label, 1000 * number + 7 * place)
            split = "test" if number % 2 else "val" if number % 10 == 0 else "train"
            samples.append(Sample(path, path.name, {"action": label}, split=split))  # type: ignore[arg-type]
    return Table(folder, "action", tuple(samples))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=80, help="of each class")
    parser.add_argument("-o", "--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    begin, rows = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name, labels in (*PAIRS.items(), ("all six", tuple(label for pair in PAIRS.values() for label in pair))):
            table = table_of(folder, labels, arguments.clips)
            for kind in KINDS:
                run = train_run(
                    table, config_from_options(None, [*SETTINGS, f"head.kind={kind}"]), folder / f"{name}-{kind}"
                )
                scores = json.loads((run.root / METRICS).read_text(encoding="utf-8"))["test"]["action"]
                rows.append(
                    {"classes": name, "head": kind, "top1": scores["top1"], "n": scores["n"], "chance": 1 / len(labels)}
                )
                print(
                    f"{name} {kind}: {scores['top1']:.3f} of {scores['n']} ({time.perf_counter() - begin:.0f} s)",
                    flush=True,
                )
    result = {
        "settings": SETTINGS,
        "clips": arguments.clips,
        "rows": rows,
        "seconds": round(time.perf_counter() - begin),
        "machine": describe_machine(),
    }
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
