"""The whole export: a verified bundle, or nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from vidrisk.export.export import MIN_CALIBRATION, ExportOptions, Trained, export_bundle
from vidrisk.export.gate import Validation
from vidrisk.runtimes import Bundle, open_runner
from vidrisk.runtimes.errors import BundleError, DataError, GateRefused, RuntimeFailure, SettingsError

Make = Callable[..., Any]


@pytest.fixture
def small(make_trained: Make, small_encoder: Make) -> tuple[Trained, Validation]:
    return make_trained(small_encoder(), "efficientnet-lite0", 32)


@pytest.fixture(scope="session")
def full(adapted_encoder: Make, make_trained: Make, clips: Make, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The whole path on a real architecture: LoRA, merge, ONNX, INT8, gate, bundle."""
    encoder = adapted_encoder("vit")
    trained, validation = make_trained(encoder, encoder.family, 64, encoder.backbone.config)
    progress: list[tuple[str, int, int]] = []
    out = tmp_path_factory.mktemp("full") / "deep" / "a.bundle"
    bundle, report = export_bundle(
        trained,
        out,
        validation,
        clips(32, 1, seed=9)[:, 0],
        ExportOptions(int8=True, max_drop=25, source={"run": "a"}),
        lambda *step: progress.append(step),
    )
    return trained, validation, bundle, report, progress


