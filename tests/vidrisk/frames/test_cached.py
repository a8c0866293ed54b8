from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numbered_clips import number_in_picture, numbered_picture, write_clip
from PIL import Image

from vidrisk.files.cache import ArrayCache
from vidrisk.frames import Clip, read_clips
from vidrisk.frames.cached import CachedClips
from vidrisk.runtimes.contract.bundle import sha256_of
from vidrisk.runtimes.contract.contract import Contract, Target
from vidrisk.runtimes.contract.errors import UnreadableError
from vidrisk.runtimes.contract.specs import PixelSpec, TimeSpec

ACTION = Contract(
    task="action", pixel=PixelSpec(48, 64), time=TimeSpec(frames=8), targets=(Target(name="action", labels=("a", "b")),)
)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mp4", 80)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return a list to which the path of every decoded file is appended."""
    paths: list[Path] = []

    def read(path: Path, *specs: Any) -> Iterator[Clip]:
        paths.append(path)
        return read_clips(path, *specs)

    monkeypatch.setattr("vidrisk.frames.cached.read_clips", read)
    return paths


def clips_of(tmp_path: Path, contract: Contract = ACTION) -> CachedClips:
    return CachedClips(contract, ArrayCache(tmp_path / "arrays", 2**24))


@pytest.mark.parametrize("count", [1, 4, 8, 9])
def test_frames_are_those_of_the_reader_decoded_once(
    tmp_path: Path, clip: Path, decoded: list[Path], count: int
) -> None:
    whole = next(read_clips(clip, ACTION.pixel, ACTION.time)).frames
    for _ in range(3):
        frames = clips_of(tmp_path).frames(clip, count)
        wanted = {1: [0], 4: [0, 2, 4, 7]}.get(count, list(range(8)))
        assert np.array_equal(frames, whole[wanted]) and frames.dtype == np.uint8
    assert decoded == [clip]


def test_the_same_content_elsewhere_is_known_and_another_spec_is_not(
    tmp_path: Path, clip: Path, decoded: list[Path]
) -> None:
    clips_of(tmp_path).frames(clip, 8)
    copy = Path(shutil.copy(clip, tmp_path / "copy.mp4"))
    clips_of(tmp_path).frames(copy, 8)
    assert decoded == [clip]
    for change in (
        {"pixel": PixelSpec(48, 64, resize="pad")},
        {"time": TimeSpec(frames=8, window_s=1.0)},
        {"time": None},
    ):
        decoded.clear()
        contract = ACTION.model_copy(update=change)
        frames = clips_of(tmp_path, contract).frames(clip, 8)
        assert decoded == [clip] and np.array_equal(
            frames, next(read_clips(clip, contract.pixel, contract.time)).frames
        )
    picture = Path(shutil.copy(clip, tmp_path / "clip.gif"))  # its content decides on the decoder
    decoded.clear()
    assert len(clips_of(tmp_path).frames(picture, 8)) == 8 and decoded == []


def test_a_file_that_changes_is_read_again(tmp_path: Path, decoded: list[Path]) -> None:
    clips, path = clips_of(tmp_path), tmp_path / "photo.png"
    for number in (3, 9):
        Image.fromarray(numbered_picture(number, 64, 48)).save(path)
        os.utime(path, (number, number))
        assert number_in_picture(clips.frames(path, 1)[0]) == number
        assert clips.digest(path) == sha256_of(path)
    assert decoded == [path, path]


def test_what_changes_while_it_is_decoded_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "photo.png"
    first, second = (numbered_picture(number, 64, 48) for number in (3, 9))
    Image.fromarray(first).save(path)

    def read(*specs: Any) -> Iterator[Clip]:
        Image.fromarray(second).save(path)
        os.utime(path, (9, 9))
        return read_clips(*specs)

    with monkeypatch.context() as patch:
        patch.setattr("vidrisk.frames.cached.read_clips", read)
        clips_of(tmp_path).frames(path, 1)
    Image.fromarray(first).save(path)
    assert number_in_picture(clips_of(tmp_path).frames(path, 1)[0]) == 3


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo", "empty", "text"])
def test_what_cannot_be_read_is_said_as_the_reader_says_it(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("notes.txt" if kind == "text" else "clip.mp4")
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind != "missing":
        path.write_bytes(b"" if kind == "empty" else b"text")
    with pytest.raises(UnreadableError) as expected:
        next(read_clips(path, ACTION.pixel, ACTION.time))
    for ask in (lambda: clips_of(tmp_path).frames(path, 8), lambda: clips_of(tmp_path).digest(path)):
        with pytest.raises(UnreadableError) as said:
            ask()
        assert (str(said.value), said.value.state) == (str(expected.value), expected.value.state)
