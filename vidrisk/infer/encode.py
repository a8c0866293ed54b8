"""Batch → encode → window: frames become features in full batches, and features become windows.

A frame is encoded once, however many windows show it. Its features stay until no window of its file needs them, so memory
does not grow with the length of a video. While one batch is encoded, the next one is filled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

import numpy as np
import numpy.typing as npt

from vidrisk.infer.classifier import Classifier
from vidrisk.infer.decode import Read, ReadAgain, ReadEnd, ReadFeatures, ReadFrame, ReadWindow
from vidrisk.infer.summary import Meter

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class EncodedFrames:
    """Frames of one input: places on its timeline int64 (n,), presentation times float64 (n,), features float32 (n, D)."""

    indices: npt.NDArray[np.int64]
    time_s: npt.NDArray[np.float64]
    features: FloatArray


@dataclass(frozen=True, eq=False)
class EncodedWindow:
    """A window whose frames have become ``features``, float32 ``(T, D)``."""

    row_id: int
    interval_s: tuple[float | None, float | None]
    features: FloatArray


Encoded = EncodedWindow | ReadAgain | ReadEnd


class FeatureSink(Protocol):
    """Keeps the features of frames as they are computed. They come in order of time within an input."""

    def append(self, row_id: int, frames: EncodedFrames) -> None: ...

    def discard(self, row_id: int) -> None:
        """What came of this input does not count."""
        ...

    def finish(self, end: ReadEnd) -> None:
        """All frames of an input have come. Nobody else has been told yet."""
        ...


class _Ring:
    """Features of one input's frames by their index, and what waits for them.

    Attributes:
        under_way: frames whose features have not come yet.
        is_dropped: nobody wants them any more.
    """

    def __init__(self, row_id: int) -> None:
        self.row_id = row_id
        self.under_way = 0
        self.is_dropped = False
        self._features: dict[int, FloatArray] = {}
        self._waiting: deque[ReadWindow | ReadEnd] = deque()

    def wait(self, item: ReadWindow | ReadEnd) -> None:
        self._waiting.append(item)

    def put(self, indices: npt.NDArray[np.int64], time_s: npt.NDArray[np.float64], features: FloatArray,
            sinks: Sequence[FeatureSink]) -> None:
        if self.is_dropped:
            return
        self._features.update(zip(indices.tolist(), features, strict=True))
        for sink in sinks:
            sink.append(self.row_id, EncodedFrames(indices, time_s, features))

    def completed(self, sinks: Sequence[FeatureSink]) -> Iterator[Encoded]:
        while self._waiting and not self.is_dropped:
            item = self._waiting[0]
            if isinstance(item, ReadWindow):
                if item.indices[-1] not in self._features:  # frames come in order: then the others are there too
                    return
                yield EncodedWindow(item.row_id, (item.start_s, item.end_s), np.stack([self._features[i] for i in item.indices]))
                for index in [index for index in self._features if index < item.indices[0]]:
                    del self._features[index]
            else:
                if self.under_way:  # frames that no window needs, of an input that broke off
                    return
                for sink in sinks:
                    sink.finish(item)
                yield item
            self._waiting.popleft()


@dataclass(eq=False)
class _Batch:
    """Frames of any files, and to which place of which ring the features of each belong."""

    pixels: npt.NDArray[np.uint8]
    owners: list[tuple[_Ring, int, float]]


def encode_frames(reads: Iterable[Read], classifier: Classifier, batch_frames: int, meter: Meter,
                  sinks: Sequence[FeatureSink] = ()) -> Iterator[list[Encoded]]:
    """Run the encoder on full batches of frames, whichever files these come from.

    Yields what became complete, in order within an input: windows once all their frames are encoded, the end of an input
    after its last window.
    """
    shape = (batch_frames, *classifier.contract.pixel.frame_shape)
    rings: dict[int, _Ring] = {}
    filling, spare = _Batch(np.empty(shape, np.uint8), []), _Batch(np.empty(shape, np.uint8), [])
    running: tuple[_Batch, Future[FloatArray]] | None = None

    def encode(batch: _Batch) -> FloatArray:
        with meter.measure("encode"):
            return classifier.features(batch.pixels[:len(batch.owners)])

    def finished() -> list[Encoded]:
        if running is None:
            return []
        batch, future = running
        with meter.measure("waiting for encode"):
            features = future.result()
        touched = _hand_over(batch, features, sinks)
        batch.owners = []
        return [item for ring in touched for item in ring.completed(sinks)]

    with ThreadPoolExecutor(1, "encode") as thread:
        for read in reads:
            if isinstance(read, ReadFrame):
                ring = rings.setdefault(read.row_id, _Ring(read.row_id))
                filling.pixels[len(filling.owners)] = read.pixels
                filling.owners.append((ring, read.index, read.time_s))
                ring.under_way += 1
                meter.batched = len(filling.owners)
                if len(filling.owners) == batch_frames:
                    done = finished()
                    running = filling, thread.submit(encode, filling)
                    filling, spare = spare, filling
                    yield done
            elif isinstance(read, ReadFeatures):
                ring = rings.setdefault(read.row_id, _Ring(read.row_id))
                ring.put(np.array([read.index]), np.array([read.time_s]), read.features[None], sinks)
            elif isinstance(read, ReadAgain):
                if read.row_id in rings:
                    rings.pop(read.row_id).is_dropped = True
                for sink in sinks:
                    sink.discard(read.row_id)
                yield [read]
            else:
                if isinstance(read, ReadEnd):
                    meter.add("decode", read.decode_s)
                    ring = rings.pop(read.row.id) if read.row.id in rings else _Ring(read.row.id)  # else no frame came of it
                else:
                    ring = rings[read.row_id]
                ring.wait(read)
                yield list(ring.completed(sinks))
        yield finished()
        if filling.owners:
            running = filling, thread.submit(encode, filling)
            yield finished()


def _hand_over(batch: _Batch, features: FloatArray, sinks: Sequence[FeatureSink]) -> list[_Ring]:
    """Features to their rings; the rings that got some."""
    touched: dict[int, _Ring] = {}
    start = 0
    for _, of_ring in groupby(batch.owners, key=lambda owner: id(owner[0])):
        owners = list(of_ring)
        ring = owners[0][0]
        stop = start + len(owners)
        ring.under_way -= len(owners)
        ring.put(np.array([index for _, index, _ in owners]), np.array([time_s for _, _, time_s in owners]),
                 features[start:stop].copy(), sinks)  # a view would hold the whole batch for as long as one of its frames
        touched[id(ring)] = ring
        start = stop
    return list(touched.values())
