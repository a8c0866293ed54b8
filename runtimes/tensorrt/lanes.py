"""Lanes: the buffers of a chunk of a batch on the host and on the device, with their recorded CUDA graphs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np

from vidrisk.runtimes.contract.specs import TensorSpec
from vidrisk.runtimes.runner import Array
from vidrisk.runtimes.tensorrt.cuda import Cuda


@dataclass(frozen=True, eq=False)
class Pinned:
    """Input or output of the batch in a lane: a pinned host array, its host and device addresses, bytes per row."""

    name: str
    array: Array
    on_host: int
    on_device: int
    row_bytes: int


@dataclass(eq=False)
class Lane:
    """Buffers of one chunk.

    Attributes:
        addresses: device addresses of all tensors by name.
        uploaded, done: events.
        recordings: CUDA graphs by number of rows.
        ran: numbers of rows that have been run without a recording.
        rows: rows of the batch that are in flight; None while the lane is empty.
    """

    inputs: tuple[Pinned, ...]
    outputs: tuple[Pinned, ...]
    addresses: Mapping[str, int]
    uploaded: int
    done: int
    recordings: dict[int, int] = field(default_factory=dict)
    ran: set[int] = field(default_factory=set)
    rows: slice | None = None


def new_lane(
    cuda: Cuda,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    sizes: Mapping[str, int],
    constants: Mapping[str, int],
    capacity: int,
    stack: ExitStack,
) -> Lane:
    """Allocate a lane for ``capacity`` rows, freed with the stack.

    Args:
        cuda: the GPU.
        inputs: specs of the batch's inputs.
        outputs: specs of its outputs.
        sizes: bytes of all other tensors on the device, by name.
        constants: device addresses of the constants, by name.
        capacity: maximum number of rows.
        stack: owner of the buffers.

    Raises:
        OutOfMemory: the buffers allocated until then are on the stack.
    """
    addresses = {**constants, **{name: device_memory(cuda, size, stack) for name, size in sizes.items()}}

    def pin(spec: TensorSpec) -> Pinned:
        memory = cuda.host_array(capacity * row_bytes(spec))
        stack.callback(cuda.free_host, memory)
        array = memory.view(spec.dtype).reshape(capacity, *row_shape(spec))
        return Pinned(spec.name, array, memory.ctypes.data, addresses[spec.name], row_bytes(spec))

    def event() -> int:
        made = cuda.new_event()
        stack.callback(cuda.free_event, made)
        return made

    lane = Lane(tuple(map(pin, inputs)), tuple(map(pin, outputs)), addresses, event(), event())
    stack.callback(_forget, cuda, lane)
    return lane


def device_memory(cuda: Cuda, size: int, stack: ExitStack) -> int:
    """Allocate device memory that is freed with the stack; return its address."""
    address = cuda.device_memory(size)
    stack.callback(cuda.free_device, address)
    return address


def upload_constant(cuda: Cuda, array: Array, stream: int, stack: ExitStack) -> int:
    """Copy ``array`` to the device; return the address, which is freed with the stack."""
    address = device_memory(cuda, max(1, array.nbytes), stack)
    pinned = cuda.host_array(max(1, array.nbytes))
    try:
        pinned[: array.nbytes] = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
        cuda.upload(address, pinned.ctypes.data, array.nbytes, stream)
        cuda.synchronise(stream)
    finally:
        cuda.free_host(pinned)
    return address


def _forget(cuda: Cuda, lane: Lane) -> None:
    for recording in lane.recordings.values():
        cuda.free_recording(recording)


def row_shape(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(int(axis) for axis in spec.shape[1:])


def row_bytes(spec: TensorSpec) -> int:
    return math.prod(row_shape(spec)) * np.dtype(spec.dtype).itemsize
