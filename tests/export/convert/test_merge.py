"""Tests of merging: it changes the weights, but neither the answers nor the original."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from backbones import FAMILIES, WINDOW
from torch import nn

from vidrisk.export.convert.merge import has_adapter, merge_trained
from vidrisk.runtimes.contract.errors import RuntimeFailure

Make = Callable[..., Any]


@pytest.mark.parametrize("family", FAMILIES)
def test_merged_equals_adapted_and_leaves_it_alone(adapted_encoder: Make, clips: Make, family: str) -> None:
    adapted = adapted_encoder(family)
    before = {name: value.clone() for name, value in adapted.state_dict().items()}
    merged = merge_trained(adapted)
    frames = torch.from_numpy(clips(4, WINDOW) if adapted.sees_windows else clips(4)[:, 0])
    with torch.inference_mode():
        expected, result = adapted(frames), merged(frames)
        with adapted.backbone.disable_adapter():
            plain = adapted(frames)
    assert (expected - plain).abs().max() > 0.01  # the adapter does something
    assert (expected - result).abs().max() < 1e-4
    assert has_adapter(adapted)
    assert not has_adapter(merged)
    assert not merged.training
    after = adapted.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not any("lora" in name for name in merged.state_dict())
    assert not any(isinstance(part, nn.BatchNorm2d) for part in merged.modules())  # folded into the convolutions


@pytest.mark.parametrize(
    ("family", "poison"), [("vit", float("nan")), ("vit", float("inf")), ("efficientnet-lite0", float("nan"))]
)
def test_broken_adapters_are_refused(adapted_encoder: Make, family: str, poison: float) -> None:
    adapted = adapted_encoder(family)
    broken = [p for name, p in adapted.named_parameters() if "lora_B" in name][-1]
    with torch.no_grad():
        broken[0] = poison
    with pytest.raises(RuntimeFailure, match=r"adapter cannot be merged.*fix: train again") as caught:
        merge_trained(adapted)
    assert len(str(caught.value).splitlines()) == 1


def test_a_module_without_adapter_is_copied() -> None:
    module = nn.Linear(2, 2)
    assert not has_adapter(module)
    merged = merge_trained(module)
    assert merged is not module
    assert torch.equal(merged.weight, module.weight)


def test_a_bare_adapter_is_merged_too(adapted_encoder: Make) -> None:
    merged = merge_trained(adapted_encoder("vit").backbone)
    assert not has_adapter(merged)
    assert type(merged).__name__ == "ViTModel"


def test_lora_outside_of_peft_is_not_exported_unmerged() -> None:
    class Foreign(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lora_A = nn.Linear(2, 1)

    with pytest.raises(RuntimeFailure, match="adapter layers are left"):
        merge_trained(nn.Sequential(Foreign()))
