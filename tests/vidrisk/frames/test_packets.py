"""Tests of the packet index of a video.

The index is small for hours of video, and its searches return the same results as plain loops.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import av
import numpy as np
import pytest
from av.packet import Packet
from av.video.stream import VideoStream
from hypothesis import given
from hypothesis import strategies as st
from numbered_clips import number_in_picture, write_clip

from vidrisk.frames.clocks import NO_STAMP
from vidrisk.frames.index import (
    MAX_REORDERED,
    PacketIndex,
    PacketTable,
    index_from_packets,
    order_from_packets,
    with_failed,
)
from vidrisk.frames.video_decord import DecordSource
from vidrisk.frames.video_pyav import PyAVSource
from vidrisk.runtimes.contract.errors import is_installed

HOUR_FRAMES = 90_000
KEPT_MB, PEAK_MB = 3, 9
MB = 1e6


def write_hour(path: Path) -> Path:
    """Write an hour of uniform grey at 25 frames/s, which takes a second or two."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast", "g": "50", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 90, np.uint8), "rgb24").reformat(format="yuv420p")
        frame.time_base = Fraction(1, 25)
        for number in range(HOUR_FRAMES):
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.slow
def test_the_index_of_an_hour_takes_a_few_megabytes(tmp_path: Path) -> None:
    path = write_hour(tmp_path / "hour.mp4")
    tracemalloc.start()
    try:
        with PyAVSource(path) as source:
            kept, peak = tracemalloc.get_traced_memory()
            timeline = source.timeline
            assert timeline.duration_s == 3600 and (timeline.times_s == np.arange(HOUR_FRAMES) / 25).all()
            assert len(list(source.frames_at(range(0, HOUR_FRAMES, 2500)))) == 36
    finally:
        tracemalloc.stop()
    assert kept / MB < KEPT_MB and peak / MB < PEAK_MB


@st.composite
def tables(draw: st.DrawFn) -> PacketTable:
    """Draw packets in groups that begin with a keyframe; the stored order differs from the display order."""
    sizes = draw(st.lists(st.integers(1, 8), min_size=1, max_size=8))
    steps = draw(st.lists(st.integers(1, 3), min_size=sum(sizes), max_size=sum(sizes)))
    stamps = np.cumsum(steps) + draw(st.integers(-10, 10))
    pts: list[int] = []
    for size in sizes:
        group = stamps[len(pts) : len(pts) + size].tolist()
        pts += [group[0], *draw(st.permutations(group[1:]))]
    is_key = np.isin(np.arange(len(pts)), np.cumsum([0, *sizes[:-1]]))
    if draw(st.booleans()):  # a recording that starts between keyframes
        is_key[0] = False
    dts = np.sort(pts) - 8
    offsets = 1000 * np.flatnonzero(is_key)
    return PacketTable(
        np.array(pts),
        dts,
        np.ones(len(pts), np.int64),
        is_key,
        np.ones(len(pts), bool),
        offsets,
        np.full(len(offsets), 10),
    )


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VideoStream]:
    with av.open(str(write_clip(tmp_path_factory.mktemp("clip") / "a.mp4", 2))) as container:
        yield container.streams.video[0]


@given(packets=tables(), container=st.sampled_from(["matroska,webm", "avi"]))
def test_searches_equal_plain_loops(packets: PacketTable, container: str, stream: VideoStream) -> None:
    order = order_from_packets(packets, container, 2)
    index = index_from_packets(packets, container, stream, order)
    is_sorted = container != "avi"
    assert index is not None and order == ("sorted" if is_sorted else "slots")
    of_packets = packets.pts.tolist()
    keys = np.flatnonzero(packets.is_key).tolist()
    if is_sorted:
        shown = [
            place
            for place, stamp in enumerate(of_packets)
            if not keys or (place >= keys[0] and stamp >= of_packets[keys[0]])
        ]
        shown.sort(key=of_packets.__getitem__)
    else:
        shown = list(range(len(of_packets)))
    assert index.places.tolist() == shown
    assert [index.frames[place] for place in shown] == list(range(len(shown)))
    for number, place in enumerate(shown):
        reached = of_packets[place] if is_sorted else max(0, number - MAX_REORDERED)
        before = [key for key in keys if (of_packets[key] if is_sorted else key) <= reached]
        assert index.keyframe_before(number) == max(before, default=0)
    seekable = of_packets if is_sorted else packets.dts.tolist()
    for place in range(len(of_packets)):
        assert index.keyframes.stamps_towards(place) == [seekable[key] for key in keys if key <= place][:-3:-1]
    for key in keys:
        assert index.keyframes.place_of(packet_of(1000 * key)) == key
        assert index.keyframes.place_of(packet_of(1000 * key + 1)) is None


def packet_of(offset: int) -> Packet[VideoStream]:
    """Return a stand-in with the attributes that are read, as the offset of a real packet cannot be set."""
    return cast("Packet[VideoStream]", SimpleNamespace(pos=offset, size=10))


