"""Tests that several processes train the same model as one process.

The launcher of accelerate starts them with the files of ``examples/accelerate``.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from trained_reporters import write_cases
from vlms import save_language_model

from vidrisk.data import load_table
from vidrisk.models.config import config_from_options
from vidrisk.runtimes.contract.errors import is_installed
from vidrisk.train.train import train_run
from vidrisk.train.train_data import train_data

pytestmark = pytest.mark.slow(minutes=6)

LAUNCHES = Path(__file__).resolve().parents[3] / "examples" / "accelerate"
PROGRAM = Path(__file__).with_name("train_together.py")
RGB = {"blue": (40, 40, 170), "green": (40, 170, 40), "red": (170, 40, 40)}
# 21 samples to train in batches of 5: of the last one, the second process has none.
SMALL = (
    "pixel.height=64",
    "pixel.width=64",
    "optim.batch_size=5",
    "optim.epochs=2",
    "lora.rank=4",
    "precision=fp32",
    "augment=[]",
    "head.dropout=0",
    "optim.lora_lr=0.001",
)
RESUMES = {"ddp.yaml": 0, "fsdp2.yaml": 1}  # and the process that was lost in the run that is resumed with it
REPORT = "report"
Jobs = dict[str, list[str]]


@pytest.fixture(scope="module")
def photo_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with photos of three classes; one of the photo files is empty."""
    root = tmp_path_factory.mktemp("processes") / "photos"
    for number in range(26):
        label = tuple(RGB)[number % 3]
        noise = np.random.default_rng(number).integers(-30, 30, (64, 64, 3))
        (root / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(np.array(RGB[label]) + noise, 0, 255).astype(np.uint8)).save(
            root / label / f"{number:02}.png"
        )
    (root / "red" / "empty.png").touch()
    return root


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a table of 16 cases to train on, some with two photos and some with none."""
    return write_cases(tmp_path_factory.mktemp("cases"))[0]


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory, cases: Path) -> Jobs:
    """Return the settings of three runs by name.

    The first run uses kept features and every weighting of samples. The second uses frames, prompts and a
    language-model loss. The third trains reports.
    """
    llama = save_language_model(tmp_path_factory.mktemp("llama"))
    return {
        "encoder": [
            *SMALL,
            "lora.last_blocks=2",
            "views=2",
            "optim.class_weights=balanced",
            "optim.label_smoothing=0.1",
            "optim.accumulate=2",
        ],
        "vlm": [
            *SMALL,
            f"backbone=compose:efficientnet-lite0+{llama}",
            "lora.last_blocks=null",
            "vlm.grid=2",
            "views=0",
            "optim.projector_lr=0.0001",
            "gradient_checkpointing=true",
        ],
        REPORT: [
            *(setting for setting in SMALL if not setting.startswith(("head.", "augment"))),
            "task=report",
            f"report.scheme={cases.with_name('scheme.yaml')}",
            f"backbone=compose:efficientnet-lite0+{llama}",
            "lora.last_blocks=null",
            "vlm.grid=2",
            "optim.projector_lr=0.0001",
        ],
    }


@pytest.fixture(scope="module")
def alone(jobs: Jobs, photo_classes: Path, cases: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train the runs in one process and return their folder."""
    root = tmp_path_factory.mktemp("alone")
    for name, settings in jobs.items():
        train_data(cases if name == REPORT else photo_classes, config_from_options(None, settings), root / name)
    return root


@dataclass(frozen=True)
class Launch:
    """The result of two processes, and the folder of the runs that they were to train, by name."""

    end: subprocess.CompletedProcess[str]
    root: Path


Launched = Callable[..., Launch]


@pytest.fixture(scope="module")
def launched(photo_classes: Path, cases: Path, tmp_path_factory: pytest.TempPathFactory) -> Launched:
    """Return a function that trains runs in two processes and returns the result.

    Its arguments are a file of ``examples/accelerate`` and the settings of the runs by name. ``resumed`` is a run
    of another launch, which is continued after the others because a launch takes longer than a run.
    """

    def launch(config: str, runs: Jobs, *, resumed: tuple[Path, list[str]] | None = None, **more: Any) -> Launch:
        root = tmp_path_factory.mktemp("launch")
        described: list[dict[str, Any]] = [
            {
                "out": str(root / name),
                "data": str(cases if name == REPORT else photo_classes),
                "settings": settings,
                **more,
            }
            for name, settings in runs.items()
        ]
        if resumed:
            described.append(
                {"out": str(resumed[0]), "data": str(photo_classes), "settings": resumed[1], "resume": True}
            )
        (root / "jobs.json").write_text(json.dumps(described), encoding="utf-8")
        return Launch(accelerate(config, str(PROGRAM), str(root / "jobs.json")), root)

    return launch


@pytest.fixture(scope="module")
def lost(launched: Launched, jobs: Jobs) -> Callable[[int], Launch]:
    """Return a function that launches a run and kills the process of the given number in the second epoch.

    The run is resumed later.
    """

    @functools.cache
    def launch(rank: int) -> Launch:
        lost = launched("ddp.yaml", {"encoder": jobs["encoder"]}, dies=rank)
        shutil.copytree(lost.root / "encoder", lost.root / "resumed")
        return lost

    return launch


