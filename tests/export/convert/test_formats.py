"""Tests of the formats of other tools.

Every family is exported to them and opened by those tools. The gate refuses files that compute other results.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch
from backbones import FAMILIES
from torch import nn

from vidrisk.export.convert import formats
from vidrisk.export.export import export_bundle
from vidrisk.export.trained import ExportOptions
from vidrisk.runtimes import Bundle, open_runner
from vidrisk.runtimes.contract.errors import GateRefused

Make = Callable[..., Any]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_in_both_formats(family: str, adapted_encoder: Make, make_trained: Make, tmp_path: Path) -> None:
    encoder = adapted_encoder(family)
    side = 64
    trained, validation = make_trained(encoder, side)
    bundle, report = export_bundle(trained, tmp_path / "b", validation, None, ExportOptions(also=("openvino", "torch")))
    names = {"encoder.fp32.xml", "encoder.fp32.bin", "head.fp32.xml", "head.fp32.bin", "encoder.pt2", "head.pt2"}
    assert names <= set(bundle.manifest.files)
    assert [
        hop.passed for hop in report.hops if hop.name in ("onnx fp32 → OpenVINO IR", "merged → ExportedProgram")
    ] == [True] * 2
    frames = np.random.default_rng(0).integers(0, 256, (3, *encoder.input_shape), dtype=np.uint8)
    with open_runner(bundle, "encoder", runtime="onnxruntime", variant="fp32") as runner:
        expected = runner.infer({"frames": frames})["features"]
    compiled = openvino.Core().compile_model(
        str(bundle.root / "encoder.fp32.xml"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    program = torch.export.load(bundle.root / "encoder.pt2").module()
    for found in (compiled(frames)[0], program(torch.from_numpy(frames)).detach().numpy()):
        assert np.abs(found - expected).max() < 1e-3 * max(1.0, float(np.abs(expected).max()))


@pytest.fixture
def small(make_trained: Make, small_encoder: Make) -> Any:
    return make_trained(small_encoder(), 32)


def test_only_what_is_asked_for_and_shipped(small: Any, tmp_path: Path) -> None:
    plain, _ = export_bundle(*small_arguments(small, tmp_path / "a"), ExportOptions())
    both, _ = export_bundle(*small_arguments(small, tmp_path / "b"), ExportOptions(also=("openvino",)))
    assert set(both.manifest.files) - set(plain.manifest.files) == {
        "encoder.fp32.xml",
        "encoder.fp32.bin",
        "head.fp32.xml",
        "head.fp32.bin",
    }
    assert Bundle.open(both.root).passed == ("fp32",)


def test_a_program_that_computes_something_else_ships_nothing(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Off(formats._Loaded):
        def forward(self, *inputs: torch.Tensor) -> Any:
            result = super().forward(*inputs)
            return tuple(each + 1 for each in result) if isinstance(result, tuple) else result + 1

    monkeypatch.setattr(formats, "_Loaded", Off)
    with pytest.raises(GateRefused, match=r"merged → ExportedProgram \(torch\), no bundle was written: logits differ"):
        export_bundle(*small_arguments(small, tmp_path / "a"), ExportOptions(also=("torch",)))
    assert not (tmp_path / "a").exists()


def small_arguments(small: Any, out: Path) -> tuple[nn.Module, Path, Any, None]:
    trained, validation = small
    return trained, out, validation, None
