"""What a stage sees of the calibration data: frames or windows, and what the float stages in front of it make of them."""

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
FRAMES_PER_PASS = 4  # activations of so many frames are in memory at once
MIN_CALIBRATION = 16


class CalibrationFrames(Protocol):
    """Samples to calibrate on, read anew whenever they are asked for, so that memory does not grow with their number.

    Attributes:
        digest: of the content; equal digests, equal samples.
        count: frames that will come, as far as it is known before they are read.
    """

    @property
    def digest(self) -> str: ...

    @property
    def count(self) -> int: ...

    def __iter__(self) -> Iterator[Frames]:
        """Frames ``uint8 (H, W, 3)``, one after the other: for stages that run per frame."""

    def windows(self) -> Iterator[Frames]:
        """Windows ``uint8 (T, H, W, 3)``, one after the other: for all others."""


@dataclass(frozen=True)
class StageFeeds:
    """Batches for one stage's graph. The stages in front of it are run in floating point while they are asked for.

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
        """Whether single frames are enough: neither the stage nor one in front of it sees more than one at a time."""
        return all(stage.per == "frame" for stage in (*self.earlier, self.stage))

    @property
    def count(self) -> int:
        """Samples that will come: frames, or windows."""
        return self.samples.count if self.is_per_frame else max(1, self.samples.count // self.contract.frames)

    @property
    def digest(self) -> list[bytes]:
        """Of all that the batches depend on."""
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
        """How many samples a batch holds, and the batch, by input.

        Args:
            most: samples; None takes all.

        Raises:
            DataError: frames of another size than the contract's.
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
                yield len(batch), self._feed(self._checked(batch), runners)

    def few(self, frames: int) -> list[dict[str, Array]]:
        """Batches of the first samples that hold so many frames."""
        most = frames if self.is_per_frame else max(1, frames // self.contract.frames)
        return [feed for _, feed in self.batches(most)]

    def _checked(self, samples: Sequence[Frames]) -> Frames:
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
    """Validation samples in the place of calibration samples, for what learns nothing from them; spread evenly over all."""

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
    """Return what stages of a model see of samples, by stage."""
    return {
        name: StageFeeds(judge.contract, judge.stages, judge.stage(name), files, judge.constants, samples)
        for name in stages
    }


def _spread(every: Frames, count: int) -> Iterable[Frames]:
    return [every[row] for row in np.linspace(0, len(every) - 1, min(len(every), count)).astype(int)]
