"""Tests that training that is killed at any moment and resumed ends as if it had not been killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from vidrisk.data import Table, write_table
from vidrisk.models.run import Run

PROGRAM = Path(__file__).with_name("kill_training.py")
SETTINGS = (
    "pixel.height=64",
    "pixel.width=64",
    "optim.epochs=3",
    "optim.batch_size=4",
    "optim.lora_lr=0.002",
    "lora.rank=4",
    "lora.last_blocks=1",
    "views=2",
    "augment=[flip]",
    "precision=fp32",
    "trackers=[]",
    "optim.class_weights=drawn",
)


def weights_of(run: Path) -> dict[str, Tensor]:
    return {**load_file(run / "head.safetensors"), **load_file(run / "adapter" / "adapter_model.safetensors")}


def train(root: Path, *arguments: str) -> dict[str, list[int]]:
    process = subprocess.run(
        [sys.executable, PROGRAM, root, *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.returncode == 0, process.stderr
    found: dict[str, list[int]] = json.loads(process.stdout.splitlines()[-1])
    return found


@pytest.mark.slow(minutes=1)
def test_whenever_training_is_killed_it_ends_with_the_same_weights(photos: Table, tmp_path: Path) -> None:
    manifest = photos.root / "table.csv"
    if not manifest.exists():
        write_table(photos, manifest)
    root = tmp_path / "runs"
    (root / "decoding").mkdir(parents=True)  # an empty folder, and none, are begun with --resume, too
    ends = train(root, str(manifest), *(word for each in SETTINGS for word in ("--set", each)))
    assert ends.pop("undisturbed") == [0]
    assert ends == {moment: [-signal.SIGKILL, 0] for moment in ends} and len(ends) == 16
    expected, epochs = weights_of(root / "undisturbed"), epochs_of(root / "undisturbed")
    for moment in ends:
        found = weights_of(root / moment)
        assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found), (
            moment
        )
        assert epochs_of(root / moment) == epochs, moment
        assert Run.open(root / moment).load_classifier() is not None


def epochs_of(run: Path) -> object:
    return json.loads((run / "metrics.json").read_text(encoding="utf-8"))["epochs"]
