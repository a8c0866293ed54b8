"""An encoder and a head as one runner, from clips to what the head says."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

from vidrisk.runtimes.errors import RuntimeFailure
from vidrisk.runtimes.registry import ENGINE_KINDS
from vidrisk.runtimes.runner import Array, Arrays, Runner
from vidrisk.runtimes.specs import TensorSpec

log = logging.getLogger(__name__)


def chained(encoder: Runner, head: Runner) -> Runner:
    """A runner of clips ``(batch, T, H, W, 3)``. Engines of TensorRT hand features on without leaving the GPU.

    It works as long as both are open, and is closed by itself.
    """
    if encoder.runtime == head.runtime and encoder.runtime in ENGINE_KINDS:
        from vidrisk.runtimes.tensorrt.runner import TensorRtRunner  # only where there is a GPU

        if isinstance(encoder, TensorRtRunner) and isinstance(head, TensorRtRunner):
            try:
                return encoder.then(head)
            except RuntimeFailure as error:
                log.info("features take the way through the host: %s", error)
    return HostChain(encoder, head)


class HostChain(Runner):
    """One call of the encoder for all frames, and one of the head."""

    def __init__(self, encoder: Runner, head: Runner) -> None:
        (frames,), (clip,) = encoder.inputs, head.inputs
        super().__init__([TensorSpec(frames.name, frames.dtype, (clip.shape[0], clip.shape[1], *frames.shape[1:]))], head.outputs)
        self.runtime = encoder.runtime
        self.reuses_outputs = head.reuses_outputs
        self._encoder, self._head = encoder, head

    def _infer(self, feed: Mapping[str, Array]) -> Arrays:
        (frames,), (features,), (clip,) = self.inputs, self._encoder.outputs, self._head.inputs
        clips = feed[frames.name]
        count, moments = clips.shape[:2]
        encoded = self._encoder.infer({frames.name: clips.reshape(count * moments, *clips.shape[2:])})[features.name]
        return self._head.infer({clip.name: np.ascontiguousarray(encoded.reshape(count, moments, *encoded.shape[1:]))})
