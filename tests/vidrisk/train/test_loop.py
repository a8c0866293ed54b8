from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from vidrisk.data import Table
from vidrisk.models.config import OptimSettings, TrainConfig
from vidrisk.models.pretrained import Labels, build_classifier, contract_from_config, resolve_config
from vidrisk.runtimes.contract.contract import Target
from vidrisk.train.loop import _warm_cosine
from vidrisk.train.train import train_run

ConfigOf = Callable[..., TrainConfig]


def weights_of(run: Path) -> dict[str, Tensor]:
    weights = load_file(run / "head.safetensors")
    return {**weights, **load_file(run / "adapter" / "adapter_model.safetensors")}


def assert_same_weights(first: Path, second: Path, tolerance: float) -> None:
    a, b = weights_of(first), weights_of(second)
    assert a.keys() == b.keys() and any("lora_B" in name for name in a)
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=tolerance)


def test_lora_and_head_have_their_own_rates(config_of: ConfigOf) -> None:
    config = resolve_config(config_of(), clips=False)
    labels = Labels(targets=(Target(name="action", labels=("a", "b")),), clips=False)
    model = build_classifier(config, contract_from_config(config, labels))
    model.adapt(config)
    lora, head = model.parameter_groups(OptimSettings(lora_lr=1e-4, head_lr=1e-2, weight_decay=0.5))
    assert (lora["lr"], lora["weight_decay"], head["lr"], head["weight_decay"]) == (1e-4, 0.0, 1e-2, 0.5)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert lora["params"] and all("lora_" in names[id(p)] for p in lora["params"])
    assert all(names[id(p)].startswith("head.") for p in head["params"])
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    assert {id(p) for group in (lora, head) for p in group["params"]} == trainable


@given(st.integers(1, 500), st.floats(0, 1))
def test_the_rate_rises_once_then_falls_to_nothing(steps: int, warmup: float) -> None:
    rates = [_warm_cosine(step, steps, warmup) for step in range(steps + 1)]
    top = rates.index(max(rates))
    assert all(0 <= rate <= 1 for rate in rates) and max(rates) == pytest.approx(1)
    assert rates[:top] == sorted(rates[:top]) and rates[top:] == sorted(rates[top:], reverse=True)
    if warmup < 0.5 and steps > 1:
        assert rates[-1] == pytest.approx(0, abs=1e-9)


def test_accumulated_batches_equal_one_large_batch(photos: Table, config_of: ConfigOf, tmp_path: Path) -> None:
    plain = ("augment=[]", "head.dropout=0", "optim.epochs=2")
    train_run(photos, config_of(*plain, "optim.batch_size=8"), tmp_path / "large")
    train_run(photos, config_of(*plain, "optim.batch_size=4", "optim.accumulate=2"), tmp_path / "small")
    train_run(photos, config_of(*plain, "optim.batch_size=4"), tmp_path / "other")
    assert_same_weights(tmp_path / "large", tmp_path / "small", 1e-4)
    with pytest.raises(AssertionError):
        assert_same_weights(tmp_path / "large", tmp_path / "other", 1e-4)


def test_gradient_checkpointing_changes_nothing_but_memory(photos: Table, config_of: ConfigOf, tmp_path: Path) -> None:
    train_run(photos, config_of("optim.epochs=1"), tmp_path / "kept")
    train_run(photos, config_of("optim.epochs=1", "gradient_checkpointing=true"), tmp_path / "computed again")
    assert_same_weights(tmp_path / "kept", tmp_path / "computed again", 1e-5)
    assert any(tensor.abs().max() > 0 for name, tensor in weights_of(tmp_path / "kept").items() if "lora_B" in name)
