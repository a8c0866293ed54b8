"""Tests of the reader on damaged copies of every kind of file, in this process: frames, or one error."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path

import pytest
from mutants import mutants
from tiny_media import tiny_media

from vidrisk.frames import Decoder, read_clips
from vidrisk.runtimes.contract.errors import UnreadableError, is_installed
from vidrisk.runtimes.contract.specs import PixelSpec, TimeSpec

SPEC = PixelSpec(48, 64)
TIMES = (TimeSpec(4), TimeSpec(2, 0.2, 0.1), None)
COUNT = 240
# A length that is falsified may state a day of video, in windows of a tenth of a second.
MAX_CLIPS = 100


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return tiny_media(tmp_path_factory.mktemp("originals"))


def state_of(path: Path, time: TimeSpec | None, decoder: Decoder = "auto") -> str:
    try:
        for number, clip in enumerate(read_clips(path, SPEC, time, decoder=decoder)):
            assert clip.frames.shape == (time.frames if time else 1, *SPEC.frame_shape)
            if clip.damage or number == MAX_CLIPS:
                return "partial"
        return "ok"
    except UnreadableError as error:
        assert str(error).isprintable()
        return error.state


def test_every_original_is_read(media: dict[str, Path]) -> None:
    assert {name: state_of(path, time) for time in TIMES for name, path in media.items()} == dict.fromkeys(media, "ok")


@pytest.mark.parametrize("decoder", ["pyav", "decord"] if is_installed("decord") else ["pyav"])
def test_mutants_give_frames_or_one_error(media: dict[str, Path], tmp_path: Path, decoder: Decoder) -> None:
    names = list(media)
    states: Counter[str] = Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow, about what it reads
        for number, (name, content) in enumerate(
            mutants([path.read_bytes() for path in media.values()], COUNT, seed=20)
        ):
            path = tmp_path / f"{name}-{names[number % len(names)]}"
            path.write_bytes(content)
            states[state_of(path, TIMES[number % len(TIMES)], decoder)] += 1
    assert states.keys() <= {"ok", "partial", "corrupt", "too_large", "skipped"}
    assert min(states["ok"], states["partial"], states["corrupt"]) > 0
