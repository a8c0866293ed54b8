"""Tests of thumbnails from decoders that crash, hang, starve and send false messages.

Each fault loses the pictures of one card of the page.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from colour import ACTION, colour_classifier
from processes import children
from small_media import write_photo, write_video

from vidrisk.decode import owner, pool
from vidrisk.decode.messages import ThumbnailInput, ThumbnailSettings
from vidrisk.decode.pool import DecodePool
from vidrisk.decode.session import Limits
from vidrisk.decode.thumbnails import Thumbnail, thumbnails_at
from vidrisk.jobs.run_folder import run_folder
from vidrisk.jobs.run_settings import InferSettings
from vidrisk.jobs.sources import find_inputs
from vidrisk.report import build_report
from vidrisk.runtimes.contract.errors import RuntimeFailure

# What every Python process runs at its start: the workers are the real ones, and so are the ways in which they end.
FAULTY = """
import ctypes, os, pathlib, sys, time

if "vidrisk.decode.worker" in pathlib.Path("/proc/self/cmdline").read_text():
    import numpy as np
    import vidrisk.decode.read_input as worker

    thumbnails_at = worker.thumbnails_at

    def faulty(path, *arguments, **options):
        name, line = pathlib.Path(path).name, int(sys.argv[1])
        if "segfault" in name:
            ctypes.string_at(0)
        if "exit" in name:
            os._exit(7)
        if "hang" in name:
            os.utime(path, ns=(1, 1))  # all that the sandbox lets it leave behind
            time.sleep(1000)
        if "hungry" in name:
            np.empty(300 << 20, np.uint8)
        if "says" in name:
            os.write(line, pathlib.Path(path).with_suffix(".txt").read_bytes())
            time.sleep(1000)
        while "babbles" in name:
            os.write(line, b'{"alive": true}\\n')
            time.sleep(0.05)
        for _ in range(5 if "large" in name else 0):
            pathlib.Path(path).read_bytes()
            time.sleep(0.3)
        if "slow" in name:
            time.sleep(0.3)
        return thumbnails_at(path, *arguments, **options)

    worker.thumbnails_at = faulty
"""
BUDGET = 5_000


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every worker that is started faulty."""
    start_with(FAULTY, tmp_path, monkeypatch)


def start_with(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.fspath(folder), *sys.path]))


