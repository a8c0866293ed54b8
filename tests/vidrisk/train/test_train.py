from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from vidrisk.data import Table, load_table
from vidrisk.models.config import TrainConfig, config_from_options
from vidrisk.models.run import Run
from vidrisk.runtimes.contract.errors import BundleError, DataError, SettingsError
from vidrisk.train.train import train_run

ConfigOf = Callable[..., TrainConfig]


def metrics_of(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    return content


class StoppedError(Exception):
    """Exception that stands for a power cut."""


def stop_at(epoch: int) -> Callable[[str, int, int], None]:
    def on_progress(what: str, done: int, total: int) -> None:
        if what.startswith(f"epoch {epoch}/") and done == 1:
            raise StoppedError

    return on_progress


def without(table: Table, split: str) -> Table:
    return table.with_samples(s for s in table.samples if s.split != split)


@pytest.mark.parametrize(
    "more", [(), ("lora.last_blocks=0",), ("head.kind=mlp", "optim.class_weights=balanced", "optim.metric=macro_f1")]
)
def test_training_learns(photos: Table, config_of: ConfigOf, tmp_path: Path, more: tuple[str, ...]) -> None:
    run = train_run(photos, config_of("optim.epochs=4", *more), tmp_path / "run")
    metrics = metrics_of(run.root)
    losses = [epoch["train_loss"] for epoch in metrics["epochs"]]
    assert len(losses) == 4 and losses[-1] < 0.7 * losses[0]
    assert metrics["val"]["action"]["top1"] >= 0.8 and metrics["test"]["action"]["n"] == 3
    assert metrics["samples"] == {"train": 16, "val": 5, "test": 3} and metrics["trainable_parameters"] > 0
    assert (run.root / "adapter").is_dir() == ("lora.last_blocks=0" not in more)
    assert run.load_classifier() is not None


def test_the_best_epoch_is_what_is_kept(photos: Table, config_of: ConfigOf, tmp_path: Path) -> None:
    run = train_run(photos, config_of("optim.head_lr=0.05", "head.start=zero"), tmp_path / "run")
    metrics = metrics_of(run.root)
    best = metrics["epochs"][metrics["best_epoch"] - 1]
    assert best["metric"] == max(epoch["metric"] for epoch in metrics["epochs"]) == metrics["val"]["action"]["top1"]
    assert metrics["start"] is None and metrics["best_epoch"] > 0


def test_early_stop(photos: Table, config_of: ConfigOf, tmp_path: Path) -> None:
    run = train_run(
        photos, config_of("optim.epochs=9", "optim.patience=2", "optim.lora_lr=0", "optim.head_lr=0"), tmp_path / "run"
    )
    assert len(metrics_of(run.root)["epochs"]) == 2  # neither was better than what training began at


def test_without_validation_the_last_epoch_is_kept(
    photos: Table, config_of: ConfigOf, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = train_run(without(photos, "val"), config_of("optim.epochs=2", "optim.patience=1"), tmp_path / "run")
    metrics = metrics_of(run.root)
    assert metrics["best_epoch"] == 2 and "val" not in metrics and metrics["epochs"][0]["metric"] is None
    assert "no sample is in the val split" in caplog.text
    head, last = load_file(run.root / "head.safetensors"), load_file(run.root / "checkpoints" / "epoch-2.safetensors")
    assert all(torch.equal(tensor, last[f"model.head.{name}"]) for name, tensor in head.items())


@pytest.mark.parametrize(
    "more", [("augment=[flip, light]",), ("lora.last_blocks=0", "views=3"), ("optim.average=0.9", "augment=[flip]")]
)
def test_a_resumed_run_equals_one_that_was_never_stopped(
    photos: Table, config_of: ConfigOf, tmp_path: Path, more: tuple[str, ...]
) -> None:
    config = config_of("head.dropout=0.3", *more)
    whole = train_run(photos, config, tmp_path / "whole")
    with pytest.raises(StoppedError):
        train_run(photos, config, tmp_path / "run", on_progress=stop_at(2))
    assert not (tmp_path / "run" / "metrics.json").exists()
    resumed = train_run(photos, config, tmp_path / "run", resume=True)
    for name in (
        "head.safetensors",
        *(["adapter/adapter_model.safetensors"] if "lora.last_blocks=0" not in more else []),
    ):
        a, b = load_file(whole.root / name), load_file(resumed.root / name)
        assert a.keys() == b.keys()
        for key in a:
            torch.testing.assert_close(a[key], b[key], rtol=0, atol=1e-6)
    for before, after in zip(metrics_of(whole.root)["epochs"], metrics_of(resumed.root)["epochs"], strict=True):
        assert before.pop("lr") == pytest.approx(after.pop("lr"))
        assert before == pytest.approx(after)


def test_resume_refuses_other_settings_and_leaves_the_run_alone(
    photos: Table, config_of: ConfigOf, tmp_path: Path
) -> None:
    with pytest.raises(StoppedError):
        train_run(photos, config_of(), tmp_path / "run", on_progress=stop_at(2))
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    for table, config in ((photos, config_of("seed=1")), (without(photos, "test"), config_of())):
        with pytest.raises(BundleError, match="other settings or data"):
            train_run(table, config, tmp_path / "run", resume=True)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_a_damaged_checkpoint_is_refused(photos: Table, config_of: ConfigOf, tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        train_run(photos, config_of(), tmp_path / "run", on_progress=stop_at(2))
    weights, state = (
        tmp_path / "run" / "checkpoints" / "epoch-1.safetensors",
        tmp_path / "run" / "checkpoints" / "state.json",
    )
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(BundleError, match="damaged"):
        train_run(photos, config_of(), tmp_path / "run", resume=True)
    state.write_text("[]", encoding="utf-8")
    with pytest.raises(BundleError, match="damaged"):
        train_run(photos, config_of(), tmp_path / "run", resume=True)


def test_a_folder_that_exists_and_a_finished_run_are_refused(
    photos: Table, config_of: ConfigOf, tmp_path: Path
) -> None:
    config = config_of("optim.epochs=1")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()
    with pytest.raises(SettingsError, match="run it again with resume"):
        train_run(photos, config, tmp_path / "mine")
    train_run(photos, config, tmp_path / "run")
    with pytest.raises(SettingsError, match="finished run"):
        train_run(photos, config, tmp_path / "run", resume=True)


def test_unreadable_samples_are_left_out_and_listed(photos: Table, config_of: ConfigOf, tmp_path: Path) -> None:
    empty = tmp_path / "empty.png"
    empty.touch()
    table = photos.with_samples([*photos.samples, replace(photos.samples[0], path=empty, name="empty.png")])
    metrics = metrics_of(train_run(table, config_of("optim.epochs=1"), tmp_path / "run").root)
    assert metrics["samples"]["train"] == 16
    assert [(row["path"], row["split"]) for row in metrics["unreadable"]] == [("empty.png", "train")] and metrics[
        "unreadable"
    ][0]["reason"]


def test_what_cannot_be_trained_on(
    photos: Table, config_of: ConfigOf, write_clip: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="no sample is in the train split"):
        train_run(photos.with_samples(replace(s, split="val") for s in photos.samples), config_of(), tmp_path / "a")
    clip = replace(photos.samples[0], path=write_clip(tmp_path / "c.mp4", (1, 2, 3)), name="c.mp4")
    with pytest.raises(DataError, match="mixed"):
        train_run(photos.with_samples([*photos.samples, clip]), config_of(), tmp_path / "b")
    broken = photos.with_samples(
        replace(s, path=tmp_path / "none.png") if s.split == "val" else s for s in photos.samples
    )
    with pytest.raises(DataError, match="no sample of the val split can be read"):
        train_run(broken, config_of(), tmp_path / "c")
    with pytest.raises(SettingsError, match="square"):
        train_run(
            photos,
            config_from_options(None, ["augment=[dihedral]", "pixel.height=64", "pixel.width=96"]),
            tmp_path / "d",
        )
    assert not any((tmp_path / name).exists() for name in "abcd")


def test_a_loss_that_is_not_finite_stops_the_run(photos: Table, config_of: ConfigOf, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="not finite"):
        train_run(photos, config_of("optim.lora_lr=1.0e+25"), tmp_path / "run")


def test_clips_learn_with_jitter_and_without_views(clip_folder: Path, tmp_path: Path) -> None:
    config = config_from_options(
        None,
        [
            "pixel.height=64",
            "pixel.width=64",
            "frames=2",
            "jitter=3",
            "views=0",
            "lora.rank=4",
            "lora.last_blocks=1",
            "optim.epochs=2",
            "optim.batch_size=6",
            "optim.head_lr=0.01",
            "precision=fp32",
            "head.kind=attention",
            "augment=[flip, dihedral, zoom, light]",
        ],
    )
    run = train_run(load_table(clip_folder, "action"), config, tmp_path / "run")
    assert run.contract.frames == 2
    assert metrics_of(run.root)["epochs"][-1]["train_loss"] < metrics_of(run.root)["epochs"][0]["train_loss"]


def test_risk_photos_carry_advice_into_the_run(photos: Table, config_of: ConfigOf, tmp_path: Path) -> None:
    levels = {"blue": "轻微", "green": "中等", "red": "严重"}
    table = Table(
        photos.root,
        "risk",
        tuple(
            replace(
                s,
                labels={"defect": s.labels["action"], "level": levels[s.labels["action"]]},
                advice=f"advice {s.labels['action']}",
            )
            for s in photos.samples
        ),
    )
    run = train_run(table, config_of("task=risk", "optim.epochs=1"), tmp_path / "run")
    level = Run.open(run.root).contract.target("level")
    assert level is not None and level.labels == ("轻微", "中等", "严重") and level.severity == (0, 50, 100)
    assert {g.advice for g in run.contract.guidance} == {"advice blue", "advice green", "advice red"}
    assert set(metrics_of(run.root)["val"]) == {"defect", "level"}


def test_what_was_assumed_of_the_data_is_in_the_run(photos: Table, config_of: ConfigOf, tmp_path: Path) -> None:
    table = replace(photos, notes=("m.csv is read as GB 18030, by its words 正常",))
    run = train_run(table, config_of("optim.epochs=1"), tmp_path / "run")
    assert metrics_of(run.root)["data_notes"] == list(table.notes)
