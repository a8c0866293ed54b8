"""The index of a video's packets: small for hours of video, and its searches equal to plain loops."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
import pytest
from av.packet import Packet
from av.video.stream import VideoStream
from hypothesis import given
from hypothesis import strategies as st
from numbered_clips import number_in_picture, write_clip

from vidrisk.frames.clocks import MAX_REORDERED, NO_STAMP, PacketIndex, PacketTable, index_from_packets
from vidrisk.frames.video_decord import DecordSource
from vidrisk.frames.video_pyav import PyAVSource
from vidrisk.runtimes.errors import is_installed

HOUR_FRAMES = 90_000
KEPT_MB, PEAK_MB = 3, 9
MB = 1e6


def write_hour(path: Path) -> Path:
    """An hour at 25 frames/s of one grey, in a second or two."""
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
    """Packets in groups that begin with a keyframe, each group stored in another order than it is shown."""
    sizes = draw(st.lists(st.integers(1, 8), min_size=1, max_size=8))
    steps = draw(st.lists(st.integers(1, 3), min_size=sum(sizes), max_size=sum(sizes)))
    stamps = np.cumsum(steps) + draw(st.integers(-10, 10))
    pts: list[int] = []
    for size in sizes:
        group = stamps[len(pts):len(pts) + size].tolist()
        pts += [group[0], *draw(st.permutations(group[1:]))]
    is_key = np.isin(np.arange(len(pts)), np.cumsum([0, *sizes[:-1]]))
    if draw(st.booleans()):  # a recording that starts between keyframes
        is_key[0] = False
    dts = np.sort(pts) - 8
    return PacketTable(np.array(pts), dts, np.ones(len(pts), np.int64), is_key, np.ones(len(pts), bool))


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VideoStream]:
    with av.open(str(write_clip(tmp_path_factory.mktemp("clip") / "a.mp4", 2))) as container:
        yield container.streams.video[0]


@given(packets=tables(), container=st.sampled_from(["matroska,webm", "avi"]))
def test_searches_equal_plain_loops(packets: PacketTable, container: str, stream: VideoStream) -> None:
    index = index_from_packets(packets, container, stream)
    is_pts = container != "avi"
    assert index.clock == ("pts" if is_pts else "dts")
    of_packets = (packets.pts if is_pts else packets.dts).tolist()
    keys = [(of_packets[place], int(place)) for place in np.flatnonzero(packets.is_key)]
    first = keys[0] if keys and is_pts else (of_packets[0], 0) if not is_pts else (min(of_packets), 0)
    shown = [stamp for place, stamp in enumerate(of_packets) if not is_pts or (place >= first[1] and stamp >= first[0])]
    assert index.stamps.tolist() == sorted(shown)
    for number, stamp in enumerate(sorted(shown)):
        reached = stamp if is_pts else sorted(shown)[max(0, number - MAX_REORDERED)]
        assert index.keyframe_before(number) == max((place for key, place in keys if key <= reached), default=0)
    for place, stamp in enumerate(of_packets):
        assert index.place_of(packet_of(stamp)) == place
        assert index.stamps_towards(place) == [key for key, at in keys if at <= place][:-3:-1]
    assert index.place_of(packet_of(max(of_packets) + 1)) is None and index.place_of(packet_of(None)) is None


def packet_of(stamp: int | None) -> Packet[VideoStream]:
    packet = cast("Packet[VideoStream]", Packet(1))
    packet.pts = packet.dts = stamp
    return packet


def index_of(pts: list[int], dts: list[int], stream: VideoStream) -> PacketIndex:
    marks = np.ones(len(pts), bool)
    table = PacketTable(np.array(pts), np.array(dts), np.zeros(len(pts), np.int64), marks, marks)
    return index_from_packets(table, "mpegts", stream)


@given(pts=st.lists(st.integers(NO_STAMP, 2**63 - 1), min_size=1, max_size=40),
       dts=st.lists(st.integers(NO_STAMP, 2**63 - 1), min_size=40, max_size=40))
def test_any_stamps_give_a_rising_timeline(pts: list[int], dts: list[int], stream: VideoStream) -> None:
    timeline = index_of(pts, dts[:len(pts)], stream).timeline
    assert timeline.duration_s > 0
    if timeline.duration_s < 24 * 3600:  # else it is refused
        assert timeline.times_s[0] == 0 and (np.diff(timeline.times_s) > 0).all() and timeline.times_s[-1] < timeline.duration_s


@pytest.mark.parametrize(("suffix", "codec"), [("mp4", "libx264"), ("ts", "libx264"), ("avi", "mpeg4"), ("mpg", "mpeg2video")])
def test_keyframes(tmp_path: Path, suffix: str, codec: str) -> None:
    path = write_clip(tmp_path / f"a.{suffix}", 60, codec=codec, options={"g": "12", "bf": "0", "x264-params": "scenecut=0"})
    for source_type in (PyAVSource, DecordSource)[:2 if is_installed("decord") else 1]:
        with source_type(path) as source:
            keyframes = source.keyframes().tolist()
            shown = [number_in_picture(frame.rgb) for frame in source.frames_at(keyframes)]
        assert keyframes == shown and set(keyframes) >= (set() if suffix == "mpg" else {0, 12, 24})
        assert len(keyframes) <= 6
