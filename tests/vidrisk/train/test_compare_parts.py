"""Tests of the comparison at the end of a run.

It compares the frozen probe, the head alone, and LoRA with the head, on the same samples.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vidrisk.data import Table
from vidrisk.models.classifier import ClipClassifier
from vidrisk.models.config import TrainConfig, config_from_options
from vidrisk.models.pretrained import Labels, build_classifier, contract_from_config, resolve_config
from vidrisk.runtimes.contract.contract import Contract, Target
from vidrisk.runtimes.contract.progress import ignore_progress
from vidrisk.runtimes.contract.specs import PixelSpec
from vidrisk.train.compare_parts import compare_answers_of_parts
from vidrisk.train.dataset import ClipDataset
from vidrisk.train.frozen_features import compute_features
from vidrisk.train.train import train_run
from vidrisk.train.views import views_from_clips

ConfigOf = Callable[..., TrainConfig]
EFFICIENT = (
    "pixel.height=64",
    "pixel.width=64",
    "precision=fp32",
    "lora.rank=4",
    "optim.epochs=2",
    "optim.batch_size=8",
)


def metrics_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    return found


def test_a_run_says_what_lora_adds(photos: Table, config_of: ConfigOf, tmp_path: Path) -> None:
    metrics = metrics_of(train_run(photos, config_of(), tmp_path / "run").root)
    val, test = (metrics["compared"]["splits"][split]["action"] for split in ("val", "test"))
    assert (val["n"], test["n"], val["metric"]) == (5, 3, "top1")
    assert val["probe"] == metrics["start"]["metric"] and val["lora"] == metrics["val"]["action"]["top1"]
    assert val["beside"]["head"]["test"] == "McNemar" and val["beside"]["head"]["first"] == val["head"]
    (line,) = metrics["compared"]["says"]
    assert line.startswith(
        "LoRA adds nothing beyond chance (action, test: 100.0% right versus 100.0% for the head alone, p = 1,"
    )
    assert line.endswith("lora.last_blocks=0 trains and exports the same, faster")


def test_the_head_alone_is_what_training_without_lora_gives(photos: Table, tmp_path: Path) -> None:
    """The head alone scores as a run without LoRA does.

    With views, both learn from the same features. The probes are the same as well.
    """

    def trained(name: str, *more: str) -> dict[str, Any]:
        return metrics_of(
            train_run(
                photos, config_from_options(None, [*EFFICIENT, "augment=[flip, light]", *more]), tmp_path / name
            ).root
        )

    with_lora, without = trained("lora", "lora.last_blocks=2"), trained("head", "lora.last_blocks=0")
    assert without["compared"] is None
    compared = with_lora["compared"]["splits"]
    assert compared["val"]["action"]["head"] == without["val"]["action"]["top1"]
    assert compared["test"]["action"]["head"] == without["test"]["action"]["top1"]
    assert compared["val"]["action"]["probe"] == without["start"]["metric"]
    assert with_lora["epochs"] != without["epochs"]
    assert with_lora["start"]["val_loss"] == pytest.approx(without["start"]["val_loss"], rel=0.02)


@pytest.mark.parametrize("views", [0, 3])
def test_features_are_those_of_the_encoder_before_lora(photos: Table, views: int) -> None:
    config = resolve_config(config_from_options(None, [*EFFICIENT, "lora.last_blocks=2"]), clips=False)
    labels = Labels(targets=(Target(name="action", labels=("blue", "green", "red")),), clips=False)
    contract = contract_from_config(config, labels)
    model = build_classifier(config, contract).eval()
    assert isinstance(model, ClipClassifier)
    data = ClipDataset(photos.with_samples(photos.samples[:6]), contract)
    frames = torch.stack([data[row][0] for row in range(len(data))])
    with torch.inference_mode():
        before = model.features(frames)
    model.adapt(config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    with torch.inference_mode():
        assert (model.features(frames) - before).abs().max() > 0.1
    made = views_from_clips(
        model, data, views=views, kinds=("flip",), jitter=1, seed=0, room_mb=100, on_progress=lambda done, total: None
    )
    if made is None:
        with model.as_frozen():
            found = views_from_clips(
                model, data, views=1, kinds=(), jitter=1, seed=0, room_mb=100, on_progress=lambda done, total: None
            )
    else:
        found = compute_features(model, made, 100, ignore_progress)
        assert compute_features(model, made, 0, ignore_progress) is None
    assert (
        found is not None
        and found.count == max(views, 1)
        and [s.name for s in found.samples] == [s.name for s in data.samples]
    )
    scale = before.abs().max()
    torch.testing.assert_close(
        torch.stack([found.view_of(row, 0) for row in range(6)]) / scale, before / scale, rtol=0, atol=0.01
    )


def test_nothing_is_compared_where_nobody_wants_it_or_there_is_nothing(
    photos: Table, config_of: ConfigOf, tmp_path: Path
) -> None:
    seen: list[str] = []
    config = config_of("optim.epochs=1", "compare=false")
    run = train_run(photos, config, tmp_path / "off", on_progress=lambda what, done, total: seen.append(what))
    assert metrics_of(run.root)["compared"] is None and not any("head alone" in what for what in seen)
    only = photos.with_samples(photos.of_split("train").samples)
    assert metrics_of(train_run(only, config_of("optim.epochs=1"), tmp_path / "train").root)["compared"] is None


TARGETS = (Target(name="action", labels=("a", "b")), Target(name="seen", labels=("x", "y"), multi_label=True))
CONTRACT = Contract(task="action", pixel=PixelSpec(), targets=TARGETS, time=None)


def answers(right: int, of: int) -> tuple[torch.Tensor, ...]:
    """Return logits that are right for the first ``right`` samples and wrong for the others."""
    sure = torch.where(torch.arange(of) < right, 4.0, -4.0)
    return torch.stack([sure, -sure], dim=1), torch.stack([sure, sure], dim=1)


@pytest.mark.parametrize(
    ("lora", "head", "words"),
    [
        (30, 10, "LoRA is better than the head alone (action, val: 75.0% right versus 25.0%"),
        (10, 30, "LoRA is worse than the head alone (action, val: 25.0% right versus 75.0%"),
        (
            20,
            18,
            "LoRA adds nothing beyond chance (action, val: 50.0% right versus 45.0% for the head alone, p = 0.5, 40 samples)",
        ),
    ],
)
def test_the_verdict_is_paired(lora: int, head: int, words: str) -> None:
    truth = torch.tensor([[0, 1, 1]] * 40)
    truth[38:, 1:] = -1  # nobody has labelled them
    found = compare_answers_of_parts(
        CONTRACT,
        {"lora": {"val": answers(lora, 40)}, "head": {"val": answers(head, 40)}},
        {"val": (truth, [None] * 40)},
    )
    assert found["says"][0].startswith(words) and len(found["says"]) == 2
    assert found["splits"]["val"]["seen"]["n"] == 38 and "probe" not in found["splits"]["val"]["action"]


def test_samples_of_one_group_are_no_independent_evidence() -> None:
    truth = torch.tensor([[0, 1, 1]] * 40)
    parts = {"lora": {"val": answers(30, 40)}, "head": {"val": answers(10, 40)}}
    found = compare_answers_of_parts(
        CONTRACT, parts, {"val": (truth, ["one" if row < 30 else "two" for row in range(40)])}
    )
    beside = found["splits"]["val"]["action"]["beside"]["head"]
    assert (beside["groups"], beside["test"]) == (2, "bootstrap") and found["says"][0].startswith(
        "LoRA adds nothing beyond chance"
    )
