"""The stages of a model as one runner, from windows to the model's answers.

What a stage computes is kept flat: one row per frame, per group or per window, whatever stage it is of. A stage that
runs more rarely than its source takes the rows of one of its own runs together, as one more axis behind the batch
(``shape_at``).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from vidrisk.runtimes.contract.errors import RuntimeFailure
from vidrisk.runtimes.contract.specs import TensorSpec
from vidrisk.runtimes.contract.stages import BATCH, PIXELS, Stage
from vidrisk.runtimes.registry import ENGINE_KINDS
from vidrisk.runtimes.runner import Array, Arrays, Runner

log = logging.getLogger(__name__)


def frames_of(stage: Stage, frames: int) -> int:
    """How many of a window's frames one run of a stage covers: 1, those of a group, or all ``frames``."""
    return {"frame": 1, "group": stage.group, "window": frames}[stage.per]


def feed_of(stage: Stage, pixels: Array | None, given: Mapping[str, Array]) -> Arrays:
    """Feed of a stage, without its constants, from what lies flat.

    Args:
        pixels: ``uint8 (n, H, W, 3)``, of n frames in a whole number of runs; None where the stage takes none.
        given: outputs of earlier stages by name, of the same n frames.
    """
    feed: Arrays = {}
    for spec in stage.variable_inputs:
        array = pixels if spec.name == PIXELS else given[spec.name]
        assert array is not None
        feed[spec.name] = np.ascontiguousarray(array.reshape(-1, *map(int, spec.shape[1:])))
    return feed


def run_stages(
    stages: Sequence[Stage], runners: Sequence[Runner], pixels: Array | None, given: Mapping[str, Array] | None = None
) -> Arrays:
    """Run stages one behind the other, each once for all of its rows.

    Args:
        pixels: ``uint8 (n, H, W, 3)``, of n frames; None where no stage takes any.
        given: outputs of stages before the first of these, for the same frames.

    Returns:
        All that was given and that the stages compute, flat, by name.
    """
    known = dict(given or {})
    for stage, runner in zip(stages, runners, strict=True):
        known |= copied_outputs(runner, runner.infer(feed_of(stage, pixels, known)))
    return known


def copied_outputs(runner: Runner, outputs: Arrays) -> Arrays:
    """Outputs of a runner that its next call leaves alone."""
    return {name: array.copy() for name, array in outputs.items()} if runner.reuses_outputs else outputs


def chained(stages: Sequence[Stage], runners: Sequence[Runner], frames: int) -> Runner:
    """A runner of windows ``(batch, T, H, W, 3)``. Engines of TensorRT hand on what they compute without leaving the GPU.

    It works as long as the runners are open, and is closed by itself.

    Args:
        frames: of a window, T.
    """
    pixels = next(spec for stage in stages for spec in stage.variable_inputs if spec.name == PIXELS)
    window = TensorSpec(PIXELS, pixels.dtype, (BATCH, frames, *pixels.shape[-3:]))
    if len({runner.runtime for runner in runners}) == 1 and runners[0].runtime in ENGINE_KINDS:
        from vidrisk.runtimes.tensorrt.runner import ChainedRunner, TensorRtRunner  # only where there is a GPU

        engines = [runner for runner in runners if isinstance(runner, TensorRtRunner)]
        if len(engines) == len(runners):
            try:
                return ChainedRunner(engines, [frames // frames_of(stage, frames) for stage in stages], window)
            except RuntimeFailure as error:
                log.info("what stages compute takes the way through the host: %s", error)
    return HostChain(stages, runners, window)


class HostChain(Runner):
    """One call of each stage for all windows of a batch."""

    def __init__(self, stages: Sequence[Stage], runners: Sequence[Runner], window: TensorSpec) -> None:
        super().__init__((window,), runners[-1].outputs)
        self.runtime = runners[0].runtime
        self._stages, self._runners = tuple(stages), tuple(runners)

    def _infer(self, feed: Mapping[str, Array]) -> Arrays:
        windows = feed[PIXELS]
        computed = run_stages(self._stages, self._runners, windows.reshape(-1, *windows.shape[2:]))
        return {spec.name: computed[spec.name] for spec in self.outputs}
