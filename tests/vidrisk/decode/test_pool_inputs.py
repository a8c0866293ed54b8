"""Tests of the inputs of a pool.

They cover paths that no file can have, slow iterables, and more bad files than the pool reads ahead.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import faulty_decoder
import pytest
from colour import ACTION, colour_classifier
from hypothesis import given
from hypothesis import strategies as st
from small_media import write_photo, write_video

from vidrisk.decode.messages import Input, InputEnd, Pause, ReadSettings, ThumbnailInput, ThumbnailSettings
from vidrisk.decode.pool import DecodePool
from vidrisk.files.paths import MAX_PATH_BYTES, path_from_stored, stored_from_path, why_no_path
from vidrisk.frames import Frame
from vidrisk.inference.predictor import Model
from vidrisk.runtimes.contract.errors import SettingsError, UnreadableError
from vidrisk.runtimes.contract.specs import TimeSpec

SETTINGS = ReadSettings(ACTION.pixel, ACTION.time, slots=8)


def ends(pool: DecodePool, paths: list[str]) -> list[tuple[str, str]]:
    """Return the state and the reason of each path, in the order of the paths."""
    found = {
        read.id: (read.item.state, read.item.reason)
        for read in pool.read([Input(*item) for item in enumerate(paths)], SETTINGS)
        if isinstance(read.item, InputEnd)
    }
    return [found[number] for number in range(len(paths))]


def test_more_bad_files_than_a_pool_reads_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bad files are read again while the good files behind them have not been given yet."""
    faulty_decoder.install(tmp_path, monkeypatch)
    monkeypatch.setattr("vidrisk.decode.pool.AHEAD", 2)
    bad = [write_photo(tmp_path / f"exit{number:02}.png") for number in range(5)]
    good = [write_photo(tmp_path / f"{number:02}.png") for number in range(8)]
    with DecodePool(1) as pool:
        assert Counter(state for state, _ in ends(pool, [*bad, *good])) == {"crashed": 5, "ok": 8}


@pytest.mark.parametrize("name", ["\ud83d.png", "a\0b.png", "a" * 5000 + ".png"], ids=["surrogate", "null", "long"])
def test_a_path_that_no_file_can_have_harms_nobody(name: str, tmp_path: Path) -> None:
    photo = write_photo(tmp_path / "a.png")
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")  # as names are that are no UTF-8
    Path(photo).rename(odd)
    with DecodePool(1) as pool:
        (state, reason), *others = ends(pool, [str(tmp_path / name), odd, odd])
        assert state == "skipped" and "path" in reason and others == [("ok", "")] * 2
        requests = [ThumbnailInput(0, path, (0.0,), 5000) for path in (str(tmp_path / name), odd)]
        assert [len(found) for found in pool.thumbnails(requests, ThumbnailSettings())] == [0, 1]
    with (
        Model(colour_classifier(ACTION), workers=1) as model,
        pytest.raises(UnreadableError, match=r"\(skipped\): its path"),
    ):
        model.predict(str(tmp_path / name))


@given(st.text(st.characters(), max_size=8) | st.binary(max_size=8).map(os.fsdecode))
def test_every_path_crosses_or_says_why_not(path: str) -> None:
    if why_no_path(path):
        with pytest.raises((ValueError, UnicodeEncodeError)):
            os.stat(path)  # noqa: PTH116 (what Python itself says)
    else:
        assert path_from_stored(stored_from_path(path)) == path and len(os.fsencode(path)) <= MAX_PATH_BYTES


def test_inputs_are_read_as_they_are_given(tmp_path: Path) -> None:
    """The third input is not requested before the first result, although the pool could read that far ahead."""
    photo, asked = write_photo(tmp_path / "a.png"), []

    def slow() -> Iterator[Input]:
        for number in range(6):
            time.sleep(0.15)
            asked.append(number)
            yield Input(number, photo)

    with DecodePool(2) as pool:
        list(pool.read([Input(0, photo)], SETTINGS))
        order = [
            (len(asked), type(read.item))
            for read in pool.read(slow(), SETTINGS)
            if isinstance(read.item, InputEnd | Pause)
        ]
    assert order[0] in ((1, InputEnd), (2, InputEnd)) and Pause in {kind for _, kind in order}
    assert sum(kind is InputEnd for _, kind in order) == 6


def test_a_slow_giver_does_not_have_to_wait_for_long_inputs(tmp_path: Path) -> None:
    """Two workers read two videos at the same time, although the second video is given late."""
    clip = write_video(tmp_path / "long.mp4", ("red", "green") * 10, fps=30)

    def slow() -> Iterator[Input]:
        for number in range(2):
            time.sleep(0.05)
            yield Input(number, clip)

    seen = []
    with DecodePool(2) as pool:
        for read in pool.read(slow(), ReadSettings(ACTION.pixel, TimeSpec(30, 1.0), slots=4)):
            if isinstance(read.item, Frame | InputEnd):
                seen.append((read.id, isinstance(read.item, InputEnd)))
                time.sleep(0.002)
    assert seen.index((1, False)) < seen.index((0, True))


def test_predictions_of_a_slow_giver_do_not_wait_for_a_full_batch(tmp_path: Path) -> None:
    photo, asked = write_photo(tmp_path / "a.png"), []

    def slow() -> Iterator[str]:
        for number in range(5):
            time.sleep(0.15)
            asked.append(number)
            yield photo

    with Model(colour_classifier(ACTION), workers=1) as model:
        model.predict(photo)
        known = [len(asked) for _ in model.stream(slow())]
    assert len(known) == 5 and known[0] < 3


@pytest.mark.parametrize("workers", [0, -1, 65])
def test_a_pool_has_workers(workers: int) -> None:
    with pytest.raises(SettingsError, match="allowed: 1 to 64"):
        DecodePool(workers)


def test_a_process_with_many_open_files_reads_as_ever(tmp_path: Path) -> None:
    """A pool works with file descriptors above 1023, which select(2) does not support."""
    code = f"""
import os, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
from vidrisk.decode.messages import Input, InputEnd, ReadSettings
from vidrisk.decode.pool import DecodePool
from vidrisk.decode.session import Limits
from vidrisk.runtimes.contract.specs import PixelSpec
with DecodePool(1) as pool:
    for _ in range(2):
        reads = pool.read([Input(0, {write_photo(tmp_path / "a.png")!r})], ReadSettings(PixelSpec(8, 8), None), limits=Limits(5.0))
        print(*(read.item.state for read in reads if isinstance(read.item, InputEnd)))
"""
    end = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert end.stdout.split() == ["ok", "ok"], end.stderr
