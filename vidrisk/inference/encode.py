"""Encoding of frames and groups of frames in full batches, and assembly of windows from the results.

A frame is encoded once, however many windows show it, and so is a group of the same frames. Results are kept until no
window of the file needs them, so memory does not grow with the length of a video. While batches of frames are encoded,
two at once if the engine is concurrent, the next one is filled. If no stage runs per frame, the frame's pixels are
passed on instead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

import numpy as np
import numpy.typing as npt

from vidrisk.decode.messages import Again, InputEnd, KnownFrame, Pause, Read
from vidrisk.frames import Frame, FrameWindow
from vidrisk.inference.groups import encode_groups, gather_windows
from vidrisk.inference.meter import Meter
from vidrisk.inference.model import Classifier
from vidrisk.inference.windows import Encoded, EncodedAgain, EncodedEnd, EncodedPause, EncodedWindow
from vidrisk.runtimes.contract.stages import PIXELS
from vidrisk.runtimes.runner import Array, Arrays

__all__ = [
    "Encoded",
    "EncodedAgain",
    "EncodedEnd",
    "EncodedFrames",
    "EncodedPause",
    "EncodedWindow",
    "FeatureSink",
    "encode_frames",
]

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class EncodedFrames:
    """Frames of one input with their features.

    Attributes:
        indices: indices on its timeline, int64 (n,).
        time_s: presentation times, float64 (n,).
        features: float32 (n, D).
    """

    indices: npt.NDArray[np.int64]
    time_s: npt.NDArray[np.float64]
    features: FloatArray


class FeatureSink(Protocol):
    """Receives the features of frames as they are computed, in order of time within an input."""

    def append(self, input_id: int, frames: EncodedFrames) -> None: ...

    def discard(self, input_id: int) -> None:
        """Discard everything received for this input."""
        ...

    def finish(self, input_id: int, end: InputEnd) -> None:
        """Complete an input: all its frames and answers have been computed, and its state is final.

        Sinks are called before the end is reported to anyone else.
        """
        ...


class _Ring:
    """Results of one input's frames by index, and the items that wait for them.

    Attributes:
        under_way: number of frames that are being encoded.
        is_dropped: the input was cancelled.
    """

    def __init__(self, input_id: int, names: tuple[str, ...]) -> None:
        self.input_id = input_id
        self.under_way = 0
        self.is_dropped = False
        self._names = names
        self._frames: dict[int, tuple[Array, ...]] = {}
        self._waiting: deque[FrameWindow | EncodedEnd] = deque()

    def wait(self, item: FrameWindow | EncodedEnd) -> None:
        self._waiting.append(item)

    def put(self, indices: Sequence[int], computed: Mapping[str, Array]) -> None:
        """Store frames: one array per name, one row per frame."""
        if not self.is_dropped:
            self._frames.update(zip(indices, zip(*(computed[name] for name in self._names), strict=True), strict=True))

    def pop_complete(self) -> Iterator[Encoded]:
        while self._waiting and not self.is_dropped:
            item = self._waiting[0]
            if isinstance(item, FrameWindow):
                if item.indices[-1] not in self._frames:  # frames come in order, so the others are present
                    return
                of_names = zip(*(self._frames[index] for index in item.indices), strict=True)
                yield EncodedWindow(
                    self.input_id,
                    (item.start_s, item.end_s),
                    item.indices,
                    dict(zip(self._names, of_names, strict=True)),
                )
                for index in [index for index in self._frames if index < item.indices[0]]:
                    del self._frames[index]
            else:
                if self.under_way:  # frames of a truncated input that no window needs
                    return
                yield item
            self._waiting.popleft()


@dataclass(eq=False)
class _Batch:
    """Frames of any files, with the ring and the place that the results of each belong to."""

    pixels: npt.NDArray[np.uint8]
    owners: list[tuple[_Ring, int, float]]


def encode_frames(
    reads: Iterable[Read],
    classifier: Classifier,
    batch_frames: int,
    meter: Meter,
    sinks: Sequence[FeatureSink] = (),
    expected_frames: int = 0,
) -> Iterator[list[Encoded]]:
    """Run all stages that windows share, on full batches of frames and groups across files.

    Yields items when they are complete, in order within an input: windows once everything they need is computed, the
    end of an input after its last window. The consumer notifies the sinks of the end. At a pause, incomplete batches
    are run.

    Args:
        reads: what the decode processes yield.
        classifier: the model.
        batch_frames: frames per batch.
        meter: measures the stages.
        sinks: receive the features; only for a model with a feature per frame (``Plan.feature``).
        expected_frames: estimated number of frames in all, for which the engine is prepared during decoding; 0 if
            unknown.
    """
    plan = classifier.plan
    batches = _Frames(classifier, batch_frames, meter, sinks).encode_reads(reads, expected_frames)
    for level in range(len(plan.groups)):
        batches = encode_groups(batches, classifier, level, batch_frames, meter)
    return (
        gather_windows(batches, max(1, batch_frames // classifier.contract.frames)) if plan.batches_windows else batches
    )


class _Frames:
    """The frames of a run in the stages that run per frame."""

    def __init__(self, classifier: Classifier, batch_frames: int, meter: Meter, sinks: Sequence[FeatureSink]) -> None:
        self._classifier, self._batch_frames, self._meter, self._sinks = classifier, batch_frames, meter, tuple(sinks)
        self._names, self._feature = classifier.plan.frame_gives, classifier.plan.feature
        self._rings: dict[int, _Ring] = {}
        self._running: deque[tuple[_Batch, Future[Arrays]]] = deque()  # oldest first
        self._spare: list[_Batch] = []

    def encode_reads(self, reads: Iterable[Read], expected_frames: int) -> Iterator[list[Encoded]]:
        has_stages = bool(self._classifier.plan.frame)
        at_once = self._classifier.batches_at_once
        filling = self._next_batch()
        with ThreadPoolExecutor(at_once, "encode") as threads:
            if expected_frames:  # the first batch raises an engine's error again
                threads.submit(self._classifier.prepare, min(expected_frames, self._batch_frames))
            for read in reads:
                item = read.item
                if isinstance(item, Frame) and has_stages:
                    ring = self._ring(read.id)
                    filling.pixels[len(filling.owners)] = item.pixels
                    filling.owners.append((ring, item.index, item.time_s))
                    ring.under_way += 1
                    self._meter.batched = len(filling.owners)
                    if len(filling.owners) == self._batch_frames:
                        done = list(self._finish_batches(leave=at_once - 1))
                        filling = self._submit(filling, threads)
                        yield from done
                elif isinstance(item, Frame):
                    self._ring(read.id).put([item.index], {PIXELS: item.pixels.copy()[None]})
                elif isinstance(item, KnownFrame):
                    self._put_known(read.id, item)
                elif isinstance(item, Again):
                    self._drop(read.id)
                    yield [EncodedAgain(read.id)]
                elif isinstance(item, InputEnd | FrameWindow):
                    yield list(self._waiting(read, item))
                elif isinstance(item, Pause):
                    filling = yield from self._encode_rest(filling, threads)
                    yield [EncodedPause()]
            yield from self._encode_rest(filling, threads)

    def _encode_rest(self, batch: _Batch, threads: ThreadPoolExecutor) -> Generator[list[Encoded], None, _Batch]:
        """Encode an incomplete batch; yield what it and earlier ones complete, and return the batch to fill next."""
        yield from self._finish_batches(leave=self._classifier.batches_at_once - 1)
        following = self._submit(batch, threads)
        yield from self._finish_batches()
        return following

    def _submit(self, batch: _Batch, threads: ThreadPoolExecutor) -> _Batch:
        """Encode the frames of a batch, which may be none; return the batch to fill next."""
        if not batch.owners:
            return batch
        self._running.append((batch, threads.submit(self._encode, batch)))
        return self._next_batch()

    def _next_batch(self) -> _Batch:
        if self._spare:
            return self._spare.pop()
        shape = (self._batch_frames, *self._classifier.contract.pixel.frame_shape)
        return _Batch(np.empty(shape if self._classifier.plan.frame else 0, np.uint8), [])

    def _ring(self, input_id: int) -> _Ring:
        return self._rings.setdefault(input_id, _Ring(input_id, self._names))

    def _encode(self, batch: _Batch) -> Arrays:
        with self._meter.measure("encode"):
            return self._classifier.encode(batch.pixels[: len(batch.owners)])

    def _finish_batches(self, *, leave: int = 0) -> Iterator[list[Encoded]]:
        """Wait for the oldest batches until ``leave`` of them run; yield the items that each completes."""
        while len(self._running) > leave:
            batch, future = self._running[0]
            with self._meter.measure("waiting for encode"):
                computed = future.result()
            self._running.popleft()
            touched = self._hand_over(batch, computed)
            batch.owners = []
            self._spare.append(batch)
            yield [item for ring in touched for item in ring.pop_complete()]

    def _hand_over(self, batch: _Batch, computed: Arrays) -> list[_Ring]:
        """Distribute results to the rings of their frames; return these rings."""
        touched: dict[int, _Ring] = {}
        start = 0
        known = {**computed, PIXELS: batch.pixels}
        for _, of_ring in groupby(batch.owners, key=lambda owner: id(owner[0])):
            owners = list(of_ring)
            ring = owners[0][0]
            stop = start + len(owners)
            ring.under_way -= len(owners)
            # Copy: a view would keep the whole batch alive as long as one of its frames.
            own = {name: known[name][start:stop].copy() for name in self._names}
            self._put(ring, [index for _, index, _ in owners], [time_s for _, _, time_s in owners], own)
            touched[id(ring)] = ring
            start = stop
        return list(touched.values())

    def _put(self, ring: _Ring, indices: list[int], time_s: list[float], computed: Mapping[str, Array]) -> None:
        ring.put(indices, computed)
        if self._sinks and self._feature and not ring.is_dropped:
            features = computed[self._feature.name].reshape(len(indices), -1).astype(np.float32, copy=False)
            for sink in self._sinks:
                sink.append(ring.input_id, EncodedFrames(np.array(indices), np.array(time_s), features))

    def _put_known(self, input_id: int, frame: KnownFrame) -> None:
        """Store features from the cache, in the shape that later stages take."""
        assert self._feature is not None  # otherwise nothing is cached
        features = frame.features.reshape(1, *map(int, self._feature.shape[1:])).astype(self._feature.dtype, copy=False)
        self._put(self._ring(input_id), [frame.index], [frame.time_s], {self._feature.name: features})

    def _drop(self, input_id: int) -> None:
        if input_id in self._rings:
            self._rings.pop(input_id).is_dropped = True
        for sink in self._sinks:
            sink.discard(input_id)

    def _waiting(self, read: Read, item: FrameWindow | InputEnd) -> Iterator[Encoded]:
        if isinstance(item, InputEnd):
            self._meter.add("decode", item.decode_s)
            ring = self._rings.pop(read.id, None) or _Ring(read.id, self._names)  # missing if it gave no frame
            ring.wait(EncodedEnd(read.input, item))
        else:
            ring = self._rings[read.id]
            ring.wait(item)
        return ring.pop_complete()
