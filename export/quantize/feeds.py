"""Calibration inputs of a stage: frames or windows, and the outputs of the float stages before it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from vidrisk.calibration.files import graph_files
from vidrisk.export.gate.judge import REFERENCE, StageJudge
from vidrisk.export.gate.outputs import Validation
from vidrisk.runtimes.chain import feed_of, run_stages
from vidrisk.runtimes.contract.bundle import sha256_of
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.runtimes.contract.errors import DataError
from vidrisk.runtimes.contract.stages import Stage
from vidrisk.runtimes.registry import BUNDLE_RUNTIMES
from vidrisk.runtimes.runner import Array, Runner

Frames = npt.NDArray[np.uint8]
FRAMES_PER_PASS = 4  # activations of this many frames are in memory at once
MIN_CALIBRATION = 16


class CalibrationFrames(Protocol):
    """Calibration samples that are reread for every iteration, so that memory does not grow with their number.

    Attributes:
        digest: of the content; equal digests mean equal samples.
        count: expected number of frames, as far as it is known before they are read.
    """

    @property
    def digest(self) -> str: ...

    @property
    def count(self) -> int: ...

    def __iter__(self) -> Iterator[Frames]:
        """Yield frames ``uint8 (H, W, 3)``, for stages that run per frame."""

    def windows(self) -> Iterator[Frames]:
        """Yield windows ``uint8 (T, H, W, 3)``, for all other stages."""


@dataclass(frozen=True)
class StageFeeds:
    """Batches for one stage's graph; the stages before it run in floating point during iteration.

    Attributes:
        stages: of the whole model, in order.
        files: float ONNX files, by stage.
        constants: of all stages, by name.
    """

    contract: Contract
    stages: Sequence[Stage]
    stage: Stage
    files: Mapping[str, Path]
    constants: Mapping[str, Array]
    samples: CalibrationFrames

    @property
    def earlier(self) -> list[Stage]:
        return list(self.stages[: self.stages.index(self.stage)])

    @property
    def is_per_frame(self) -> bool:
        """Whether single frames are enough: no stage up to this one sees more than one at a time."""
        return all(stage.per == "frame" for stage in (*self.earlier, self.stage))

    @property
    def count(self) -> int:
        """Expected number of samples: frames, or windows."""
        return self.samples.count if self.is_per_frame else max(1, self.samples.count // self.contract.frames)

    @property
    def digest(self) -> list[bytes]:
        """Digests of everything that the batches depend on."""
        graphs = [
            bytes.fromhex(sha256_of(file)) for stage in self.earlier for file in graph_files(self.files[stage.name])
        ]
        constants = [
            np.ascontiguousarray(self.constants[name]).tobytes()
            for stage in (*self.earlier, self.stage)
            for name in stage.constants
        ]
        return [self.samples.digest.encode(), *graphs, *constants]

    def batches(self, most: int | None = None) -> Iterator[tuple[int, dict[str, Array]]]:
        """Yield the number of samples in a batch, and the batch by input.

        Args:
            most: limit on the number of samples; None takes all.

        Raises:
            DataError: the frames' size differs from the contract's.
        """
        size, every = (
            (FRAMES_PER_PASS, iter(self.samples))
            if self.is_per_frame
            else (max(1, FRAMES_PER_PASS // self.contract.frames), self.samples.windows())
        )
        rest = islice(every, most)
        with ExitStack() as stack:
            runners = [stack.enter_context(self._open(stage)) for stage in self.earlier]
            while batch := list(islice(rest, size)):
                yield len(batch), self._feed(self._stack(batch), runners)

    def few(self, frames: int) -> list[dict[str, Array]]:
        """Return batches of the first samples, with ``frames`` frames in total."""
        most = frames if self.is_per_frame else max(1, frames // self.contract.frames)
        return [feed for _, feed in self.batches(most)]

    def _stack(self, samples: Sequence[Frames]) -> Frames:
        wanted = (
            self.contract.pixel.frame_shape
            if self.is_per_frame
            else (self.contract.frames, *self.contract.pixel.frame_shape)
        )
        for sample in samples:
            if sample.shape != wanted or sample.dtype != np.uint8:
                what = "frame" if self.is_per_frame else "window"
                raise DataError(f"a calibration {what} is {sample.dtype} {sample.shape}", allowed=f"uint8 {wanted}")
        return np.stack(samples)

    def _feed(self, samples: Frames, runners: Sequence[Runner]) -> dict[str, Array]:
        pixels = samples.reshape(-1, *samples.shape[-3:])
        known = run_stages(self.earlier, runners, pixels)
        return {**self._constants(self.stage), **feed_of(self.stage, pixels, known)}

    def _constants(self, stage: Stage) -> dict[str, Array]:
        return {name: self.constants[name] for name in stage.constants}

    def _open(self, stage: Stage) -> Runner:
        return BUNDLE_RUNTIMES[REFERENCE](
            self.files[stage.name], stage.inputs, stage.outputs, constants=self._constants(stage)
        )


@dataclass(frozen=True)
class ValidationFrames:
    """Validation samples in place of calibration samples, spread evenly over all of them.

    They are for uses that learn nothing from them.
    """

    validation: Validation
    frames: int
    digest: str = "validation"

    @property
    def count(self) -> int:
        return self.frames

    def __iter__(self) -> Iterator[Frames]:
        every = self.validation.frames
        return iter(_spread(every.reshape(-1, *every.shape[2:]), self.frames))

    def windows(self) -> Iterator[Frames]:
        every = self.validation.frames
        return iter(_spread(every, max(1, self.frames // every.shape[1])))


def feeds_of_stages(
    judge: StageJudge, files: Mapping[str, Path], stages: Iterable[str], samples: CalibrationFrames
) -> dict[str, StageFeeds]:
    """Return the inputs of a model's stages for samples, by stage."""
    return {
        name: StageFeeds(judge.contract, judge.stages, judge.stage(name), files, judge.constants, samples)
        for name in stages
    }


def _spread(every: Frames, count: int) -> Iterable[Frames]:
    return [every[row] for row in np.linspace(0, len(every) - 1, min(len(every), count)).astype(int)]
