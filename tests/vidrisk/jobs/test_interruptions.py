"""Tests of runs in separate processes that are killed, stopped or left without disk space.

Nothing is lost, and nothing appears twice.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import colour
import pytest
from small_media import write_photo, write_video

from vidrisk.inference.predictions import PREDICTIONS, read_predictions
from vidrisk.jobs.ledger import read_ledger
from vidrisk.runtimes.contract.errors import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_OK

ROOT = Path(colour.__file__).parents[3]
KILLS = 4


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    for number in range(150):
        write_photo(folder / f"{number:03}.png", random.Random(number).choice(["red", "green", "blue"]))
    for number in range(0, 150, 15):
        write_video(folder / f"{number:03}.mp4", ("red", "blue"))
        (folder / f"{number:03}-bad.mp4").write_bytes(b"bad" * number)
    return folder


@pytest.fixture(scope="module")
def undisturbed(media: Path, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert finish(out, media).returncode == EXIT_OK
    return sorted((out / PREDICTIONS).read_bytes().splitlines())


def start(out: Path, media: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, colour.__file__, os.fspath(out), os.fspath(media), *options]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([os.fspath(ROOT), *sys.path])},
    )


def finish(out: Path, media: Path, *options: str) -> subprocess.CompletedProcess[str]:
    process = start(out, media, *options)
    stdout, stderr = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def wait_for_lines(process: subprocess.Popen[str], count: int) -> None:
    assert process.stdout is not None
    for _ in range(count):
        process.stdout.readline()


def check(out: Path, undisturbed: list[bytes]) -> None:
    rows = read_ledger(out)
    assert len(rows) == len({row.path for row in rows}) == 170
    assert Counter(row.state for row in rows) == {"ok": 160, "corrupt": 10}
    assert Counter(p.path for p in read_predictions(out)) == {row.path: 1 for row in rows if row.state == "ok"}
    assert sorted((out / PREDICTIONS).read_bytes().splitlines()) == undisturbed


def test_kill_at_any_moment_and_resume(media: Path, undisturbed: list[bytes], tmp_path: Path) -> None:
    chance = random.Random(7)
    killed = 0
    for number in range(KILLS):
        process = start(tmp_path / "out", media, "--slow", "--resume")
        if number % 2:  # at work for sure; else perhaps while it starts
            wait_for_lines(process, 1)
        time.sleep(chance.uniform(0.0, 0.8))
        process.kill()
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
    assert killed == KILLS
    assert finish(tmp_path / "out", media, "--resume").returncode == EXIT_OK
    check(tmp_path / "out", undisturbed)


def test_ctrl_c_stops_cleanly_within_three_seconds(media: Path, undisturbed: list[bytes], tmp_path: Path) -> None:
    process = start(tmp_path / "out", media, "--slow")
    wait_for_lines(process, 20)
    process.send_signal(signal.SIGINT)
    stopped_s = time.monotonic()
    _, error = process.communicate(timeout=30)
    assert time.monotonic() - stopped_s < 3
    assert process.returncode == EXIT_INTERRUPTED, error
    assert error.count("\n") == 1 and "with resume" in error and "of 170 inputs" in error
    done = sum(row.state != "pending" for row in read_ledger(tmp_path / "out"))
    assert 20 <= done < 170 and f"stopped after {done} of" in error
    assert finish(tmp_path / "out", media, "--resume").returncode == EXIT_OK
    check(tmp_path / "out", undisturbed)


def test_a_full_disk_is_one_line_and_the_run_resumes(media: Path, undisturbed: list[bytes], tmp_path: Path) -> None:
    limit = sum(map(len, undisturbed)) // 2
    result = finish(tmp_path / "out", media, "--max-file-bytes", str(limit))
    assert result.returncode == EXIT_ERROR
    assert result.stderr.count("\n") == 1 and "cannot write to" in result.stderr and "with resume" in result.stderr
    assert (tmp_path / "out" / PREDICTIONS).stat().st_size <= limit
    assert finish(tmp_path / "out", media, "--resume").returncode == EXIT_OK
    check(tmp_path / "out", undisturbed)
