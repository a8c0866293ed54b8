"""Tests of intervals: a part of a video is read like a whole video.

Its moments, its windows and its last frame lie within the part.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from numbered_clips import number_in_picture, write_clip
from PIL import Image

from vidrisk.files.cache import ArrayCache
from vidrisk.frames import Clip, Decoder, FrameChoice, FrameWindow, Interval, read_clips, read_frames
from vidrisk.frames.cached import CachedClips
from vidrisk.frames.interval import interval_from_json
from vidrisk.runtimes.contract.contract import Contract, Target
from vidrisk.runtimes.contract.errors import SpecError, UnreadableError, is_installed
from vidrisk.runtimes.contract.specs import PixelSpec, TimeSpec

SPEC = PixelSpec(48, 64)
DECODERS: tuple[Decoder, ...] = ("pyav", "decord") if is_installed("decord") else ("pyav",)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a clip of 100 numbered frames at 25 frames/s, with keyframes at 0, 24, 48 and so on."""
    return write_clip(
        tmp_path_factory.mktemp("clips") / "c.mp4", 100, options={"bf": "3", "g": "24", "sc_threshold": "0"}
    )


def numbers(clips: list[Clip]) -> list[list[int]]:
    return [[number_in_picture(frame) for frame in clip.frames] for clip in clips]


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("interval", [Interval(1.0, 2.0), Interval(25, 50, "frame")])
def test_moments_lie_inside(clip: Path, interval: Interval, decoder: Decoder) -> None:
    (read,) = read_clips(clip, SPEC, TimeSpec(5), interval, decoder=decoder)
    assert numbers([read]) == [[27, 32, 37, 42, 47]]
    assert (read.start_s, read.end_s, read.note) == (pytest.approx(1.0), pytest.approx(2.0), "")
    np.testing.assert_allclose(read.time_s, np.array([27, 32, 37, 42, 47]) / 25, atol=1e-3)  # the file's own times


def test_parts_of_a_clip_make_up_the_whole(clip: Path) -> None:
    parts = [next(read_clips(clip, SPEC, TimeSpec(25), Interval(start, start + 1.0))) for start in range(4)]
    assert [number for of_part in numbers(parts) for number in of_part] == list(range(100))


def test_windows_lie_inside(clip: Path) -> None:
    read = list(read_clips(clip, SPEC, TimeSpec(2, 0.4), Interval(1.0, 2.0)))
    assert [(round(w.start_s or 0, 3), round(w.end_s or 0, 3)) for w in read] == [(1.0, 1.4), (1.4, 1.8), (1.8, 2.0)]
    assert numbers(read)[:2] == [[27, 32], [37, 42]]


@pytest.mark.parametrize("choice", ["all", "keyframes"])
def test_no_frame_of_a_neighbour_is_shown(clip: Path, choice: FrameChoice) -> None:
    items = list(read_frames(clip, SPEC, TimeSpec(8), Interval(50, 80, "frame"), choice=choice))
    (window,) = [item for item in items if isinstance(item, FrameWindow)]
    assert min(window.indices) >= 50 and max(window.indices) < 80
    if choice == "keyframes":
        assert set(window.indices) == {72}


def test_without_keyframes_inside_every_frame_is_decoded(clip: Path) -> None:
    items = list(read_frames(clip, SPEC, TimeSpec(2), Interval(50, 60, "frame"), choice="keyframes"))
    assert [item.indices for item in items if isinstance(item, FrameWindow)] == [(52, 57)]


@pytest.mark.parametrize(
    ("interval", "note"),
    [
        (Interval(3.0, 4.03), ""),  # rounded to a frame
        (Interval(3.0, 4.5), "[3, 4.5) s is cut to the file's end"),
        (Interval(90, 105, "frame"), "frames [90, 105) is cut to the file's end"),
    ],
)
def test_an_end_behind_the_file_is_cut_and_said(clip: Path, interval: Interval, note: str) -> None:
    (read,) = read_clips(clip, SPEC, TimeSpec(2), interval)
    assert read.note == note and read.end_s == pytest.approx(4.0) and read.damage is None
    assert max(numbers([read])[0]) >= 93