@pytest.fixture(scope="module")
def together(launched: Launched, lost: Callable[[int], Launch], jobs: Jobs) -> Callable[[str], Launch]:
    """Return a function that trains all runs in two processes with a file of ``examples/accelerate``.

    The run to be resumed with that file, if there is one, is trained as well.
    """

    @functools.cache
    def launch(config: str) -> Launch:
        if config.startswith("zero") and not is_installed("deepspeed"):
            pytest.skip("deepspeed is not installed: pip install 'vidrisk[deepspeed]'")
        resumed = (lost(RESUMES[config]).root / "resumed", jobs["encoder"]) if config in RESUMES else None
        done = launched(config, jobs, resumed=resumed)
        assert done.end.returncode == 0, done.end.stderr
        return done

    return launch


def accelerate(config: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(LAUNCHES / config), *arguments]
    return subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=600
    )


def assert_same_run(first: Path, second: Path, tolerance: float, of_loss: float = 1e-4) -> None:
    files = sorted(
        path.relative_to(first) for path in first.glob("**/*.safetensors") if path.parent.name != "checkpoints"
    )
    assert files and files == sorted(
        path.relative_to(second) for path in second.glob("**/*.safetensors") if path.parent.name != "checkpoints"
    )
    for path in files:
        a, b = load_file(first / path), load_file(second / path)
        assert a.keys() == b.keys()
        for name in a:
            torch.testing.assert_close(
                a[name], b[name], rtol=0, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
            )
    before, after = (json.loads((run / "metrics.json").read_text(encoding="utf-8")) for run in (first, second))
    for one, other in zip(before["epochs"], after["epochs"], strict=True):
        assert one.pop("lr") == pytest.approx(other.pop("lr"))
        assert one == pytest.approx(other, abs=of_loss)
    for key in ("samples", "unreadable", "best_epoch", "trainable_parameters"):
        assert before[key] == after[key]
    if "test" in before:
        assert before["test"]["action"]["top1"] == after["test"]["action"]["top1"]
    else:
        assert before["reports"]["test"]["loss"] == pytest.approx(after["reports"]["test"]["loss"], abs=1e-4)
    assert len(list((second / "tensorboard").iterdir())) == 1
    assert (second / "config.yaml").read_bytes() == (first / "config.yaml").read_bytes()


@pytest.mark.parametrize("config", ["ddp.yaml", "fsdp2.yaml", "zero2.yaml", "zero3.yaml"])
def test_two_processes_train_what_one_does(
    config: str, together: Callable[[str], Launch], jobs: Jobs, alone: Path
) -> None:
    done = together(config)
    for name in jobs:
        assert_same_run(alone / name, done.root / name, 1e-5)
    # Trained: what is equal is not what nobody changed.
    for part in ("lora_B", "token_embedding_delta"):
        rows = load_file(done.root / "vlm" / "adapter" / "adapter_model.safetensors")
        assert any(rows[name].abs().max() > 1e-4 for name in rows if part in name or "trainable_tokens" in name)


def test_four_bit_weights_train_in_two_processes(
    launched: Launched, jobs: Jobs, photo_classes: Path, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes", reason="the extra 4bit is not installed")
    settings = [*jobs["vlm"], "optim.epochs=1", "vlm.weights=4bit"]
    train_run(load_table(photo_classes, "action"), config_from_options(None, settings), tmp_path / "alone")
    for config in ("ddp.yaml", "fsdp2.yaml"):
        done = launched(config, {"4bit": settings})
        assert done.end.returncode == 0, done.end.stderr
        # Where the processor has kernels for 4 bits, they compute in bfloat16, and round otherwise for other batches.
        assert_same_run(tmp_path / "alone", done.root / "4bit", 5e-4, of_loss=2e-3)


@pytest.mark.parametrize("config", RESUMES)
def test_a_process_that_dies_ends_the_others_and_the_run_is_resumed(
    config: str, lost: Callable[[int], Launch], together: Callable[[str], Launch], alone: Path
) -> None:
    left = lost(RESUMES[config])
    assert left.end.returncode != 0 and f"exitcode  : -{signal.SIGKILL.value}" in left.end.stderr
    assert sorted(path.name for path in (left.root / "encoder" / "checkpoints").iterdir()) == [
        "best.safetensors",
        "epoch-1.safetensors",
        "state.json",
    ]
    assert not (left.root / "encoder" / "metrics.json").exists()
    together(config)
    files = ("head.safetensors", "adapter/adapter_model.safetensors")
    for a, b in ((load_file(root / name) for root in (alone / "encoder", left.root / "resumed")) for name in files):
        assert all(torch.allclose(a[name], b[name], rtol=0, atol=1e-5) for name in a)


def test_a_sample_that_is_no_number_is_named_whichever_process_has_it(launched: Launched, jobs: Jobs) -> None:
    end = launched("ddp.yaml", {"encoder": jobs["encoder"]}, spoilt=7).end
    assert end.returncode != 0
    lines = {line.partition("SettingsError: ")[2] for line in end.stderr.splitlines() if "SettingsError: " in line}
    assert len(lines) == 1  # both say the same
    said = lines.pop()
    assert "the loss of batch" in said and "in epoch 1 is not finite, 1 of its" in said and ".png;" in said


def test_the_command_line_speaks_once(photo_classes: Path, tmp_path: Path) -> None:
    settings = [word for setting in (*SMALL, "optim.epochs=1", "lora.last_blocks=0") for word in ("--set", setting)]
    command = ("-m", "vidrisk", "train", str(photo_classes), "-o", str(tmp_path / "run"), *settings)
    end = accelerate("ddp.yaml", *command, "--json")
    assert end.returncode == 0, end.stderr
    assert json.loads(end.stdout)["samples"]["train"] > 0
    assert end.stderr.count("cannot be read and are left out") == 1
    end = accelerate("ddp.yaml", *command)
    assert end.returncode != 0 and end.stderr.count("exists and is not empty") == 1
