"""Execution of a batch on the GPU by one or more engines, in chunks that alternate between two lanes of buffers.

    host                copy stream       compute stream
    fill lane 1     →   upload 1      →   run the engines, download 1
    fill lane 2     →   upload 2      →   run the engines, download 2        upload 2 overlaps the computation of lane 1
    empty lane 1, fill it again  →  …

When a number of rows occurs for the second time, the work of the compute stream is recorded as a CUDA graph, which is
launched from then on. Buffers grow to the largest chunk so far and are kept; if the GPU runs out of memory, chunks are
halved.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import numpy as np

from vidrisk.runtimes.contract.errors import RuntimeFailure
from vidrisk.runtimes.contract.specs import TensorSpec
from vidrisk.runtimes.runner import Array, Arrays
from vidrisk.runtimes.tensorrt.context import EngineContext
from vidrisk.runtimes.tensorrt.cuda import Cuda, OutOfMemory
from vidrisk.runtimes.tensorrt.lanes import Lane, device_memory, new_lane, row_bytes, row_shape, upload_constant

log = logging.getLogger(__name__)

# A batch with more input bytes than this (27 frames of 224 x 224) is split into at least two chunks: one is copied
# while the other runs.
UNCUT_BYTES = 1 << 22
RECORDINGS = 8  # per lane: only a few batch sizes recur


@dataclass(frozen=True)
class Stage:
    """Engine with its number of rows per row of the batch, e.g. all frames of a window for a stage per frame."""

    context: EngineContext
    repeat: int = 1


class Belt:
    """Pipeline that runs batches. It owns the contexts of its stages.

    Args:
        inputs, outputs: specs of a whole batch, rows first.
        constants: values of the engines' other inputs, by name.
        cuda_graphs: record recurring work as CUDA graphs.
    """

    def __init__(
        self,
        cuda: Cuda,
        stages: Sequence[Stage],
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        *,
        constants: Mapping[str, Array] | None = None,
        cuda_graphs: bool,
    ) -> None:
        self._cuda, self._stages, self._inputs, self._outputs = cuda, tuple(stages), tuple(inputs), tuple(outputs)
        self._constants = dict(constants or {})
        self._records = cuda_graphs and not any(stage.context.records for stage in stages)
        self._least = max(math.ceil(stage.context.loaded.batches.min / stage.repeat) for stage in stages)
        self._most = min(stage.context.loaded.batches.max // stage.repeat for stage in stages)
        if self._most < self._least:
            raise RuntimeFailure(
                f"{' and '.join(stage.context.loaded.name for stage in stages)} have no batch size in common",
                fix="build the engines for larger batches",
            )
        self._row_bytes = sum(row_bytes(spec) for spec in inputs)
        self._is_closed = False
        self._capacity, self._lanes = 0, tuple[Lane, ...]()
        self._memory, self._streams = ExitStack(), ExitStack()
        cuda.activate()
        with ExitStack() as stack:
            self._copying = cuda.new_stream()
            stack.callback(cuda.free_stream, self._copying)
            self._computing = cuda.new_stream()
            stack.callback(cuda.free_stream, self._computing)
            self._streams = stack.pop_all()

    def run(self, feed: Mapping[str, Array]) -> Arrays:
        """Run one batch and return its outputs as new arrays.

        Raises:
            RuntimeFailure: an engine failed, or not even the smallest chunk fits on the GPU.
        """
        self._cuda.activate()
        while True:
            try:
                return self._run(feed)
            except OutOfMemory as error:
                self._halve(error)
            except BaseException:  # including Ctrl-C: no data of this batch may leak into the next one
                self._release()
                raise

    def inspections(self) -> list[str]:
        """Return TensorRT's description of the layers of each engine, as JSON.

        Raises:
            RuntimeError: the engine cannot be inspected.
        """
        return [stage.context.inspection() for stage in self._stages]

    def close(self) -> None:
        """Free everything. Safe to call twice, and after a failure."""
        if self._is_closed:
            return
        self._is_closed = True
        with suppress(RuntimeFailure):
            self._cuda.activate()
        self._release()
        self._streams.close()
        for stage in self._stages:
            stage.context.close()

    def _run(self, feed: Mapping[str, Array]) -> Arrays:
        rows = len(feed[self._inputs[0].name])
        results: Arrays = {spec.name: np.empty((rows, *row_shape(spec)), spec.dtype) for spec in self._outputs}
        step = self._reserve(rows)
        for number, start in enumerate(range(0, rows, step)):
            lane = self._lanes[number % 2]
            self._empty(lane, results)
            self._fill(lane, feed, slice(start, min(start + step, rows)))
        for lane in sorted(self._lanes, key=lambda lane: lane.rows.start if lane.rows else 0):
            self._empty(lane, results)
        return results

    def _reserve(self, rows: int) -> int:
        """Return the rows per chunk, and make room for them; chunks are nearly equal, to keep distinct sizes few."""
        chunks = max(-(-rows // self._most), 2 if rows > 1 and rows * self._row_bytes > UNCUT_BYTES else 1)
        step = max(-(-rows // chunks), self._least)
        if step > self._capacity:
            self._allocate(min(1 << (step - 1).bit_length(), self._most))
        return step

    def _allocate(self, capacity: int) -> None:
        """Replace the buffers by ones for ``capacity`` rows."""
        self._release()
        self._capacity = capacity  # `_halve` needs it if the allocation fails
        with ExitStack() as stack:
            work_bytes = max(stage.context.memory_bytes(capacity * stage.repeat) for stage in self._stages)
            work = device_memory(self._cuda, work_bytes, stack)
            for stage in self._stages:  # they run one after another on one stream
                stage.context.use_memory(work, work_bytes)
            sizes = self._device_sizes(capacity)
            constants = {
                name: upload_constant(self._cuda, each, self._copying, stack) for name, each in self._constants.items()
            }
            self._lanes = tuple(
                new_lane(self._cuda, self._inputs, self._outputs, sizes, constants, capacity, stack) for _ in range(2)
            )
            self._memory = stack.pop_all()

    def _device_sizes(self, capacity: int) -> dict[str, int]:
        """Return the bytes of all tensors by name: the inputs and the outputs of every stage."""
        sizes = {spec.name: capacity * row_bytes(spec) for spec in self._inputs}
        for stage in self._stages:
            sizes |= {spec.name: capacity * stage.repeat * row_bytes(spec) for spec in stage.context.loaded.outputs}
        return sizes

    def _fill(self, lane: Lane, feed: Mapping[str, Array], rows: slice) -> None:
        """Copy rows into a lane and enqueue their work; pad with zeros to an engine's smallest batch."""
        cuda, count = self._cuda, rows.stop - rows.start
        size = max(count, self._least)
        for tensor in lane.inputs:
            tensor.array[:count] = feed[tensor.name][rows]
            tensor.array[count:size] = 0
            cuda.upload(tensor.on_device, tensor.on_host, size * tensor.row_bytes, self._copying)
        cuda.record(lane.uploaded, self._copying)
        cuda.wait(self._computing, lane.uploaded)
        lane.rows = rows
        if size in lane.recordings:
            cuda.launch(lane.recordings[size], self._computing)
        else:
            self._compute(lane, size)
            if self._records and size in lane.ran:
                self._record(lane, size)
            lane.ran.add(size)
        cuda.record(lane.done, self._computing)

    def _compute(self, lane: Lane, rows: int) -> None:
        for stage in self._stages:
            stage.context.enqueue(rows * stage.repeat, lane.addresses, self._computing)
        for tensor in lane.outputs:
            self._cuda.download(tensor.on_host, tensor.on_device, rows * tensor.row_bytes, self._computing)

    def _record(self, lane: Lane, rows: int) -> None:
        """Record the work that has just run once; by then TensorRT has finished its one-time initialization."""
        self._cuda.synchronise(self._computing)
        try:
            recording = self._record_graph(lane, rows)
        except RuntimeFailure as error:
            self._records = False
            log.warning("engines run without CUDA graphs, which makes calls slower: %s", error.what)
            return
        if len(lane.recordings) == RECORDINGS:
            self._cuda.free_recording(lane.recordings.pop(next(iter(lane.recordings))))
        lane.recordings[rows] = recording

    def _record_graph(self, lane: Lane, rows: int) -> int:
        cuda, stream = self._cuda, self._computing
        cuda.begin_recording(stream)
        try:
            self._compute(lane, rows)
        except BaseException:
            with suppress(RuntimeFailure):  # otherwise the stream stays in capture mode
                cuda.free_recording(cuda.end_recording(stream))
            raise
        return cuda.end_recording(stream)

    def _empty(self, lane: Lane, results: Arrays) -> None:
        """Wait for the rows in a lane and copy their outputs."""
        if lane.rows is None:
            return
        self._cuda.synchronise_event(lane.done)
        for tensor in lane.outputs:
            results[tensor.name][lane.rows] = tensor.array[: lane.rows.stop - lane.rows.start]
        lane.rows = None

    def _halve(self, error: OutOfMemory) -> None:
        tried = self._capacity
        self._release()
        if tried <= self._least:
            raise RuntimeFailure(
                f"the GPU has no memory for a batch of {tried}: {error.what}",
                fix="stop other programs that use the GPU, or choose a smaller model",
            ) from error
        self._most = max(tried // 2, self._least)
        log.warning("the GPU has no memory for %d rows at once; from now on at most %d", tried, self._most)

    def _settle(self) -> None:
        """Wait until no work is in flight, ignoring failures."""
        for stream in (self._copying, self._computing):
            with suppress(RuntimeFailure):
                self._cuda.synchronise(stream)
        for lane in self._lanes:
            lane.rows = None

    def _release(self) -> None:
        self._settle()
        self._memory.close()
        self._capacity, self._lanes = 0, ()
