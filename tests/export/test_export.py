"""Tests of the whole export: it writes a verified bundle, or nothing but a page with the reasons."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch

from vidrisk.calibration.half_check import worst_cosine
from vidrisk.calibration.single import types_of
from vidrisk.export.export import export_bundle
from vidrisk.export.gate import keeper
from vidrisk.export.gate.outputs import Validation
from vidrisk.export.gate.selection import separate_samples
from vidrisk.export.quantize.half import CHECK_FRAMES
from vidrisk.export.trained import ExportOptions, Trained
from vidrisk.runtimes import Bundle, open_runner
from vidrisk.runtimes.contract.errors import BundleError, DataError, GateRefused, RuntimeFailure, SettingsError
from vidrisk.runtimes.contract.probabilities import probabilities_from_logits
from vidrisk.runtimes.ort import OnnxRuntimeRunner
from vidrisk.runtimes.processor import saturates_int8
from vidrisk.runtimes.registry import BUNDLE_RUNTIMES, GPU_RUNTIMES
from vidrisk.runtimes.tensorrt.api import find_installed_kinds
from vidrisk.runtimes.tensorrt.build.builder import BuildOptions
from vidrisk.runtimes.tensorrt.build.engines import build_engines
from vidrisk.runtimes.tensorrt.build.parse import Parsed
from vidrisk.runtimes.tensorrt.cache import EngineStore
from vidrisk.runtimes.tensorrt.cuda import OutOfMemory

Make = Callable[..., Any]


@dataclass(frozen=True)
class Frames:
    """Calibration frames in memory."""

    frames: npt.NDArray[np.uint8]
    digest: str = "frames"

    @property
    def count(self) -> int:
        return len(self.frames)

    def __iter__(self) -> Iterator[npt.NDArray[np.uint8]]:
        return iter(self.frames)

    def windows(self) -> Iterator[npt.NDArray[np.uint8]]:
        raise AssertionError("an encoder of frames is calibrated on frames")


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDRISK_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "b"


@pytest.fixture
def small(make_trained: Make, small_encoder: Make) -> tuple[Trained, Validation]:
    return make_trained(small_encoder(), 32)


@pytest.fixture(scope="session")
def full(adapted_encoder: Make, make_trained: Make, clips: Make, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Run the whole path on a real architecture: LoRA, merge, ONNX, INT8, gate, bundle."""
    encoder = adapted_encoder("vit")
    trained, validation = make_trained(encoder, 64)
    progress: list[tuple[str, int, int]] = []
    folder = tmp_path_factory.mktemp("full")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIDRISK_CACHE", str(folder / "cache"))
        bundle, report = export_bundle(
            replace(trained, recorded={"action": 1.0}),
            folder / "deep" / "a.bundle",
            validation,
            Frames(clips(32, 1, seed=9)[:, 0]),
            # So small a model is not faster in INT8: nothing is claimed about its speed here.
            ExportOptions(int8=True, max_drop=20, allow_drop=True, source={"run": "a"}),
            lambda *step: progress.append(step),
        )
    return trained, validation, bundle, report, progress


@pytest.mark.slow
def test_a_verified_bundle_comes_out(full: Any) -> None:
    trained, _, bundle, report, progress = full
    assert Bundle.open(bundle.root) == bundle
    assert bundle.contract == trained.contract
    quantised = bundle.passed[1]
    assert bundle.passed in (("fp32", "int8"), ("fp32", "mixed"))
    assert {p.name for p in bundle.root.iterdir()} == {
        "bundle.json",
        "gate.json",
        "gate.html",
        "golden.zip",
        "encoder.fp32.onnx",
        f"encoder.{quantised}.onnx",
        "head.fp32.onnx",
    }
    assert bundle.manifest.source == {"run": "a"}
    assert {"torch", "onnx", "onnxruntime"} <= set(bundle.manifest.made_with)
    names = [hop.name for hop in report.hops if "migrated" not in hop.name]
    assert names == [
        "training → adapter",
        "adapter → merged",
        *["merged → onnx fp32"] * 2,
        *[f"onnx fp32 → {quantised}"] * 2,
    ]
    assert {hop.runtime for hop in report.hops} == {"torch", "onnxruntime", "openvino"}
    assert all(hop.passed for hop in report.hops)
    assert all(hop.largest_logit_difference <= 1e-3 for hop in report.hops if hop.variant in ("merged", "fp32"))
    assert json.loads((bundle.root / "gate.json").read_text(encoding="utf-8")) == json.loads(
        json.dumps(report.to_dict())
    )
    assert "24 samples are few" in report.note
    assert {(lap.variant, lap.runtime) for lap in report.laps} == {
        (variant, runtime) for variant in bundle.passed for runtime in ("onnxruntime", "openvino")
    }
    assert all(done <= total for _, done, total in progress)
    assert {"observing activations", "choosing a recipe", "timing"} <= {what for what, _, _ in progress}
    assert 'lang="en"' in (bundle.root / "gate.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_bundle_answers_as_the_trained_model_does(full: Any) -> None:
    trained, validation, bundle, _, _ = full
    with torch.inference_mode():
        features = trained.sources["encoder"](torch.from_numpy(validation.frames).flatten(0, 1))
        expected = trained.sources["head"](features.unflatten(0, validation.frames.shape[:2]))[0].numpy()
    flat = validation.frames.reshape(-1, *validation.frames.shape[2:])
    for runtime in ("onnxruntime", "openvino"):
        for variant, tolerance in (("fp32", 1e-3), (bundle.passed[1], np.ptp(expected) / 4)):
            encoder, head = (open_runner(bundle, g, runtime=runtime, variant=variant) for g in ("encoder", "head"))
            found = encoder.infer({"frames": flat})["features"].reshape(*validation.frames.shape[:2], -1)
            logits = head.infer({"features": found})["action_logits"]
            assert np.abs(logits - expected).max() < tolerance, (runtime, variant)


@pytest.mark.slow
def test_int8_is_smaller_and_carries_qdq(full: Any) -> None:
    bundle = full[2]
    fp32, int8 = (bundle.path("encoder", variant) for variant in bundle.passed)
    assert int8.stat().st_size < 0.7 * fp32.stat().st_size  # so small a model is half graph
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in onnx.load(str(int8)).graph.node}
    for path in bundle.root.iterdir():
        assert b"/site-packages" not in path.read_bytes()


