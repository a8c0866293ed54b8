"""Tests that training starts at the best probe; the epochs add their changes to it."""

from __future__ import annotations

import errno
import io
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vidrisk.data import Table, load_table
from vidrisk.models.config import TrainConfig, config_from_options
from vidrisk.models.run import Run
from vidrisk.train import probe_start
from vidrisk.train.dataset import ClipDataset
from vidrisk.train.probe import DECAYS
from vidrisk.train.train import train_run

ConfigOf = Callable[..., TrainConfig]
SMALL = ["pixel.height=64", "pixel.width=64", "frames=4", "optim.epochs=1"]


class FullFile(io.BytesIO):
    def write(self, data: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def trained(folder: Path, out: Path, *settings: str) -> Run:
    return train_run(load_table(folder, "action"), config_from_options(None, [*SMALL, *settings]), out)


def test_without_a_step_the_head_is_the_probe(clip_folder: Path, tmp_path: Path) -> None:
    run = trained(clip_folder, tmp_path / "run", "lora.last_blocks=0", "optim.head_lr=0")
    metrics = json.loads((run.root / "metrics.json").read_text())
    assert metrics["test"]["action"]["top1"] == 1.0  # three colours
    model = run.load_classifier()
    weights = model.state_dict()["head.classifiers.0.weight"]
    assert weights.abs().sum() > 0
    table = run.read_split().of_split("train")
    data = ClipDataset(table, run.contract)
    with torch.inference_mode():
        summaries = torch.cat([model.summaries(data[i][0][None]) for i in range(len(data))]).numpy()  # type: ignore[misc]
        ours = torch.cat([model(data[i][0][None])[0][0].softmax(1) for i in range(len(data))]).numpy()
    truth = data.truth[:, 0].numpy()
    deviation = summaries.std(axis=0) + 0.1 * summaries.std(axis=0).mean()
    standardised = (summaries - summaries.mean(axis=0)) / deviation
    gaps = [
        np.abs(
            LogisticRegression(C=1 / (decay * len(truth)), max_iter=2000)
            .fit(standardised, truth)
            .predict_proba(standardised)
            - ours
        ).max()
        for decay in DECAYS
    ]
    assert min(gaps) < 2e-2  # it is the regression with one of the decays


@pytest.mark.parametrize("disk", ["has room", "is full"])
def test_many_summaries_are_mapped_from_a_file_and_the_probe_is_the_same(
    clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, disk: str
) -> None:
    settings = "lora.last_blocks=0", "optim.head_lr=0"
    known = trained(clip_folder, tmp_path / "known", *settings).load_classifier().state_dict()
    monkeypatch.setattr(probe_start, "MOST_IN_MEMORY", 0)
    mapped: list[np.ndarray] = []
    fit_start = probe_start.fit_start
    monkeypatch.setattr(
        probe_start, "fit_start", lambda features, *rest: (mapped.append(features), fit_start(features, *rest))[1]
    )
    if disk == "is full":
        monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: FullFile())
    found = trained(clip_folder, tmp_path / "run", *settings).load_classifier().state_dict()
    assert all(torch.equal(known[name], found[name]) for name in known)
    assert isinstance(mapped[0], np.memmap) == (disk == "has room")
    assert ("do not fit on disk (No space left on device)" in caplog.text) == (disk == "is full")


def test_a_head_that_begins_at_zero_knows_nothing_without_a_step(clip_folder: Path, tmp_path: Path) -> None:
    run = trained(clip_folder, tmp_path / "run", "lora.last_blocks=0", "optim.head_lr=0", "head.start=zero")
    assert not run.load_classifier().state_dict()["head.classifiers.0.weight"].any()


@pytest.mark.parametrize("kind", ["mlp", "attention", "transformer"])
def test_heads_that_train_more_than_classifiers_begin_as_they_are(clip_folder: Path, tmp_path: Path, kind: str) -> None:
    run = trained(clip_folder, tmp_path / "run", "lora.last_blocks=0", "optim.head_lr=0", f"head.kind={kind}")
    assert not run.load_classifier().state_dict()["head.classifiers.0.weight"].any()


