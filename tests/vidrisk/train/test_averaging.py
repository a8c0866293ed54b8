"""Tests of the moving average of the weights.

They cover its definition, and that a run keeps the average instead of the weights of the last step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from vidrisk.data import Table
from vidrisk.models.config import config_from_options
from vidrisk.runtimes.contract.errors import BundleError, SettingsError
from vidrisk.train.averaging import WeightAverage
from vidrisk.train.shares import Share
from vidrisk.train.strategies import open_accelerator
from vidrisk.train.train import train_run


def model_of() -> Any:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    return model


@pytest.mark.parametrize("decay", [0.3, 0.99])
def test_it_is_the_exponential_average_with_a_smaller_decay_at_first(decay: float) -> None:
    model = model_of()
    average, expected = WeightAverage(model, decay), model.weight.detach().clone().double()
    for step in range(1, 40):
        with torch.no_grad():
            model.weight.copy_(torch.randn(2, 3))
        average.update(step)
        kept = min(decay, (1 + step) / (10 + step))
        expected = kept * expected + (1 - kept) * model.weight.double()
    own = model.weight.detach().clone()
    with average.applied():
        torch.testing.assert_close(model.weight.double(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(model.weight, own) and average.tensors().keys() == {"average.weight"}


def test_the_weights_come_back_after_an_error() -> None:
    model = model_of()
    average, own = WeightAverage(model, 0.9), model.weight.detach().clone()
    with torch.no_grad():
        model.weight.add_(1)
    with pytest.raises(RuntimeError, match="out of memory"), average.applied():
        assert torch.equal(model.weight, own)
        raise RuntimeError("out of memory")
    assert torch.equal(model.weight, own + 1)


def test_a_checkpoint_without_the_average_is_refused() -> None:
    with pytest.raises(BundleError, match=r"^the checkpoint lacks the average of weight; fix: "):
        WeightAverage(model_of(), 0.9).load({"model.weight": torch.zeros(2, 3)})


def test_the_run_keeps_the_average(photos: Table, config_of: Callable[..., Any], tmp_path: Path) -> None:
    """The run keeps the average instead of the last weights.

    It trains for two epochs of few steps, after which the average lies between the first and the last weights.
    """
    config = config_of("optim.epochs=2", "optim.average=0.9", "optim.head_lr=0.01", "optim.warmup=0")
    table = replace(photos, samples=tuple(one for one in photos.samples if one.split != "val"))
    run = train_run(table, config, tmp_path / "run")
    kept, last = load_file(run.root / "head.safetensors"), load_file(run.root / "checkpoints" / "epoch-2.safetensors")
    trained = {name: tensor for name, tensor in kept.items() if f"average.head.{name}" in last}
    assert trained
    for name, tensor in trained.items():
        assert torch.equal(tensor, last[f"average.head.{name}"])
        assert not torch.equal(tensor, last[f"model.head.{name}"])


@pytest.mark.parametrize(("what", "world"), [("FSDP", 2), ("DEEPSPEED", 1)])
def test_weights_in_pieces_are_refused(what: str, world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{what}", "true")
    with pytest.raises(SettingsError, match=r"^optim\.average with FSDP or DeepSpeed; allowed: one process, or DDP; "):
        open_accelerator(config_from_options(None, ["optim.average=0.9"]), Share(world=world))
