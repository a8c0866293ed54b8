"""Inputs for timing training: a table of small clips, and an ``on_progress`` that records when steps begin."""

from __future__ import annotations

import time
from pathlib import Path

import av
import numpy as np

from vidrisk.data import Sample, Table

LABELS = ("walk", "run", "sit", "stand", "wave", "point")
SIDE_PX, TILES, MOMENTS, RATE = 64, 4, 16, 8


def write_clips(folder: Path, count: int, side_px: int = SIDE_PX) -> Table:
    """Write clips of coloured tiles that change in every frame; return a table with all of them in train."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    samples = []
    for number in range(count):
        path = folder / f"{number}.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=RATE)
            stream.width, stream.height, stream.pix_fmt = side_px, side_px, "yuv420p"
            for tiles in rng.integers(0, 256, (MOMENTS, TILES, TILES, 3), dtype=np.uint8):
                pixels = tiles.repeat(side_px // TILES, axis=0).repeat(side_px // TILES, axis=1)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode(None))
        samples.append(Sample(path, path.name, {"action": LABELS[number % len(LABELS)]}, split="train"))
    return Table(folder, "action", tuple(samples))


class StepClock:
    """An ``on_progress`` callback of training that records when steps begin.

    Attributes:
        begins: time at which every step began, in seconds, by epoch.
    """

    def __init__(self) -> None:
        self.begins: list[list[float]] = []

    def __call__(self, what: str, done: int, total: int) -> None:
        if what.startswith("epoch"):
            self.note(is_first=not done)

    def note(self, *, is_first: bool) -> None:
        """Record that a step begins."""
        self.begins += [[]] if is_first else []
        self.begins[-1].append(time.perf_counter())

    @property
    def seconds_per_step(self) -> float:
        """Return the time per step of the last epoch, from the start of its first step to the start of its last one."""
        last = self.begins[-1]
        return (last[-1] - last[0]) / (len(last) - 1)
