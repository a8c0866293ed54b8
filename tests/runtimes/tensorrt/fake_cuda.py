"""A fake GPU for tests on machines without one.

Memory is numpy's, and an execution runs the ONNX file behind the engine with ONNX Runtime. Tests marked ``gpu`` use
the real thing.

``FakeCuda`` is as asynchronous as CUDA may be: the work of a stream is done when somebody waits for it, so code that
forgets to wait finds the old values. The use of memory that was freed or never allocated ends the test.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import onnxruntime as ort

from vidrisk.runtimes.contract.errors import RuntimeFailure
from vidrisk.runtimes.ort import UNSAFE_OPTIMIZERS
from vidrisk.runtimes.tensorrt.api import Api, Kind
from vidrisk.runtimes.tensorrt.cache import Batches
from vidrisk.runtimes.tensorrt.cuda import Bytes, OutOfMemory
from vidrisk.runtimes.tensorrt.device import Device

DEVICE = Device("Fake GPU", "8.7", "12.6", 8 << 30, 6 << 30)
VERSION = "10.3.0"
BATCHES = Batches(1, 4, 8)
DTYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32, "tensor(int64)": np.int64}


@dataclass(eq=False)
class _Mark:
    """An event's position in a stream."""

    stream: int
    is_reached: bool = False


class FakeCuda:
    """``Cuda`` on numpy memory.

    Attributes:
        memory_bytes: memory of the device; None for any amount.
        log: names of the calls, without the arguments.
        held: everything that was created and not freed, by handle or address.
    """

    def __init__(self) -> None:
        self.memory_bytes: int | None = None
        self.log: list[str] = []
        self.held: dict[int, str] = {}
        self.recording: list[Callable[[], None]] | None = None
        self.recording_fails = False
        self._memory: dict[int, tuple[int, Bytes]] = {}
        self._work: dict[int, deque[_Mark | Callable[[], None]]] = {}
        self._marks: dict[int, _Mark] = {}
        self._recorded: dict[int, list[Callable[[], None]]] = {}
        self._handles = iter(range(1, 1 << 30))

    @property
    def device_bytes(self) -> int:
        return sum(size for address, (size, _) in self._memory.items() if self.held.get(address) == "device memory")

    def activate(self) -> None:
        self.log.append("activate")

    def host_array(self, size: int) -> Bytes:
        return self._allocated(size, "host memory")[1][:size]

    def free_host(self, array: Bytes) -> None:
        self._let_go(array.ctypes.data, "host memory")

    def device_memory(self, size: int) -> int:
        if self.memory_bytes is not None and self.device_bytes + size > self.memory_bytes:
            raise OutOfMemory(f"cuMemAlloc: out of memory ({size} bytes)")
        return self._allocated(size, "device memory")[0]

    def free_device(self, address: int) -> None:
        self._let_go(address, "device memory")

    def new_stream(self) -> int:
        stream = self._made("stream")
        self._work[stream] = deque()
        return stream

    def free_stream(self, stream: int) -> None:
        assert not self._work.pop(stream), "freed with work in it"
        self._let_go(stream, "stream")

    def new_event(self) -> int:
        return self._made("event")

    def free_event(self, event: int) -> None:
        self._let_go(event, "event")

    def upload(self, to_device: int, from_host: int, size: int, stream: int) -> None:
        self.log.append("upload")
        self._copy(to_device, from_host, size, stream)

    def download(self, to_host: int, from_device: int, size: int, stream: int) -> None:
        self.log.append("download")
        self._copy(to_host, from_device, size, stream)

    def record(self, event: int, stream: int) -> None:
        mark = self._marks[event] = _Mark(stream)
        self.give(stream, lambda: setattr(mark, "is_reached", True))

    def wait(self, stream: int, event: int) -> None:
        self._work[stream].append(self._marks[event])

    def synchronise(self, stream: int) -> None:
        self.log.append("synchronise")
        while self._work[stream]:
            self._step(stream)

    def synchronise_event(self, event: int) -> None:
        self.log.append("synchronise event")
        self._reach(self._marks[event])

    def begin_recording(self, stream: int) -> None:
        assert self.recording is None and not self._work[stream]
        self.recording = []

    def end_recording(self, stream: int) -> int:
        recorded, self.recording = self.recording, None
        if self.recording_fails or recorded is None:
            raise RuntimeFailure("cuStreamEndCapture: operation failed due to a previous error during capture")
        made = self._made("recording")
        self._recorded[made] = recorded
        return made

    def launch(self, recording: int, stream: int) -> None:
        self.log.append("launch")
        self._work[stream].extend(self._recorded[recording])

    def free_recording(self, recording: int) -> None:
        del self._recorded[recording]
        self._let_go(recording, "recording")

    def give(self, stream: int, work: Callable[[], None]) -> None:
        if self.recording is None:
            self._work[stream].append(work)
        else:
            self.recording.append(work)

    def at(self, address: int, size: int) -> int:
        """Return the memory at an address; it must be allocated."""
        assert any(start <= address and address + size <= start + held for start, (held, _) in self._memory.items()), (
            f"{size} bytes at {address} are nobody's"
        )
        return address

    def _copy(self, to: int, source: int, size: int, stream: int) -> None:
        self.give(stream, lambda: ctypes.memmove(self.at(to, size), self.at(source, size), size) and None)

    def _reach(self, mark: _Mark) -> None:
        while not mark.is_reached:
            self._step(mark.stream)

    def _step(self, stream: int) -> None:
        work = self._work[stream].popleft()
        if isinstance(work, _Mark):
            self._reach(work)
        else:
            work()

    def _allocated(self, size: int, kind: str) -> tuple[int, Bytes]:
        block = np.full(size + 256, 0xCD, np.uint8)
        skipped = -block.ctypes.data % 256
        address = block.ctypes.data + skipped
        self._memory[address] = size, block
        self.held[address] = kind
        return address, block[skipped:]

    def _made(self, kind: str) -> int:
        handle = next(self._handles)
        self.held[handle] = kind
        return handle

    def _let_go(self, handle: int, kind: str) -> None:
        assert self.held.pop(handle) == kind
        self._memory.pop(handle, None)


