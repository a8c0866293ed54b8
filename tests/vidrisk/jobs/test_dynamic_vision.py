"""Tests of ``vidrisk export --dynamic-vision`` as docs/vlm.md shows it, and of errors that prevent any output."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pages import read_blocks
from PIL import Image
from vlms import save_qwen

from vidrisk.data import load_table
from vidrisk.models.config import config_from_options
from vidrisk.models.run import Run
from vidrisk.runtimes import Bundle, vision_grid
from vidrisk.runtimes.contract.bundle import whole_folder
from vidrisk.runtimes.contract.errors import EXIT_ERROR, EXIT_GATE, EXIT_OK, EXIT_USAGE, BundleError
from vidrisk.runtimes.ort import OnnxRuntimeRunner
from vidrisk.runtimes.vision_grid import vision_inputs_from_grid
from vidrisk.train.train import train_run

Cli = Callable[..., Any]
*FIRST, TOWER, SCRIPT = read_blocks("docs/vlm.md")  # the first ones are of tests/vidrisk/models/vlm/test_vlm_page.py
SETTINGS = [
    "pixel.height=56",
    "pixel.width=84",
    "lora.parts=[language, vision]",
    "lora.rank=2",
    "optim.lora_lr=0.02",
    "optim.epochs=1",
    "optim.batch_size=4",
    "workers=0",
    "precision=fp32",
    "head.hidden=16",
    "views=1",
]
BLOCKED = "import sys\nfor name in ('torch', 'transformers', 'vidrisk', 'onnx'):\n    sys.modules[name] = None\n"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with ``runs/qwen``, a small Qwen2.5-VL that is also adapted in its vision tower."""
    root = tmp_path_factory.mktemp("project")
    for number in range(20):
        label = ("crack", "sound")[number % 2]
        (root / "photos" / label).mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 90, (60, 90, 3)) + 120 * (number % 2)
        Image.fromarray(noise.astype(np.uint8)).save(root / "photos" / label / f"{number}.png")
    backbone = save_qwen(root / "backbone", "qwen2_5_vl")
    config = config_from_options(None, SETTINGS, backbone=str(backbone), task="risk")
    train_run(load_table(root / "photos", "risk"), config, root / "runs" / "qwen")
    return root


