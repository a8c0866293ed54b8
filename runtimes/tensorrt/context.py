"""An engine from the cache, loaded; and its execution contexts, whose activations lie in memory that they are given.

A context of TensorRT's own making would take the memory of the largest batch at once. Given its memory, it takes that
of the batches that really come, and running out of it is no end.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vidrisk.runtimes.contract.errors import EngineMissing, RuntimeFailure
from vidrisk.runtimes.contract.specs import TensorSpec
from vidrisk.runtimes.contract.stages import BATCH
from vidrisk.runtimes.folders import open_private, write_private
from vidrisk.runtimes.tensorrt.api import Api, Kind, open_api
from vidrisk.runtimes.tensorrt.cache import Batches, Missing, engine_store, graph_sha256
from vidrisk.runtimes.tensorrt.cuda import OutOfMemory
from vidrisk.runtimes.tensorrt.device import current_device

if TYPE_CHECKING:
    import tensorrt as trt

log = logging.getLogger(__name__)

Tensors = dict[
    str, tuple[bool, np.dtype[Any], tuple[int | str, ...]]
]  # is an input, dtype, shape of a row or of a constant


@dataclass(frozen=True)
class LoadedEngine:
    """An engine on the GPU.

    Attributes:
        name: of the graph's file.
        batches: rows that it takes.
        kernels: file of what TensorRT for RTX compiled when the engine ran.
        sha256: of the engine.
    """

    api: Api
    engine: trt.ICudaEngine
    name: str
    batches: Batches
    kernels: Path
    sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def loaded_engine(graph: Path, kind: Kind, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> LoadedEngine:
    """The engine that was built here of a graph.

    Raises:
        EngineMissing: none has been, or none that fits this GPU and this TensorRT.
        MissingExtra, RuntimeFailure: no TensorRT, no GPU, an engine that does not load or computes something else.
    """
    api, device = open_api(kind), current_device()
    found = engine_store().find(kind, api.version, device, graph_sha256(graph))
    if isinstance(found, Missing):
        raise EngineMissing(
            f"no {kind} engine of {graph.name}: {found.reason}", fix=f"vidrisk build BUNDLE --engine {kind}"
        )
    try:
        engine = api.load_engine(found.blob(), portable=found.key.portable)
    except RuntimeFailure as error:
        raise RuntimeFailure(
            f"{found.path}: {error.what}", fix="delete that file: the engine is then built again"
        ) from error
    loaded = LoadedEngine(
        api, engine, graph.name, found.key.batches, found.kernels_path, found.sha256, tuple(inputs), tuple(outputs)
    )
    _check(loaded)
    return loaded


def _check(loaded: LoadedEngine) -> None:
    """Refuse an engine whose tensors are not those of the specs; only the first axis may be free."""
    trt, engine = loaded.api.trt, loaded.engine
    fixed = {spec.name for spec in loaded.inputs if spec.shape[:1] != (BATCH,)}
    found: Tensors = {}
    for name in map(engine.get_tensor_name, range(engine.num_io_tensors)):
        shape: Any = engine.get_tensor_shape(name)
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        row = tuple(shape) if name in fixed else tuple(shape)[1:]
        found[name] = is_input, np.dtype(trt.nptype(engine.get_tensor_dtype(name))), row
    wanted: Tensors = {
        spec.name: (is_input, np.dtype(spec.dtype), spec.shape if spec.name in fixed else spec.shape[1:])
        for is_input, specs in ((True, loaded.inputs), (False, loaded.outputs))
        for spec in specs
    }
    if found != wanted:
        raise RuntimeFailure(f"the engine of {loaded.name} has the tensors {_words(found)}", allowed=_words(wanted))


def _words(tensors: Tensors) -> str:
    return ", ".join(
        f"{name}: {dtype}[batch, {', '.join(map(str, shape))}]" for name, (_, dtype, shape) in sorted(tensors.items())
    )


class EngineContext:
    """One execution of an engine at a time.

    Args:
        cuda_graphs: TensorRT for RTX may record CUDA graphs; with TensorRT its user does.
    """

    def __init__(self, loaded: LoadedEngine, *, cuda_graphs: bool) -> None:
        self.loaded = loaded
        self._rows = 0
        self._kernels: Any = None
        self._known_kernels = b""
        strategy = loaded.api.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        made: trt.IExecutionContext | None
        if loaded.api.kind == "tensorrt-rtx":
            made = loaded.engine.create_execution_context(self._rtx_config(strategy, cuda_graphs=cuda_graphs))
        else:
            made = loaded.engine.create_execution_context(strategy)
        if made is None:
            raise self._failure(f"{loaded.api.kind} cannot run its engine of {loaded.name}")
        self._context: trt.IExecutionContext | None = made

    @property
    def records(self) -> bool:
        """Whether TensorRT records CUDA graphs by itself, where it was asked to."""
        return self.loaded.api.kind == "tensorrt-rtx"

    def memory_bytes(self, rows: int) -> int:
        """What ``use_memory`` has to give for so many rows."""
        self._set_rows(rows)
        return max(1, self._sized())

    def use_memory(self, address: int, size: int) -> None:
        self._ours.set_device_memory(address, size)

    def enqueue(self, rows: int, addresses: Mapping[str, int], stream: int) -> None:
        """Give the stream one execution.

        Args:
            addresses: of the tensors on the device, by their names.

        Raises:
            OutOfMemory, RuntimeFailure: in TensorRT's words, which name the layer where it knows it.
        """
        context = self._ours
        if rows != self._rows:
            self._set_rows(rows)
            self._sized()
        for spec in (*self.loaded.inputs, *self.loaded.outputs):
            context.set_tensor_address(spec.name, addresses[spec.name])
        if not context.execute_async_v3(stream):
            raise self._failure(f"{self.loaded.api.kind} failed in {self.loaded.name}")

    def inspection(self) -> str:
        """What TensorRT says of the layers of the engine, for the rows that came last, as JSON.

        Raises:
            RuntimeError: it cannot be asked.
        """
        inspector = self.loaded.engine.create_engine_inspector()
        inspector.execution_context = self._ours  # else the types of free axes' tensors are not told
        return str(inspector.get_engine_information(self.loaded.api.trt.LayerInformationFormat.JSON))

    def close(self) -> None:
        """Keep what was compiled, and let the engine go. Safe to call twice."""
        if self._context is not None and self._kernels is not None:
            self._keep_kernels()
        self._context = self._kernels = None

    @property
    def _ours(self) -> trt.IExecutionContext:
        if self._context is None:
            raise RuntimeFailure(f"the engine of {self.loaded.name} was let go", fix="open it again")
        return self._context

    def _set_rows(self, rows: int) -> None:
        for spec in self.loaded.inputs:
            if spec.shape[:1] == (BATCH,) and not self._ours.set_input_shape(spec.name, (rows, *spec.shape[1:])):
                raise self._failure(f"the engine of {self.loaded.name} does not take {rows} rows")
        self._rows = rows

    def _sized(self) -> int:
        """Lay out the memory for the rows that are set: bytes."""
        return int(self._ours.update_device_memory_size_for_shapes())

    def _failure(self, what: str) -> RuntimeFailure:
        api = self.loaded.api
        return OutOfMemory(api.failure(what).what) if api.out_of_memory else api.failure(what)

    def _rtx_config(self, strategy: Any, *, cuda_graphs: bool) -> Any:
        config: Any = self.loaded.engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        graphs = self.loaded.api.trt.CudaGraphStrategy
        config.cuda_graph_strategy = graphs.WHOLE_GRAPH_CAPTURE if cuda_graphs else graphs.DISABLED
        self._kernels = config.create_runtime_cache()
        with suppress(OSError):
            with open_private(self.loaded.kernels) as file:  # code, too; its folder was checked with the engine's
                self._known_kernels = file.read()
            self._kernels.deserialize(self._known_kernels)  # what does not fit is compiled anew
        config.set_runtime_cache(self._kernels)
        return config

    def _keep_kernels(self) -> None:
        compiled = bytes(self._kernels.serialize())
        if compiled == self._known_kernels:
            return
        try:
            with write_private(self.loaded.kernels) as file:
                file.write(compiled)
        except OSError as error:
            log.info("the kernels of %s are not kept: %s", self.loaded.name, error)
