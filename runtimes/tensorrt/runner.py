"""``Runner`` around the engine that was built here of a graph; and engines of all stages as one, with no way back between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from vidrisk.runtimes.contract.errors import RuntimeFailure
from vidrisk.runtimes.contract.specs import TensorSpec
from vidrisk.runtimes.layers import Layers, layers_from_inspection
from vidrisk.runtimes.runner import Array, Arrays, Runner
from vidrisk.runtimes.tensorrt.api import Kind
from vidrisk.runtimes.tensorrt.belt import Belt, Stage
from vidrisk.runtimes.tensorrt.context import EngineContext, LoadedEngine, loaded_engine
from vidrisk.runtimes.tensorrt.cuda import open_cuda


class TensorRtRunner(Runner):
    """Runs the engine of an ONNX file, which ``vidrisk.runtimes.tensorrt.build.engines`` has built. ``Belt`` says how.

    Args:
        path: the ONNX file; its engine is looked up in the user's cache.
        inputs, outputs: what the file declares, as its bundle says. Only the first axis of all but constants, the
            batch, is free.
        kind: of TensorRT.
        constants: values of inputs that never change; they stay on the GPU.
        cuda_graphs: record what is done again and again.

    Raises:
        EngineMissing: none has been built, or none that fits this GPU and this TensorRT.
        MissingExtra, RuntimeFailure: no TensorRT, no GPU, an engine that does not load or computes something else.
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
        cuda = open_cuda()  # first: it keeps the GPU's context, which would come and go otherwise
        self._loaded: LoadedEngine | None = loaded_engine(path, kind, inputs, outputs)
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
    """Engines one behind the other, from windows to what the last one gives: nothing in between leaves the GPU.

    It has execution contexts of its own, shares the engines of the runners, and is closed by itself.

    Args:
        runners: one per stage, of one kind of TensorRT.
        repeats: how often each runs per window.
        window: the pixels of a window.

    Raises:
        RuntimeFailure: an engine takes fewer rows at once than one window needs.
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
