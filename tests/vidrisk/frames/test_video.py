"""Tests of videos: the right frame is shown at a moment in every container, and bad files end in one error."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numbered_clips import number_in_picture, write_clip, write_sound

from vidrisk.frames import Clip, Decoder, probe, read_clips
from vidrisk.frames.video_decord import DecordSource
from vidrisk.frames.video_pyav import PyAVSource
from vidrisk.runtimes.contract.errors import SettingsError, UnreadableError, is_installed
from vidrisk.runtimes.contract.specs import PixelSpec, TimeSpec

SPEC = PixelSpec(48, 64)
DECODERS: tuple[Decoder, ...] = ("pyav", "decord") if is_installed("decord") else ("pyav",)
B_FRAMES = {"bf": "3", "g": "24"}
_random = random.Random(1)
IRREGULAR_MS = np.cumsum([0, *(_random.choice([7, 20, 40, 41, 130]) for _ in range(99))]).tolist()
FASTSTART = {"movflags": "faststart"}

# name → (suffix, arguments of write_clip): 100 frames each
KINDS: dict[str, tuple[str, dict[str, object]]] = {
    "h264 with B-frames": ("mp4", {"options": B_FRAMES}),
    "h264 irregular": ("mp4", {"options": B_FRAMES, "pts_ms": IRREGULAR_MS}),
    "h264 from 5 s on": ("mp4", {"options": B_FRAMES, "pts_ms": [5000 + 40 * i for i in range(100)]}),
    "h264 fragmented": ("mp4", {"options": B_FRAMES, "container_options": {"movflags": "frag_keyframe+empty_moov"}}),
    "h264 open GOP": ("mp4", {"options": {**B_FRAMES, "x264-params": "open-gop=1"}}),
    "h264 in avi": ("avi", {"options": B_FRAMES}),
    "h264 in asf": ("asf", {"options": B_FRAMES}),
    "h264 in mxf": ("mxf", {"options": B_FRAMES}),
    "h264 in mkv": ("mkv", {"options": B_FRAMES}),
    "h264 in ts": ("ts", {"options": B_FRAMES}),
    "mpeg4": ("mp4", {"codec": "mpeg4", "options": {"bf": "2", "g": "24"}}),
    "mpeg4 in avi": ("avi", {"codec": "mpeg4", "options": {"bf": "2", "g": "24"}}),
    "mjpeg in avi": ("avi", {"codec": "mjpeg", "pix_fmt": "yuvj420p"}),
    "mpeg2 in mpg": ("mpg", {"codec": "mpeg2video", "options": {"bf": "2", "g": "12"}}),
    "vp9 in webm": ("webm", {"codec": "libvpx-vp9", "options": {"g": "24", "deadline": "realtime", "cpu-used": "8"}}),
    "wmv2": ("wmv", {"codec": "wmv2"}),
}
PICKS = [range(100), [50], [3, 77], [0, 30, 60, 99], [99], [23, 24, 25, 47, 48, 49], range(6, 100, 12), [10, 95, 97]]


def read_one(path: Path, time: TimeSpec | None, decoder: Decoder = "auto") -> Clip:
    (clip,) = read_clips(path, SPEC, time, decoder=decoder)
    return clip


def numbers_in(clip: Clip) -> list[int]:
    return [number_in_picture(frame) for frame in clip.frames]


@pytest.mark.parametrize("kind", KINDS)
def test_every_frame_is_found_by_its_place(tmp_path: Path, kind: str) -> None:
    suffix, arguments = KINDS[kind]
    path = write_clip(tmp_path / f"clip.{suffix}", 100, **arguments)  # type: ignore[arg-type]
    for source_type in (PyAVSource, DecordSource)[: len(DECODERS)]:
        for picks in PICKS:
            with source_type(path) as source:
                assert len(source.timeline.times_s) == 100
                decoded = list(source.frames_at(list(picks)))
            assert [number_in_picture(frame.rgb) for frame in decoded] == list(picks)
            assert [(frame.index, frame.shown, frame.lost) for frame in decoded] == [(i, i, False) for i in picks]


@pytest.mark.parametrize("decoder", DECODERS)
def test_moments_follow_presentation_times(tmp_path: Path, decoder: Decoder) -> None:
    path = write_clip(tmp_path / "irregular.mp4", 100, options=B_FRAMES, pts_ms=IRREGULAR_MS)
    times_s = np.array(IRREGULAR_MS) / 1000
    clip = read_one(path, TimeSpec(10), decoder)
    assert clip.start_s == 0 and clip.end_s is not None and clip.end_s > times_s[-1] and clip.damage is None
    moments_s = (np.arange(10) + 0.5) * clip.end_s / 10
    expected = [int(np.flatnonzero(times_s <= moment)[-1]) for moment in moments_s]
    assert numbers_in(clip) == expected
    assert np.abs(clip.time_s - times_s[expected]).max() <= 1e-3


@pytest.mark.parametrize("decoder", DECODERS)
def test_windows_share_frames_and_keep_their_rate(tmp_path: Path, decoder: Decoder) -> None:
    path = write_clip(tmp_path / "windows.mp4", 95, options=B_FRAMES, rate=25)  # 3.8 s
    clips = list(read_clips(path, SPEC, TimeSpec(4, 1.0, 0.5), decoder=decoder))
    assert [(clip.start_s, clip.end_s) for clip in clips] == [
        (0, 1),
        (0.5, 1.5),
        (1, 2),
        (1.5, 2.5),
        (2, 3),
        (2.5, 3.5),
        (3.0, pytest.approx(3.8)),
    ]
    for clip in clips:
        assert clip.start_s is not None
        moments_s = clip.start_s + np.array([0.125, 0.375, 0.625, 0.875])
        assert numbers_in(clip) == [min(94, int(moment * 25 + 1e-6)) for moment in moments_s]


def test_each_frame_is_decoded_once_and_few_are_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "once.mp4", 250, options=B_FRAMES)
    asked: list[int] = []
    frames_at = PyAVSource.frames_at

    def recorded(source: PyAVSource, indices: list[int]) -> Iterator[object]:
        for decoded in frames_at(source, indices):
            asked.append(decoded.index)
            yield decoded

    monkeypatch.setattr(PyAVSource, "frames_at", recorded)
    clips = read_clips(path, SPEC, TimeSpec(8, 1.0, 0.1))
    next(clips)
    assert len(asked) <= 25  # the first window is given before anything behind its second is decoded
    assert len(list(clips)) > 80
    assert len(asked) == len(set(asked))


def test_a_photo_model_takes_the_middle_frame(tmp_path: Path) -> None:
    assert numbers_in(read_one(write_clip(tmp_path / "middle.mp4", 31), None)) == [15]


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("frames", [1, 3])
def test_a_clip_shorter_than_its_moments_repeats_frames(tmp_path: Path, frames: int, decoder: Decoder) -> None:
    clip = read_one(write_clip(tmp_path / "short.mp4", frames), TimeSpec(8), decoder)
    assert clip.frames.shape == (8, 48, 64, 3) and clip.damage is None
    assert numbers_in(clip) == [int((i + 0.5) * frames / 8) for i in range(8)]
    (window,) = read_clips(tmp_path / "short.mp4", SPEC, TimeSpec(8, 10.0), decoder=decoder)
    assert window.end_s == pytest.approx(frames / 25) and numbers_in(window)[-1] == frames - 1


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(("rotation", "turns"), [(90, 1), (180, 2), (-90, 3)])
def test_display_rotation(tmp_path: Path, rotation: int, turns: int, decoder: Decoder) -> None:
    path = write_clip(tmp_path / "turned.mp4", 30, rotation=rotation)
    plain = read_one(write_clip(tmp_path / "plain.mp4", 30), TimeSpec(1)).frames[0]
    (clip,) = read_clips(path, PixelSpec(64, 48) if turns % 2 else SPEC, TimeSpec(1), decoder=decoder)
    assert np.abs(np.rot90(plain, turns).astype(int) - clip.frames[0]).mean() < 2  # decord rounds otherwise
    info = probe(path)
    assert (info.width, info.height) == ((48, 64) if turns % 2 else (64, 48))


def test_probe(tmp_path: Path) -> None:
    info = probe(write_clip(tmp_path / "a.mp4", 50, width=64, height=48))
    assert (info.kind, info.width, info.height, info.frames) == ("video", 64, 48, 50)
    assert info.duration_s == pytest.approx(2.0) and info.fps == pytest.approx(25.0)


@pytest.mark.parametrize("decoder", DECODERS)
def test_odd_sizes(tmp_path: Path, decoder: Decoder) -> None:
    path = write_clip(tmp_path / "odd.mp4", 30, width=351, height=243, pix_fmt="yuv444p")
    assert (probe(path).width, probe(path).height) == (351, 243)
    (clip,) = read_clips(path, PixelSpec(243, 351), TimeSpec(3), decoder=decoder)
    assert numbers_in(clip) == [5, 15, 25]


def test_frames_may_change_size_in_mid_stream(tmp_path: Path) -> None:
    small = write_clip(tmp_path / "small.ts", 25, width=64, height=48).read_bytes()
    large = write_clip(
        tmp_path / "large.ts", 25, width=128, height=96, pts_ms=[1000 + 40 * i for i in range(25)]
    ).read_bytes()
    (tmp_path / "both.ts").write_bytes(small + large)
    clip = read_one(tmp_path / "both.ts", TimeSpec(50))
    assert set(numbers_in(clip)) == set(range(25)) and clip.frames.shape == (50, 48, 64, 3)


def test_full_range_video_keeps_its_range(tmp_path: Path) -> None:
    clip = read_one(write_clip(tmp_path / "full.avi", 8, codec="mjpeg", pix_fmt="yuvj420p"), TimeSpec(8))
    assert clip.frames[7, 10:40, 3:20].min() > 250 and clip.frames[7, 10:40, 30:60].max() < 5


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("cut.mp4", {"options": B_FRAMES, "container_options": FASTSTART}),
        ("cut.avi", {"codec": "mpeg4", "options": {"g": "12"}}),
        ("cut.mkv", {"options": B_FRAMES}),
    ],
)
def test_a_cut_file_says_what_was_lost(tmp_path: Path, name: str, arguments: dict[str, object]) -> None:
    path = write_clip(tmp_path / name, 100, **arguments)  # type: ignore[arg-type]
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 8 // 10])
    clip = read_one(path, TimeSpec(8))
    assert clip.end_s is not None and 2.0 < clip.end_s < 3.9 and clip.damage is not None
    said = str(clip.damage)
    assert "the file ends at" in said and "of 4.00 s" in said and "\n" not in said
    numbers = numbers_in(clip)
    assert numbers == sorted(set(numbers)) and numbers[-1] < 93  # spread over what is there
    windows = list(read_clips(path, SPEC, TimeSpec(2, 0.2)))
    assert windows[0].damage is None  # the first window is whole, and the last one tells of the cut in any case
    assert windows[-1].damage is not None and windows[-1].start_s is not None and windows[-1].start_s < 3.7


def test_garbage_in_the_middle_costs_only_its_moments(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "hole.mp4", 96, options={"g": "12", "bf": "0"}, container_options=FASTSTART)
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat")
    hole = slice(start + (len(content) - start) * 4 // 10, start + (len(content) - start) * 5 // 10)
    content[hole] = bytes(len(content[hole]))
    path.write_bytes(bytes(content))
    clip = read_one(path, TimeSpec(24))
    numbers = numbers_in(clip)
    assert numbers[:6] == [2, 6, 10, 14, 18, 22] and numbers[-6:] == [74, 78, 82, 86, 90, 94]
    assert clip.damage is not None and clip.damage.cut_s is None and clip.damage.lost_s is not None
    assert 1.0 < clip.damage.lost_s[0] <= clip.damage.lost_s[1] < 2.6 and "the file ends" not in str(clip.damage)
    assert len(clip.time_s) - len(set(clip.time_s.tolist())) <= 3


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    ("content", "message", "state"),
    [
        (b"", "is empty", "corrupt"),
        (b"these are words, not pictures\n" * 200, "cannot be opened as a video", "corrupt"),
        (b"ffconcat version 1.0\nfile good.mp4\n", "cannot be opened as a video", "corrupt"),
        (b"#EXTM3U\n#EXTINF:10,\ngood.mp4\n#EXT-X-ENDLIST\n", "cannot be opened as a video", "corrupt"),
        (os.urandom(4096), "cannot be opened as a video", "corrupt"),
    ],
)
def test_what_is_no_video(tmp_path: Path, content: bytes, message: str, state: str, decoder: Decoder) -> None:
    write_clip(tmp_path / "good.mp4", 5)
    (tmp_path / "bad.mp4").write_bytes(content)
    with pytest.raises(UnreadableError, match=message) as caught:
        read_one(tmp_path / "bad.mp4", TimeSpec(8), decoder)
    assert caught.value.state == state and "\n" not in str(caught.value)
    with pytest.raises(UnreadableError, match=message):
        probe(tmp_path / "bad.mp4")


def test_an_mp4_without_its_index_is_corrupt(tmp_path: Path) -> None:
    content = write_clip(tmp_path / "a.mp4", 50).read_bytes()
    (tmp_path / "a.mp4").write_bytes(content[: content.index(b"moov") - 4])
    with pytest.raises(UnreadableError) as caught:
        read_one(tmp_path / "a.mp4", TimeSpec(8))
    assert caught.value.state == "corrupt"


def test_sound_alone_is_skipped(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="has no video stream") as caught:
        read_one(write_sound(tmp_path / "sound.mp4"), TimeSpec(8))
    assert caught.value.state == "skipped"


def test_a_video_without_one_decodable_frame_is_corrupt(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 20, container_options=FASTSTART)
    content = path.read_bytes()
    start = content.index(b"mdat") + 4
    path.write_bytes(content[:start] + b"\xff" * (len(content) - start))
    with pytest.raises(UnreadableError, match="no frame can be decoded") as caught:
        read_one(path, TimeSpec(8))
    assert caught.value.state == "corrupt"


def test_what_cannot_be_opened_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "notes.txt").write_text("words")
    for name, message in (
        ("missing.mp4", "does not exist"),
        ("folder.mp4", "is not a file"),
        ("pipe.mp4", "is not a file"),
        ("notes.txt", "neither a photo nor a video"),
    ):
        with pytest.raises(UnreadableError, match=message) as caught:
            read_one(tmp_path / name, TimeSpec(8))
        assert caught.value.state == "skipped"


def test_a_file_that_may_not_be_read_is_skipped(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "secret.mp4", 3)
    path.chmod(0)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    is_root = os.geteuid() == 0
    if is_root:  # to whom permissions do not apply
        os.seteuid(65534)
    try:
        with pytest.raises(UnreadableError, match="may not be read") as caught:
            read_one(path, TimeSpec(8))
    finally:
        if is_root:
            os.seteuid(0)
    assert caught.value.state == "skipped"


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    "name",
    [
        "with space.mp4",
        'it\'s "quoted".mp4',
        "裂缝 严重.mp4",
        "🎥🔥.mp4",
        "http:x.mp4",
        "a%03d.mp4",
        "-i.mp4",
        "UPPER.MP4",
    ],
)
def test_odd_names(tmp_path: Path, name: str, decoder: Decoder) -> None:
    write_clip(tmp_path / "plain.mp4", 3).rename(tmp_path / name)
    assert numbers_in(read_one(tmp_path / name, TimeSpec(3), decoder)) == [0, 1, 2]


def test_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_clip(tmp_path / "c:d.avi", 3, codec="mjpeg", pix_fmt="yuvj420p")
    monkeypatch.chdir(tmp_path)
    assert numbers_in(read_one(Path("c:d.avi"), TimeSpec(3))) == [0, 1, 2]


def test_an_unknown_decoder_is_a_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="auto, pyav, decord"):
        read_one(tmp_path / "a.mp4", None, "opencv")  # type: ignore[arg-type]
