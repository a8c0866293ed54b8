"""Tests of times that no camera writes and of headers that misstate times.

Every frame is shown once, in the order of its storage.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from numbered_clips import number_in_picture, write_clip
from odd_clips import TS_TICKS_PER_S, mkv_with_times, mp4_stating, mp4_with_delay, overwritten, ts_with_times

from vidrisk.frames import Clip, Decoder, read_clips
from vidrisk.frames import media as media_limits
from vidrisk.frames.video_pyav import PyAVSource
from vidrisk.runtimes.contract.errors import UnreadableError, is_installed
from vidrisk.runtimes.contract.specs import PixelSpec, TimeSpec

DECODERS: tuple[Decoder, ...] = ("pyav", "decord") if is_installed("decord") else ("pyav",)
B_FRAMES = {"bf": "3", "g": "24"}
HOUR_S = 3600
WRAP = 2**33


def numbers_and_times(path: Path, picks: slice = slice(None)) -> tuple[list[int], list[float]]:
    """Return the numbers and times of the picked frames, after a check that none of them is lost."""
    with PyAVSource(path) as source:
        times_s = source.timeline.times_s
        decoded = list(source.frames_at(list(range(len(times_s)))[picks]))
    assert not any(frame.lost for frame in decoded)
    return [number_in_picture(frame.rgb) for frame in decoded], times_s[picks].tolist()


def read_one(path: Path, moments: int) -> Clip:
    (clip,) = read_clips(path, PixelSpec(48, 64), TimeSpec(moments))
    return clip


def state_and_reason(path: Path) -> tuple[str, str]:
    with pytest.raises(UnreadableError) as caught:
        read_one(path, 4)
    assert "\n" not in str(caught.value)
    return caught.value.state, str(caught.value).removeprefix(f"{path} ")


def clip_from(path: Path, first_ms: int, frames: int = 25) -> bytes:
    return write_clip(path, frames, options=B_FRAMES, pts_ms=[first_ms + 40 * i for i in range(frames)]).read_bytes()


@pytest.mark.parametrize("second_ms", [0, 7, 500, 507, 900, 1000])
@pytest.mark.parametrize("first_ms", [0, 60_000, 600_000])
def test_files_laid_end_to_end(tmp_path: Path, first_ms: int, second_ms: int) -> None:
    path = tmp_path / "both.ts"
    parts = clip_from(tmp_path / "a.ts", first_ms), clip_from(tmp_path / "b.ts", second_ms)
    path.write_bytes(b"".join(parts))
    numbers, times_s = numbers_and_times(path)
    assert numbers == [*range(25), *range(25)]
    assert np.allclose(np.diff(times_s), 0.04)
    with PyAVSource(path) as source:
        assert source._index.order == "sorted"  # nothing is decoded to find that out, however long the files are
    assert numbers_and_times(path, slice(3, None, 11))[0] == numbers[3::11]


def _outlier(ticks: int, part: float) -> int:
    return ticks + WRAP // 2 if 0.5 < part < 0.52 else ticks


CLOCKS: dict[str, Callable[[int, float], int]] = {
    "set back by 3 s": lambda ticks, part: ticks + (60 - 3 * (part > 0.5)) * TS_TICKS_PER_S,
    "set back by an hour": lambda ticks, part: ticks + (2 - (part > 0.5)) * HOUR_S * TS_TICKS_PER_S,
    "set back by an hour and again ahead": lambda ticks, part: (
        ticks + (2 - (0.3 < part < 0.7)) * HOUR_S * TS_TICKS_PER_S
    ),
    "set back by 0.1 s": lambda ticks, part: ticks - TS_TICKS_PER_S // 10 * (part > 0.5),
    "one time is wrong": _outlier,
    "ahead by 9 hours and back": lambda ticks, part: ticks + 9 * HOUR_S * TS_TICKS_PER_S * (0.3 < part < 0.7),
    "wraps around": lambda ticks, part: ticks + WRAP - 4 * TS_TICKS_PER_S,
    "stands still": lambda ticks, part: 126_000,
}


@pytest.mark.parametrize("clock", CLOCKS)
def test_a_clock_that_jumps(tmp_path: Path, clock: str) -> None:
    path = tmp_path / "jumping.ts"
    path.write_bytes(ts_with_times(write_clip(path, 100, options=B_FRAMES).read_bytes(), CLOCKS[clock]))
    numbers, times_s = numbers_and_times(path)
    assert numbers == list(range(100)) and np.allclose(times_s, np.arange(100) / 25)
    assert numbers_and_times(path, slice(3, None, 11))[0] == numbers[3::11]


def test_times_that_are_not_even_survive_a_jump(tmp_path: Path) -> None:
    steps_ms = [40, 40, 120, 40, 200] * 10
    times_ms = np.cumsum([0, *steps_ms[:-1]]).tolist()
    path = write_clip(tmp_path / "irregular.ts", 50, options={"bf": "0"}, pts_ms=times_ms)
    path.write_bytes(ts_with_times(path.read_bytes(), CLOCKS["set back by 3 s"]))
    numbers, times_s = numbers_and_times(path)
    assert numbers == list(range(50))
    off = ~np.isclose(np.diff(times_s) * 1000, steps_ms[:-1])
    assert off.sum() <= 1  # at the jump nobody knows how long the pause was


@pytest.mark.parametrize(
    "changed",
    [
        lambda number, time_ms: time_ms - 800 * (number >= 25),
        lambda number, time_ms: time_ms - 40 * (number == 25),
        lambda number, time_ms: time_ms + 20_000 * (number == 25),
        lambda number, time_ms: 0,
    ],
    ids=["back", "again", "ahead", "still"],
)
def test_matroska_times_that_go_back(tmp_path: Path, changed: Callable[[int, int], int]) -> None:
    path = write_clip(tmp_path / "a.mkv", 50, options={"bf": "0", "g": "10"})
    path.write_bytes(mkv_with_times(path.read_bytes(), changed))
    numbers, times_s = numbers_and_times(path)
    is_shared = np.isin(
        np.arange(50), [25 if changed(25, 1000) == 960 else -1]
    )  # two frames of one stored time keep it
    assert (
        numbers == list(range(50))
        and ((np.diff(times_s, prepend=-1) > 0) ^ is_shared).all()
        and 1.9 < times_s[-1] < 2.1
    )
    for decoder in DECODERS:
        (clip,) = read_clips(path, PixelSpec(48, 64), TimeSpec(2), decoder=decoder)
        assert clip.damage is None and [number_in_picture(frame) for frame in clip.frames] in ([12, 37], [12, 38])


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "flv"])
def test_decoding_times_in_place_of_presentation_times(tmp_path: Path, suffix: str) -> None:
    source, path = write_clip(tmp_path / "a.mkv", 100, options=B_FRAMES), tmp_path / f"b.{suffix}"
    with av.open(str(source)) as clip, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(clip.streams.video[0])
        for number, packet in enumerate(packet for packet in clip.demux(video=0) if packet.size):
            packet.stream, packet.pts, packet.dts = stream, 40 * number, 40 * number
            container.mux(packet)
    numbers, times_s = numbers_and_times(path)
    assert numbers == list(range(100)) and np.allclose(times_s, np.arange(100) / 25)
    assert numbers_and_times(path, slice(3, None, 11))[0] == numbers[3::11]


def test_a_stream_that_announces_reordering_and_has_none_is_not_decoded_twice(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 100, options={**B_FRAMES, "x264-params": "b-bias=-100"})
    with PyAVSource(path) as source:
        assert source._stream.codec_context.reorder_depth > 0 and source._index.order == "sorted"
    assert numbers_and_times(path)[0] == list(range(100))


@pytest.mark.parametrize("ticks", [0, 2**30, 2**31])
def test_an_mp4_that_shows_a_frame_too_late(tmp_path: Path, ticks: int) -> None:
    path = write_clip(tmp_path / "a.mp4", 50, options={"bf": "2", "g": "10"})
    path.write_bytes(mp4_with_delay(path.read_bytes(), 8, ticks))
    clip = read_one(path, 50)
    assert clip.damage is None and clip.end_s == pytest.approx(2.0)
    shown = np.array([number_in_picture(frame) for frame in clip.frames])
    assert (shown != np.arange(50)).sum() <= 2


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_an_hour_between_two_frames(tmp_path: Path, suffix: str) -> None:
    times_s = [0.04 * i + HOUR_S * (i >= 25) for i in range(50)]
    path = write_clip(
        tmp_path / f"gap.{suffix}", 50, options=B_FRAMES, pts_ms=[round(1000 * time_s) for time_s in times_s]
    )
    numbers, read_s = numbers_and_times(path)
    assert numbers == list(range(50)) and np.allclose(read_s, times_s, atol=1e-3)
    assert [number_in_picture(frame) for frame in read_one(path, 4).frames] == [24, 24, 24, 24]


def test_more_than_a_day_is_too_large(tmp_path: Path) -> None:
    pts_ms = [40 * i + 30 * HOUR_S * 1000 * (i >= 25) for i in range(50)]
    path = write_clip(tmp_path / "long.mkv", 50, options={"bf": "0"}, pts_ms=pts_ms)
    assert state_and_reason(path) == ("too_large", "lasts 30.0 hours, the limit is 24; fix: cut it into parts")


def test_too_many_frames_are_refused_while_they_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "many.mp4", 60)
    monkeypatch.setattr(media_limits, "MAX_FRAMES_PER_VIDEO", 60)
    assert read_one(path, 4).damage is None
    monkeypatch.setattr(media_limits, "MAX_FRAMES_PER_VIDEO", 59)
    assert state_and_reason(path) == ("too_large", "has, or states, more than 59 frames; fix: cut it into parts")


def test_times_below_zero(tmp_path: Path) -> None:
    options = {"use_editlist": "0", "movflags": "negative_cts_offsets"}
    path = write_clip(tmp_path / "negative.mp4", 50, options=B_FRAMES, container_options=options)
    with av.open(str(path)) as container:
        assert min(packet.dts for packet in container.demux() if packet.dts is not None) < 0
    numbers, times_s = numbers_and_times(path)
    assert numbers == list(range(50)) and np.allclose(times_s, np.arange(50) / 25)


def test_an_mp4_without_durations(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "zero.mp4", 20, codec="mpeg4", options={"bf": "0"})
    path.write_bytes(overwritten(mp4_stating(path.read_bytes(), 0), b"stts", 12, struct.pack(">I", 0)))
    numbers, times_s = numbers_and_times(path)
    assert numbers == list(range(20)) and (np.diff(times_s) > 0).all()