@dataclass(eq=False)
class FakeTensorRt:
    """A module ``tensorrt`` whose engines are ONNX files.

    Attributes:
        batches: batch sizes of engines that are built from now on.
        row_bytes: memory of activations, per row.
        fails: the error message of each execution; empty if executions succeed.
        refuses_recording: its engines cannot be recorded.
        inspection: the inspector's text for every engine.
        runs: rows of every execution, recorded ones once.
        contexts, runtimes: the created ones.
    """

    cuda: FakeCuda
    kind: Kind = "tensorrt"
    batches: Batches = BATCHES
    row_bytes: int = 1000
    fails: str = ""
    refuses_recording: bool = False
    inspection: str = "{}"
    runs: list[int] = field(default_factory=list)
    contexts: list[FakeContext] = field(default_factory=list)
    runtimes: list[SimpleNamespace] = field(default_factory=list)
    TensorIOMode: ClassVar[Any] = SimpleNamespace(INPUT="in", OUTPUT="out")
    ExecutionContextAllocationStrategy: ClassVar[Any] = SimpleNamespace(USER_MANAGED="ours")
    LayerInformationFormat: ClassVar[Any] = SimpleNamespace(JSON="json")
    CudaGraphStrategy: ClassVar[Any] = SimpleNamespace(DISABLED="no", WHOLE_GRAPH_CAPTURE="yes")

    def __post_init__(self) -> None:
        self.api = Api(self.kind, VERSION, self, None, deque())

    def Runtime(self, logger: object) -> SimpleNamespace:
        made = SimpleNamespace(deserialize_cuda_engine=lambda blob: FakeEngine(self, bytes(blob)))
        self.runtimes.append(made)
        return made

    def nptype(self, dtype: type) -> type:
        return dtype


