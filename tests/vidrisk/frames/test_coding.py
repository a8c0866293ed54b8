"""Tests of the packets that count as frames: fields, hidden frames, and packets falsely marked as keyframes."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import av
import numpy as np
import pytest
from field_coding import GOP_FRAMES, fields_from_levels
from numbered_clips import number_in_picture, write_clip
from numbered_greys import Unit, even, mux

from vidrisk.frames import read_clips
from vidrisk.frames.coding import roles_from_codec
from vidrisk.frames.video_pyav import PyAVSource
from vidrisk.runtimes.contract.specs import PixelSpec, TimeSpec

FRAMES, STEP = 40, 3600
LEVELS = [24 + 4 * (n * 17 % 41) for n in range(FRAMES)]
SHOWN = [(level - 16) * 255 / 219 for level in LEVELS]


def write_fields(path: Path, *, together: bool, dropped: tuple[int, ...] = ()) -> Path:
    units: list[Unit] = [unit for n, unit in enumerate(fields_from_levels(LEVELS)) if n not in dropped]
    stamps = [stamp for n, stamp in enumerate(even(2 * FRAMES, STEP // 2)) if n not in dropped]
    mux(path, units, stamps, Fraction(1, 90_000), together=[2] * FRAMES if together else [])
    return path


def levels_of(path: Path, picks: list[int]) -> list[float]:
    with PyAVSource(path) as source:
        decoded = list(source.frames_at(picks))
    assert not any(frame.lost for frame in decoded)
    return [float(frame.rgb.mean()) for frame in decoded]


@pytest.mark.parametrize("suffix", ["ts", "mts", "mp4", "mov", "mkv"])
@pytest.mark.parametrize("together", [True, False], ids=["both in a packet", "each in a packet"])
def test_two_fields_are_one_frame(tmp_path: Path, suffix: str, together: bool) -> None:
    path = write_fields(tmp_path / f"fields.{suffix}", together=together)
    with PyAVSource(path) as source:
        assert np.allclose(source.timeline.times_s, np.arange(FRAMES) / 25, atol=1e-3)
        assert source.timeline.duration_s == pytest.approx(FRAMES / 25, abs=1e-3)
        assert source.keyframes().tolist() == list(range(0, FRAMES, GOP_FRAMES))
    assert np.allclose(levels_of(path, list(range(FRAMES))), SHOWN, atol=3)
    for pick in (FRAMES - 1, 18, 17, 1):
        assert levels_of(path, [pick]) == pytest.approx([SHOWN[pick]], abs=3)
    (clip,) = read_clips(path, PixelSpec(16, 16), TimeSpec(8))
    assert clip.damage is None and np.allclose(clip.frames.mean(axis=(1, 2, 3)), SHOWN[2::5], atol=3)


@pytest.mark.parametrize("dropped", [(30,), (31,), (30, 33)])
def test_a_lost_field_moves_no_other_frame(tmp_path: Path, dropped: tuple[int, ...]) -> None:
    path = write_fields(tmp_path / "lost.ts", together=False, dropped=dropped)
    with PyAVSource(path) as source:
        times_s = source.timeline.times_s
        shown = {
            round(float(times_s[frame.shown]), 3): frame.rgb.mean() for frame in source.frames_at(range(len(times_s)))
        }
    for number in (*range(14), *range(24, FRAMES)):
        assert shown[round(number / 25, 3)] == pytest.approx(SHOWN[number], abs=3)


def test_the_container_may_state_other_parameters_than_the_packets(tmp_path: Path) -> None:
    """Parameter sets in the packets take precedence over those that the container states.

    The container states the parameter sets of a progressive stream; the packets hold fields with their own sets.
    """
    progressive = write_clip(tmp_path / "progressive.mp4", 2, width=64, height=64)
    with av.open(str(progressive)) as container:
        role_of = roles_from_codec(container.streams.video[0].codec_context)
    assert role_of is not None
    packets = [packet_of(_with_lengths(content), is_key) for content, is_key in fields_from_levels(LEVELS[:8])]
    assert [role_of(packet)[0] for packet in packets] == [True, False] * 8


def _with_lengths(content: bytes) -> bytes:
    units = content.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1")[1:]
    return b"".join(len(unit).to_bytes(4, "big") + unit for unit in units)


def packet_of(content: bytes, is_key: bool) -> Any:
    packet = av.Packet(content)
    packet.is_keyframe = is_key
    return packet


@pytest.mark.parametrize("cut", [0, 1, 3, 40])
def test_headers_that_end_early_are_no_error(cut: int) -> None:
    codec = cast("av.VideoCodecContext", SimpleNamespace(name="h264", extradata=None))
    for extradata in (None, b"\1", b"\1d\0\x1e\xff\xe1\xff\xff", b"\0\0\1", b"\0\0\1\x67"):
        codec.extradata = extradata
        role_of = roles_from_codec(codec)
        assert role_of is not None
        for content, is_key in fields_from_levels(LEVELS[:2]):
            for damaged in (content[:cut], bytes(cut), b"\0\0\1" * cut, b"\0\0\1\x41\x67" * cut):
                assert role_of(packet_of(damaged, is_key))[1] <= is_key


@pytest.mark.parametrize(
    ("name", "content", "is_shown"),
    [
        ("vp8", b"\x10", True),
        ("vp8", b"\x00", False),
        ("vp8", b"\x11", True),
        ("vp8", b"\x01", False),
        # frame marker, profile, shown already, kind, shown
        ("vp9", bytes([0b10_00_0_0_1_0, 0]), True),
        ("vp9", bytes([0b10_00_0_1_0_0, 0]), False),
        ("vp9", bytes([0b10_00_1_000, 0]), True),
        ("vp9", bytes([0b10_11_0_0_1_0, 0]), False),
        ("vp9", bytes([0b10_11_0_0_0_1, 0]), True),
        ("vp9", bytes([0b10_00_0_1_0_0, 0b11000000]), True),
    ],
)
def test_hidden_frames(name: str, content: bytes, is_shown: bool) -> None:
    role_of = roles_from_codec(cast("av.VideoCodecContext", SimpleNamespace(name=name, extradata=None)))
    assert role_of is not None and role_of(packet_of(content, False)) == (is_shown, False)


def test_a_hidden_frame_is_no_moment(tmp_path: Path) -> None:
    """A hidden frame has no time on the timeline.

    An alternate reference frame of VP8 is hidden, but has a packet of its own.
    """
    options = {"g": "60", "auto-alt-ref": "1", "lag-in-frames": "25", "deadline": "good", "cpu-used": "4", "b": "200k"}
    path = write_clip(tmp_path / "hidden.webm", 60, codec="libvpx", options=options)
    with PyAVSource(path) as source:
        times_s = source.timeline.times_s
        decoded = list(source.frames_at(range(len(times_s))))
    assert np.allclose(times_s, np.arange(60) / 25, atol=2e-3) and not any(frame.lost for frame in decoded)
    assert [number_in_picture(frame.rgb) for frame in decoded] == list(range(60))


def test_a_refresh_bit_by_bit_is_decoded_from_its_start(tmp_path: Path) -> None:
    options = {"x264-params": "intra-refresh=1:keyint=24:bframes=0:scenecut=0"}
    path = write_clip(tmp_path / "refresh.mp4", 100, options=options)
    with PyAVSource(path) as source:
        assert source.keyframes().tolist() == [0]
        every = {frame.index: frame.rgb for frame in source.frames_at(range(100))}
    for pick in (99, 60, 49):
        with PyAVSource(path) as source:
            (frame,) = source.frames_at([pick])
        assert not frame.lost and (frame.rgb == every[pick]).all()


@pytest.mark.parametrize("codec", ["libsvtav1", "libaom-av1", "libvpx-vp9", "libx264", "libx265", "mpeg2video"])
def test_frames_that_no_other_refers_to_are_decoded_when_they_are_wanted(tmp_path: Path, codec: str) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    suffix = {"mpeg2video": "ts", "libvpx-vp9": "webm"}.get(codec, "mp4")
    path = write_clip(tmp_path / f"all.{suffix}", 60, codec=codec, rate=10, width=64, height=64)
    for moments in (4, 9, 60):
        (clip,) = read_clips(path, PixelSpec(64, 64), TimeSpec(moments))
        assert clip.damage is None
        assert [number_in_picture(frame) for frame in clip.frames] == [
            int((i + 0.5) * 60 / moments + 1e-9) for i in range(moments)
        ]
