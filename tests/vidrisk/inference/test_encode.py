"""Tests of encoding: batches across inputs, windows of features, and inputs that start again.

The results are compared with a plain computation.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import pytest
from colour import ACTION, colour_classifier
from hypothesis import given, settings
from hypothesis import strategies as st

from vidrisk.decode.messages import Again, Input, InputEnd, Item, Pause, Read
from vidrisk.frames import Frame, FrameWindow
from vidrisk.inference.encode import (
    Encoded,
    EncodedAgain,
    EncodedEnd,
    EncodedFrames,
    EncodedPause,
    EncodedWindow,
    encode_frames,
)
from vidrisk.inference.meter import Meter
from vidrisk.runtimes.runner import Array, Arrays

T = ACTION.frames


def pixels_of(row: int, index: int, attempt: int) -> npt.NDArray[np.uint8]:
    return np.full(ACTION.pixel.frame_shape, (row * 37 + index * 11 + attempt * 101) % 256, np.uint8)


def read(row: int, item: Item) -> Read:
    return Read(Input(row, f"/{row}"), item)


def reads_of(row: int, frames: int, step: int, attempt: int = 0) -> list[Read]:
    """Return reads of ``frames`` frames, with a window over the last T frames every ``step`` frames."""
    reads: list[Read] = []
    for index in range(frames):
        reads.append(read(row, Frame(index, index / 10, pixels_of(row, index, attempt))))
        if index >= T - 1 and (index - T + 1) % step == 0:
            shown = tuple(range(index - T + 1, index + 1))
            reads.append(read(row, FrameWindow(float(index - T + 1), float(index + 1), shown)))
    return reads


class Sink:
    def __init__(self) -> None:
        self.kept: dict[int, list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]]] = {}

    def append(self, input_id: int, frames: EncodedFrames) -> None:
        self.kept.setdefault(input_id, []).append((frames.features.copy(), frames.time_s))

    def discard(self, input_id: int) -> None:
        self.kept.pop(input_id, None)

    def finish(self, input_id: int, end: InputEnd) -> None:
        raise AssertionError("only whoever has the answers may end an input")


def run(
    reads: list[Read],
    batch_frames: int,
    sizes: list[int] | None = None,
    sink: Sink | None = None,
    *,
    is_concurrent: bool = False,
) -> list[Encoded]:
    def overwritten() -> Iterator[Read]:  # as the slots of a worker are
        for one in reads:
            if isinstance(one.item, Frame):
                view = one.item.pixels.copy()
                yield Read(one.input, Frame(one.item.index, one.item.time_s, view))
                view[:] = 255
            else:
                yield one

    with colour_classifier(ACTION, batch_sizes=sizes, is_concurrent=is_concurrent) as classifier:
        batches = encode_frames(overwritten(), classifier, batch_frames, Meter(), [sink] if sink else [])
        return [item for batch in batches for item in batch]


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    batch_frames=st.integers(1, 13),
    is_concurrent=st.booleans(),
    inputs=st.lists(
        st.tuples(st.integers(0, 12), st.integers(1, 4), st.sampled_from([None, 0, 3, 7])), min_size=1, max_size=5
    ),
)
def test_windows_hold_their_own_frames_whatever_comes_between(
    data: st.DataObject, batch_frames: int, is_concurrent: bool, inputs: list[tuple[int, int, int | None]]
) -> None:
    """Windows hold the features of their own frames, regardless of the reads between them.

    Each input has a number of frames and a window every few frames. It may also have a first attempt that broke
    off after some reads.
    """
    queues: list[list[Read]] = []
    for row, (frames, step, broke_at) in enumerate(inputs):
        first = [] if broke_at is None else [*reads_of(row, frames, step, attempt=1)[:broke_at], read(row, Again())]
        queues.append([*first, *reads_of(row, frames, step), read(row, InputEnd("ok"))])
    reads: list[Read] = []
    while any(queues):
        reads.append(data.draw(st.sampled_from([queue for queue in queues if queue])).pop(0))
    sizes: list[int] = []
    sink = Sink()
    encoded = run(reads, batch_frames, sizes, sink, is_concurrent=is_concurrent)

    assert sum(sizes) == sum(isinstance(one.item, Frame) for one in reads)
    assert sum(size != batch_frames for size in sizes) <= 1
    for row, (frames, step, _) in enumerate(inputs):
        own = [item for item in encoded if (item.input.id if isinstance(item, EncodedEnd) else item.input_id) == row]
        assert isinstance(own[-1], EncodedEnd) and sum(isinstance(item, EncodedEnd) for item in own) == 1
        again = max((i for i, item in enumerate(own) if isinstance(item, EncodedAgain)), default=-1)
        windows = [item for item in own[again + 1 : -1] if isinstance(item, EncodedWindow)]
        starts = list(range(0, max(frames - T + 1, 0), step))
        assert [window.interval_s[0] for window in windows] == starts
        for window, start in zip(windows, starts, strict=True):
            expected = np.stack([pixels_of(row, index, 0).mean((0, 1)) for index in range(start, start + T)])
            np.testing.assert_allclose(window.features, expected)
        kept = sink.kept.get(row, [])
        times_s = [time for _, times in kept for time in times.tolist()]
        assert times_s == [index / 10 for index in range(frames)]
        if frames:
            np.testing.assert_allclose(
                np.concatenate([features for features, _ in kept])[:, 0],
                [pixels_of(row, index, 0).mean() for index in range(frames)],
            )


def test_an_input_without_frames_does_not_wait_for_a_batch() -> None:
    end = read(3, InputEnd("corrupt", "no frame"))
    reads: list[Read] = [*reads_of(0, 2, 1), end, *reads_of(0, 20, 1)[2:], read(0, InputEnd("ok"))]
    encoded = run(reads, batch_frames=8)
    assert encoded[0] == EncodedEnd(end.input, InputEnd("corrupt", "no frame")) and isinstance(encoded[-1], EncodedEnd)


def test_an_input_that_breaks_off_ends_behind_its_last_frame() -> None:
    sink = Sink()
    end = read(0, InputEnd("crashed", "SIGSEGV"))
    encoded = run([*reads_of(0, 2, 1), end, *reads_of(1, 9, 1)], batch_frames=4, sink=sink)
    assert EncodedEnd(end.input, InputEnd("crashed", "SIGSEGV")) in encoded
    assert [len(features) for features, _ in sink.kept[0]] == [2]


def test_windows_that_need_no_new_frame_come_at_once() -> None:
    """A window that needs no new frame is returned at once.

    In a scene without motion, the second window shows the same content as the first one.
    """
    same = read(0, FrameWindow(1.0, 2.0, (3, 3, 3, 3)))
    encoded = run([*reads_of(0, 4, 1), same, read(0, InputEnd("ok"))], batch_frames=4)
    assert [type(item) for item in encoded] == [EncodedWindow, EncodedWindow, EncodedEnd]
    second = encoded[1]
    assert isinstance(second, EncodedWindow) and np.ptp(second.features, axis=0).max() == 0


def test_an_engine_that_fails_ends_the_stage() -> None:
    with colour_classifier(ACTION) as classifier:
        classifier.close()
        with pytest.raises(Exception, match="closed"):
            list(encode_frames(reads_of(0, 9, 1), classifier, 4, Meter()))


@pytest.mark.parametrize("is_concurrent", [False, True])
def test_a_pause_gives_everything_before_it_and_the_batch_is_filled_anew(*, is_concurrent: bool) -> None:
    def to_the_end(row: int) -> list[Read]:
        return [*reads_of(row, 10, 1), read(row, InputEnd("ok"))]

    reads = [*to_the_end(0), read(0, Pause()), *to_the_end(1), read(1, Pause()), *to_the_end(2)]
    encoded = run(reads, batch_frames=4, is_concurrent=is_concurrent)
    pauses = [place for place, item in enumerate(encoded) if isinstance(item, EncodedPause)]
    assert pauses == [8, 17] and len(encoded) == 26  # seven windows and an end between them
    for place, item in enumerate(encoded):
        if isinstance(item, EncodedWindow):
            expected = [pixels_of(place // 9, index, 0).mean((0, 1)) for index in item.indices]
            np.testing.assert_allclose(item.features, expected)


def test_a_concurrent_engine_encodes_two_batches_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(2, timeout=30)
    with colour_classifier(ACTION, is_concurrent=True) as classifier:
        infer = classifier.runners[0]._infer

        def meet(feed: Mapping[str, Array]) -> Arrays:
            together.wait()
            return infer(feed)

        monkeypatch.setattr(classifier.runners[0], "_infer", meet)
        items = [item for batch in encode_frames(reads_of(0, 16, 4), classifier, 4, Meter()) for item in batch]
    assert len(items) == 4  # of four batches


@pytest.mark.parametrize("is_concurrent", [False, True])
def test_the_engine_gets_ready_while_the_first_frames_are_decoded(
    is_concurrent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_ready, prepared = threading.Event(), list[int]()

    def prepare(rows: int) -> None:
        prepared.append(rows)
        is_ready.set()

    def decoded() -> Iterator[Read]:
        assert is_ready.wait(30)
        yield from reads_of(0, 16, 4)

    with colour_classifier(ACTION, is_concurrent=is_concurrent) as classifier:
        monkeypatch.setattr(classifier.runners[0], "prepare", prepare)
        items = [
            item for batch in encode_frames(decoded(), classifier, 4, Meter(), expected_frames=16) for item in batch
        ]
    assert prepared == [4] and len(items) == 4