@pytest.mark.page("docs/vlm.md")
@pytest.mark.slow(minutes=3)
def test_the_page_does_what_it_says(project: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    (command,) = TOWER.commands
    end = cli(*shlex.split(command.removeprefix("vidrisk ")))
    assert end.code == EXIT_OK, end
    assert Bundle.open("qwen.bundle").passed == ("fp32",)
    assert {path.name for path in Path("tower").iterdir()} == {
        "vision.onnx",
        "vision_grid.py",
        "vision.json",
        "README.md",
    }
    assert {path.name for path in Path().iterdir()} == {"photos", "backbone", "runs", "qwen.bundle", "tower"}
    ran = subprocess.run(
        [sys.executable, "-c", BLOCKED + SCRIPT.text],
        cwd="tower",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ran.returncode, ran.stdout.strip()) == (0, "{'tokens': (48, 64)}"), (
        ran.stderr
    )  # 4 x 6 and four moments of 2 x 3
    assert_is_the_trained_tower(project / "runs" / "qwen", project / "tower" / "vision.onnx")


def assert_is_the_trained_tower(run: Path, file: Path) -> None:
    """Check that the file computes the same tokens as the run's own tower, adapter included.

    The check uses grids that the gate of the export has not used.
    """
    model: Any = Run.open(run).load_classifier()
    tower, graph = model.backbone.tower, model.dynamic_vision()
    assert any("lora_" in name for name, _ in tower.named_parameters())
    grids = [(2, 6, 14), (1, 10, 2)]
    pixels = np.random.default_rng(0).normal(size=(188, graph.inputs[0].shape[1])).astype(np.float32)
    with torch.inference_mode():
        expected = tower(torch.from_numpy(pixels), grid_thw=torch.tensor(grids)).pooler_output.numpy()
    with OnnxRuntimeRunner(file, graph.inputs, graph.outputs, threads=1) as runner:
        found = runner.infer({"pixel_values": pixels, **vision_inputs_from_grid(grids, merge=2, window=2)})["tokens"]
    assert np.abs(found - expected).max() < 1e-4 < expected.std()


@pytest.mark.slow(minutes=1)
def test_a_wrong_order_of_windows_is_refused_and_nothing_is_written(
    project: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*grid: Any, **settings: int) -> Any:
        found = vision_inputs_from_grid(*grid, **settings)
        return {**found, "window_index": found["window_index"][::-1].copy()}

    monkeypatch.setattr(vision_grid, "vision_inputs_from_grid", wrong)
    end = cli(
        "export", project / "runs" / "qwen", "-o", tmp_path / "b", "--dynamic-vision", tmp_path / "tower", "--json"
    )
    assert (end.code, end.stdout) == (EXIT_GATE, "")
    (line,) = end.stderr.strip().splitlines()
    assert line.startswith(
        "error: the gate refused vision.onnx, nothing was written: for two images and a video of several sizes, "
        "onnxruntime computes tokens that is "
    )
    assert not list(tmp_path.iterdir())


def test_a_model_of_one_size_of_frames_is_one_line(cli: Cli, tiny_run: Path, tmp_path: Path) -> None:
    end = cli("export", tiny_run, "-o", tmp_path / "b", "--dynamic-vision", tmp_path / "tower")
    assert (end.code, end.stderr.strip().splitlines()) == (
        EXIT_USAGE,
        [
            "error: the vision tower of 'efficientnet-lite0' takes frames of one size; allowed: a run of Qwen2.5-VL or Qwen3-VL; "
            "fix: leave --dynamic-vision out"
        ],
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        (
            ["-o", "b", "--dynamic-vision", "b"],
            EXIT_USAGE,
            "--dynamic-vision names a folder that -o or --vendor uses; fix: ",
        ),
        (
            ["-o", "b", "--dynamic-vision", "b/tower"],
            EXIT_USAGE,
            "--dynamic-vision names a folder that -o or --vendor uses",
        ),
        (["-o", "b", "--vendor", "t/v", "--dynamic-vision", "t"], EXIT_USAGE, "--dynamic-vision names a folder that"),
        (
            ["-o", "b", "--dynamic-vision", "full"],
            EXIT_ERROR,
            "full exists already; fix: choose another folder, or delete it first",
        ),
        (["-o", "full", "--dynamic-vision", "t"], EXIT_ERROR, "full exists already"),
    ],
)
def test_folders_that_are_taken_are_one_line(
    cli: Cli, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[str], code: int, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    end = cli("export", tiny_run, *given)
    assert end.code == code and end.stderr.count("\n") == 1 and said in end.stderr, end
    assert [path.name for path in tmp_path.iterdir()] == ["full"] and not list((tmp_path / "full").iterdir())


def test_a_model_of_somebody_else_has_no_tower_to_write(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"x")
    (tmp_path / "labels.txt").write_text("a\nb\n")
    end = cli(
        "export",
        tmp_path / "model.onnx",
        "--labels",
        tmp_path / "labels.txt",
        "--val",
        tmp_path,
        "-o",
        tmp_path / "b",
        "--dynamic-vision",
        tmp_path / "tower",
    )
    assert end.code == EXIT_USAGE
    assert (
        "error: --dynamic-vision without a run; allowed: a run of Qwen2.5-VL or Qwen3-VL; fix: leave it out"
        in end.stderr
    )


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "a" / "out") as staging:
        (staging / "half").touch()
        raise ZeroDivisionError
    assert not list((tmp_path / "a").iterdir())
    with whole_folder(tmp_path / "a" / "out") as staging:
        (staging / "whole").touch()
        assert not (tmp_path / "a" / "out").exists()
    assert [path.name for path in (tmp_path / "a").rglob("*")] == ["out", "whole"]
    with pytest.raises(BundleError, match="exists already"), whole_folder(tmp_path / "a" / "out"):
        raise AssertionError
