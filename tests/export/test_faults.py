"""Tests of what the gate must catch: one realistic fault each, and the hop that reports it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from vidrisk.export import export as module
from vidrisk.export.convert.graphs import export_onnx
from vidrisk.export.export import export_bundle
from vidrisk.export.gate.outputs import Validation
from vidrisk.export.trained import ExportOptions, Trained
from vidrisk.runtimes.contract.errors import GateRefused
from vidrisk.runtimes.openvino import OpenVinoRunner
from vidrisk.runtimes.registry import BUNDLE_RUNTIMES

Make = Callable[..., Any]


@pytest.fixture
def small(make_trained: Make, small_encoder: Make) -> tuple[Trained, Validation]:
    return make_trained(small_encoder(), 32)


class Spoilt(nn.Module):
    """The encoder, with its frames changed on the way in."""

    def __init__(self, encoder: nn.Module, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.encoder, self.change = encoder, change

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return self.encoder(self.change(frames))  # type: ignore[no-any-return]


def refusal(trained: Trained, validation: Validation, tmp_path: Path, frames: Any = None) -> str:
    """Return the gate's refusal, and check that nothing was written."""
    options = ExportOptions(int8=frames is not None, max_drop=10, allow_drop=False)
    with pytest.raises(GateRefused) as caught:
        export_bundle(trained, tmp_path / "b", validation, frames, options)
    assert not (tmp_path / "b").exists() and caught.value.exit_code == 3
    return str(caught.value)


def spoil_export(monkeypatch: pytest.MonkeyPatch, which: str, change: Callable[[nn.Module], nn.Module]) -> None:
    """Change the exported graph, so that it differs from the torch module: a fault of an exporter."""

    def export(part: nn.Module, example: Any, *rest: Any) -> None:
        is_encoder = example[0].dtype == torch.uint8
        export_onnx(change(part) if is_encoder == (which == "encoder") else part, example, *rest)

    monkeypatch.setattr(module, "export_onnx", export)


def test_swapped_labels(small: Any, tmp_path: Path) -> None:
    trained, validation = small
    swapped = {"action": (validation.truth["action"] + 1) % 3}
    said = refusal(replace(trained, recorded={"action": 1.0}), replace(validation, truth=swapped), tmp_path)
    assert "the gate refused training → adapter (torch)" in said and "label order" in said


def test_wrong_normalisation_between_training_and_gate(small: Any, tmp_path: Path) -> None:
    trained, validation = small
    encoder, head = trained.stages
    spoilt = Spoilt(trained.sources["encoder"], lambda frames: frames // 8)
    darker = replace(trained, stages=(replace(encoder, source=spoilt), head), recorded={"action": 1.0})
    assert "the gate refused training → adapter (torch)" in refusal(darker, validation, tmp_path)


def test_wrong_normalisation_in_the_graph(small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil_export(monkeypatch, "encoder", lambda encoder: Spoilt(encoder, lambda frames: frames // 2))
    assert "the gate refused merged → onnx fp32 (onnxruntime)" in refusal(*small, tmp_path)


def test_bgr_instead_of_rgb(small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil_export(monkeypatch, "encoder", lambda encoder: Spoilt(encoder, lambda frames: frames.flip(-1)))
    assert "the gate refused merged → onnx fp32 (onnxruntime)" in refusal(*small, tmp_path)


def test_a_zeroed_head_row(small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def zeroed(head: nn.Module) -> nn.Module:
        head = copy.deepcopy(head)
        with torch.no_grad():
            head.classifiers[0].weight[1] = 0  # type: ignore[index, union-attr]
        return head

    spoil_export(monkeypatch, "head", zeroed)
    said = refusal(*small, tmp_path)
    assert "the gate refused merged → onnx fp32 (onnxruntime)" in said and "logits differ" in said


@pytest.mark.parametrize("where", ["trained", "exported"])
def test_nan_weights(small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def with_nan(head: nn.Module) -> nn.Module:
        head = copy.deepcopy(head)
        with torch.no_grad():
            head.classifiers[0].weight[0, 0] = float("nan")  # type: ignore[index, union-attr]
        return head

    trained, validation = small
    if where == "trained":
        encoder, head = trained.stages
        trained = replace(trained, stages=(encoder, replace(head, source=with_nan(head.source))))
    else:
        spoil_export(monkeypatch, "head", with_nan)
    said = refusal(trained, validation, tmp_path)
    hop = "frozen → folded (torch)" if where == "trained" else "merged → onnx fp32 (onnxruntime)"
    assert f"the gate refused {hop}" in said and "not finite" in said


def test_calibration_on_black_images(small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDRISK_CACHE", str(tmp_path / "cache"))

    class Black:
        digest, count = "black", 32

        def __iter__(self) -> Any:
            return iter(np.zeros((32, 32, 32, 3), np.uint8))

    said = refusal(*small, tmp_path, Black())
    assert "the gate refused onnx fp32 → int8 (calibration)" in said and "only have pixel values from 0 to 0;" in said


def test_an_adapter_that_was_not_merged(
    adapted_encoder: Make, make_trained: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = adapted_encoder("vit")
    trained, validation = make_trained(encoder, 64)
    merged = module.merge_trained

    def without_adapter(trained_encoder: nn.Module) -> nn.Module:
        bare = copy.deepcopy(trained_encoder)
        with torch.no_grad():
            for name, parameter in bare.named_parameters():
                if "lora_B" in name:
                    parameter.zero_()
        return merged(bare)

    monkeypatch.setattr(module, "merge_trained", without_adapter)
    assert "the gate refused adapter → merged (torch)" in refusal(trained, validation, tmp_path)


def test_a_stale_engine(
    small: Any, make_trained: Make, small_encoder: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that was built from last week's model and is run in place of the new one is caught."""
    with torch.no_grad():
        old = small_encoder()
        old.layers[1].weight.mul_(1.3)
    trained, validation = make_trained(old, 32)
    last_week, _ = export_bundle(trained, tmp_path / "old", validation, None, ExportOptions())

    class StaleRunner(OpenVinoRunner):
        def __init__(self, path: Path, *rest: Any, **options: Any) -> None:
            super().__init__(
                last_week.path("encoder", "fp32") if path.name.startswith("encoder") else path, *rest, **options
            )

    monkeypatch.setitem(BUNDLE_RUNTIMES, "openvino", StaleRunner)
    assert "the gate refused merged → onnx fp32 (openvino)" in refusal(*small, tmp_path)
