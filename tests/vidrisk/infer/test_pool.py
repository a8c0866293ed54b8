"""Decode workers that crash, hang and starve: each takes one file with it, and the others lose nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import faulty_decoder
import numpy as np
import pytest
from colour import ACTION
from small_media import RGB, write_photo, write_video

from vidrisk.infer.decode import Read, ReadAgain, ReadEnd, ReadFrame, ReadWindow
from vidrisk.infer.ledger import Row
from vidrisk.infer.pool import DecodePool
from vidrisk.infer.summary import StageTimes
from vidrisk.infer.wire import ReadSettings
from vidrisk.runtimes.errors import RuntimeFailure
from vidrisk.runtimes.specs import TimeSpec

SETTINGS = ReadSettings(ACTION.pixel, ACTION.time, slots=8)


def open_pool(settings: ReadSettings = SETTINGS, workers: int = 2, file_timeout_s: float = 20.0) -> DecodePool:
    return DecodePool(settings, StageTimes(), workers=workers, file_timeout_s=file_timeout_s)


def rows_of(paths: list[str]) -> list[Row]:
    return [Row(number, path) for number, path in enumerate(paths)]


def ends(reads: Iterator[Read]) -> dict[str, Row]:
    found = [read.row for read in reads if isinstance(read, ReadEnd)]
    assert len(found) == len({row.path for row in found})
    return {Path(row.path).name: row for row in found}


def children() -> set[int]:
    return {int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    (tmp_path / "photos").mkdir()
    return [write_photo(tmp_path / "photos" / f"{n:02}.png", colour) for n, colour in enumerate(["red", "green", "blue"] * 8)]


def test_pixels_cross_and_inputs_stay_apart(photos: list[str], tmp_path: Path) -> None:
    """A video among photos: frames of one input come in order, before the windows that show them."""
    paths = [*photos[:5], write_video(tmp_path / "clip.mp4", ("red", "blue")), *photos[5:]]
    seen: dict[int, list[int]] = {}
    windows: dict[int, ReadWindow] = {}
    with open_pool() as pool:
        for read in pool.read(rows_of(paths)):
            if isinstance(read, ReadFrame):
                seen.setdefault(read.row_id, []).append(read.index)
                if read.row_id != 5:
                    colour = list(RGB)[photos.index(paths[read.row_id]) % 3]
                    assert np.abs(read.pixels.astype(int) - RGB[colour]).max() <= 2
            elif isinstance(read, ReadWindow):
                assert set(read.indices) <= set(seen[read.row_id])
                windows[read.row_id] = read
            else:
                assert isinstance(read, ReadEnd) and read.row.state == "ok" and read.row.id in windows
    assert set(windows) == set(range(25))
    assert windows[5].indices == tuple(seen[5]) and len(seen[5]) == 4 and windows[5].start_s == 0.0
    assert windows[0].indices == (0, 0, 0, 0) and windows[0].start_s is None and seen[0] == [0]


def test_reading_ahead_is_bounded(tmp_path: Path) -> None:
    """Nobody takes the frames: the worker fills its slots and waits, and that is no silence to be killed for."""
    path = write_video(tmp_path / "long.mp4", ("red", "green", "blue", "grey") * 4)
    settings = ReadSettings(ACTION.pixel, TimeSpec(8, 1.0), slots=4)
    with open_pool(settings, workers=1, file_timeout_s=0.5) as pool:
        reads = pool.read(rows_of([path]))
        frames = 0
        for read in reads:
            if isinstance(read, ReadFrame):
                frames += 1
                if frames == 3:
                    time.sleep(1.5)
            assert not isinstance(read, ReadAgain)
        assert frames >= 120


def test_closing_ends_the_processes(photos: list[str]) -> None:
    before = children()
    with open_pool() as pool:
        next(pool.read(rows_of(photos)))
        started = children() - before
        assert len(started) == 2
    assert not children() & started


@pytest.mark.parametrize(("name", "state", "reason"), [
    ("segfault.png", "crashed", "its decoder crashed (SIGSEGV)"),
    ("exit.png", "crashed", "its decoder crashed (exit code 7)"),
    ("hang.png", "timeout", "nothing was heard of it for 1 s"),
    ("astray.png", "crashed", "its decoder went astray"),
    ("hungry.png", "too_large", "it needs more than 2048 MB to be decoded"),
    ("typeerror.png", "crashed", "TypeError: unsupported thing"),
    ("once.png", "ok", ""),
])
def test_a_faulty_decoder_takes_one_file_with_it(name: str, state: str, reason: str, photos: list[str], tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    faulty_decoder.install(tmp_path, monkeypatch)
    bad = write_photo(tmp_path / "photos" / name)
    with open_pool(file_timeout_s=1.0) as pool:
        reads = list(pool.read(rows_of([*photos[:10], bad, *photos[10:]])))
    rows = ends(iter(reads))
    assert (rows[name].state, rows[name].reason) == (state, reason)
    info = Path(bad).stat()
    assert (rows[name].bytes, rows[name].mtime_ns) == (info.st_size, info.st_mtime_ns)
    assert len(rows) == 25 and all(row.state == "ok" for other, row in rows.items() if other != name)
    assert [read.row_id for read in reads if isinstance(read, ReadAgain)] == ([10] if reason.startswith(("its", "noth"))
                                                                              or name == "once.png" else [])


def test_what_was_read_before_a_crash_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faulty_decoder.install(tmp_path, monkeypatch)
    path = write_video(tmp_path / "late.mp4", ("red", "blue", "green"))
    with open_pool(ReadSettings(ACTION.pixel, TimeSpec(4, 1.0), slots=8)) as pool:
        reads = list(pool.read(rows_of([path])))
    end = reads[-1]
    assert isinstance(end, ReadEnd) and (end.row.state, end.row.reason) == ("partial", "its decoder crashed (SIGABRT)")
    again = next(i for i, read in enumerate(reads) if isinstance(read, ReadAgain))
    assert sum(isinstance(read, ReadWindow) for read in reads[again:]) == 1  # those before do not count


def test_many_faulty_files_among_few_good_ones(photos: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faulty_decoder.install(tmp_path, monkeypatch)
    bad = [write_photo(tmp_path / "photos" / f"exit{n}.png") for n in range(6)]
    with open_pool(workers=3) as pool:
        rows = ends(pool.read(rows_of([p for pair in zip(bad, photos, strict=False) for p in pair])))
    assert {name: row.state for name, row in rows.items()} == {
        **{f"exit{n}.png": "crashed" for n in range(6)}, **{f"{n:02}.png": "ok" for n in range(6)}}


def test_a_worker_that_cannot_start_ends_the_run(photos: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text("raise SystemExit('no decoder on this machine')")
    monkeypatch.setenv("PYTHONPATH", os.fspath(tmp_path))
    with pytest.raises(RuntimeFailure, match=r"does not start.*no decoder on this machine"), open_pool() as pool:
        list(pool.read(rows_of(photos)))


def test_a_module_in_the_working_directory_is_not_run(photos: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of clips may hold anything, a ``json.py`` too."""
    (tmp_path / "json.py").write_text("raise SystemExit('taken over')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "photos")
    with open_pool() as pool:
        assert len(ends(pool.read(rows_of(photos)))) == 24


def test_memory_of_a_decoder_is_limited(tmp_path: Path) -> None:
    path = write_photo(tmp_path / "large.png", size=(9000, 9000))
    with open_pool(ReadSettings(ACTION.pixel, ACTION.time, max_memory_mb=200)) as pool:
        rows = ends(pool.read(rows_of([path, write_photo(tmp_path / "small.png")])))
    assert (rows["large.png"].state, rows["small.png"].state) == ("too_large", "ok")
