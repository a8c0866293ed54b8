"""Tests of standard output and error that are closed, full or no longer read.

The command prints no traceback. Its exit code follows from its work, but a full standard output is an error.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from colour_bundle import write_colour_bundle
from small_media import write_photo

from vidrisk.jobs.summary import read_summary
from vidrisk.runtimes.contract.errors import EXIT_ERROR, EXIT_OK, EXIT_SOME_FAILED

INFER = "infer colours.bundle photos -o out --runtime onnxruntime"


@pytest.fixture
def work(tmp_path: Path) -> Path:
    write_colour_bundle(tmp_path / "colours.bundle")
    (tmp_path / "photos").mkdir()
    write_photo(tmp_path / "photos" / "a.png")
    return tmp_path


def shell(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Run a shell command in a folder and return its result.

    The first ``vidrisk`` in it is replaced by the command line.
    The exit code comes from the first command of a pipe.
    """
    line = re.sub(r"\bvidrisk\b", f"{sys.executable} -m vidrisk", command, count=1)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "VIDRISK_CACHE": str(folder / "cache")}
    return subprocess.run(
        ["bash", "-c", f"{line}\nexit ${{PIPESTATUS[0]}}"],
        cwd=folder,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
        check=False,
        env=environment,
    )


@pytest.mark.parametrize(
    ("end", "wanted"),
    [
        ("| true", EXIT_OK),
        (">&- 2>&- <&-", EXIT_OK),
        ("2>&1 | head -c 5", EXIT_SOME_FAILED),
        ("--json | true", EXIT_SOME_FAILED),
    ],
)
def test_nobody_reads(work: Path, end: str, wanted: int) -> None:
    if wanted == EXIT_SOME_FAILED:
        (work / "photos" / "b.png").touch()
    told = shell(work, f"vidrisk -v {INFER} {end}")
    assert (told.returncode, "Traceback" in told.stderr, "Exception" in told.stderr) == (wanted, False, False)
    assert read_summary(work / "out").states["ok"] == 1
    assert (work / "out" / "predictions.jsonl").read_bytes().startswith(b'{"path": ')
    assert (work / "out" / "report.html").is_file()


@pytest.mark.parametrize("command", ["--help", INFER, f"{INFER} --json"])
def test_a_full_disk_behind_standard_output_is_one_line(work: Path, command: str) -> None:
    told = shell(work, f"vidrisk {command} >/dev/full")
    assert (told.returncode, told.stderr) == (
        EXIT_ERROR,
        "error: cannot write to standard output: No space left on device\n",
    )


def test_an_error_that_nobody_can_read_has_its_exit_code(work: Path) -> None:
    for end in ("2>&-", "2>/dev/full", "2> >(true)"):
        assert shell(work, f"vidrisk infer nothing photos -o out {end}").returncode == EXIT_ERROR