def test_only_ships_one_variant(small: Any, clips: Make, out: Path) -> None:
    trained, validation = small
    options = ExportOptions(int8=True, max_drop=50, allow_drop=True, only="int8")
    bundle, report = export_bundle(trained, out, validation, Frames(clips(16, 1, 32)[:, 0]), options)
    (variant,) = bundle.passed
    assert variant in ("int8", "mixed")
    names = {"bundle.json", "gate.json", "gate.html", "golden.zip", f"encoder.{variant}.onnx", "head.fp32.onnx"}
    assert {p.name for p in bundle.root.iterdir()} == names
    assert "fp32" in {hop.variant for hop in report.hops}  # judged all the same


def test_every_variant_has_a_temperature_that_lowers_its_loss(small: Any, clips: Make, out: Path) -> None:
    trained, validation = small
    wrong = validation.truth["action"].copy()
    wrong[::3] = (wrong[::3] + 1) % 3  # a model that is always right has no best temperature
    validation = replace(validation, truth={"action": wrong})
    options = ExportOptions(int8=True, max_drop=50, allow_drop=True)
    bundle, report = export_bundle(trained, out, validation, Frames(clips(16, 1, 32)[:, 0]), options)
    for name in bundle.passed:
        temperature = bundle.manifest.variants[name].temperature["action"]
        assert temperature == report.temperature[name]["action"] != 1
        encoder, head = (open_runner(bundle, g, runtime="onnxruntime", variant=name) for g in ("encoder", "head"))
        flat = validation.frames.reshape(-1, *validation.frames.shape[2:])
        features = encoder.infer({"frames": flat})["features"].reshape(*validation.frames.shape[:2], -1)
        logits = head.infer({"features": features})["action_logits"]
        assert _loss(logits / temperature, wrong) < _loss(logits, wrong)


def test_every_variant_has_thresholds_for_the_coverage_asked_for(small: Any, clips: Make, out: Path) -> None:
    """24 samples, a third of them wrong, give one threshold for all labels."""
    trained, validation = small
    wrong = validation.truth["action"].copy()
    wrong[::3] = (wrong[::3] + 1) % 3
    validation = replace(validation, truth={"action": wrong})
    options = ExportOptions(int8=True, max_drop=50, allow_drop=True, coverage=0.8)
    bundle, report = export_bundle(trained, out, validation, Frames(clips(16, 1, 32)[:, 0]), options)
    for name in bundle.passed:
        variant, fit = bundle.manifest.variants[name], report.coverage[name]["action"]
        (group,) = fit.groups
        assert (variant.coverage, variant.threshold, variant.label_threshold, variant.no_threshold) == (
            0.8,
            {"action": group.threshold},
            {},
            {},
        )
        assert fit.samples == 24 and fit.interval is not None and 0.5 < fit.interval[0] < 0.8 < fit.interval[1] < 1
        encoder, head = (open_runner(bundle, g, runtime="onnxruntime", variant=name) for g in ("encoder", "head"))
        flat = validation.frames.reshape(-1, *validation.frames.shape[2:])
        features = encoder.infer({"frames": flat})["features"].reshape(*validation.frames.shape[:2], -1)
        scores = probabilities_from_logits(
            head.infer({"features": features})["action_logits"], variant.temperature["action"]
        )
        covered = scores[np.arange(24), wrong] >= group.threshold
        assert covered.sum() in (20, 21)  # ⌈25 · 0.8⌉ of 24; engines round differently
    page = (out / "gate.html").read_text(encoding="utf-8")
    assert "When an answer is uncertain" in page and "80.0 %" in page
    gate = json.loads((out / "gate.json").read_text(encoding="utf-8"))["coverage"]["fp32"]["action"]
    assert gate["coverage"] == 0.8 and gate["groups"][0]["labels"] == ["run", "sit", "fall"]


