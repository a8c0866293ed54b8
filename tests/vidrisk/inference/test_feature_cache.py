"""Tests of the feature cache: encoded frames are reused by content, by encoder and by specs."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from colour import ACTION, colour_classifier
from small_media import write_photo, write_video

from vidrisk.decode.messages import KnownFrame
from vidrisk.decode.window_cache import through_cache
from vidrisk.files.cache import ArrayCache, array_cache
from vidrisk.frames import FrameWindow, read_frames
from vidrisk.inference.predictions import PREDICTIONS
from vidrisk.inference.stream import time_from_contract
from vidrisk.jobs.run_folder import run_folder
from vidrisk.jobs.run_settings import InferSettings
from vidrisk.jobs.saved_features import read_features
from vidrisk.jobs.sources import find_inputs
from vidrisk.jobs.summary import Summary
from vidrisk.runtimes import Contract


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArrayCache:
    monkeypatch.setenv("VIDRISK_CACHE", str(tmp_path / "cache"))
    return array_cache()


@pytest.fixture
def media(tmp_path: Path) -> Path:
    (tmp_path / "media").mkdir()
    for number, colour in enumerate(["red", "green", "blue"]):
        write_photo(tmp_path / "media" / f"{number}.png", colour)
    write_video(tmp_path / "media" / "long.mp4", ("red", "green", "blue", "red"))
    (tmp_path / "media" / "bad.mp4").write_bytes(b"no video")
    cut = tmp_path / "media" / "cut.avi"
    write_video(cut, ("red", "blue", "green"))
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 88 // 100])
    return tmp_path / "media"


def run(
    media: Path, out: Path, digest: str = "0" * 64, contract: Contract = ACTION, **settings: object
) -> tuple[int, list[bytes], Summary]:
    """Run the pipeline and return the number of encoded frames, the prediction lines and the summary."""
    sizes: list[int] = []
    classifier = colour_classifier(contract, digest=digest, batch_sizes=sizes)
    chosen = {"workers": 2, "feature_cache": True, "window_s": 1.0, "stride_s": 0.5, "batch_frames": 8, **settings}
    summary = run_folder(classifier, find_inputs([media]), out, InferSettings(**chosen))  # type: ignore[arg-type]
    return sum(sizes), sorted((out / PREDICTIONS).read_bytes().splitlines()), summary


def test_a_second_run_encodes_nothing_that_is_whole(media: Path, tmp_path: Path) -> None:
    encoded, lines, first = run(media, tmp_path / "first", save_features=True)
    again, same_lines, second = run(media, tmp_path / "second", save_features=True)
    partial = first.states["partial"]
    assert partial == 1 and first.states == second.states and lines == same_lines
    assert 0 < again < encoded / 2  # the cut file is read again: what cannot be read today may be there tomorrow
    rows = {Path(p).name: n for n, p in enumerate(find_inputs([media]).paths, start=1)}
    for name in ("long.mp4", "0.png"):
        for one, other in zip(
            read_features(tmp_path / "first", rows[name]), read_features(tmp_path / "second", rows[name]), strict=True
        ):
            assert (one == other).all() and len(one) == (1 if name == "0.png" else len(other))


def test_features_may_be_larger_than_a_frame(media: Path, tmp_path: Path) -> None:
    """Features may take more memory than a frame, although both go through the same shared memory.

    The features are three float32 values; a frame of one pixel has three bytes.
    """
    dot = ACTION.model_copy(update={"pixel": replace(ACTION.pixel, height=1, width=1)})
    assert InferSettings(feature_cache=True).for_reading(colour_classifier(dot)).slot_bytes == 12
    encoded, lines, first = run(media, tmp_path / "first", contract=dot)
    again, same_lines, second = run(media, tmp_path / "second", contract=dot)
    assert first.states == second.states == {"ok": 4, "partial": 1, "corrupt": 1}
    assert lines == same_lines and again < encoded / 2


def test_a_copy_under_another_name_is_known(media: Path, tmp_path: Path) -> None:
    run(media, tmp_path / "first")
    (tmp_path / "copies").mkdir()
    shutil.copy(media / "long.mp4", tmp_path / "copies" / "other.mp4")
    assert run(tmp_path / "copies", tmp_path / "second")[0] == 0


@pytest.mark.parametrize(
    "change",
    [
        {"digest": "1" * 64},
        {"stride_s": 1.0},
        {"static_levels": 2.0},
        {"frames": "keyframes"},
        {"feature_cache": False},
    ],
)
def test_another_encoder_or_spec_is_another_entry(change: dict[str, object], media: Path, tmp_path: Path) -> None:
    run(media, tmp_path / "first")
    encoded, lines, _ = run(media, tmp_path / "second", **change)  # type: ignore[arg-type]
    plain, same_lines, _ = run(media, tmp_path / "third", **{**change, "feature_cache": False})  # type: ignore[arg-type]
    assert encoded == plain > 0 and lines == same_lines


def test_damaged_and_missing_halves_are_misses(media: Path, tmp_path: Path, cache: ArrayCache) -> None:
    encoded, lines, _ = run(media, tmp_path / "first")
    entries = sorted(path for path in cache.folder.rglob("*") if path.is_file())
    assert entries
    for number, entry in enumerate(entries):
        entry.unlink() if number % 2 else entry.write_bytes(entry.read_bytes()[:-3])
    again, same_lines, _ = run(media, tmp_path / "second")
    assert (again, same_lines) == (encoded, lines)


def test_windows_come_behind_their_frames(media: Path, tmp_path: Path, cache: ArrayCache) -> None:
    """Cached windows follow their frames in the order of the reader.

    Replayed items and items that are read look the same to the run.
    """
    path, settings = str(media / "long.mp4"), time_from_contract(ACTION, 1.0, 0.25)
    run(media, tmp_path / "first", stride_s=0.25)
    read = [item if isinstance(item, FrameWindow) else item.index for item in read_frames(path, ACTION.pixel, settings)]
    reading = InferSettings(window_s=1.0, stride_s=0.25, feature_cache=True).for_reading(colour_classifier(ACTION))
    replayed = [
        item.index if isinstance(item, KnownFrame) else item for item in through_cache(cache, path, reading, ())
    ]
    assert replayed == read
    kept: list[str] = []
    assert reading.time is not None
    of_other_width = replace(reading, features=7)
    of_other_moments = replace(reading, time=replace(reading.time, frames=2))
    for other in (of_other_width, of_other_moments):
        assert list(through_cache(cache, path, other, read_frames(path, ACTION.pixel, settings), on_kept=kept.append))
    assert len(kept) == 2


def test_a_file_that_is_replaced_while_it_is_read_is_not_kept(media: Path, cache: ArrayCache) -> None:
    path = media / "0.png"
    reading = InferSettings(feature_cache=True).for_reading(colour_classifier(ACTION))
    kept: list[str] = []
    items = through_cache(cache, str(path), reading, read_frames(path, ACTION.pixel, ACTION.time), on_kept=kept.append)
    next(items)
    write_photo(path, "blue", size=(50, 50))
    assert list(items) and not kept