def index_of(pts: list[int], dts: list[int], stream: VideoStream) -> PacketIndex:
    marks, keys = np.ones(len(pts), bool), np.arange(len(pts))
    table = PacketTable(np.array(pts), np.array(dts), np.zeros(len(pts), np.int64), marks, marks, keys, keys)
    order = order_from_packets(table, "mpegts", 0)
    index = index_from_packets(
        table, "mpegts", stream, order, np.arange(len(pts), dtype=np.int32) if order == "decoded" else None
    )
    assert index is not None
    return index


@given(
    pts=st.lists(st.integers(NO_STAMP, 2**63 - 1), min_size=1, max_size=40),
    dts=st.lists(st.integers(NO_STAMP, 2**63 - 1), min_size=40, max_size=40),
)
def test_any_stamps_give_a_rising_timeline(pts: list[int], dts: list[int], stream: VideoStream) -> None:
    timeline = index_of(pts, dts[: len(pts)], stream).timeline
    assert timeline.duration_s > 0
    if timeline.duration_s < 24 * 3600:  # else it is refused
        assert (
            timeline.times_s[0] == 0
            and (np.diff(timeline.times_s) >= 0).all()
            and timeline.times_s[-1] < timeline.duration_s
        )


def table_of(pts: list[int | None], dts: list[int | None] | None = None) -> PacketTable:
    stamps, decoding = ([NO_STAMP if stamp is None else stamp for stamp in each] for each in (pts, dts or pts))
    first, one = np.arange(len(pts)) == 0, np.zeros(1, np.int64)
    return PacketTable(
        np.array(stamps), np.array(decoding), np.zeros(len(pts), np.int64), first, np.ones(len(pts), bool), one, one
    )


@pytest.mark.parametrize(
    ("pts", "dts", "container", "depth", "order"),
    [
        ([0, 40, 80], None, "mpegts", 0, "sorted"),
        ([0, 120, 40, 80], [-40, 0, 40, 80], "mpegts", 1, "sorted"),
        ([0, None, 80, None], None, "mpegts", 0, "stored"),
        ([0, 0, 80, 80], None, "flv", 0, "stored"),
        ([0, None, 80, None], None, "mpegts", 2, "decoded"),
        ([0, None, 120, None], [-40, None, 80, None], "mpeg", 0, "decoded"),
        ([0, 40, 20, 60], None, "matroska,webm", 0, "decoded"),
        ([0, 40, 80], None, "avi", 0, "slots"),
        ([None, None, None], [0, 1, 2], "asf", 1, "slots"),
        ([None, None, None], None, "mpeg", 0, "stored"),
    ],
)
def test_what_gives_the_order(
    pts: list[int | None], dts: list[int | None] | None, container: str, depth: int, order: str
) -> None:
    assert order_from_packets(table_of(pts, dts), container, depth) == order


def test_files_laid_end_to_end_are_sorted_one_by_one(stream: VideoStream) -> None:
    pts, dts = [0, 120, 40, 80, 160, 0, 120, 40, 80], [-40, 0, 40, 80, 120, -40, 0, 40, 80]
    table = table_of(list(pts), list(dts))
    is_key = np.isin(np.arange(9), [0, 5])
    for keys, order in ((is_key, "sorted"), (np.isin(np.arange(9), [0]), "decoded")):
        table = replace(table, is_key=keys, key_offsets=np.flatnonzero(keys), key_sizes=np.flatnonzero(keys))
        assert order_from_packets(table, "mpegts", 1) == order
    index = index_from_packets(replace(table, is_key=is_key), "mpegts", stream, "sorted")
    assert index is not None and index.places.tolist() == [0, 2, 3, 1, 4, 5, 7, 8, 6] and index.is_repaired


def test_packets_that_failed_stay_on_the_timeline() -> None:
    packets = table_of([0, None, None, None, None, None])
    decoded = np.array([1, 3, 2], np.int32)
    assert with_failed(decoded, None) is decoded
    assert with_failed(decoded, packets).tolist() == [0, 1, 3, 4, 5, 2]


@pytest.mark.parametrize(
    ("suffix", "codec"), [("mp4", "libx264"), ("ts", "libx264"), ("avi", "mpeg4"), ("mpg", "mpeg2video")]
)
def test_keyframes(tmp_path: Path, suffix: str, codec: str) -> None:
    path = write_clip(
        tmp_path / f"a.{suffix}", 60, codec=codec, options={"g": "12", "bf": "0", "x264-params": "scenecut=0"}
    )
    for source_type in (PyAVSource, DecordSource)[: 2 if is_installed("decord") else 1]:
        with source_type(path) as source:
            keyframes = source.keyframes().tolist()
            shown = [number_in_picture(frame.rgb) for frame in source.frames_at(keyframes)]
        assert keyframes == shown and set(keyframes) >= (set() if suffix == "mpg" else {0, 12, 24})
        assert len(keyframes) <= 6