def test_labels_turn_with_mirrored_views(tmp_path: Path) -> None:
    """The probe tells left from right although views are mirrored, because the labels are swapped with them."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(40):
        pixels = rng.integers(100, 140, (64, 64, 3)).astype(np.uint8)
        side = "left" if number % 2 else "right"
        if side == "left":
            pixels[:, :20] = (220, 30, 30)
        else:
            pixels[:, -20:] = (220, 30, 30)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{side},{('train', 'train', 'val', 'test')[number // 10]}")
    (tmp_path / "m.csv").write_text("path,label,split\n" + "\n".join(rows) + "\n")
    config = config_from_options(None, [*SMALL, "lora.last_blocks=0", "optim.head_lr=0", "augment=[flip]", "views=6"])
    run = train_run(load_table(tmp_path / "m.csv", "action"), config, tmp_path / "run")
    assert json.loads((run.root / "metrics.json").read_text())["test"]["action"]["top1"] == 1.0


RUINOUS = ("optim.lora_lr=3", "optim.head_lr=3", "optim.warmup=0", "optim.batch_size=4")


def test_the_probe_is_kept_where_every_epoch_is_worse(photos: Table, config_of: ConfigOf, tmp_path: Path) -> None:
    still = train_run(photos, config_of("optim.head_lr=0", "optim.lora_lr=0", "compare=false"), tmp_path / "still")
    run = train_run(photos, config_of(*RUINOUS, "compare=false"), tmp_path / "run")
    metrics = json.loads((run.root / "metrics.json").read_text())
    assert metrics["best_epoch"] == 0 and [epoch["epoch"] for epoch in metrics["epochs"]] == [1, 2, 3]
    assert metrics["start"]["metric"] == metrics["val"]["action"]["top1"] > max(e["metric"] for e in metrics["epochs"])
    for name, tensor in load_file(run.root / "head.safetensors").items():
        torch.testing.assert_close(tensor, load_file(still.root / "head.safetensors")[name])
    assert not any(
        t.any() for n, t in load_file(run.root / "adapter" / "adapter_model.safetensors").items() if "lora_B" in n
    )
    events = EventAccumulator(str(run.root / "tensorboard")).Reload()
    assert [each.step for each in events.Scalars("val/top1")] == [0, 1, 2, 3]
    assert [each.step for each in events.Scalars("loss/train")] == [1, 2, 3]
    assert (run.root / "plots" / "metric.png").stat().st_size > 0


def test_a_resumed_run_still_knows_the_probe_that_it_began_at(
    photos: Table, config_of: ConfigOf, tmp_path: Path
) -> None:
    class StoppedError(Exception):
        pass

    def stop(what: str, done: int, total: int) -> None:
        if what.startswith("epoch 3/"):
            raise StoppedError

    config = config_of(*RUINOUS, "compare=false")
    whole = train_run(photos, config, tmp_path / "whole")
    with pytest.raises(StoppedError):
        train_run(photos, config, tmp_path / "run", on_progress=stop)
    resumed = train_run(photos, config, tmp_path / "run", resume=True)
    before, after = (json.loads((run.root / "metrics.json").read_text()) for run in (whole, resumed))
    assert (
        after["best_epoch"] == before["best_epoch"] == 0
        and after["start"] == before["start"]
        and len(after["epochs"]) == 3
    )
    first, second = (load_file(run.root / "head.safetensors") for run in (whole, resumed))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_head_with_more_to_train_has_no_epoch_0(photos: Table, config_of: ConfigOf, tmp_path: Path) -> None:
    run = train_run(photos, config_of(*RUINOUS, "head.kind=mlp", "compare=false", "optim.epochs=1"), tmp_path / "run")
    metrics = json.loads((run.root / "metrics.json").read_text())
    assert metrics["start"] is None and metrics["best_epoch"] == 1
