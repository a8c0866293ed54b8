"""Tests of watches in separate processes that are killed, stopped and deprived of resources while files arrive.

No file is lost or processed twice.
"""

from __future__ import annotations

import os
import random
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import colour
import pytest
from small_media import write_photo, write_video

from vidrisk.inference.predictions import read_predictions
from vidrisk.jobs.ledger import read_ledger
from vidrisk.runtimes.contract.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, VidriskError

ROOT = Path(colour.__file__).parents[3]
WATCHER = Path(__file__).with_name("watcher.py")
DAY, NEXT = "2026-11-21", "2026-11-22"
FILES = 60


def start(inbox: Path, out: Path, *options: str, **environment: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(ROOT), str(Path(colour.__file__).parent), *sys.path])
    return subprocess.Popen(
        [sys.executable, str(WATCHER), str(inbox), str(out), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, **environment},
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], limit_s: float = 60.0) -> None:
    deadline_s = time.monotonic() + limit_s
    while not condition():
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def done(*folders: Path) -> Counter[str]:
    """Return the inputs that have a final row, over folders that may be incomplete."""
    names: Counter[str] = Counter()
    for folder in folders:
        try:
            names.update(Path(row.path).name for row in read_ledger(folder) if row.state != "pending")
        except VidriskError:
            continue
    return names


def end(process: subprocess.Popen[str], number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    return process.returncode, errors


@pytest.mark.slow
def test_kills_at_any_moment_while_files_come_in_over_midnight(tmp_path: Path) -> None:
    inbox, out, chance = tmp_path / "in", tmp_path / "out", random.Random(5)
    inbox.mkdir()
    expected: Counter[str] = Counter()
    for number in range(6):
        for index in range(FILES // 6):
            name = f"{number}-{index}.png"
            if index == 3:
                name = f"{number}-{index}.mp4"
                write_video(inbox / name, ("red", "blue"))
            elif index == 4:
                (inbox / name).write_bytes(b"bad")
            else:
                write_photo(inbox / name, chance.choice(["red", "green", "blue"]))
            expected[name] += 1
        process = start(inbox, out, "--slow", "--date", DAY if number < 3 else NEXT)
        if number % 2:
            wait_for(lambda: (out / DAY / "ledger.sqlite").exists(), process)
        time.sleep(chance.uniform(0.2, 2.0))
        process.kill()
        process.communicate()
    process = start(inbox, out, "--date", NEXT)
    wait_for(lambda: done(out / DAY, out / NEXT) == expected, process)
    assert end(process)[0] == EXIT_OK
    rows = [row for date in (DAY, NEXT) for row in read_ledger(out / date)]
    assert Counter(row.state for row in rows) == {"ok": FILES - 6, "corrupt": 6}
    found = [prediction.path for date in (DAY, NEXT) for prediction in read_predictions(out / date)]
    assert Counter(found) == {row.path: 1 for row in rows if row.state == "ok"}
    assert {Path(row.path).name[0] for row in read_ledger(out / DAY)} <= set("012")


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (signal.SIGTERM, EXIT_OK, ""),
        (signal.SIGINT, EXIT_INTERRUPTED, "stopped by Ctrl-C; fix: the same command goes on where this one stopped\n"),
    ],
)
def test_a_signal_is_a_good_end(tmp_path: Path, number: signal.Signals, code: int, words: str) -> None:
    inbox, out = tmp_path / "in", tmp_path / "out"
    inbox.mkdir()
    for name in range(40):
        write_photo(inbox / f"{name}.png", "red")
    process = start(inbox, out, "--slow", "--date", DAY)
    wait_for(lambda: (out / DAY / "predictions.jsonl").exists(), process)
    assert end(process, number) == (code, words)
    process = start(inbox, out, "--date", DAY)
    wait_for(lambda: len(done(out / DAY)) == 40, process)
    assert end(process) == (EXIT_OK, "")
    assert Counter(p.path for p in read_predictions(out / DAY)) == {row.path: 1 for row in read_ledger(out / DAY)}


def test_a_full_disk_is_said_once_and_tried_until_it_has_room(tmp_path: Path) -> None:
    inbox, out, files = tmp_path / "in", tmp_path / "out", 120
    inbox.mkdir()
    for number in range(files):
        write_photo(inbox / f"{number:03}.png", "red")
    process = start(inbox, out, "--date", DAY, "--max-file-bytes", "30000")  # two thirds of what is to be written
    assert process.stderr is not None and select.select([process.stderr], [], [], 60)[0]
    said = process.stderr.readline()
    assert f"cannot write to {out}" in said and "trying again" in said
    time.sleep(1.0)  # it tries a few times
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    wait_for(lambda: len(done(out / DAY)) == files, process)
    time.sleep(1.0)
    code, rest = end(process)
    assert code == EXIT_OK and rest.count("\n") == 1 and "it works again" in rest
    assert len(list(read_predictions(out / DAY))) == files


def test_a_second_watch_into_the_same_folder_is_refused(tmp_path: Path) -> None:
    inbox, out = tmp_path / "in", tmp_path / "out"
    inbox.mkdir()
    first = start(inbox, out)
    wait_for(lambda: (out / "inbox.sqlite").exists() and (out / "inbox.sqlite").stat().st_size > 0, first)
    second = start(inbox, out)
    assert (
        second.communicate(timeout=30)[1].startswith(f"another run is writing to {out}")
        and second.returncode == EXIT_USAGE
    )
    assert end(first) == (EXIT_OK, "")


def test_systemd_hears_that_it_is_ready_alive_and_stopping(tmp_path: Path) -> None:
    inbox = tmp_path / "in"
    inbox.mkdir()
    write_photo(inbox / "a.png", "red")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(30)
        process = start(inbox, tmp_path / "out", "--date", DAY, NOTIFY_SOCKET=str(tmp_path / "notify"))
        heard: list[str] = []

        def hear_until(line: str) -> None:
            heard.append(systemd.recv(1000).decode())
            while heard[-1] != line:
                heard.append(systemd.recv(1000).decode())

        hear_until(f"STATUS=1 files → {DAY}")
        assert heard[:3] == ["READY=1", "STATUS=watching", "WATCHDOG=1"]
        hear_until(f"STATUS=watching; {DAY}: 1 files (1 ok); 0 predictions uncertain")
        assert end(process)[0] == EXIT_OK
        hear_until("STOPPING=1")
