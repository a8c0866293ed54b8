"""Tests of the pool with decode workers that crash, hang and starve.

Each faulty worker loses one file; the other files lose nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterable
from pathlib import Path

import faulty_decoder
import numpy as np
import pytest
from colour import ACTION
from processes import children
from small_media import RGB, write_photo, write_video

from vidrisk.decode.messages import Again, Input, InputEnd, Read, ReadSettings
from vidrisk.decode.pool import DecodePool
from vidrisk.decode.session import Limits
from vidrisk.frames import Frame, FrameWindow
from vidrisk.runtimes.contract.errors import RuntimeFailure
from vidrisk.runtimes.contract.specs import TimeSpec

SETTINGS = ReadSettings(ACTION.pixel, ACTION.time, slots=8)


def read_all(
    paths: list[str], settings: ReadSettings = SETTINGS, workers: int = 2, file_timeout_s: float = 20.0
) -> Generator[Read, None, None]:
    """Yield the items that a pool created for this call reads."""
    with DecodePool(workers) as pool:
        yield from read_with(pool, paths, settings, file_timeout_s)


def read_with(
    pool: DecodePool, paths: list[str], settings: ReadSettings = SETTINGS, file_timeout_s: float = 20.0
) -> Generator[Read, None, None]:
    yield from pool.read(
        (Input(number, path) for number, path in enumerate(paths)), settings, limits=Limits(file_timeout_s)
    )


def ends(reads: Iterable[Read]) -> dict[str, InputEnd]:
    found = [(Path(read.input.path).name, read.item) for read in reads if isinstance(read.item, InputEnd)]
    assert len(found) == len(dict(found))
    return dict(found)


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    (tmp_path / "photos").mkdir()
    return [
        write_photo(tmp_path / "photos" / f"{n:02}.png", colour)
        for n, colour in enumerate(["red", "green", "blue"] * 8)
    ]


def test_pixels_cross_and_inputs_stay_apart(photos: list[str], tmp_path: Path) -> None:
    """The frames of one input come in order and before the windows that show them, also for a video among photos."""
    paths = [*photos[:5], write_video(tmp_path / "clip.mp4", ("red", "blue")), *photos[5:]]
    seen: dict[int, list[int]] = {}
    windows: dict[int, FrameWindow] = {}
    for read in read_all(paths):
        item = read.item
        if isinstance(item, Frame):
            seen.setdefault(read.id, []).append(item.index)
            if read.id != 5:
                colour = list(RGB)[photos.index(paths[read.id]) % 3]
                assert np.abs(item.pixels.astype(int) - RGB[colour]).max() <= 2
        elif isinstance(item, FrameWindow):
            assert set(item.indices) <= set(seen[read.id])
            windows[read.id] = item
        else:
            assert isinstance(item, InputEnd) and item.state == "ok" and read.id in windows
    assert set(windows) == set(range(25))
    assert windows[5].indices == tuple(seen[5]) and len(seen[5]) == 4 and windows[5].start_s == 0.0
    assert windows[0].indices == (0, 0, 0, 0) and windows[0].start_s is None and seen[0] == [0]


@pytest.mark.parametrize("slots", [4, 800])
def test_reading_ahead_is_bounded(slots: int, tmp_path: Path) -> None:
    """A worker fills its slots and waits while its frames are not taken.

    It is not killed for its silence, no frame overwrites one that was not taken, and neither side waits for the
    other for ever.
    """
    colours = ("red", "green", "blue") * 10
    path = write_video(tmp_path / "long.mp4", colours, fps=30)
    settings = ReadSettings(ACTION.pixel, TimeSpec(30, 1.0), slots=slots)
    seen = []
    for read in read_all([path], settings, workers=1, file_timeout_s=0.5):
        if isinstance(read.item, Frame):
            if len(seen) in (3, 400):
                time.sleep(1.2)
            seen.append(colours[int(read.item.time_s)])
            assert np.abs(read.item.pixels.mean((0, 1)) - RGB[seen[-1]]).max() < 12, read.item.index
        assert not isinstance(read.item, Again)
    assert len(seen) == 900


def test_nobody_is_blamed_while_the_run_is_busy(tmp_path: Path) -> None:
    """A worker whose messages stay unread for longer than the limit is not reported as hung.

    They stay unread because the run is processing the messages of the other worker.
    """
    paths = [write_video(tmp_path / f"{n}.mp4", ("red", "green", "blue")) for n in range(2)]
    for read in read_all(paths, ReadSettings(ACTION.pixel, TimeSpec(8, 1.0), slots=8), file_timeout_s=0.3):
        assert not isinstance(read.item, Again)
        if isinstance(read.item, Frame):
            time.sleep(0.08)


def test_inputs_that_are_not_begun_are_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A photo that waits behind a slow video is read by an idle worker."""
    faulty_decoder.install(tmp_path, monkeypatch)
    long = write_video(tmp_path / "long.mp4", ("red", "green") * 10, fps=30)
    paths = [long, *(write_photo(tmp_path / f"{n}.png") for n in range(3))]
    ended = []
    for read in read_all(paths, ReadSettings(ACTION.pixel, TimeSpec(30, 1.0), slots=2)):
        if isinstance(read.item, Frame) and read.id == 0:
            time.sleep(0.002)
        if isinstance(read.item, InputEnd):
            ended.append(read.id)
    assert ended == [1, 2, 3, 0] or (sorted(ended) == [0, 1, 2, 3] and ended[-1] == 0)