@pytest.mark.slow
def test_a_verified_bundle_comes_out(full: Any) -> None:
    trained, _, bundle, report, progress = full
    assert Bundle.open(bundle.root) == bundle
    assert bundle.contract == trained.contract
    assert bundle.passed == ("fp32", "int8")
    assert {p.name for p in bundle.root.iterdir()} == {
        "bundle.json",
        "gate.json",
        "encoder.fp32.onnx",
        "encoder.int8.onnx",
        "head.fp32.onnx",
    }
    assert bundle.manifest.source == {"run": "a"}
    assert {"torch", "onnx", "onnxruntime"} <= set(bundle.manifest.made_with)
    assert [hop.name.partition(" (")[0] for hop in report.hops] == [
        "adapter → merged",
        *["merged → onnx fp32"] * 2,
        *["onnx fp32 → int8"] * 2,
    ]
    assert [hop.runtime for hop in report.hops] == ["torch", "onnxruntime", "openvino", "onnxruntime", "openvino"]
    assert all(hop.passed for hop in report.hops)
    assert all(hop.largest_logit_difference <= 1e-3 and hop.agreement == 1 for hop in report.hops[:3])
    assert json.loads((bundle.root / "gate.json").read_text(encoding="utf-8")) == json.loads(json.dumps(report.to_dict()))
    assert report.note.startswith("24 samples are few")
    done = [(at, total) for _, at, total in progress]
    assert done == [(0, 5), (1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]


@pytest.mark.slow
def test_the_bundle_answers_as_the_trained_model_does(full: Any) -> None:
    trained, validation, bundle, _, _ = full
    with torch.inference_mode():
        features = trained.encoder(torch.from_numpy(validation.frames).flatten(0, 1))
        expected = trained.head(features.unflatten(0, validation.frames.shape[:2]))[0].numpy()
    flat = validation.frames.reshape(-1, *validation.frames.shape[2:])
    for runtime in ("onnxruntime", "openvino"):
        for variant, tolerance in (("fp32", 1e-3), ("int8", np.ptp(expected) / 4)):
            encoder, head = (open_runner(bundle, g, runtime=runtime, variant=variant) for g in ("encoder", "head"))
            found = encoder.infer({"frames": flat})["features"].reshape(*validation.frames.shape[:2], -1)
            logits = head.infer({"features": found})["action_logits"]
            assert np.abs(logits - expected).max() < tolerance, (runtime, variant)


@pytest.mark.slow
def test_int8_is_smaller_and_carries_qdq(full: Any) -> None:
    bundle = full[2]
    sizes = {variant: bundle.path("encoder", variant).stat().st_size for variant in bundle.passed}
    assert sizes["int8"] < 0.7 * sizes["fp32"]  # a quarter of the weights' bytes, but so small a model is half graph
    types = {node.op_type for node in onnx.load(str(bundle.path("encoder", "int8"))).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= types
    for path in bundle.root.iterdir():
        assert b"/site-packages" not in path.read_bytes()


def test_only_ships_one_variant(small: Any, clips: Make, tmp_path: Path) -> None:
    trained, validation = small
    bundle, report = export_bundle(
        trained, tmp_path / "b", validation, clips(16, 1, 32)[:, 0], ExportOptions(int8=True, max_drop=50, only="int8")
    )
    assert bundle.passed == ("int8",)
    assert {p.name for p in bundle.root.iterdir()} == {"bundle.json", "gate.json", "encoder.int8.onnx", "head.fp32.onnx"}
    assert "fp32" in {hop.variant for hop in report.hops}  # judged all the same


def test_without_int8_there_is_no_calibration(small: Any, tmp_path: Path) -> None:
    trained, validation = small
    bundle, report = export_bundle(trained, tmp_path / "b", validation, np.empty((0, 32, 32, 3), np.uint8), ExportOptions())
    assert bundle.passed == ("fp32",)
    assert [hop.name for hop in report.hops] == ["frozen → folded", *["merged → onnx fp32"] * 2]


def test_a_loss_over_the_limit_is_refused_and_nothing_is_written(
    make_trained: Make, small_encoder: Make, clips: Make, tmp_path: Path
) -> None:
    trained, validation = make_trained(small_encoder(outlier=1e4), "efficientnet-lite0", 32)
    with pytest.raises(
        GateRefused,
        match=r"the gate refused onnx fp32 → int8 .*top-1 falls by .* points, at most 0 is allowed; fix: raise --max-drop",
    ) as caught:
        export_bundle(trained, tmp_path / "b", validation, clips(32, 1, 32, seed=9)[:, 0], ExportOptions(int8=True, max_drop=0))
    assert caught.value.exit_code == 3
    assert list(tmp_path.iterdir()) == []


def test_broken_weights_are_refused_and_nothing_is_written(make_trained: Make, small_encoder: Make, tmp_path: Path) -> None:
    trained, validation = make_trained(small_encoder(), "efficientnet-lite0", 32)
    with torch.no_grad():
        trained.head.classifiers[0].weight[0, 0] = float("nan")
    with pytest.raises(GateRefused, match=r"the gate refused frozen → folded .*not finite"):
        export_bundle(trained, tmp_path / "b", validation, np.empty((0, 32, 32, 3), np.uint8), ExportOptions())
    assert list(tmp_path.iterdir()) == []


def test_out_that_exists_is_left_alone(small: Any, tmp_path: Path) -> None:
    trained, validation = small
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(BundleError, match="exists already"):
        export_bundle(trained, tmp_path, validation, np.empty((0, 32, 32, 3), np.uint8), ExportOptions())
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_too_few_calibration_frames(small: Any, clips: Make, tmp_path: Path) -> None:
    trained, validation = small
    with pytest.raises(
        DataError, match=f"15 calibration frames; allowed: at least {MIN_CALIBRATION}; fix: give more with --calib"
    ):
        export_bundle(trained, tmp_path / "b", validation, clips(15, 1, 32)[:, 0], ExportOptions(int8=True))
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_with_nan_is_refused(adapted_encoder: Make, make_trained: Make, tmp_path: Path) -> None:
    encoder = adapted_encoder("vit")
    trained, validation = make_trained(encoder, "vit", 64, samples=2)
    with torch.no_grad():
        next(p for n, p in encoder.named_parameters() if "lora_B" in n).fill_(float("nan"))
    with pytest.raises(RuntimeFailure, match="the adapter cannot be merged"):
        export_bundle(trained, tmp_path / "b", validation, np.empty((0, 64, 64, 3), np.uint8), ExportOptions())


def test_unknown_families_are_refused(make_trained: Make, small_encoder: Make, tmp_path: Path) -> None:
    trained, validation = make_trained(small_encoder(), "swin", 32, samples=2)
    with pytest.raises(SettingsError, match="no export is known for backbone family 'swin'"):
        export_bundle(trained, tmp_path / "b", validation, np.empty((0, 32, 32, 3), np.uint8), ExportOptions())
    assert list(tmp_path.iterdir()) == []


def test_only_a_variant_that_is_made() -> None:
    for options in ({"only": "int8"}, {"only": "mixed", "int8": True}):
        with pytest.raises(SettingsError, match=r"only .*; allowed: "):
            ExportOptions(**options)  # type: ignore[arg-type]
