"""Training may hold frozen weights in fewer bits; the trained run answers alike in single precision."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from vlm_runs import Trained

from vidrisk.runtimes.contract.errors import SettingsError

pytest.importorskip("bitsandbytes", reason="the extra 4bit is not installed")


@pytest.mark.parametrize(("weights", "kind", "tolerance"), [("bfloat16", "Linear", 0.05), ("4bit", "Linear4bit", 0.3)])
def test_a_run_on_held_weights_comes_back_in_single_precision(
    train: Callable[..., Trained], weights: str, kind: str, tolerance: float
) -> None:
    trained = train(
        "composed", f"vlm.weights={weights}", "precision=bf16" if weights == "bfloat16" else "precision=fp32"
    )
    layer = trained.model.backbone.decoder.layers[-1].mlp.up_proj.base_layer
    assert type(layer).__name__ == kind and layer.weight.dtype is (
        torch.bfloat16 if weights == "bfloat16" else torch.uint8
    )
    assert any("lora_B" in name and parameter.abs().sum() > 0 for name, parameter in trained.model.named_parameters())
    loaded = trained.run.load_classifier()
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    with torch.inference_mode():
        expected, found = (model.eval().features(trained.frames())[:, 0].float() for model in (trained.model, loaded))
    assert (found - expected).abs().mean() < tolerance * expected.abs().mean()


def test_a_start_is_not_rounded_to_four_bits(train: Callable[..., Trained], trained: Callable[[str], Trained]) -> None:
    with pytest.raises(SettingsError, match=r"vlm\.weights 4bit, which would round .*; allowed: float32, bfloat16"):
        train("composed", "vlm.weights=4bit", start=trained("composed").run)
