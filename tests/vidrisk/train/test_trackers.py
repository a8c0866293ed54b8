from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vidrisk.data import Table
from vidrisk.models.config import TrainConfig, config_from_options
from vidrisk.runtimes.contract.errors import MissingExtra, SettingsError, is_installed
from vidrisk.train.history import Epoch
from vidrisk.train.trackers import Tracker, check_trackers, open_trackers, track_epoch
from vidrisk.train.train import train_run

FIRST = Epoch(1, 0.9, 0.8, 0.5, {"lora": 2e-4, "head": 1e-3})
LAST = Epoch(2, 0.25, None, None, {"lora": 1e-4, "head": 5e-4})
BY_WANDB = """
import sys
from pathlib import Path
from vidrisk.models.config import config_from_options
from vidrisk.train.history import Epoch
from vidrisk.train.shares import open_share
from vidrisk.train.trackers import open_trackers, track_epoch
open_share()
trackers = open_trackers(config_from_options(None, ["trackers=[wandb]"]), Path(sys.argv[1]))
track_epoch(trackers, Epoch(1, 0.9, 0.8, 0.5, {"lora": 2e-4}), "top1")
trackers[0].close()
"""
without_wandb = pytest.mark.skipif(is_installed("wandb"), reason="wandb is installed")


def config(trackers: str) -> TrainConfig:
    return config_from_options(None, [f"trackers={trackers}"])


def write(trackers: list[Tracker], *epochs: Epoch) -> None:
    for epoch in epochs:
        track_epoch(trackers, epoch, "macro_f1")
    for tracker in trackers:
        tracker.close()


def curves_of(folder: Path) -> dict[str, Any]:
    """Return the steps and values of each curve, as TensorBoard itself reads them."""
    events = EventAccumulator(str(folder)).Reload()
    return {
        tag: [(each.step, pytest.approx(each.value)) for each in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_tensorboard_reads_the_figures_of_every_epoch(tmp_path: Path) -> None:
    write(open_trackers(config_from_options(), tmp_path), FIRST, LAST)
    assert curves_of(tmp_path / "tensorboard") == {
        "loss/train": [(1, 0.9), (2, 0.25)],
        "lr/lora": [(1, 2e-4), (2, 1e-4)],
        "lr/head": [(1, 1e-3), (2, 5e-4)],
        "loss/val": [(1, 0.8)],
        "val/macro_f1": [(1, 0.5)],
    }  # of an epoch without validation there is no point


def test_a_resumed_run_goes_on_in_the_same_curves(tmp_path: Path) -> None:
    for epoch in (FIRST, LAST):
        write(open_trackers(config_from_options(), tmp_path), epoch)
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2
    assert curves_of(tmp_path / "tensorboard")["loss/train"] == [(1, 0.9), (2, 0.25)]


def test_without_trackers_nothing_is_written(tmp_path: Path) -> None:
    write(open_trackers(config("[]"), tmp_path), FIRST)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_tracker_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(SettingsError, match=r"trackers.*tensorboard.*wandb"):
        config("[mlflow]")


@without_wandb
def test_weights_and_biases_that_is_not_installed_is_named_with_its_extra() -> None:
    check_trackers(config("[tensorboard]"))
    with pytest.raises(MissingExtra, match=r"^wandb is not installed; fix: pip install 'vidrisk\[wandb\]'$"):
        check_trackers(config("[tensorboard, wandb]"))


@without_wandb
def test_a_run_without_its_tracker_ends_before_anything_is_read_or_written(
    photos: Table, config_of: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    seen: list[str] = []
    with pytest.raises(MissingExtra, match="wandb is not installed"):
        train_run(
            photos,
            config_of("trackers=[wandb]"),
            tmp_path / "run",
            on_progress=lambda what, done, total: seen.append(what),
        )
    assert not seen and not (tmp_path / "run").exists()


def track_by_wandb(run: Path, mode: str) -> subprocess.CompletedProcess[str]:
    """Write an epoch to wandb in a separate process, without an account and with an unreachable server."""
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    run.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")} | {
        "HOME": str(run.parent / "home"),
        "WANDB_MODE": mode,
        "WANDB_BASE_URL": "http://127.0.0.1:9",
    }
    return subprocess.run(
        [sys.executable, "-c", BY_WANDB, str(run)],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_weights_and_biases_keeps_a_run_in_its_folder_offline(tmp_path: Path) -> None:
    end = track_by_wandb(tmp_path / "fights", "offline")
    assert end.returncode == 0, end.stderr
    (kept,) = (tmp_path / "fights").glob("wandb/offline-run-*/run-*.wandb")
    content = kept.read_bytes()
    assert all(name in content for name in (b"fights", b"loss/train", b"val/top1", b"lora_lr"))


def test_weights_and_biases_without_an_account_is_one_line(tmp_path: Path) -> None:
    end = track_by_wandb(tmp_path / "fights", "online")
    assert end.returncode != 0
    assert "VidriskError: Weights & Biases cannot be used: " in (said := end.stderr.splitlines()[-1])
    assert "fix: log in (`wandb login`), set WANDB_MODE=offline, or leave wandb out of trackers" in said
