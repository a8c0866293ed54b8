"""Engines loaded from the cache, and execution contexts whose activation memory the caller provides.

By default a context allocates the memory of the largest batch at once. With memory from the caller it only takes what
the actual batches need, and running out of memory is recoverable.
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
]  # whether it is an input, dtype, shape of a row or of a constant


@dataclass(frozen=True)
class LoadedEngine:
    """Engine on the GPU.

    Attributes:
        name: name of the graph's file.
        batches: rows per call.
        kernels: file of the kernels that TensorRT for RTX compiled at run time.
        sha256: sha256 of the engine.
    """

    api: Api
    engine: trt.ICudaEngine
    name: str
    batches: Batches
    kernels: Path
    sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def load_engine(graph: Path, kind: Kind, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> LoadedEngine:
    """Load the engine that was built here from a graph.

    Raises:
        EngineMissing: none was built, or none that matches this GPU and this TensorRT.
        MissingExtra, RuntimeFailure: no TensorRT, no GPU, or an engine that does not load or has other tensors.
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
            f"{found.path}: {error.what}", fix="delete that file to have the engine built again"
        ) from error
    loaded = LoadedEngine(
        api, engine, graph.name, found.key.batches, found.kernels_path, found.sha256, tuple(inputs), tuple(outputs)
    )
    _check(loaded)
    return loaded


def _check(loaded: LoadedEngine) -> None:
    """Refuse an engine whose tensors do not match the specs; only the first axis may be free."""
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
    """Execution context of an engine, for one execution at a time.

    Args:
        cuda_graphs: let TensorRT for RTX record CUDA graphs; with TensorRT the caller records them.
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
        """Whether TensorRT itself records CUDA graphs, if enabled."""
        return self.loaded.api.kind == "tensorrt-rtx"

    def memory_bytes(self, rows: int) -> int:
        """Return the bytes that ``use_memory`` has to provide for ``rows``."""
        self._set_rows(rows)
        return max(1, self._update_memory_size())

    def use_memory(self, address: int, size: int) -> None:
        self._ours.set_device_memory(address, size)

    def enqueue(self, rows: int, addresses: Mapping[str, int], stream: int) -> None:
        """Enqueue one execution on a stream.

        Args:
            rows: rows of the batch.
            addresses: device addresses of the tensors by name.
            stream: handle of the stream.

        Raises:
            OutOfMemory, RuntimeFailure: TensorRT failed; its message names the layer if known.
        """
        context = self._ours
        if rows != self._rows:
            self._set_rows(rows)
            self._update_memory_size()
        for spec in (*self.loaded.inputs, *self.loaded.outputs):
            context.set_tensor_address(spec.name, addresses[spec.name])
        if not context.execute_async_v3(stream):
            raise self._failure(f"{self.loaded.api.kind} failed in {self.loaded.name}")

    def inspection(self) -> str:
        """Return TensorRT's description of the engine's layers for the last number of rows, as JSON.

        Raises:
            RuntimeError: the engine cannot be inspected.
        """
        inspector = self.loaded.engine.create_engine_inspector()
        inspector.execution_context = self._ours  # otherwise types of tensors with free axes are missing
        return str(inspector.get_engine_information(self.loaded.api.trt.LayerInformationFormat.JSON))

    def close(self) -> None:
        """Save the compiled kernels and release the engine. Safe to call twice."""
        if self._context is not None and self._kernels is not None:
            self._keep_kernels()
        self._context = self._kernels = None

    @property
    def _ours(self) -> trt.IExecutionContext:
        if self._context is None:
            raise RuntimeFailure(f"the engine of {self.loaded.name} is closed", fix="open it again")
        return self._context

    def _set_rows(self, rows: int) -> None:
        for spec in self.loaded.inputs:
            if spec.shape[:1] == (BATCH,) and not self._ours.set_input_shape(spec.name, (rows, *spec.shape[1:])):
                raise self._failure(f"the engine of {self.loaded.name} does not accept {rows} rows")
        self._rows = rows

    def _update_memory_size(self) -> int:
        """Update the memory layout for the current rows; return its size in bytes."""
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
            with open_private(self.loaded.kernels) as file:  # also code; its folder was checked with the engine
                self._known_kernels = file.read()
            self._kernels.deserialize(self._known_kernels)  # kernels that do not match are recompiled
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
            log.info("the kernels of %s are not cached: %s", self.loaded.name, error)