def test_closing_ends_the_processes(photos: list[str]) -> None:
    before = children()
    with DecodePool(2) as pool:
        next(read_with(pool, photos))
        started = children() - before
        assert len(started) == 2
    assert not children() & started


@pytest.mark.parametrize(
    ("name", "state", "reason"),
    [
        ("segfault.png", "crashed", "its decoder crashed (SIGSEGV)"),
        ("exit.png", "crashed", "its decoder crashed (exit code 7)"),
        ("hang.png", "timeout", "decoder timed out after 1 s without progress"),
        ("astray.png", "crashed", "the decode process sent malformed messages"),
        ("hungry.png", "too_large", "decoding it needs more than 2048 MB"),
        ("shrinks.png", "skipped", "Operation not permitted"),
        ("typeerror.png", "crashed", "TypeError: unsupported thing"),
        ("once.png", "ok", ""),
    ],
)
def test_a_faulty_decoder_takes_one_file_with_it(
    name: str, state: str, reason: str, photos: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty_decoder.install(tmp_path, monkeypatch)
    bad = write_photo(tmp_path / "photos" / name)
    reads = list(read_all([*photos[:10], bad, *photos[10:]], file_timeout_s=1.0))
    rows = ends(reads)
    assert (rows[name].state, rows[name].reason) == (state, reason)
    info = Path(bad).stat()
    assert (rows[name].bytes, rows[name].mtime_ns) == (info.st_size, info.st_mtime_ns)
    assert len(rows) == 25 and all(row.state == "ok" for other, row in rows.items() if other != name)
    is_tried_again = name not in ("typeerror.png", "shrinks.png")
    assert [read.id for read in reads if isinstance(read.item, Again)] == [10] * is_tried_again


@pytest.mark.parametrize(
    "said",
    [
        "[1, 2]",
        "{}",
        '{"frame": [-1, 0.0]}',
        '{"frame": [0, NaN]}',
        '{"frame": [true, 0.0]}',
        '{"frame": [1e3, 0.0]}',
        '{"frame": 7}',
        '{"frame": [0, 1' + 400 * "0" + "]}",
        '{"frame": [99999999, 0.0]}',
        '{"begin": [1, 2]}\n' * 9,
        '{"features": [0, 0.0, 3]}',
        '{"window": [0.0, 1.0, [0, 0, 0, 0]]}',
        '{"window": [NaN, 1.0, []]}',
        '{"window": null}',
        '{"frame": [0, 0.0]}\n{"window": [null, null, [0, 0, 0, 0]]}\n{"window": [null, null, [0, 0, 0, 0]]}',
        '{"frame": [0, 0.0]}\n{"window": [0.0, 1e300, [0, 0, 0, 0]]}',
        '{"frame": [0, 0.0]}\n{"begin": [1, 2]}',
        '{"given back": 0}',
        '{"end": ["ok", "", 0.0, "", [' + ", ".join(['"a"'] * 64) + "]]}",
        '{"end": ["ok", "", 0.0, "../key", ""]}',
        '{"end": ["pending", "", 0.0, ""]}',
        '{"end": ["fine", "", 0.0, ""]}',
        '{"end": ["ok"]}',
        '{"given back": 9}',
        '{"begin": [[1], 2]}',
        '{"begin": [1, 99999999999999999999]}',
        '{"unheard of": 1}',
        "x" * 2_000_000,
        "[" * 100_000,
    ],
)
def test_what_no_worker_of_ours_would_say(
    said: str, photos: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Malformed messages cost one file: a file that controls its decoder gains no more than the decoder's access."""
    faulty_decoder.install(tmp_path, monkeypatch)
    bad = tmp_path / "photos" / "astray.png"
    bad.write_text(said)
    inputs = [Input(*item) for item in enumerate((*photos[:4], str(bad), *photos[4:8]))]
    with DecodePool(1) as pool:
        rows = ends(pool.read(inputs, SETTINGS, limits=Limits(5.0, retries=False)))
    assert (rows["astray.png"].state, rows["astray.png"].reason) == (
        "crashed",
        "the decode process sent malformed messages",
    )
    assert sum(row.state == "ok" for row in rows.values()) == 8


def test_memory_that_one_file_took_is_there_for_the_next(
    photos: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that has run out of memory is replaced, whichever file leaked the memory."""
    faulty_decoder.install(tmp_path, monkeypatch)
    leaks = [write_photo(tmp_path / "photos" / f"leak{n:02}.png") for n in range(8)]
    rows = ends(read_all([*leaks, *photos], ReadSettings(ACTION.pixel, ACTION.time, max_memory_mb=100), workers=1))
    assert {row.state for row in rows.values()} == {"ok"}


def test_a_file_of_another_century(photos: list[str]) -> None:
    os.utime(photos[0], ns=(0, 2**63 + 5))
    rows = ends(read_all(photos[:2]))
    assert rows["00.png"].state == "ok" and rows["00.png"].mtime_ns == 5


def test_what_was_read_before_a_crash_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faulty_decoder.install(tmp_path, monkeypatch)
    path = write_video(tmp_path / "late.mp4", ("red", "blue", "green"))
    reads = list(read_all([path], ReadSettings(ACTION.pixel, TimeSpec(4, 1.0), slots=8)))
    end = reads[-1].item
    assert isinstance(end, InputEnd) and (end.state, end.reason) == (
        "partial",
        "its decoder crashed (SIGABRT); read up to 1.00 s",
    )
    again = next(i for i, read in enumerate(reads) if isinstance(read.item, Again))
    assert sum(isinstance(read.item, FrameWindow) for read in reads[again:]) == 1  # those before do not count


def test_many_faulty_files_among_few_good_ones(
    photos: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty_decoder.install(tmp_path, monkeypatch)
    bad = [write_photo(tmp_path / "photos" / f"exit{n}.png") for n in range(6)]
    rows = ends(read_all([p for pair in zip(bad, photos, strict=False) for p in pair], workers=3))
    assert {name: row.state for name, row in rows.items()} == {
        **{f"exit{n}.png": "crashed" for n in range(6)},
        **{f"{n:02}.png": "ok" for n in range(6)},
    }


def test_a_worker_that_cannot_start_ends_the_run(
    photos: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("raise SystemExit('no decoder on this machine')")
    monkeypatch.setenv("PYTHONPATH", os.fspath(tmp_path))
    with pytest.raises(RuntimeFailure, match=r"do not start.*no decoder on this machine"):
        list(read_all(photos))


def test_a_worker_that_is_killed_at_its_start_is_replaced(
    photos: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that is killed at its start, as the kernel does when memory is short, is replaced by a new one."""
    started = tmp_path / "started"
    (tmp_path / "sitecustomize.py").write_text(
        f"import os, pathlib\nif not os.path.exists({str(started)!r}):\n    open({str(started)!r}, 'w').close()\n    os.abort()\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.fspath(tmp_path))
    assert len(ends(read_all(photos))) == 24


def test_a_module_in_the_working_directory_is_not_run(
    photos: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers do not import a ``json.py`` from the working directory.

    A folder of clips may hold any file.
    """
    (tmp_path / "json.py").write_text("raise SystemExit('taken over')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "photos")
    assert len(ends(read_all(photos))) == 24


def test_memory_of_a_decoder_is_limited(tmp_path: Path) -> None:
    path = write_photo(tmp_path / "large.png", size=(9000, 9000))
    rows = ends(
        read_all(
            [path, write_photo(tmp_path / "small.png")], ReadSettings(ACTION.pixel, ACTION.time, max_memory_mb=200)
        )
    )
    assert (rows["large.png"].state, rows["small.png"].state) == ("too_large", "ok")
