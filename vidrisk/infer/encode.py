"""Batch → encode → window: frames become features in full batches, and features become windows.

A frame is encoded once, however many windows show it. Its features stay until no window of its file needs them, so memory
does not grow with the length of a video. While one batch is encoded, the next one is filled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from vidrisk.infer.classifier import Classifier
from vidrisk.infer.decode import Read, ReadAgain, ReadEnd, ReadFrame, ReadWindow
from vidrisk.infer.summary import StageTimes

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class EncodedWindow:
    """A window whose frames have become ``features``, float32 ``(T, D)``."""

    row_id: int
    interval_s: tuple[float | None, float | None]
    features: FloatArray


Encoded = EncodedWindow | ReadAgain | ReadEnd


class FeatureSink(Protocol):
    """Wants the features of frames as they are computed, in order of time within an input."""

    def append(self, row_id: int, features: FloatArray, time_s: npt.NDArray[np.float64]) -> None: ...

    def discard(self, row_id: int) -> None: ...


class _Ring:
    """Features of one input's frames by their index, and what waits for them. ``is_dropped``: nobody wants them any more."""

    def __init__(self, row_id: int) -> None:
        self.row_id = row_id
        self.is_dropped = False
        self._features: dict[int, FloatArray] = {}
        self._waiting: deque[ReadWindow | ReadEnd] = deque()

    def wait(self, item: ReadWindow | ReadEnd) -> None:
        self._waiting.append(item)

    def put(self, index: int, features: FloatArray) -> None:
        self._features[index] = features

    def completed(self) -> Iterator[Encoded]:
        while self._waiting and not self.is_dropped:
            item = self._waiting[0]
            if isinstance(item, ReadWindow):
                if item.indices[-1] not in self._features:  # frames come in order: then the others are there too
                    return
                yield EncodedWindow(item.row_id, (item.start_s, item.end_s), np.stack([self._features[i] for i in item.indices]))
                for index in [index for index in self._features if index < item.indices[0]]:
                    del self._features[index]
            else:
                yield item
            self._waiting.popleft()


@dataclass(eq=False)
class _Batch:
    """Frames of any files, and to which place of which ring the features of each belong."""

    pixels: npt.NDArray[np.uint8]
    owners: list[tuple[_Ring, int, float]]


def encode_frames(reads: Iterable[Read], classifier: Classifier, batch_frames: int, stages: StageTimes,
                  sink: FeatureSink | None = None) -> Iterator[list[Encoded]]:
    """Run the encoder on full batches of frames, whichever files these come from.

    Yields what became complete, in order within an input: windows once all their frames are encoded, the end of an input
    after its last window.
    """
    shape = (batch_frames, *classifier.contract.pixel.frame_shape)
    rings: dict[int, _Ring] = {}
    filling, spare = _Batch(np.empty(shape, np.uint8), []), _Batch(np.empty(shape, np.uint8), [])
    running: tuple[_Batch, Future[FloatArray]] | None = None

    def encode(batch: _Batch) -> FloatArray:
        with stages.measure("encode"):
            return classifier.features(batch.pixels[:len(batch.owners)])

    def finished() -> list[Encoded]:
        if running is None:
            return []
        batch, future = running
        with stages.measure("waiting for encode"):
            features = future.result()
        touched = _hand_over(batch, features, sink)
        batch.owners = []
        return [item for ring in touched for item in ring.completed()]

    with ThreadPoolExecutor(1, "encode") as thread:
        for read in reads:
            if isinstance(read, ReadFrame):
                ring = rings.setdefault(read.row_id, _Ring(read.row_id))
                filling.pixels[len(filling.owners)] = read.pixels
                filling.owners.append((ring, read.index, read.time_s))
                if len(filling.owners) == batch_frames:
                    done = finished()
                    running = filling, thread.submit(encode, filling)
                    filling, spare = spare, filling
                    yield done
                continue
            if isinstance(read, ReadAgain):
                if read.row_id in rings:
                    rings.pop(read.row_id).is_dropped = True
                if sink:
                    sink.discard(read.row_id)
                yield [read]
                continue
            if isinstance(read, ReadEnd):
                stages.add("decode", read.decode_s)
                ring = rings.pop(read.row.id) if read.row.id in rings else _Ring(read.row.id)  # else no frame came of it
            else:
                ring = rings[read.row_id]
            ring.wait(read)
            yield list(ring.completed())
        yield finished()
        if filling.owners:
            running = filling, thread.submit(encode, filling)
            yield finished()


def _hand_over(batch: _Batch, features: FloatArray, sink: FeatureSink | None) -> list[_Ring]:
    """Features to their rings and to the sink; the rings that got some."""
    starts = [i for i, (ring, _, _) in enumerate(batch.owners) if i == 0 or ring is not batch.owners[i - 1][0]]
    touched: dict[int, _Ring] = {}
    for start, stop in zip(starts, [*starts[1:], len(batch.owners)], strict=True):
        ring = batch.owners[start][0]
        touched[id(ring)] = ring
        for (_, index, _), row in zip(batch.owners[start:stop], features[start:stop], strict=True):
            ring.put(index, row)
        if sink and not ring.is_dropped:
            sink.append(ring.row_id, features[start:stop], np.array([time_s for _, _, time_s in batch.owners[start:stop]]))
    return list(touched.values())
