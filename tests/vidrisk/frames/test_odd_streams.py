"""Tests of headers that state a false video length, and of files without exactly one stream of frames."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from numbered_clips import number_in_picture, numbered_picture, write_clip
from odd_clips import avi_stating, mkv_stating, mp4_stating, overwritten

from vidrisk.frames import Clip, read_clips
from vidrisk.frames.boxes import read_stated_frames
from vidrisk.frames.media import MAX_FRAMES_PER_VIDEO
from vidrisk.frames.video_decord import DecordSource
from vidrisk.frames.video_pyav import PyAVSource
from vidrisk.runtimes.contract.errors import UnreadableError, is_installed
from vidrisk.runtimes.contract.specs import PixelSpec, TimeSpec

B_FRAMES = {"bf": "3", "g": "24"}


def read_one(path: Path, moments: int) -> Clip:
    (clip,) = read_clips(path, PixelSpec(48, 64), TimeSpec(moments))
    return clip


def numbers_in(clip: Clip) -> list[int]:
    return [number_in_picture(frame) for frame in clip.frames]


@pytest.mark.parametrize("duration", [1, 2**31 - 1, 0])
def test_an_mp4_lasts_as_long_as_its_frames(tmp_path: Path, duration: int) -> None:
    path = write_clip(tmp_path / "a.mp4", 50, options=B_FRAMES, container_options={"use_editlist": "0"})
    path.write_bytes(mp4_stating(path.read_bytes(), duration))
    clip = read_one(path, 50)
    assert clip.damage is None and clip.end_s == pytest.approx(2.0)
    assert numbers_in(clip) == list(range(50))


def mp4_of_one_size(path: Path, frames: int) -> Path:
    """Write an MP4 whose table states ``frames`` frames of one byte each."""
    content = write_clip(path, 50, codec="mpeg4").read_bytes()
    path.write_bytes(overwritten(content, b"stsz", 4, struct.pack(">II", 1, frames)))
    return path


def fragments(path: Path, frames: int) -> Path:
    content = write_clip(path, 50, container_options={"movflags": "frag_keyframe+empty_moov"}).read_bytes()
    path.write_bytes(overwritten(content, b"trun", 4, struct.pack(">I", frames)))
    return path


@pytest.mark.parametrize("written", [mp4_of_one_size, fragments])
@pytest.mark.parametrize("frames", [MAX_FRAMES_PER_VIDEO + 1, 80_000_000, 2**32 - 1])
def test_tables_that_state_too_many_frames_are_not_read(
    tmp_path: Path, frames: int, written: Callable[[Path, int], Path]
) -> None:
    path = written(tmp_path / "a.mp4", frames)
    with pytest.raises(UnreadableError, match="has, or states, more than 10368000 frames") as caught:
        read_one(path, 4)
    assert caught.value.state == "too_large"


def test_tables_of_honest_files(tmp_path: Path) -> None:
    assert read_stated_frames(mp4_of_one_size(tmp_path / "a.mp4", 50)) == 50
    assert read_stated_frames(fragments(tmp_path / "b.mp4", 7)) == 7
    for name, codec in (("c.mp4", "libx264"), ("d.avi", "mpeg4"), ("e.mkv", "libx264"), ("f.ts", "libx264")):
        assert read_stated_frames(write_clip(tmp_path / name, 50, codec=codec)) == 0


def test_boxes_in_boxes_without_end(tmp_path: Path) -> None:
    nested = b"".join(struct.pack(">I", 8 * (5000 - depth)) + b"moov" for depth in range(5000))
    (tmp_path / "nested.mp4").write_bytes(write_clip(tmp_path / "a.mp4", 2).read_bytes() + nested)
    assert read_stated_frames(tmp_path / "nested.mp4") == 0 and numbers_in(read_one(tmp_path / "nested.mp4", 2)) == [
        0,
        1,
    ]


def test_pcm_has_a_frame_for_every_sample(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mov"), "w") as container:
        video, sound = (
            container.add_stream("mpeg4", rate=25),
            container.add_stream("pcm_s16le", rate=48000, layout="mono"),
        )
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        container.mux(video.encode(av.VideoFrame.from_ndarray(numbered_picture(3, 64, 48), "rgb24")))
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 48000), np.int16), "s16", "mono")
        frame.sample_rate = 48000
        container.mux([*sound.encode(frame), *video.encode(), *sound.encode()])
    assert b"\0\0\0\x02\0\0\xbb\x80" in (tmp_path / "a.mov").read_bytes()  # 48,000 frames of two bytes
    assert read_stated_frames(tmp_path / "a.mov") <= 1 and numbers_in(read_one(tmp_path / "a.mov", 1)) == [3]


@pytest.mark.parametrize(("frames", "is_cut"), [(10, False), (250, True), (2**31 - 1, False)])
def test_an_avi_that_states_another_number_of_frames(tmp_path: Path, frames: int, is_cut: bool) -> None:
    path = write_clip(tmp_path / "a.avi", 50, codec="mpeg4")
    path.write_bytes(avi_stating(path.read_bytes(), frames))
    clip = read_one(path, 50)
    assert clip.end_s == pytest.approx(2.0) and (clip.damage is not None) == is_cut
    if clip.damage:
        assert str(clip.damage).startswith("the file ends at 2.00 of 10.00 s")


@pytest.mark.parametrize(
    ("stated_s", "is_cut"), [(0.1, False), (20.0, True), (1e9, False), (float("nan"), False), (-5.0, False)]
)
def test_an_mkv_that_states_another_duration(tmp_path: Path, stated_s: float, is_cut: bool) -> None:
    path = write_clip(tmp_path / "a.mkv", 50, options=B_FRAMES)
    path.write_bytes(mkv_stating(path.read_bytes(), stated_s))
    clip = read_one(path, 50)
    assert clip.end_s == pytest.approx(2.0, abs=0.05) and (clip.damage is not None) == is_cut


def test_a_part_of_an_mp4_is_whole(tmp_path: Path) -> None:
    """A clip whose edit list shows only the second half is not reported as truncated."""
    path = write_clip(tmp_path / "half.mp4", 50, options=B_FRAMES, pts_ms=[40 * i - 1000 for i in range(50)])
    clip = read_one(path, 25)
    assert clip.damage is None and clip.end_s == pytest.approx(1.0)
    assert numbers_in(clip) == list(range(25, 50))


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "webm", "avi"])
def test_one_frame(tmp_path: Path, suffix: str) -> None:
    codec = {"webm": "libvpx", "avi": "mpeg4"}.get(suffix, "libx264")
    clip = read_one(write_clip(tmp_path / f"one.{suffix}", 1, codec=codec), 3)
    assert (
        clip.damage is None and clip.time_s.tolist() == [0, 0, 0] and clip.end_s is not None and 0 < clip.end_s <= 0.1
    )


def test_a_recording_that_starts_between_keyframes(tmp_path: Path) -> None:
    content = write_clip(
        tmp_path / "a.ts", 100, options={"bf": "0", "g": "24", "x264-params": "scenecut=0"}
    ).read_bytes()
    (tmp_path / "late.ts").write_bytes(
        content[: 2 * 188] + content[len(content) // 188 // 8 * 188 :]
    )  # with the tables of the start
    clip = read_one(tmp_path / "late.ts", 76)
    assert numbers_in(clip) == list(range(24, 100)) and clip.time_s[0] == 0 and clip.damage is None


def write_two(path: Path, marked: int) -> Path:
    """Write a clip with two video streams; the frame numbers of the second stream begin at 100."""
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("mpeg4", rate=25) for _ in range(2)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        streams[marked].disposition = av.stream.Disposition.default
        for number in range(20):
            for stream, first in zip(streams, (0, 100), strict=True):
                container.mux(
                    stream.encode(av.VideoFrame.from_ndarray(numbered_picture(first + number, 64, 48), "rgb24"))
                )
        for stream in streams:
            container.mux(stream.encode())
    return path


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("marked", [0, 1])
def test_of_two_streams_the_one_that_a_player_shows(tmp_path: Path, suffix: str, marked: int) -> None:
    path = write_two(tmp_path / f"two.{suffix}", marked)
    for source_type in (PyAVSource, DecordSource)[: 2 if is_installed("decord") else 1]:
        with source_type(path) as source:
            assert [number_in_picture(frame.rgb) for frame in source.frames_at([3, 17])] == [
                100 * marked + 3,
                100 * marked + 17,
            ]


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize("thumbnail_first", [True, False])
@pytest.mark.parametrize("size", [(64, 48), (1280, 720)])
def test_a_stream_of_one_frame_is_not_the_clip(
    tmp_path: Path, suffix: str, thumbnail_first: bool, size: tuple[int, int]
) -> None:
    path = tmp_path / f"two.{suffix}"
    with av.open(str(path), "w") as container:
        kinds = ["mjpeg", "libx264"] if thumbnail_first else ["libx264", "mjpeg"]
        streams = {kind: container.add_stream(kind, rate=25) for kind in kinds}
        for kind, stream in streams.items():
            stream.width, stream.height = size if kind == "mjpeg" else (64, 48)
            stream.pix_fmt = "yuvj420p" if kind == "mjpeg" else "yuv420p"
        container.mux(streams["mjpeg"].encode(av.VideoFrame.from_ndarray(numbered_picture(200, *size), "rgb24")))
        for number in range(30):
            container.mux(
                streams["libx264"].encode(av.VideoFrame.from_ndarray(numbered_picture(number, 64, 48), "rgb24"))
            )
        for stream in streams.values():
            container.mux(stream.encode())
    assert numbers_in(read_one(path, 30)) == list(range(30))
    for source_type in (PyAVSource, DecordSource)[: 2 if is_installed("decord") else 1]:
        with source_type(path) as source:
            assert [number_in_picture(frame.rgb) for frame in source.frames_at([3, 17])] == [3, 17]


def test_of_streams_of_one_frame_the_first_counts(tmp_path: Path) -> None:
    path = tmp_path / "stills.mkv"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("mjpeg", rate=25) for _ in range(2)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for number, stream in enumerate(streams):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered_picture(7 + number, 64, 48), "rgb24")))
    assert numbers_in(read_one(path, 2)) == [7, 7]


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=16000, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(numbered_picture(1, 64, 48), "rgb24")))
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        container.mux(sound.encode(frame))
        container.mux([*sound.encode(), *cover.encode()])
    with pytest.raises(UnreadableError, match="has no video stream") as caught:
        read_one(path, 4)
    assert caught.value.state == "skipped"