@pytest.mark.parametrize(
    ("samples", "one_class", "reason"),
    [
        (5, False, "5 validation samples; a coverage of 90 % needs at least 10"),
        (24, True, "all 24 validation samples are of one class"),
    ],
)
def test_too_few_samples_ship_without_a_threshold_and_with_the_reason(
    make_trained: Make, small_encoder: Make, out: Path, samples: int, one_class: bool, reason: str
) -> None:
    trained, validation = make_trained(small_encoder(), 32, samples=samples)
    if one_class:
        validation = replace(validation, truth={"action": np.ones(samples, np.int64)})
    bundle, _ = export_bundle(trained, out, validation, None, ExportOptions())
    variant = bundle.manifest.variants["fp32"]
    assert (variant.threshold, variant.coverage, variant.no_threshold) == ({}, None, {"action": reason})
    assert reason in (out / "gate.html").read_text(encoding="utf-8")


def _loss(logits: Any, truth: Any) -> float:
    return float(torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(truth)))


def test_without_int8_there_is_no_calibration(small: Any, out: Path) -> None:
    trained, validation = small
    bundle, report = export_bundle(trained, out, validation, None, ExportOptions())
    assert bundle.passed == ("fp32",)
    assert [hop.name for hop in report.hops] == ["frozen → folded", *["merged → onnx fp32"] * 2]
    with pytest.raises(DataError, match="no calibration frames; fix: supply some: INT8 needs them"):
        export_bundle(trained, out.with_name("c"), validation, None, ExportOptions(int8=True))


def test_a_second_export_measures_nothing_again(small: Any, clips: Make, out: Path) -> None:
    trained, validation = small
    options = ExportOptions(int8=True, max_drop=50, allow_drop=True)
    steps: list[list[str]] = []
    for name in ("a", "b"):
        steps.append([])
        frames = Frames(clips(16, 1, 32)[:, 0])
        export_bundle(
            trained, out.with_name(name), validation, frames, options, lambda what, *_: steps[-1].append(what)
        )
    assert "observing activations" in steps[0] and "observing activations" not in steps[1]
    first, second = (out.with_name(name) / "gate.json" for name in ("a", "b"))
    same = ("search", "recipe", "points", "calibration")
    assert [json.loads(first.read_text())[key] for key in same] == [json.loads(second.read_text())[key] for key in same]


def test_a_loss_over_the_limit_is_refused_and_said_on_a_page(
    make_trained: Make, small_encoder: Make, clips: Make, out: Path
) -> None:
    # Every sample is right in floating point, so each of 200 that flips is a loss; and there is no time to search.
    trained, validation = make_trained(small_encoder(), 32, samples=200)
    frames = Frames(clips(32, 1, 32, seed=9)[:, 0])
    options = ExportOptions(int8=True, max_drop=0, search_s=0)
    with pytest.raises(
        GateRefused,
        match=r"refused onnx fp32 → int8 .*, no bundle was written: top-1 falls by .* \(see b.refused.html\); fix: calibrate on",
    ) as caught:
        export_bundle(trained, out, validation, frames, options)
    assert caught.value.exit_code == 3
    assert [path.name for path in out.parent.iterdir()] == ["b.refused.html"]
    assert "nothing was shipped" in (out.parent / "b.refused.html").read_text(encoding="utf-8")
    assert [hop.variant for hop in caught.value.report.hops if not hop.passed][:1] == ["int8"]
    # Insisted on, it is shipped, and the bundle says so.
    bundle, report = export_bundle(trained, out, validation, frames, replace(options, allow_drop=True))
    assert "top-1 falls by" in bundle.manifest.variants["int8"].waived
    assert report.verdicts[1].reason == bundle.manifest.variants["int8"].waived
    assert "overruled on request" in (out / "gate.html").read_text(encoding="utf-8")


def not_faster(monkeypatch: pytest.MonkeyPatch, low: float = 0.97, high: float = 1.04) -> None:
    """Replace the race: every quantized variant is exactly as fast as floating point."""
    real = keeper.race

    def race(*arguments: Any) -> Any:
        laps, speeds = real(*arguments)
        return laps, [replace(speed, ratio=1.0, low=low, high=high) for speed in speeds]

    monkeypatch.setattr(keeper, "race", race)