class FakeEngine:
    """``ICudaEngine`` around the bytes of an ONNX file."""

    def __init__(self, trt: FakeTensorRt, onnx: bytes) -> None:
        self.trt, self.batches = trt, trt.batches
        self.session = ort.InferenceSession(
            onnx, providers=["CPUExecutionProvider"], disabled_optimizers=UNSAFE_OPTIMIZERS
        )
        self.inputs = {tensor.name: tensor for tensor in self.session.get_inputs()}
        self.outputs = {tensor.name: tensor for tensor in self.session.get_outputs()}
        self._tensors = {**self.inputs, **self.outputs}

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name in self.inputs else "out"

    def get_tensor_dtype(self, name: str) -> type:
        return DTYPES[self._tensors[name].type]

    def get_tensor_shape(self, name: str) -> list[int]:
        return [axis if isinstance(axis, int) else -1 for axis in self._tensors[name].shape]

    def create_execution_context(self, how: Any) -> FakeContext:
        assert how == "ours" if self.trt.kind == "tensorrt" else how.strategy == "ours"
        context = FakeContext(self, how)
        self.trt.contexts.append(context)
        return context

    def create_engine_inspector(self) -> FakeInspector:
        return FakeInspector(self.trt)

    def create_runtime_config(self) -> FakeConfig:
        return FakeConfig()


@dataclass
class FakeInspector:
    """``IEngineInspector``: without a context, the types of tensors with dynamic axes are unknown."""

    trt: FakeTensorRt
    execution_context: FakeContext | None = None

    def get_engine_information(self, form: str) -> str:
        assert form == "json" and self.execution_context in self.trt.contexts
        return self.trt.inspection


class FakeConfig:
    """``IRuntimeConfig`` of TensorRT for RTX."""

    cuda_graph_strategy = ""

    def set_execution_context_allocation_strategy(self, strategy: str) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> FakeKernels:
        return FakeKernels()

    def set_runtime_cache(self, cache: FakeKernels) -> bool:
        self.kernels = cache
        return True


class FakeKernels:
    """``IRuntimeCache``: compiles one kernel per batch size."""

    def __init__(self) -> None:
        self.compiled: set[int] = set()

    def deserialize(self, blob: bytes) -> bool:
        self.compiled = set(blob)
        return True

    def serialize(self) -> bytes:
        return bytes(sorted(self.compiled))


class FakeContext:
    """``IExecutionContext``: refuses the same calls as the real one."""

    def __init__(self, engine: FakeEngine, how: Any) -> None:
        self.engine, self.config = engine, how
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._memory_bytes = 0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        batches = self.engine.batches
        if not batches.min <= shape[0] <= batches.max:
            return self._said(f"IExecutionContext::setInputShape: {name}: {shape[0]} is not in the profile")
        self._shapes[name] = shape
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return True

    def set_device_memory(self, memory: int, size: int) -> None:
        self.engine.trt.cuda.at(memory, size)
        self._memory_bytes = size

    def update_device_memory_size_for_shapes(self) -> int:
        return self.engine.trt.row_bytes * self._rows

    def execute_async_v3(self, stream_handle: int) -> bool:
        trt, cuda, rows = self.engine.trt, self.engine.trt.cuda, self._rows
        trt.runs.append(rows)
        if trt.fails or (trt.refuses_recording and cuda.recording is not None):
            return self._said(trt.fails or "not permitted when stream is capturing")
        if self._memory_bytes < trt.row_bytes * rows:
            return self._said("device memory is too small")
        if isinstance(self.config, FakeConfig):
            self.config.kernels.compiled.add(rows)
        addresses, shapes = dict(self._addresses), dict(self._shapes)
        cuda.log.append("execute")
        cuda.give(stream_handle, lambda: self._execute(addresses, shapes))
        return True

    def _execute(self, addresses: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]]) -> None:
        feed = {}
        fixed = {
            name: tuple(shape) for name in self.engine.inputs if -1 not in (shape := self.engine.get_tensor_shape(name))
        }
        for name, shape in {**fixed, **shapes}.items():
            feed[name] = np.empty(shape, self.engine.get_tensor_dtype(name))
            ctypes.memmove(feed[name].ctypes.data, self._at(addresses[name], feed[name].nbytes), feed[name].nbytes)
        names = list(self.engine.outputs)
        for name, result in zip(names, self.engine.session.run(names, feed), strict=True):
            ctypes.memmove(
                self._at(addresses[name], result.nbytes), np.ascontiguousarray(result).ctypes.data, result.nbytes
            )

    def _at(self, address: int, size: int) -> int:
        return self.engine.trt.cuda.at(address, size)

    @property
    def _rows(self) -> int:
        return next(iter(self._shapes.values()))[0]

    def _said(self, error: str) -> bool:
        self.engine.trt.api.errors.append(error)
        return False
