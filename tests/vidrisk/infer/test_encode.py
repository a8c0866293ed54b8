"""Batches across inputs, windows out of features, and inputs that begin again: against the plain way to compute it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from colour import ACTION, colour_classifier
from hypothesis import given, settings
from hypothesis import strategies as st

from vidrisk.infer.decode import Read, ReadAgain, ReadEnd, ReadFrame, ReadWindow
from vidrisk.infer.encode import Encoded, EncodedFrames, EncodedWindow, encode_frames
from vidrisk.infer.ledger import Row
from vidrisk.infer.summary import Meter

T = ACTION.frames


def pixels_of(row: int, index: int, attempt: int) -> npt.NDArray[np.uint8]:
    return np.full(ACTION.pixel.frame_shape, (row * 37 + index * 11 + attempt * 101) % 256, np.uint8)


def reads_of(row: int, frames: int, step: int, attempt: int = 0) -> list[Read]:
    """``frames`` frames and a window over the last T of them every ``step``."""
    reads: list[Read] = []
    for index in range(frames):
        reads.append(ReadFrame(row, index, index / 10, pixels_of(row, index, attempt)))
        if index >= T - 1 and (index - T + 1) % step == 0:
            reads.append(ReadWindow(row, float(index - T + 1), float(index + 1), tuple(range(index - T + 1, index + 1))))
    return reads


class Sink:
    def __init__(self) -> None:
        self.kept: dict[int, list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]]] = {}
        self.finished: set[int] = set()

    def append(self, row_id: int, frames: EncodedFrames) -> None:
        assert row_id not in self.finished
        self.kept.setdefault(row_id, []).append((frames.features.copy(), frames.time_s))

    def discard(self, row_id: int) -> None:
        self.kept.pop(row_id, None)

    def finish(self, end: ReadEnd) -> None:
        self.finished.add(end.row.id)


def run(reads: list[Read], batch_frames: int, sizes: list[int] | None = None, sink: Sink | None = None) -> list[Encoded]:
    def overwritten() -> Iterator[Read]:  # as the slots of a worker are
        for read in reads:
            if isinstance(read, ReadFrame):
                view = read.pixels.copy()
                yield ReadFrame(read.row_id, read.index, read.time_s, view)
                view[:] = 255
            else:
                yield read

    with colour_classifier(ACTION, batch_sizes=sizes) as classifier:
        batches = encode_frames(overwritten(), classifier, batch_frames, Meter(), [sink] if sink else [])
        return [item for batch in batches for item in batch]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), batch_frames=st.integers(1, 13), inputs=st.lists(
    st.tuples(st.integers(0, 12), st.integers(1, 4), st.sampled_from([None, 0, 3, 7])), min_size=1, max_size=5))
def test_windows_hold_their_own_frames_whatever_comes_between(data: st.DataObject, batch_frames: int,
                                                               inputs: list[tuple[int, int, int | None]]) -> None:
    """Each input: so many frames, a window every so many, and perhaps a first attempt that broke off after so many reads."""
    queues: list[list[Read]] = []
    for row, (frames, step, broke_at) in enumerate(inputs):
        first = [] if broke_at is None else [*reads_of(row, frames, step, attempt=1)[:broke_at], ReadAgain(row)]
        queues.append([*first, *reads_of(row, frames, step), ReadEnd(Row(row, f"/{row}", "ok"), 0.0)])
    reads: list[Read] = []
    while any(queues):
        reads.append(data.draw(st.sampled_from([queue for queue in queues if queue])).pop(0))
    sizes: list[int] = []
    sink = Sink()
    encoded = run(reads, batch_frames, sizes, sink)

    assert sum(sizes) == sum(isinstance(read, ReadFrame) for read in reads)
    assert set(sizes[:-1]) <= {batch_frames}
    assert sink.finished == set(range(len(inputs)))
    for row, (frames, step, _) in enumerate(inputs):
        own = [item for item in encoded if (item.row.id if isinstance(item, ReadEnd) else item.row_id) == row]
        assert isinstance(own[-1], ReadEnd) and sum(isinstance(item, ReadEnd) for item in own) == 1
        again = max((i for i, item in enumerate(own) if isinstance(item, ReadAgain)), default=-1)
        windows = [item for item in own[again + 1:-1] if isinstance(item, EncodedWindow)]
        starts = list(range(0, max(frames - T + 1, 0), step))
        assert [window.interval_s[0] for window in windows] == starts
        for window, start in zip(windows, starts, strict=True):
            expected = np.stack([pixels_of(row, index, 0).mean((0, 1)) for index in range(start, start + T)])
            np.testing.assert_allclose(window.features, expected)
        kept = sink.kept.get(row, [])
        times_s = [time for _, times in kept for time in times.tolist()]
        assert times_s == [index / 10 for index in range(frames)]
        if frames:
            np.testing.assert_allclose(np.concatenate([features for features, _ in kept])[:, 0],
                                       [pixels_of(row, index, 0).mean() for index in range(frames)])


def test_an_input_without_frames_does_not_wait_for_a_batch() -> None:
    end = ReadEnd(Row(3, "/3", "corrupt", "no frame"), 0.0)
    reads: list[Read] = [*reads_of(0, 2, 1), end, *reads_of(0, 20, 1)[2:], ReadEnd(Row(0, "/0", "ok"), 0.0)]
    encoded = run(reads, batch_frames=8)
    assert encoded[0] is end and isinstance(encoded[-1], ReadEnd)


def test_an_input_that_breaks_off_ends_behind_its_last_frame() -> None:
    sink = Sink()
    run([*reads_of(0, 2, 1), ReadEnd(Row(0, "/0", "crashed", "SIGSEGV"), 0.0), *reads_of(1, 9, 1)], batch_frames=4, sink=sink)
    assert sink.finished == {0} and [len(features) for features, _ in sink.kept[0]] == [2]


def test_windows_that_need_no_new_frame_come_at_once() -> None:
    """A scene in which nothing moves: the second window shows what the first one showed."""
    same = ReadWindow(0, 1.0, 2.0, (3, 3, 3, 3))
    encoded = run([*reads_of(0, 4, 1), same, ReadEnd(Row(0, "/0", "ok"), 0.0)], batch_frames=4)
    assert [type(item) for item in encoded] == [EncodedWindow, EncodedWindow, ReadEnd]
    second = encoded[1]
    assert isinstance(second, EncodedWindow) and np.ptp(second.features, axis=0).max() == 0


def test_an_engine_that_fails_ends_the_stage() -> None:
    with colour_classifier(ACTION) as classifier:
        classifier.close()
        with pytest.raises(Exception, match="closed"):
            list(encode_frames(reads_of(0, 9, 1), classifier, 4, Meter()))
