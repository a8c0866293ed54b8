"""The stages of a model as one runner, from windows to the model's outputs.

Stage outputs are kept flat: one row per frame, per group or per window, depending on the stage. A stage that runs less
often than its source takes all source rows of one of its runs at once, as an extra axis after the batch axis
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
    """Return how many frames one run of a stage covers: 1, those of a group, or all ``frames`` of the window."""
    return {"frame": 1, "group": stage.group, "window": frames}[stage.per]


def feed_of(stage: Stage, pixels: Array | None, given: Mapping[str, Array]) -> Arrays:
    """Return the feed of a stage, without its constants, from flat arrays.

    Args:
        stage: the stage to feed.
        pixels: ``uint8 (n, H, W, 3)``; the n frames make a whole number of runs. None if the stage takes no pixels.
        given: outputs of earlier stages by name, for the same n frames.
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
    """Run stages one after another, each once for all of its rows.

    Args:
        stages: stages in order.
        runners: one runner per stage.
        pixels: ``uint8 (n, H, W, 3)``, n frames; None if no stage takes pixels.
        given: outputs of stages before the first of these, for the same frames.

    Returns:
        ``given`` and the outputs of all stages, flat, by name.
    """
    known = dict(given or {})
    for stage, runner in zip(stages, runners, strict=True):
        known |= copy_outputs(runner, runner.infer(feed_of(stage, pixels, known)))
    return known


def copy_outputs(runner: Runner, outputs: Arrays) -> Arrays:
    """Return outputs of a runner that its next call does not overwrite."""
    return {name: array.copy() for name, array in outputs.items()} if runner.reuses_outputs else outputs


def chain_runners(stages: Sequence[Stage], runners: Sequence[Runner], frames: int) -> Runner:
    """Combine the runners of all stages into one runner of windows ``(batch, T, H, W, 3)``.

    TensorRT engines pass their outputs on without leaving the GPU. The combined runner works as long as the given
    runners are open; closing it does not close them.

    Args:
        stages: stages in order.
        runners: one runner per stage.
        frames: frames per window, T.
    """
    pixels = next(spec for stage in stages for spec in stage.variable_inputs if spec.name == PIXELS)
    window = TensorSpec(PIXELS, pixels.dtype, (BATCH, frames, *pixels.shape[-3:]))
    if len({runner.runtime for runner in runners}) == 1 and runners[0].runtime in ENGINE_KINDS:
        from vidrisk.runtimes.tensorrt.runner import ChainedRunner, TensorRtRunner  # only with a GPU

        engines = [runner for runner in runners if isinstance(runner, TensorRtRunner)]
        if len(engines) == len(runners):
            try:
                return ChainedRunner(engines, [frames // frames_of(stage, frames) for stage in stages], window)
            except RuntimeFailure as error:
                log.info("stage outputs are passed through host memory: %s", error)
    return HostChain(stages, runners, window)


class HostChain(Runner):
    """Runner that calls each stage once for all windows of a batch, through host memory."""

    def __init__(self, stages: Sequence[Stage], runners: Sequence[Runner], window: TensorSpec) -> None:
        super().__init__((window,), runners[-1].outputs)
        self.runtime = runners[0].runtime
        self._stages, self._runners = tuple(stages), tuple(runners)

    def _infer(self, feed: Mapping[str, Array]) -> Arrays:
        windows = feed[PIXELS]
        computed = run_stages(self._stages, self._runners, windows.reshape(-1, *windows.shape[2:]))
        return {spec.name: computed[spec.name] for spec in self.outputs}
