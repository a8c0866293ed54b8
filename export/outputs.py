"""What a stage of the export is judged on, and what it computes there."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vidrisk.runtimes.contract import Contract
from vidrisk.runtimes.errors import DataError
from vidrisk.runtimes.runner import Runner

FloatArray = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
BATCH = 16


@dataclass(frozen=True)
class Validation:
    """Labelled samples that the gate judges on.

    Attributes:
        frames: ``uint8 (N, T, H, W, 3)``.
        truth: label indices ``int64 (N,)`` per target name.
        names: N names, to say which samples flipped.
    """

    frames: npt.NDArray[np.uint8]
    truth: Mapping[str, npt.NDArray[np.int64]]
    names: Sequence[str]

    def __post_init__(self) -> None:
        lengths = {len(self.frames), len(self.names), *(len(t) for t in self.truth.values())}
        if len(lengths) != 1 or not len(self.frames):
            raise DataError(f"validation samples of lengths {sorted(lengths)}", allowed="equal lengths, at least one sample")

    def some_frames(self, count: int) -> npt.NDArray[np.uint8]:
        """At most so many frames ``uint8 (N, H, W, 3)``, spread evenly over all."""
        every = self.frames.reshape(-1, *self.frames.shape[2:])
        chosen: npt.NDArray[np.uint8] = every[np.linspace(0, len(every) - 1, min(len(every), count)).astype(int)]
        return chosen


@dataclass(frozen=True)
class Outputs:
    """What one stage of the export computes on the validation samples.

    Attributes:
        features: ``float32 (N·T, D)``.
        logits: ``float32 (N, C)`` per target name.
        ms_per_frame: median time of the encoder per frame, in batches of ``BATCH`` frames.
    """

    features: FloatArray
    logits: Mapping[str, FloatArray]
    ms_per_frame: float


def outputs_of(encoder: Runner, head: Runner, contract: Contract, frames: npt.NDArray[np.uint8]) -> Outputs:
    """Run encoder and head over ``uint8 (N, T, H, W, 3)``."""
    samples, moments = frames.shape[:2]
    flat = frames.reshape(-1, *frames.shape[2:])
    features: list[FloatArray] = []
    seconds: list[float] = []
    encoder.infer({"frames": flat[:BATCH]})  # warm-up, so that no stage is timed while it compiles
    for begin in range(0, len(flat), BATCH):
        batch = flat[begin : begin + BATCH]
        clock = time.perf_counter()
        features.append(np.asarray(encoder.infer({"frames": batch})["features"], np.float32))
        seconds.append((time.perf_counter() - clock) / len(batch))
    whole = np.concatenate(features)
    by_clip = whole.reshape(samples, moments, -1)
    parts = [head.infer({"features": by_clip[begin : begin + BATCH]}) for begin in range(0, samples, BATCH)]
    logits = {t.name: np.concatenate([np.asarray(p[f"{t.name}_logits"], np.float32) for p in parts]) for t in contract.targets}
    return Outputs(whole, logits, float(np.median(seconds)) * 1e3)
