"""Runners for TensorRT engines: one engine, or the engines of all stages chained on the GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from vidrisk.runtimes.contract.errors import RuntimeFailure
from vidrisk.runtimes.contract.specs import TensorSpec
from vidrisk.runtimes.layers import Layers, layers_from_inspection
from vidrisk.runtimes.runner import Array, Arrays, Runner
from vidrisk.runtimes.tensorrt.api import Kind
from vidrisk.runtimes.tensorrt.belt import Belt, Stage
from vidrisk.runtimes.tensorrt.context import EngineContext, LoadedEngine, load_engine
from vidrisk.runtimes.tensorrt.cuda import open_cuda


class TensorRtRunner(Runner):
    """Runner of an ONNX file's engine, built by ``vidrisk.runtimes.tensorrt.build.engines``, through a ``Belt``.

    Args:
        path: the ONNX file; its engine is looked up in the user's cache.
        inputs, outputs: what the file declares, according to its bundle. Only the first axis, the batch, of all but
            constants is free.
        kind: kind of TensorRT.
        constants: values of inputs that never change; they stay on the GPU.
        cuda_graphs: record recurring work as CUDA graphs.

    Raises:
        EngineMissing: none was built, or none that matches this GPU and this TensorRT.
        MissingExtra, RuntimeFailure: no TensorRT, no GPU, or an engine that does not load or has other tensors.
    """

    def __init__(
        self,
        path: Path,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        *,
        kind: Kind = "tensorrt",
        constants: Mapping[str, Array] | None = None,
        cuda_graphs: bool = True,
    ) -> None:
        super().__init__(inputs, outputs, constants)
        self.runtime = kind
        self._cuda_graphs = cuda_graphs
        cuda = open_cuda()  # first, because it retains the GPU's context, which would otherwise be recreated
        self._loaded: LoadedEngine | None = load_engine(path, kind, inputs, outputs)
        self.engine_file = self._loaded.sha256
        self._belt = Belt(
            cuda, [self._stage(1)], self.inputs, self.outputs, constants=self.constants, cuda_graphs=cuda_graphs
        )

    def _stage(self, repeat: int) -> Stage:
        if self._loaded is None:
            raise RuntimeFailure(f"{self.runtime} runner is closed", fix="open it again")
        return Stage(EngineContext(self._loaded, cuda_graphs=self._cuda_graphs), repeat)

    def _infer(self, feed: Mapping[str, Array]) -> Arrays:
        return self._belt.run(feed)

    def layers(self) -> Layers:
        try:
            return sum(map(layers_from_inspection, self._belt.inspections()), Layers())
        except (RuntimeFailure, RuntimeError, ValueError) as error:
            return Layers(unproved=f"{self.runtime} does not show what it runs: {error}")

    def close(self) -> None:
        super().close()
        self._belt.close()
        self._loaded = None


class ChainedRunner(Runner):
    """Chain of engines from windows to the last one's outputs, whose intermediate results stay on the GPU.

    It has its own execution contexts and shares the engines of the runners; closing it does not close them.

    Args:
        runners: one per stage, all of the same kind of TensorRT.
        repeats: how often each runs per window.
        window: spec of the pixels of a window.

    Raises:
        RuntimeFailure: an engine accepts fewer rows at once than one window needs.
    """

    def __init__(self, runners: Sequence[TensorRtRunner], repeats: Sequence[int], window: TensorSpec) -> None:
        super().__init__((window,), runners[-1].outputs)
        self.runtime = runners[0].runtime
        constants = {name: array for runner in runners for name, array in runner.constants.items()}
        stages = [runner._stage(repeat) for runner, repeat in zip(runners, repeats, strict=True)]
        self._belt = Belt(
            open_cuda(), stages, self.inputs, self.outputs, constants=constants, cuda_graphs=runners[0]._cuda_graphs
        )

    def _infer(self, feed: Mapping[str, Array]) -> Arrays:
        return self._belt.run(feed)

    def close(self) -> None:
        super().close()
        self._belt.close()