@pytest.mark.parametrize("only", [None, "int8"])
def test_int8_that_is_not_faster_is_left_out_and_floating_point_ships(
    small: Any, clips: Make, out: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, only: Any
) -> None:
    not_faster(monkeypatch)
    trained, validation = small
    frames = Frames(clips(16, 1, 32)[:, 0])
    options = ExportOptions(int8=True, max_drop=50, max_confidence_drop=100, only=only)
    bundle, report = export_bundle(trained, out, validation, frames, options)
    assert bundle.passed == ("fp32",) == report.shipped
    (left_out,) = [verdict for verdict in report.verdicts if not verdict.shipped]
    assert left_out.variant in ("int8", "mixed")
    assert "is not faster than floating point: 1.00 × its speed (95 % interval 0.97 to 1.04" in left_out.reason
    said = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert said == [f"{left_out.reason}; the bundle ships floating point"]
    assert "was left out" in (out / "gate.html").read_text(encoding="utf-8")
    assert left_out.reason in (out / "gate.json").read_text(encoding="utf-8")


def test_strictness_refuses_int8_that_is_not_faster(
    small: Any, clips: Make, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    not_faster(monkeypatch)
    trained, validation = small
    frames = Frames(clips(16, 1, 32)[:, 0])
    options = ExportOptions(int8=True, max_drop=50, max_confidence_drop=100, strict=True)
    with pytest.raises(
        GateRefused, match=r"refused speed, no bundle was written: .* is not faster than floating point"
    ):
        export_bundle(trained, out, validation, frames, options)
    assert not out.exists()
    # Insisted on, it ships, and the bundle says so.
    bundle, _ = export_bundle(trained, out, validation, frames, replace(options, strict=False, allow_drop=True))
    (name,) = set(bundle.passed) - {"fp32"}
    assert "is not faster than floating point" in bundle.manifest.variants[name].waived


def test_a_point_that_the_judging_samples_refuse_gives_way_to_a_safer_one(
    make_trained: Make, small_encoder: Make, clips: Make, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 240 samples, 80 choose the operating point and 160 judge it."""
    trained, validation = make_trained(small_encoder(), 32, samples=240)
    real = keeper.Gatekeeper.lossy

    def unlucky(self: keeper.Gatekeeper, name: str, variant: str, *rest: Any, **further: Any) -> Any:
        hop = real(self, name, variant, *rest, **further)
        return replace(hop, passed=False, reason="top-1 falls by 9.00 points") if variant == "int8" else hop

    monkeypatch.setattr(keeper.Gatekeeper, "lossy", unlucky)
    options = ExportOptions(int8=True, max_drop=20, max_confidence_drop=100)
    monkeypatch.setattr(keeper, "speed_refusal", lambda report, name: "")
    bundle, report = export_bundle(trained, out, validation, Frames(clips(32, 1, 32, seed=9)[:, 0]), options)
    assert report.selection is not None
    assert (report.selection.choosing, report.selection.judging, report.selection.is_separate) == (80, 160, True)
    assert bundle.passed == ("fp32", "mixed") and report.selection.set_aside == (
        "0 blocks in floating point: top-1 falls by 9.00 points"
    )
    assert [point["refused"] for point in report.points if not point["float_blocks"]] == ["top-1 falls by 9.00 points"]
    assert set(report.temperature) == {"fp32", "mixed"}
    assert (
        bundle.manifest.variants["mixed"].gate["samples"] == 160
        and bundle.manifest.variants["fp32"].gate["samples"] == 240
    )
    page = (out / "gate.html").read_text(encoding="utf-8")
    assert "Refused first, by the samples that judge: 0 blocks in floating point: top-1 falls by 9.00 points." in page
    assert "of 160 flipped" in page
    assert all(
        flip.index not in separate_samples(validation).choosing
        for hop in report.hops
        for flip in hop.flips
        if hop.variant == "mixed"
    )


def test_out_that_exists_is_left_alone(small: Any, out: Path) -> None:
    trained, validation = small
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    with pytest.raises(BundleError, match="exists already"):
        export_bundle(trained, out, validation, None, ExportOptions())
    assert [p.name for p in out.iterdir()] == ["mine.txt"]


def test_calibration_frames_that_do_not_fit(small: Any, clips: Make, out: Path) -> None:
    trained, validation = small
    for frames, reason in (
        (clips(15, 1, 32)[:, 0], "15 calibration frames; allowed: at least 16; fix: give more calibration samples"),
        (clips(0, 1, 32)[:, 0], "0 calibration frames; allowed: at least 16"),
        (clips(16, 1, 40)[:, 0], r"a calibration frame is uint8 \(40, 40, 3\); allowed: uint8 \(32, 32, 3\)"),
        (clips(16, 1, 32)[:, 0].astype(np.float32), "a calibration frame is float32"),
    ):
        with pytest.raises(DataError, match=reason):
            export_bundle(trained, out, validation, Frames(frames), ExportOptions(int8=True))
    assert list(out.parent.iterdir()) == []


def test_an_adapter_with_nan_is_refused(adapted_encoder: Make, make_trained: Make, out: Path) -> None:
    encoder = adapted_encoder("vit")
    trained, validation = make_trained(encoder, 64, samples=2)
    with torch.no_grad():
        next(p for n, p in encoder.named_parameters() if "lora_B" in n).fill_(float("nan"))
    with pytest.raises(RuntimeFailure, match="the adapter cannot be merged"):
        export_bundle(trained, out, validation, None, ExportOptions())


def test_stages_to_quantize_that_are_not_there_are_named(small: Any, out: Path, clips: Make) -> None:
    trained, validation = small
    options = ExportOptions(int8=True, quantize=frozenset({"text"}))
    with pytest.raises(SettingsError, match="stage 'text' is to be quantised; allowed: encoder, head"):
        export_bundle(trained, out, validation, Frames(clips(16, 1, 32)[:, 0]), options)
    assert list(out.parent.iterdir()) == []


# For a GPU


@pytest.fixture(scope="module")
def for_gpu(make_trained: Make, small_encoder: Make, clips: Make, tmp_path_factory: pytest.TempPathFactory) -> Any:
    trained, validation = make_trained(small_encoder(), 32)
    options = ExportOptions(int8=True, fp16=True, target="gpu", max_drop=50)
    folder = tmp_path_factory.mktemp("gpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIDRISK_CACHE", str(folder / "cache"))
        return *export_bundle(trained, folder / "b", validation, Frames(clips(16, 1, 32)[:, 0]), options), validation


def types_made(path: Path, *kinds: str) -> set[int]:
    """Return the element types of the outputs of these kinds of nodes."""
    model = onnx.load(str(path))
    types = types_of(model)
    return {types[name] for node in model.graph.node if node.op_type in kinds for name in node.output}


# OpenVINO computes INT8 graphs for GPUs exactly where the processor has VNNI.
EXACT_FOR_GPU = ("onnxruntime",) if saturates_int8() else ("onnxruntime", "openvino")


def test_for_a_gpu_there_is_fp16_and_what_int8_leaves_is_fp16(for_gpu: Any) -> None:
    bundle, report, _ = for_gpu
    assert bundle.passed == ("fp32", "fp16", "int8")
    assert bundle.manifest.variants["fp16"].files == {"encoder": "encoder.fp16.onnx", "head": "head.fp32.onnx"}
    for variant, made in (
        ("fp32", {onnx.TensorProto.FLOAT}),
        ("fp16", {onnx.TensorProto.FLOAT16}),
        ("int8", {onnx.TensorProto.FLOAT16}),
    ):
        assert types_made(bundle.path("encoder", variant), "Conv") == made
    assert types_made(bundle.path("encoder", "int8"), "QuantizeLinear") == {onnx.TensorProto.INT8}
    rounded = "onnxruntime, rounded to fp16"
    judged = [(hop.name, hop.runtime) for hop in report.hops if hop.variant in ("fp16", "int8")]
    assert judged == [
        (name, runtime)
        for name, runtimes in (
            ("onnx fp32 → fp16", (*EXACT_FOR_GPU, rounded)),
            ("onnx fp32 → int8", EXACT_FOR_GPU),
            ("onnx fp32 → int8, rest in fp16", (*EXACT_FOR_GPU, rounded)),
        )
        for runtime in runtimes
    ]
    assert all(hop.worst_cosine >= 0.999 for hop in report.hops if hop.variant == "fp16")
    assert set(bundle.manifest.variants["fp16"].temperature) == {"action"}
    assert report.half["frames"] == 16 and report.half["cosine"] >= 0.999
    assert {"what": "ReduceMean", "nodes": 1, "reason": "sums, squares and powers"} in report.float32
    assert [library.split()[0] for library in report.parsed_by] == list(find_installed_kinds())
    # An int8 variant slower than fp32 here is shipped: this is not the machine it is for.
    assert all(not verdict.reason for verdict in report.verdicts)
    page = (bundle.root / "gate.html").read_text(encoding="utf-8")
    assert "What stays in float32" in page and "ReduceMean" in page


def test_one_bundle_holds_int8_for_processors_and_for_tensorrt(
    small: Any, clips: Make, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    not_faster(monkeypatch, low=1.1, high=1.4)
    trained, validation = small
    options = ExportOptions(int8=True, fp16=True, target="any", max_drop=50, max_confidence_drop=100)
    bundle, report = export_bundle(trained, out, validation, Frames(clips(16, 1, 32)[:, 0]), options)
    assert Bundle.open(bundle.root) == bundle
    assert bundle.passed == ("fp32", "fp16", "int8", "int8-tensorrt")
    variants = bundle.manifest.variants
    assert {name: variant.engines for name, variant in variants.items()} == {
        "fp32": "any",
        "fp16": "any",
        "int8": "processor",
        "int8-tensorrt": "tensorrt",
    }
    assert {variant.files["head"] for variant in variants.values()} == {"head.fp32.onnx"}  # shared
    assert variants["int8-tensorrt"].precision == {"encoder": "int8", "head": "fp32"}
    # Kernels of processors take activations around any zero point, TensorRT around zero.
    made = {name: types_made(bundle.path("encoder", name), "QuantizeLinear") for name in ("int8", "int8-tensorrt")}
    assert made["int8-tensorrt"] == {onnx.TensorProto.INT8} and onnx.TensorProto.UINT8 in made["int8"]
    assert types_made(bundle.path("encoder", "int8-tensorrt"), "Conv") == {onnx.TensorProto.FLOAT16}
    assert {speed.variant for speed in report.speeds} == {"int8"}  # speed is judged where the bundle runs
    assert report.calibration["profile-tensorrt"] == "tensorrt" and report.calibration["profile"] in ("cpu", "cpu7")
    assert [library.split()[0] for library in report.parsed_by] == list(find_installed_kinds())
    built = build_engines(
        bundle,
        BuildOptions(compute_capabilities=("8.6", "8.9")),
        kind="tensorrt-rtx",
        store=EngineStore(out.parent / "engines"),
    )
    assert {name for report in built for name in report.variants} == {"fp32", "fp16", "int8-tensorrt"}
    assert "for processors and NVIDIA GPUs" in (out / "gate.html").read_text(encoding="utf-8")


def test_processors_keep_floating_point_where_their_int8_is_left_out(
    small: Any, clips: Make, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    not_faster(monkeypatch)
    trained, validation = small
    options = ExportOptions(int8=True, target="any", only="int8", max_drop=50, max_confidence_drop=100)
    bundle, report = export_bundle(trained, out, validation, Frames(clips(16, 1, 32)[:, 0]), options)
    assert bundle.passed == ("fp32", "int8-tensorrt") and set(report.shipped) == set(bundle.passed)


def test_every_variant_for_a_gpu_answers_as_fp32_does(for_gpu: Any) -> None:
    bundle, _, validation = for_gpu
    flat = validation.frames.reshape(-1, *validation.frames.shape[2:])
    for runtime in EXACT_FOR_GPU:
        features = {}
        for variant in bundle.passed:
            with open_runner(bundle, "encoder", runtime=runtime, variant=variant) as encoder:
                features[variant] = encoder.infer({"frames": flat})["features"]
        assert worst_cosine(features["fp32"], features["fp16"]) > 0.9999
        assert worst_cosine(features["fp32"], features["int8"]) > 0.99


def test_fp16_alone_is_checked_on_the_validation_frames(small: Any, out: Path) -> None:
    trained, validation = small
    bundle, report = export_bundle(
        trained, out, validation, None, ExportOptions(fp16=True, target="jetson", only="fp16")
    )
    assert bundle.passed == ("fp16",)
    assert {path.name for path in bundle.root.iterdir()} == {
        "bundle.json",
        "gate.json",
        "gate.html",
        "golden.zip",
        "encoder.fp16.onnx",
        "head.fp32.onnx",
    }
    assert report.half["frames"] == CHECK_FRAMES < 24 * 3
    assert bundle.manifest.stage("encoder").macs == 12 * (3 * 9 * 16**2 + 12 * 9 * (8**2 + 4**2 + 2**2))


@pytest.mark.slow
def test_fp16_that_turns_features_is_refused(small: Any, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The range check keeps overflowing layers in float32; where that is not enough, the gate refuses the variant."""
    trained, validation = small
    monkeypatch.setattr("vidrisk.export.quantize.half.MIN_COSINE", 1.01)
    for allow_drop in (False, True):
        with pytest.raises(
            GateRefused, match=r"→ fp16 .*: the features of stage encoder deviate: cosine 1\.0000, at least 1\.01"
        ):
            export_bundle(trained, out, validation, None, ExportOptions(fp16=True, target="gpu", allow_drop=allow_drop))


@pytest.mark.slow
def test_values_beyond_fp16_stay_in_float32_and_the_bundle_says_which(
    make_trained: Make, small_encoder: Make, clips: Make, out: Path
) -> None:
    trained, validation = make_trained(small_encoder(outlier=1e6), 32)
    options = ExportOptions(int8=True, fp16=True, target="gpu", max_drop=50)
    bundle, report = export_bundle(trained, out, validation, Frames(clips(16, 1, 32)[:, 0]), options)
    assert report.half["cosine"] >= 0.999
    reasons = {row["what"]: row["reason"] for row in report.float32}
    assert reasons["layers.3"].endswith("the limit of FP16 is 65504")
    made = types_made(bundle.path("encoder", "fp16"), "Conv")
    assert made == {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16}
    assert all(np.isfinite(hop.worst_difference) for hop in report.hops)


def test_a_graph_that_tensorrt_refuses_stops_the_export(small: Any, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parser is replaced, because no exported graph is known that the real one refuses; it has its own tests."""
    trained, validation = small

    def refused(paths: Any, on_progress: Any) -> Parsed:
        return Parsed(
            ("tensorrt 10.3.0",),
            {
                path: "tensorrt 10.3.0: Det det_7 of module layers.3: not supported"
                for path in paths
                if "fp16" in path.name
            },
        )

    monkeypatch.setattr("vidrisk.export.quantize.half.parse_graphs", refused)
    said = r"refused encoder\.fp16\.onnx, no bundle was written: .*Det det_7 of module layers\.3"
    with pytest.raises(GateRefused, match=said) as caught:
        export_bundle(trained, out, validation, None, ExportOptions(fp16=True, target="gpu"))
    assert caught.value.report.verdicts[-1].variant == "fp16"
    assert not out.exists()
    bundle, report = export_bundle(
        trained, out, validation, None, ExportOptions()
    )  # for a processor nobody asks TensorRT
    assert report.parsed_by == () and bundle.passed == ("fp32",)


def test_where_a_gpu_is_every_variant_is_judged_on_its_engine(
    small: Any, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no GPU here: ONNX Runtime stands for the engines, and nothing is built."""
    trained, validation = small
    built: list[str] = []

    def ensured(graph: str, path: Path, inputs: Any, kind: str, on_progress: Any) -> None:
        if graph == "encoder" and "fp32" in path.name:
            raise RuntimeFailure("out of GPU memory")
        built.append(f"{kind} {path.name}")

    monkeypatch.setattr("vidrisk.export.quantize.half.ensure_engine", ensured)
    monkeypatch.setattr("vidrisk.export.quantize.half.installed_runtimes", lambda: ("onnxruntime", "tensorrt-rtx"))
    monkeypatch.setitem(BUNDLE_RUNTIMES, "tensorrt-rtx", OnnxRuntimeRunner)
    _, report = export_bundle(trained, out, validation, None, ExportOptions(fp16=True, target="gpu"))
    assert built == ["tensorrt-rtx encoder.fp16.onnx", "tensorrt-rtx head.fp32.onnx"]
    assert [(hop.name, hop.runtime) for hop in report.hops if hop.runtime == "tensorrt-rtx"] == [
        ("onnx fp32 → fp16 engine", "tensorrt-rtx")
    ]  # that of fp32 could not be built here, which says nothing against it


@pytest.mark.slow
def test_graphs_too_large_for_one_file(small: Any, clips: Make, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidrisk.calibration.files.MAX_INLINE_BYTES", 1000)
    trained, validation = small
    options = ExportOptions(int8=True, fp16=True, target="gpu", max_drop=50)
    bundle, report = export_bundle(trained, out, validation, Frames(clips(16, 1, 32)[:, 0]), options)
    assert Bundle.open(out) == bundle
    beside = {name for name in bundle.manifest.files if name.endswith(".data")}
    assert beside >= {f"encoder.{variant}.onnx.data" for variant in ("fp32", "fp16", "int8")}
    sizes = {lap.variant: lap.bytes for lap in report.laps}
    files = bundle.manifest.files
    assert sizes["fp16"] == sum(files[name].bytes for name in files if name.startswith(("encoder.fp16", "head")))
    flat = validation.frames.reshape(-1, *validation.frames.shape[2:])
    for runtime in ("onnxruntime", "openvino"):
        with open_runner(bundle, "encoder", runtime=runtime, variant="fp16") as encoder:
            assert np.isfinite(encoder.infer({"frames": flat})["features"]).all()
    (out / "encoder.fp16.onnx.data").write_bytes(b"other weights")
    with pytest.raises(BundleError, match=r"encoder\.fp16\.onnx\.data in b was changed after export"):
        Bundle.open(out)


@pytest.fixture
def broken_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate a GPU and an ONNX Runtime that lists CUDA but fails to load it."""
    monkeypatch.setattr("vidrisk.runtimes.registry.visible_gpu", lambda: "a GPU")
    monkeypatch.setattr("vidrisk.runtimes.registry.has_provider", lambda runtime: True)


@pytest.mark.usefixtures("broken_cuda")
def test_a_cuda_that_is_not_whole_is_left_out_of_an_export_for_a_gpu(
    small: Any, out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained, validation = small
    bundle, report = export_bundle(trained, out, validation, None, ExportOptions(fp16=True, target="gpu"))
    assert bundle.passed == ("fp32", "fp16")
    assert not any("cuda" in one.runtime for one in (*report.hops, *report.laps))
    assert caplog.text.count("onnxruntime-cuda does not work here and is not used for judging: ") == 1


@pytest.mark.usefixtures("broken_cuda")
def test_a_gpu_is_not_asked_about_a_bundle_for_processors(
    small: Any, out: Path, clips: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*_: object, **__: object) -> None:
        raise AssertionError("a GPU was asked")

    for runtime in GPU_RUNTIMES:
        monkeypatch.setitem(BUNDLE_RUNTIMES, runtime, asked)
    options = ExportOptions(int8=True, max_drop=50, allow_drop=True)
    bundle, report = export_bundle(*small[:1], out, small[1], Frames(clips(32, 1, 32, seed=9)[:, 0]), options)
    assert len(bundle.passed) == 2 and {lap.runtime for lap in report.laps} == {"onnxruntime", "openvino"}


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (RuntimeFailure("the engine of encoder.fp16.onnx has the tensors frames: uint8[batch, 1, 1, 3]"), True),
        (OutOfMemory("out of GPU memory"), False),
    ],
)
def test_an_engine_that_does_not_load_is_refused(
    small: Any,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: RuntimeFailure,
    refused: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An engine that cannot be opened stops the export; if only GPU memory was short, it is not judged."""

    def opened(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("vidrisk.export.quantize.half.installed_runtimes", lambda: ("tensorrt-rtx",))
    monkeypatch.setattr("vidrisk.export.quantize.half.ensure_engine", lambda *_: None)
    monkeypatch.setitem(BUNDLE_RUNTIMES, "tensorrt-rtx", opened)
    trained, validation = small
    options = ExportOptions(fp16=True, target="gpu", allow_drop=True)
    if not refused:
        assert export_bundle(trained, out, validation, None, options)[0].passed == ("fp32", "fp16")
        assert "fp32 is not judged on tensorrt-rtx: out of GPU memory" in caplog.text
        return
    with pytest.raises(
        GateRefused, match=r"engine \(tensorrt-rtx\), no bundle was .*: its engine was built but does not work: "
    ):
        export_bundle(trained, out, validation, None, options)
    assert not out.exists()


def test_options_that_make_no_sense() -> None:
    with pytest.raises(SettingsError, match="an FP16 variant for target 'cpu'; allowed: gpu, jetson"):
        ExportOptions(fp16=True)
    with pytest.raises(SettingsError, match="allowed: fp32, int8; fix: make it, too: fp16"):
        ExportOptions(int8=True, only="fp16")
    with pytest.raises(SettingsError, match=r"only .*; allowed: fp32; fix: make it, too: int8"):
        ExportOptions(only="int8")
    with pytest.raises(SettingsError, match="quantisation-aware fine-tuning without INT8"):
        ExportOptions(qat_steps=5)
    with pytest.raises(SettingsError, match=r"strict about the speed of INT8, without INT8; .*; fix: leave strict out"):
        ExportOptions(strict=True)
    with pytest.raises(SettingsError, match="strict about the speed of INT8, for target 'jetson'"):
        ExportOptions(strict=True, int8=True, target="jetson")
    for unseen, options in (
        ("int8", {"int8": True, "only": "fp32"}),
        ("int8", {"int8": True, "fp16": True, "only": "fp16", "target": "gpu"}),
        ("fp16", {"fp16": True, "only": "fp32", "target": "gpu"}),
    ):
        with pytest.raises(
            SettingsError,
            match=f"{unseen} would be made but not shipped, because only .* is shipped; fix: leave one of the two out",
        ):
            ExportOptions(**options)  # type: ignore[arg-type]
    assert not ExportOptions(int8=True, fp16=True, only="int8", target="gpu").makes_fp16
    for wrong in ({"max_drop": float("nan")}, {"max_drop": -1.0}, {"search_s": -1.0}, {"int8": True, "qat_steps": -1}):
        with pytest.raises(SettingsError, match="allowed: numbers from 0"):
            ExportOptions(**wrong)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_quantisation_aware_finish_ships_its_own_head_and_leaves_fp32_alone(
    make_trained: Make, small_encoder: Make, clips: Make, out: Path
) -> None:
    trained, validation = make_trained(small_encoder(outlier=30), 32)
    frames = Frames(clips(32, 1, 32, seed=9)[:, 0])
    options = ExportOptions(int8=True, max_drop=50, allow_drop=True)
    plain, _ = export_bundle(trained, out.with_name("plain"), validation, frames, options)
    with pytest.raises(DataError, match="no training samples for quantisation-aware fine-tuning"):
        export_bundle(trained, out, validation, frames, replace(options, qat_steps=2))
    finished, report = export_bundle(
        replace(trained, clips=clips(32, 3, 32, seed=4)), out, validation, frames, replace(options, qat_steps=8)
    )
    for graph in ("encoder", "head"):
        assert finished.path(graph, "fp32").read_bytes() == plain.path(graph, "fp32").read_bytes()
    assert finished.path("head", finished.passed[1]).name == "head.finished.onnx"
    assert plain.path("head", plain.passed[1]).name == "head.fp32.onnx"
    assert [hop.name for hop in report.hops].count("finished → onnx") == 2
