"""Tests of terminal messages about folders, in separate processes with a real bundle of a few hundred bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from colour_bundle import write_colour_bundle
from PIL import Image
from small_media import write_photo, write_video

from vidrisk.runtimes.contract.errors import EXIT_ERROR, EXIT_OK, EXIT_SOME_FAILED

REPOSITORY = Path(__file__).resolve().parents[3]


def vidrisk(*arguments: str | Path) -> tuple[int, str, str]:
    """Run ``vidrisk`` in a separate process, and return its exit code, stdout and stderr."""
    end = subprocess.run(
        [sys.executable, "-m", "vidrisk", *map(os.fspath, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        timeout=120,
    )
    return end.returncode, end.stdout, end.stderr


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colour_bundle(tmp_path_factory.mktemp("bundle") / "colours.bundle").root


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    folder = tmp_path / "inputs"
    (folder / "@eaDir").mkdir(parents=True)
    write_video(folder / "a.mp4", ("red",))
    write_photo(folder / "@eaDir" / "thumb.png")
    return folder


def test_infer_says_in_a_line_what_it_leaves_out(bundle: Path, inputs: Path, tmp_path: Path) -> None:
    write_video(inputs / "b.mp4", ("green",))
    (inputs / "b.mp4").rename(inputs / "cam.m2ts")
    Image.new("RGB", (40, 30), (30, 30, 220)).save(inputs / "win.jfif", "JPEG")
    for name in ("notes.txt", "plan.pdf", "a.xml", "b.xml"):
        (inputs / name).write_text("words")
    code, stdout, stderr = vidrisk(
        "infer", bundle, inputs, "-o", tmp_path / "out", "--runtime", "onnxruntime", "--no-report"
    )
    assert code == EXIT_OK and "3 inputs: 3 ok" in stdout
    assert stderr == (
        "left out: 4 files that are neither clips nor photos (a.xml, b.xml, notes.txt, …); "
        "1 made by a NAS, a desktop system or a camera (@eaDir)\n"
    )
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["other_files"] == 4


def test_a_bad_link_is_a_row_of_its_own_and_the_exit_code_says_so(bundle: Path, inputs: Path, tmp_path: Path) -> None:
    (inputs / "self.mp4").symlink_to("self.mp4")
    code, stdout, _ = vidrisk(
        "infer", bundle, inputs, "-o", tmp_path / "out", "--runtime", "onnxruntime", "--no-report"
    )
    assert code == EXIT_SOME_FAILED and "2 inputs: 1 ok, 1 skipped" in stdout


def test_eval_refuses_leaks_with_strict(bundle: Path, tmp_path: Path) -> None:
    for name, colour in {"red/train/1.png": "red", "red/test/2.png": "red", "green/test/3.png": "green"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_photo(tmp_path / name, colour)
    code, _, stderr = vidrisk("eval", bundle, tmp_path, "--runtime", "onnxruntime", "--split", "test", "--strict")
    assert code == EXIT_ERROR and "in two splits (1): red/test/2.png (test) = red/train/1.png (train)" in stderr
    code, _, stderr = vidrisk("eval", bundle, tmp_path, "--runtime", "onnxruntime", "--split", "test")
    assert code == EXIT_OK and stderr.count("WARNING") == 2  # and train has no sample of green


def test_data_commands_refuse_strangers_and_with_strict_leaks(tmp_path: Path) -> None:
    for name, colour in {
        "train/a/1.png": "red",
        "train/b/2.png": "green",
        "val/a/1.png": "red",
        "val/b/4.png": "blue",
    }.items():
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        write_photo(tmp_path / "data" / name, colour)
    split = ("data", "split", tmp_path / "data", "-o", tmp_path / "data" / "split.csv", "--task", "risk")
    code, _, stderr = vidrisk(*split, "--strict")
    assert code == EXIT_ERROR and not (tmp_path / "data" / "split.csv").exists()
    assert stderr.startswith(
        "error: contents that are in two splits (1): train/a/1.png (train) = val/a/1.png (val); allowed: "
    )
    code, _, stderr = vidrisk("train", tmp_path / "data", "-o", tmp_path / "run", "--task", "risk", "--strict")
    assert code == EXIT_ERROR and "contents that are in two splits (1)" in stderr and not (tmp_path / "run").exists()
    code, _, stderr = vidrisk(*split)
    assert code == EXIT_OK and stderr == (
        "WARNING: data: contents that are in two splits (1): train/a/1.png (train) = val/a/1.png (val)\n"
    )
    (tmp_path / "data" / "raw").mkdir()
    code, _, stderr = vidrisk("data", "preview", tmp_path / "data", "-o", tmp_path / "sheet.png", "--task", "risk")
    assert code == EXIT_ERROR and "others beside them: raw; allowed" in stderr and stderr.count("\n") == 1
