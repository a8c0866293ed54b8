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
from vidrisk.infer.summary import Meter
from vidrisk.infer.wire import ReadSettings
from vidrisk.runtimes.errors import RuntimeFailure
from vidrisk.runtimes.specs import TimeSpec

SETTINGS = ReadSettings(ACTION.pixel, ACTION.time, slots=8)


def open_pool(settings: ReadSettings = SETTINGS, workers: int = 2, file_timeout_s: float = 20.0) -> DecodePool:
    return DecodePool(settings, Meter(), workers=workers, file_timeout_s=file_timeout_s)


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


@pytest.mark.parametrize("slots", [4, 800])
def test_reading_ahead_is_bounded(slots: int, tmp_path: Path) -> None:
    """Nobody takes the frames for a while: the worker fills its slots and waits. It is not killed for its silence, no frame
    overwrites one that was not taken, and neither side waits for the other for ever."""
    colours = ("red", "green", "blue") * 10
    path = write_video(tmp_path / "long.mp4", colours, fps=30)
    settings = ReadSettings(ACTION.pixel, TimeSpec(30, 1.0), slots=slots)
    seen = []
    with open_pool(settings, workers=1, file_timeout_s=0.5) as pool:
        for read in pool.read(rows_of([path])):
            if isinstance(read, ReadFrame):
                if len(seen) in (3, 400):
                    time.sleep(1.2)
                seen.append(colours[int(read.time_s)])
                assert np.abs(read.pixels.mean((0, 1)) - RGB[seen[-1]]).max() < 12, read.index
            assert not isinstance(read, ReadAgain)
    assert len(seen) == 900


def test_nobody_is_blamed_while_the_run_is_busy(tmp_path: Path) -> None:
    """Messages of one worker lie unread for longer than the limit, because those of the other are being worked on."""
    paths = [write_video(tmp_path / f"{n}.mp4", ("red", "green", "blue")) for n in range(2)]
    with open_pool(ReadSettings(ACTION.pixel, TimeSpec(8, 1.0), slots=8), file_timeout_s=0.3) as pool:
        for read in pool.read(rows_of(paths)):
            assert not isinstance(read, ReadAgain)
            if isinstance(read, ReadFrame):
                time.sleep(0.08)


def test_inputs_that_are_not_begun_are_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind the slow video waits a photo; whoever is idle reads it."""
    faulty_decoder.install(tmp_path, monkeypatch)
    long = write_video(tmp_path / "long.mp4", ("red", "green") * 10, fps=30)
    paths = [long, *(write_photo(tmp_path / f"{n}.png") for n in range(3))]
    ended = []
    with open_pool(ReadSettings(ACTION.pixel, TimeSpec(30, 1.0), slots=2)) as pool:
        for read in pool.read(rows_of(paths)):
            if isinstance(read, ReadFrame) and read.row_id == 0:
                time.sleep(0.002)
            if isinstance(read, ReadEnd):
                ended.append(read.row.id)
    assert ended == [1, 2, 3, 0] or (sorted(ended) == [0, 1, 2, 3] and ended[-1] == 0)


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
    ("shrinks.png", "skipped", "Operation not permitted"),
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
    is_tried_again = name not in ("typeerror.png", "shrinks.png")
    assert [read.row_id for read in reads if isinstance(read, ReadAgain)] == [10] * is_tried_again


@pytest.mark.parametrize("said", [
    "[1, 2]", "{}", '{"frame": [-1, 0.0]}', '{"frame": [0, NaN]}', '{"frame": [true, 0.0]}', '{"frame": [1e3, 0.0]}',
    '{"frame": 7}',
    '{"features": [0, 0.0, 3]}', '{"window": [0.0, 1.0, [0, 0, 0, 0]]}', '{"window": [NaN, 1.0, []]}', '{"window": null}',
    '{"end": ["pending", "", 0.0, ""]}', '{"end": ["fine", "", 0.0, ""]}', '{"end": ["ok"]}', '{"given back": 9}',
    '{"begin": [[1], 2]}', '{"begin": [1, 99999999999999999999]}', '{"unheard of": 1}', "x" * 2_000_000, "[" * 100_000,
])
def test_what_no_worker_of_ours_would_say(said: str, photos: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that has taken over its decoder has that decoder's reach, and no more."""
    faulty_decoder.install(tmp_path, monkeypatch)
    bad = tmp_path / "photos" / "astray.png"
    bad.write_text(said)
    with open_pool(file_timeout_s=5.0) as pool:
        rows = ends(pool.read(rows_of([*photos[:4], str(bad), *photos[4:8]])))
    assert (rows["astray.png"].state, rows["astray.png"].reason) == ("crashed", "its decoder went astray")
    assert sum(row.state == "ok" for row in rows.values()) == 8


def test_memory_that_one_file_took_is_there_for_the_next(photos: list[str], tmp_path: Path,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that has run out of memory is replaced, whoever leaked it."""
    faulty_decoder.install(tmp_path, monkeypatch)
    leaks = [write_photo(tmp_path / "photos" / f"leak{n:02}.png") for n in range(8)]
    with open_pool(ReadSettings(ACTION.pixel, ACTION.time, max_memory_mb=100), workers=1) as pool:
        rows = ends(pool.read(rows_of([*leaks, *photos])))
    assert {row.state for row in rows.values()} == {"ok"}


def test_a_file_of_another_century(photos: list[str]) -> None:
    os.utime(photos[0], ns=(0, 2**63 + 5))
    with open_pool() as pool:
        rows = ends(pool.read(rows_of(photos[:2])))
    assert rows["00.png"].state == "ok" and rows["00.png"].mtime_ns == 5


def test_what_was_read_before_a_crash_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faulty_decoder.install(tmp_path, monkeypatch)
    path = write_video(tmp_path / "late.mp4", ("red", "blue", "green"))
    with open_pool(ReadSettings(ACTION.pixel, TimeSpec(4, 1.0), slots=8)) as pool:
        reads = list(pool.read(rows_of([path])))
    end = reads[-1]
    assert isinstance(end, ReadEnd) and (end.row.state, end.row.reason) == (
        "partial", "its decoder crashed (SIGABRT); read up to 1.00 s")
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
    with pytest.raises(RuntimeFailure, match=r"do not start.*no decoder on this machine"), open_pool() as pool:
        list(pool.read(rows_of(photos)))


def test_a_worker_that_is_killed_at_its_start_is_replaced(photos: list[str], tmp_path: Path,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    """As the kernel does it when memory is short."""
    started = tmp_path / "started"
    (tmp_path / "sitecustomize.py").write_text(
        f"import os, pathlib\nif not os.path.exists({str(started)!r}):\n    open({str(started)!r}, 'w').close()\n    os.abort()\n")
    monkeypatch.setenv("PYTHONPATH", os.fspath(tmp_path))
    with open_pool() as pool:
        assert len(ends(pool.read(rows_of(photos)))) == 24


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
