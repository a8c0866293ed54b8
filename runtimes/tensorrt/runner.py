"""``Runner`` around the engine that was built here of a graph; and an encoder and a head as one, with no way back between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from vidrisk.runtimes.errors import RuntimeFailure, SpecError
from vidrisk.runtimes.runner import Array, Arrays, Runner
from vidrisk.runtimes.specs import TensorSpec
from vidrisk.runtimes.tensorrt.api import Kind
from vidrisk.runtimes.tensorrt.belt import Belt, Stage
from vidrisk.runtimes.tensorrt.context import EngineContext, LoadedEngine, loaded_engine
from vidrisk.runtimes.tensorrt.cuda import open_cuda


class TensorRtRunner(Runner):
    """Runs the engine of an ONNX file, which ``vidrisk.export.engines`` has built. ``Belt`` says how.

    Args:
        path: the ONNX file; its engine is looked up in the user's cache.
        inputs, outputs: what the file declares, as its bundle says. Only the first axis, the batch, is free.
        kind: of TensorRT.
        cuda_graphs: record what is done again and again.

    Raises:
        EngineMissing: none has been built, or none that fits this GPU and this TensorRT.
        MissingExtra, RuntimeFailure: no TensorRT, no GPU, an engine that does not load or computes something else.
    """

    def __init__(self, path: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], *,
                 kind: Kind = "tensorrt", cuda_graphs: bool = True) -> None:
        super().__init__(inputs, outputs)
        self.runtime = kind
        self._cuda_graphs = cuda_graphs
        cuda = open_cuda()  # first: it keeps the GPU's context, which would come and go otherwise
        self._loaded: LoadedEngine | None = loaded_engine(path, kind, self.inputs, self.outputs)
        self._belt = Belt(cuda, [self._stage(1)], self.inputs, self.outputs, cuda_graphs=cuda_graphs)

    def then(self, head: TensorRtRunner) -> ChainedRunner:
        """This encoder and a head as one runner, from clips to the head's outputs: features never leave the GPU.

        It has execution contexts of its own, shares the engines, and is closed by itself.

        Raises:
            SpecError: the head does not take what this encoder gives.
            RuntimeFailure: the encoder's engine takes fewer frames at once than a clip has.
        """
        (frames,), (features,), (clip,) = self.inputs, self.outputs, head.inputs
        if (clip.name, clip.dtype, clip.shape[2:]) != (features.name, features.dtype, features.shape[1:]):
            raise SpecError(f"a head that takes {clip} behind {features}", allowed="the encoder's features, clip by clip")
        moments = int(clip.shape[1])
        inputs = (TensorSpec(frames.name, frames.dtype, ("batch", moments, *frames.shape[1:])),)
        return ChainedRunner(Belt(open_cuda(), [self._stage(moments), head._stage(1)], inputs, head.outputs,
                                  cuda_graphs=self._cuda_graphs), self.runtime, inputs, head.outputs)

    def _stage(self, repeat: int) -> Stage:
        if self._loaded is None:
            raise RuntimeFailure(f"{self.runtime} runner is closed", fix="open it again")
        return Stage(EngineContext(self._loaded, cuda_graphs=self._cuda_graphs), repeat)

    def _infer(self, feed: Mapping[str, Array]) -> Arrays:
        return self._belt.run(feed)

    def close(self) -> None:
        super().close()
        self._belt.close()
        self._loaded = None


class ChainedRunner(Runner):
    """Engines one behind the other. Get it from ``TensorRtRunner.then``."""

    def __init__(self, belt: Belt, runtime: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
        super().__init__(inputs, outputs)
        self.runtime = runtime
        self._belt = belt

    def _infer(self, feed: Mapping[str, Array]) -> Arrays:
        return self._belt.run(feed)

    def close(self) -> None:
        super().close()
        self._belt.close()