@pytest.mark.parametrize(
    "interval",
    [Interval(4.0, 5.0), Interval(3.9, 9.0), Interval(100, 110, "frame"), Interval(0, 250), Interval(99, 110, "frame")],
)
def test_what_lies_mostly_outside_is_refused(clip: Path, interval: Interval) -> None:
    with pytest.raises(UnreadableError, match=r"lies outside the file, which has (4\.00 s|100 frames)") as caught:
        next(read_clips(clip, SPEC, TimeSpec(2), interval))
    assert caught.value.state == "skipped" and str(interval) in str(caught.value)


def test_what_lies_mostly_behind_the_end_of_a_cut_file_is_refused(tmp_path: Path) -> None:
    """An interval that lies mostly after the actual end of a truncated file is refused.

    The header states 4 s, and only decoding shows that the file holds less.
    """
    path = write_clip(tmp_path / "c.mkv", 100, options={"bf": "0", "g": "12"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (whole,) = read_clips(path, SPEC, TimeSpec(2))
    end_s = whole.end_s
    assert end_s is not None and whole.damage is not None and 1.0 < end_s < 3.0
    for start_s, where in ((end_s + 0.2, "before"), (end_s - 0.2, "in the first half of")):
        interval = Interval(start_s, 3.9)
        with pytest.raises(UnreadableError, match=f"the file ends at {end_s:.2f} s, {where} ") as caught:
            next(read_clips(path, SPEC, TimeSpec(2), interval))
        assert caught.value.state == "corrupt" and str(interval) in str(caught.value)
    (read,) = read_clips(path, SPEC, TimeSpec(2), Interval(end_s - 0.8, end_s + 0.4))
    assert read.end_s == end_s and f"the file ends at {end_s:.2f} of" in str(read.damage)
    (inside,) = read_clips(path, SPEC, TimeSpec(2), Interval(0.0, 1.0))
    assert inside.damage is None


def test_irregular_frames_are_counted_by_their_own_times(tmp_path: Path) -> None:
    times_ms = [0, 10, 20, 500, 1000, 1010, 1020, 1500, 2000, 2010]
    path = write_clip(tmp_path / "c.mkv", 10, pts_ms=times_ms)
    (read,) = read_clips(path, SPEC, TimeSpec(1), Interval(4, 8, "frame"))
    assert (read.start_s, read.end_s) == (pytest.approx(1.0), pytest.approx(2.0))
    assert numbers([read]) == [[7]]  # in the middle, at 1.5 s


def test_a_photo_has_no_interval(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "p.png")
    with pytest.raises(UnreadableError, match="is a photo, which has no interval"):
        next(read_clips(tmp_path / "p.png", SPEC, None, Interval(0, 1)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((-1, 1), "starts before the file"),
        ((2, 2), "is empty"),
        ((3, 2), "is reversed"),
        ((math.nan, 1), "finite"),
        ((0, math.inf), "finite"),
        ((0.5, 2, "frame"), "whole frames"),
        ((0, 1, "min"), "allowed: s, frame"),
    ],
)
def test_what_is_no_interval(values: tuple[float, float], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Interval(*values)


def test_overlaps_and_json() -> None:
    one = Interval(1, 2)
    assert (
        one.overlaps(Interval(1.5, 9)) and not one.overlaps(Interval(2, 3)) and one.overlaps(Interval(50, 60, "frame"))
    )
    assert interval_from_json(one.to_json()) == one and interval_from_json(None) is None


def test_intervals_have_entries_of_their_own_in_the_cache(clip: Path, tmp_path: Path) -> None:
    contract = Contract(
        task="action", pixel=SPEC, time=TimeSpec(4), targets=(Target(name="action", labels=("a", "b")),)
    )
    cached = CachedClips(contract, ArrayCache(tmp_path / "arrays", 2**24))
    for _ in range(2):
        for interval in (None, Interval(0, 1), Interval(2, 3), Interval(0, 25, "frame")):
            whole = next(read_clips(clip, SPEC, TimeSpec(4), interval)).frames
            assert np.array_equal(cached.frames(clip, 4, interval), whole)
