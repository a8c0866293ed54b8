"""The samples that a model is judged on, and the outputs of its stages for them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vidrisk.runtimes.chain import copy_outputs, feed_of, frames_of
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.runtimes.contract.errors import DataError
from vidrisk.runtimes.contract.stages import Stage
from vidrisk.runtimes.runner import Array, Runner

FloatArray = npt.NDArray[np.float32]
Frames = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
BATCH = 16  # frames


@dataclass(frozen=True)
class Validation:
    """Labelled samples that the gate judges on.

    Attributes:
        frames: ``uint8 (N, T, H, W, 3)``.
        truth: label indices ``int64 (N,)`` per target name, or ``(N, C)`` of a multi-label target; negative if
            unlabelled.
        names: N names, for naming the samples that flipped.

    Raises:
        DataError: no samples, different lengths, or a target without a labelled sample.
    """

    frames: Frames
    truth: Mapping[str, Ints]
    names: Sequence[str]

    def __post_init__(self) -> None:
        lengths = {len(self.frames), len(self.names), *(len(t) for t in self.truth.values())}
        if len(lengths) != 1 or not len(self.frames):
            raise DataError(
                f"validation samples of lengths {sorted(lengths)}", allowed="equal lengths, at least one sample"
            )
        unlabelled = [
            name for name, truth in self.truth.items() if (truth < 0).reshape(len(truth), -1).any(axis=1).all()
        ]
        if unlabelled:
            raise DataError(
                f"no validation sample is labelled for {unlabelled[0]}",
                allowed="at least one for each target",
                fix="give other labelled data as val, or label some of these",
            )

    def at(self, rows: Ints) -> Validation:
        """Return some of the samples."""
        return Validation(
            self.frames[rows],
            {name: truth[rows] for name, truth in self.truth.items()},
            [self.names[row] for row in rows],
        )


@dataclass(frozen=True)
class Outputs:
    """Outputs of a model on the validation samples.

    Attributes:
        cuts: outputs of all stages but the last, by name: ``(N · n, …)`` with n rows per sample, one per run of the
            stage. Two models are compared at the stages that they have in common.
        logits: ``float32 (N, C)`` per target name.
        ms_per_frame: median time of all stages per frame, in batches of ``BATCH`` frames.
    """

    cuts: Mapping[str, Array]
    logits: Mapping[str, FloatArray]
    ms_per_frame: float

    def at(self, rows: Ints) -> Outputs:
        """Return the outputs of some of the samples."""
        samples = len(next(iter(self.logits.values())))

        def of_rows(values: Array) -> Array:
            return values.reshape(samples, -1, *values.shape[1:])[rows].reshape(-1, *values.shape[1:])

        return Outputs(
            {name: of_rows(values) for name, values in self.cuts.items()},
            {name: logits[rows] for name, logits in self.logits.items()},
            self.ms_per_frame,
        )

    def of(self, stage: Stage) -> list[FloatArray]:
        """Return the outputs of one stage, in its order; those of the last one are the logits."""
        by_name: dict[str, Array] = {
            **self.cuts,
            **{f"{target}_logits": logits for target, logits in self.logits.items()},
        }
        return [by_name[spec.name].astype(np.float32, copy=False) for spec in stage.outputs]


def batch_of(stage: Stage, frames: int, most: int = BATCH) -> int:
    """Return the batch size of a stage that covers at most ``most`` frames, but at least one sample.

    Args:
        stage: the stage.
        frames: number of frames per window, T.
        most: limit on the number of frames.
    """
    return max(1, most // frames_of(stage, frames))


def outputs_of(
    runners: Mapping[str, Runner],
    stages: Sequence[Stage],
    contract: Contract,
    frames: Frames,
    known: Outputs | None = None,
) -> Outputs:
    """Run stages over ``uint8 (N, T, H, W, 3)``, one after the other.

    Args:
        runners: by stage. Stages before the first one with a runner are not run; ``known`` has their outputs.
        stages: of the model, in order.
        contract: of the model.
        frames: the samples.
        known: outputs of earlier stages.
    """
    pixels = frames.reshape(-1, *frames.shape[2:])
    computed = dict(known.cuts) if known else {}
    ms_per_frame = 0.0
    for stage in stages:
        if stage.name in runners:
            feed = feed_of(stage, pixels, computed)
            found, seconds = _run_in_batches(runners[stage.name], feed, batch_of(stage, contract.frames))
            computed |= found
            ms_per_frame += seconds * 1e3 / frames_of(stage, contract.frames)
    cuts = {spec.name: computed[spec.name] for stage in stages[:-1] for spec in stage.outputs}
    logits = {target.name: np.asarray(computed[f"{target.name}_logits"], np.float32) for target in contract.targets}
    return Outputs(cuts, logits, ms_per_frame)


def _run_in_batches(runner: Runner, feed: Mapping[str, Array], batch: int) -> tuple[dict[str, Array], float]:
    """Return a stage's outputs for many samples, and the median seconds per sample."""
    samples = len(next(iter(feed.values())))
    parts: list[dict[str, Array]] = []
    seconds: list[float] = []
    for begin in (0, *range(0, samples, batch)):
        part = {name: values[begin : begin + batch] for name, values in feed.items()}
        clock = time.perf_counter()
        found = runner.infer(part)
        seconds.append((time.perf_counter() - clock) / min(batch, samples - begin))
        parts.append(copy_outputs(runner, found))
    # The first call is a warm-up, so that no stage is timed while it compiles.
    return {name: np.concatenate([part[name] for part in parts[1:]]) for name in parts[0]}, float(
        np.median(seconds[1:])
    )