@pytest.fixture
def media(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    folder.mkdir()
    for name, colour in {"a": "blue", "f": "green", "z": "red"}.items():
        write_photo(folder / f"{name}.png", colour)
    write_video(folder / "c.mp4", ("red", "blue"))
    return folder


def read(
    paths: list[str], moments_s: tuple[float, ...] = (0.0,), *, max_memory_mb: int = 2048
) -> list[tuple[Thumbnail, ...]]:
    with DecodePool(2) as opened:
        return opened.thumbnails(
            [ThumbnailInput(0, path, moments_s, BUDGET) for path in paths], ThumbnailSettings(max_memory_mb)
        )


def cards(page: str) -> dict[str, str]:
    """Return the HTML of every card by its name, in order."""
    return {
        card[1]: card[0]
        for card in re.finditer(r'<li class="card"[^>]* data-name="([^"]*)".*?\n    </li>', page, re.DOTALL)
    }


def test_they_are_those_of_the_reader_in_the_order_of_the_wishes(media: Path, faulty: None) -> None:
    slow = write_photo(media / "slow.png", "grey")
    paths = [slow, *(str(media / name) for name in ("c.mp4", "gone.png", "z.png", "a.png", "c.mp4"))]
    found = read(paths, (0.0, 1.5))
    assert found == [thumbnails_at(path, [0.0, 1.5], BUDGET) for path in paths]
    assert [len(thumbnails) for thumbnails in found] == [2, 2, 0, 2, 2, 2]


def test_faulty_decoders_leave_the_rest_of_the_page_as_it_is(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = [
        write_video(media / "b_segfault.mp4"),
        write_photo(media / "d_hang.png"),
        write_photo(media / "e_exit.png"),
        write_photo(media / "g_says.png"),
    ]
    Path(bad[3]).with_suffix(".txt").write_text("<script>\n")
    run_folder(colour_classifier(ACTION), find_inputs([media]), tmp_path / "out")
    before = children()
    sound = build_report(tmp_path / "out").read_text(encoding="utf-8")
    start_with(FAULTY, tmp_path, monkeypatch)
    monkeypatch.setattr(pool, "THUMBNAIL_LIMITS", Limits(1.0, 600.0, retries=False))
    harmed = build_report(tmp_path / "out").read_text(encoding="utf-8")
    assert children() == before
    assert list(cards(harmed)) == list(cards(sound)) and len(cards(sound)) == 8
    for name, card in cards(harmed).items():
        assert ("cannot be read" in card and "<img" not in card) if "_" in name else card == cards(sound)[name]
    for path in bad:
        Path(path).unlink()
    assert build_report(tmp_path / "out").read_text(encoding="utf-8") == harmed


def test_memory_is_limited_as_it_was_for_the_run(media: Path, tmp_path: Path, faulty: None) -> None:
    write_photo(media / "hungry.png")
    for max_memory_mb, pictures in ((200, 0), (1000, 1)):
        out = tmp_path / str(max_memory_mb)
        run_folder(colour_classifier(ACTION), find_inputs([media]), out, InferSettings(max_memory_mb=max_memory_mb))
        shown = cards(build_report(out).read_text(encoding="utf-8"))
        assert shown["hungry.png"].count("<img") == pictures and shown["a.png"].count("<img") == 1


def test_what_a_large_photo_takes_is_limited(tmp_path: Path) -> None:
    large, small = write_photo(tmp_path / "large.png", size=(9000, 9000)), write_photo(tmp_path / "small.png")
    assert [len(thumbnails) for thumbnails in read([large, small, small, small], max_memory_mb=200)] == [0, 1, 1, 1]


def test_reading_on_is_a_sign_of_life_and_babble_is_none(
    media: Path, faulty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "THUMBNAIL_LIMITS", Limits(1.0, 3.0, retries=False))
    paths = [write_photo(media / "large.png"), write_photo(media / "babbles.png"), str(media / "a.png")]
    assert [len(thumbnails) for thumbnails in read(paths)] == [1, 0, 1]


@pytest.mark.parametrize(
    "lie",
    [b"<script>", b"\xff", b"[" * 100_000, b" " * (3 << 20), b'{"end": ["ok", "", 0.0, "", ""]}\n{}'],
    ids=["no JSON", "no text", "deep", "no end", "more than was asked for"],
)
def test_nonsense_is_not_listened_to(lie: bytes, media: Path, faulty: None) -> None:
    path = write_photo(media / "says.png")
    Path(path).with_suffix(".txt").write_bytes(lie + b"\n")
    assert [len(thumbnails) for thumbnails in read([path, str(media / "a.png")])] == [0, 1]


def test_ctrl_c_ends_the_processes(media: Path, faulty: None) -> None:
    paths = [write_photo(media / f"hang{number}.png") for number in range(3)]
    before, seen = children(), set[int]()

    def interrupt() -> None:
        while sum(Path(path).stat().st_mtime_ns == 1 for path in paths) < 2:
            time.sleep(0.02)
        seen.update(children() - before)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        read(paths)
    assert len(seen) == 2 and children() == before


def test_processes_that_cannot_start_are_an_error_and_leave_none(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_with("raise SystemExit('no decoder on this machine')", tmp_path, monkeypatch)
    before = children()
    with pytest.raises(RuntimeFailure, match=r"do not start \(exit code 1\): .*no decoder on this machine"):
        read([str(media / "a.png"), str(media / "z.png")])
    assert children() == before


def test_a_module_in_the_working_directory_is_not_run(media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers do not import a ``json.py`` from the working directory.

    A folder of clips may hold any file.
    """
    (media / "json.py").write_text("raise SystemExit('taken over')")
    monkeypatch.chdir(media)
    assert len(read([str(media / "a.png")])[0]) == 1


def test_nothing_to_read_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "Worker", None)
    assert read([]) == []
