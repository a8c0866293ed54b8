"""Tests of the limits on messages of a worker.

A file that has taken over its worker can fill neither memory nor a page.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colour import ACTION
from hypothesis import given
from hypothesis import strategies as st
from small_media import write_video

from vidrisk.decode.messages import FINAL_STATES, Input, InputEnd, Item, ReadSettings, ThumbnailInput, ThumbnailSettings
from vidrisk.decode.reading import (
    LATEST_S,
    MAX_BEGINS,
    Memory,
    Reading,
    Starved,
    item_from_message,
    most_awaited,
    most_windows,
)
from vidrisk.decode.thumbnails import MAX_KEPT_FRAMES
from vidrisk.decode.wire import Slots, shared_memory
from vidrisk.frames import Frame, FrameWindow, read_frames
from vidrisk.frames.media import MAX_FRAMES_PER_VIDEO
from vidrisk.runtimes.contract.specs import TimeSpec

CLIP = Input(0, "a.mp4")
WHOLE = ReadSettings(ACTION.pixel, TimeSpec(2), slots=8, thumbnail_bytes=1000, frame_thumbnail_bytes=1000)
WINDOWS = ReadSettings(ACTION.pixel, TimeSpec(2, 1.0, 0.5), slots=8)
MOMENTS = ThumbnailInput(0, "a.mp4", (0.0, 1.0), 2000)
PICTURE = [base64.b64encode(b"RIFF____WEBP").decode(), 9, 9, 0.0]
UNREADABLE = (ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError, RecursionError)


def said(lines: list[dict[str, Any]], settings: ReadSettings = WHOLE) -> list[Item]:
    """Return the items of messages, with a caller that takes everything at once."""
    descriptor = shared_memory(settings.slots, settings.slot_bytes)
    memory = Memory(0, Slots(descriptor, settings.slots, settings.slot_bytes), settings.slots, 2, lambda message: None)
    reading, items = Reading(None, None), []
    for line in lines:
        ((kind, value),) = json.loads(json.dumps(line)).items()
        found = item_from_message(CLIP, settings, memory, reading, kind, value)
        assert found
        items.append(found[0])
        if found[1]:
            found[1].free()
    return items


def test_what_a_reader_says_is_let_through(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", ("red", "blue", "green"))
    for time in (None, TimeSpec(1), TimeSpec(8), TimeSpec(2, 1.0), TimeSpec(8, 1.0, 0.1), TimeSpec(3, 0.7, 0.2)):
        items = list(read_frames(path, ACTION.pixel, time))
        lines = [
            {"frame": [item.index, item.time_s]}
            if isinstance(item, Frame)
            else {"window": [item.start_s, item.end_s, item.indices]}
            for item in items
        ]
        found = said(lines, ReadSettings(ACTION.pixel, time, slots=8))
        assert [type(item) for item in found] == [type(item) for item in items]
        assert [item.indices for item in found if isinstance(item, FrameWindow)] == [
            item.indices for item in items if isinstance(item, FrameWindow)
        ]


FRAME = {"frame": [0, 0.0]}
NO_INTERVAL = {"window": [None, None, [0, 0]]}


@pytest.mark.parametrize(
    "lines",
    [
        [{"frame": [MAX_FRAMES_PER_VIDEO + 1, 0.0]}],
        [{"frame": [0, 10**400]}],
        [{"frame": [number, 0.0]} for number in range(3)],
        [FRAME, NO_INTERVAL, NO_INTERVAL],
        [FRAME, NO_INTERVAL, {"window": [0.0, 1.0, [0, 0]]}],
        *(
            [FRAME, {"window": [*interval, [0, 0]]}]
            for interval in (
                (0.0, None),
                (None, 1.0),
                (1.0, 1.0),
                (2.0, 1.0),
                (-1.0, 1.0),
                (0.0, 1e300),
                (0.0, 10**400),
                ("0", "1"),
            )
        ),
        [FRAME, {"window": [0.0, 1.0, [0, 0], ""]}],
        *(
            [{"end": end}]
            for end in (
                ["ok", "", 0.0, "", ["a"] * 64],
                ["ok", "", 0.0, ["a"] * 64, ""],
                ["ok", "", 0.0, "../a", ""],
                ["ok", "", 0.0, None, ""],
                ["ok", "", -1.0, "", ""],
                ["ok", "", 1e300, "", ""],
                ["ok", "", 10**400, "", ""],
            )
        ),
        [{"alive": True}],
        [{"thumbnail": PICTURE}] * (MAX_KEPT_FRAMES + 1),
    ],
    ids=lambda lines: repr(lines)[:60],
)
def test_one_line_too_much(lines: list[dict[str, Any]]) -> None:
    said(lines[:-1])
    with pytest.raises(UNREADABLE):
        said(lines)


def test_windows_follow_each_other_and_their_number_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    window = {"window": [1.0, 2.0, [0, 0]]}
    assert len(said([FRAME, window, window], WINDOWS)) == 3
    with pytest.raises(ValueError, match="a window from 0"):
        said([FRAME, window, {"window": [0.5, 2.0, [0, 0]]}], WINDOWS)
    monkeypatch.setattr("vidrisk.decode.reading.MAX_WINDOWS", 3)
    with pytest.raises(ValueError, match="no whole number up to 3"):
        said([FRAME, *[window] * 4], WINDOWS)
    with pytest.raises(ValueError, match="frames and no window"):
        said([FRAME, window, *({"frame": [number, 0.0]} for number in range(1, 13))], WINDOWS)


def test_bounds_of_every_stride_are_numbers() -> None:
    for time in (None, TimeSpec(4096), TimeSpec(4, 1e300), TimeSpec(4, 5e-324), TimeSpec(4, 1e300, 1e-300)):
        assert 1 <= most_windows(time) <= 1_000_000 and most_awaited(time) >= 1


def test_signs_of_life_and_second_beginnings_are_counted() -> None:
    reading = Reading(None, None)
    for _ in MOMENTS.moments_s:
        assert item_from_message(MOMENTS, ThumbnailSettings(), None, reading, "alive", True) is None
    with pytest.raises(ValueError, match="up to 2"):
        item_from_message(MOMENTS, ThumbnailSettings(), None, reading, "alive", True)
    with pytest.raises(ValueError, match="begun"):
        reading.again(1, 1)
    first = replaced = Reading(1, 2)
    for _ in range(MAX_BEGINS - 1):
        replaced = replaced.again(3, 4)
    assert (replaced.size, replaced.mtime_ns, replaced.began_s) == (3, 4, first.began_s)
    with pytest.raises(ValueError, match="begun"):
        replaced.again(3, 4)


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(FINAL_STATES),
    lambda inner: st.lists(inner, max_size=5),
    max_leaves=8,
)
moments = st.none() | st.floats(-1, 1e6) | anything
lines = st.builds(
    lambda kind, value: {kind: value},
    st.sampled_from(["frame", "features", "window", "end", "thumbnail", "alive"]),
    anything
    | st.tuples(moments, moments, st.lists(st.integers(0, 3), max_size=3))
    | st.tuples(st.integers(-1, 9), moments)
    | st.tuples(st.sampled_from(FINAL_STATES), anything, moments, anything, anything),
)


@given(st.lists(lines, max_size=8))
def test_whatever_it_says_is_refused_or_sound(messages: list[dict[str, Any]]) -> None:
    for upto in range(1, len(messages) + 1):
        try:
            item = said(messages[:upto])[-1]
        except (*UNREADABLE, Starved):
            return
        if isinstance(item, InputEnd):
            assert (
                type(item.content) is type(item.key) is str
                and np.isfinite(item.decode_s)
                and item.state in FINAL_STATES
            )
        elif isinstance(item, FrameWindow) and item.start_s is not None:
            assert item.end_s is not None and 0 <= item.start_s < item.end_s <= LATEST_S
