"""The whole export: a verified bundle, or nothing but a page that says why."""

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
from vidrisk.export.half import CHECK_FRAMES
from vidrisk.export.outputs import Validation
from vidrisk.export.parse import Parsed
from vidrisk.export.trained import ExportOptions, Trained
from vidrisk.runtimes import Bundle, open_runner
from vidrisk.runtimes.errors import BundleError, DataError, GateRefused, RuntimeFailure, SettingsError
from vidrisk.runtimes.ort import OnnxRuntimeRunner
from vidrisk.runtimes.registry import BUNDLE_RUNTIMES
from vidrisk.runtimes.tensorrt.api import installed_kinds

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


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDRISK_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "b"


@pytest.fixture
def small(make_trained: Make, small_encoder: Make) -> tuple[Trained, Validation]:
    return make_trained(small_encoder(), "efficientnet-lite0", 32)


@pytest.fixture(scope="session")
def full(adapted_encoder: Make, make_trained: Make, clips: Make, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The whole path on a real architecture: LoRA, merge, ONNX, INT8, gate, bundle."""
    encoder = adapted_encoder("vit")
    trained, validation = make_trained(encoder, encoder.family, 64, encoder.backbone.config)
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
    assert json.loads((bundle.root / "gate.json").read_text(encoding="utf-8")) == json.loads(json.dumps(report.to_dict()))
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
        features = trained.encoder(torch.from_numpy(validation.frames).flatten(0, 1))
        expected = trained.head(features.unflatten(0, validation.frames.shape[:2]))[0].numpy()
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
    names = {"bundle.json", "gate.json", "gate.html", f"encoder.{variant}.onnx", "head.fp32.onnx"}
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


def _loss(logits: Any, truth: Any) -> float:
    return float(torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(truth)))


def test_without_int8_there_is_no_calibration(small: Any, out: Path) -> None:
    trained, validation = small
    bundle, report = export_bundle(trained, out, validation, None, ExportOptions())
    assert bundle.passed == ("fp32",)
    assert [hop.name for hop in report.hops] == ["frozen → folded", *["merged → onnx fp32"] * 2]
    with pytest.raises(DataError, match="no calibration frames; fix: INT8 needs some"):
        export_bundle(trained, out.with_name("c"), validation, None, ExportOptions(int8=True))


def test_a_second_export_measures_nothing_again(small: Any, clips: Make, out: Path) -> None:
    trained, validation = small
    options = ExportOptions(int8=True, max_drop=50, allow_drop=True)
    steps: list[list[str]] = []
    for name in ("a", "b"):
        steps.append([])
        frames = Frames(clips(16, 1, 32)[:, 0])
        export_bundle(trained, out.with_name(name), validation, frames, options, lambda what, *_: steps[-1].append(what))
    assert "observing activations" in steps[0] and "observing activations" not in steps[1]
    first, second = (out.with_name(name) / "gate.json" for name in ("a", "b"))
    same = ("search", "recipe", "points", "calibration")
    assert [json.loads(first.read_text())[key] for key in same] == [json.loads(second.read_text())[key] for key in same]


def test_a_loss_over_the_limit_is_refused_and_said_on_a_page(
    make_trained: Make, small_encoder: Make, clips: Make, out: Path
) -> None:
    # Every sample is right in floating point, so each of 200 that flips is a loss; and there is no time to search.
    trained, validation = make_trained(small_encoder(), "efficientnet-lite0", 32, samples=200)
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
        (clips(15, 1, 32)[:, 0], "15 calibration frames; allowed: at least 16; fix: give more with --calib"),
        (clips(0, 1, 32)[:, 0], "0 calibration frames; allowed: at least 16"),
        (clips(16, 1, 40)[:, 0], r"a calibration frame is uint8 \(40, 40, 3\); allowed: uint8 \(32, 32, 3\)"),
        (clips(16, 1, 32)[:, 0].astype(np.float32), "a calibration frame is float32"),
    ):
        with pytest.raises(DataError, match=reason):
            export_bundle(trained, out, validation, Frames(frames), ExportOptions(int8=True))
    assert list(out.parent.iterdir()) == []


def test_an_adapter_with_nan_is_refused(adapted_encoder: Make, make_trained: Make, out: Path) -> None:
    encoder = adapted_encoder("vit")
    trained, validation = make_trained(encoder, "vit", 64, samples=2)
    with torch.no_grad():
        next(p for n, p in encoder.named_parameters() if "lora_B" in n).fill_(float("nan"))
    with pytest.raises(RuntimeFailure, match="the adapter cannot be merged"):
        export_bundle(trained, out, validation, None, ExportOptions())


def test_unknown_families_are_refused(make_trained: Make, small_encoder: Make, out: Path) -> None:
    trained, validation = make_trained(small_encoder(), "swin", 32, samples=2)
    with pytest.raises(SettingsError, match="no export is known for backbone family 'swin'"):
        export_bundle(trained, out, validation, None, ExportOptions())
    assert list(out.parent.iterdir()) == []


# For a GPU


@pytest.fixture(scope="module")
def for_gpu(make_trained: Make, small_encoder: Make, clips: Make, tmp_path_factory: pytest.TempPathFactory) -> Any:
    trained, validation = make_trained(small_encoder(), "efficientnet-lite0", 32)
    options = ExportOptions(int8=True, fp16=True, target="gpu", max_drop=50)
    folder = tmp_path_factory.mktemp("gpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIDRISK_CACHE", str(folder / "cache"))
        return *export_bundle(trained, folder / "b", validation, Frames(clips(16, 1, 32)[:, 0]), options), validation


def types_made(path: Path, *kinds: str) -> set[int]:
    """Element types of what the nodes of these kinds make."""
    model = onnx.load(str(path))
    types = types_of(model)
    return {types[name] for node in model.graph.node if node.op_type in kinds for name in node.output}


def test_for_a_gpu_there_is_fp16_and_what_int8_leaves_is_fp16(for_gpu: Any) -> None:
    bundle, report, _ = for_gpu
    assert bundle.passed == ("fp32", "fp16", "int8")
    assert bundle.manifest.variants["fp16"].files == {"encoder": "encoder.fp16.onnx", "head": "head.fp32.onnx"}
    for variant, made in (("fp32", {onnx.TensorProto.FLOAT}), ("fp16", {onnx.TensorProto.FLOAT16}),
                          ("int8", {onnx.TensorProto.FLOAT16})):
        assert types_made(bundle.path("encoder", variant), "Conv") == made
    assert types_made(bundle.path("encoder", "int8"), "QuantizeLinear") == {onnx.TensorProto.INT8}
    rounded = "onnxruntime, rounded to fp16"
    judged = [(hop.name, hop.runtime) for hop in report.hops if hop.variant in ("fp16", "int8")]
    assert judged == [(name, runtime) for name, runtimes in (
        ("onnx fp32 → fp16", ("onnxruntime", "openvino", rounded)),
        ("onnx fp32 → int8", ("onnxruntime", "openvino")),
        ("onnx fp32 → int8, rest in fp16", ("onnxruntime", "openvino", rounded)),
    ) for runtime in runtimes]
    assert all(hop.feature_cosine >= 0.999 for hop in report.hops if hop.variant == "fp16")
    assert set(bundle.manifest.variants["fp16"].temperature) == {"action"}
    assert report.half["frames"] == 16 and report.half["cosine"] >= 0.999
    assert {"what": "ReduceMean", "nodes": 1, "reason": "sums, squares and powers"} in report.float32
    assert [library.split()[0] for library in report.parsed_by] == list(installed_kinds())
    # An int8 variant slower than fp32 here is shipped: this is not the machine it is for.
    assert all(not verdict.reason for verdict in report.verdicts)
    page = (bundle.root / "gate.html").read_text(encoding="utf-8")
    assert "What stays in float32" in page and "ReduceMean" in page


def test_every_variant_for_a_gpu_answers_as_fp32_does(for_gpu: Any) -> None:
    bundle, _, validation = for_gpu
    flat = validation.frames.reshape(-1, *validation.frames.shape[2:])
    for runtime in ("onnxruntime", "openvino"):
        features = {}
        for variant in bundle.passed:
            with open_runner(bundle, "encoder", runtime=runtime, variant=variant) as encoder:
                features[variant] = encoder.infer({"frames": flat})["features"]
        assert worst_cosine(features["fp32"], features["fp16"]) > 0.9999
        assert worst_cosine(features["fp32"], features["int8"]) > 0.99


def test_fp16_alone_is_checked_on_the_validation_frames(small: Any, out: Path) -> None:
    trained, validation = small
    bundle, report = export_bundle(trained, out, validation, None, ExportOptions(fp16=True, target="jetson", only="fp16"))
    assert bundle.passed == ("fp16",)
    assert {path.name for path in bundle.root.iterdir()} == {
        "bundle.json", "gate.json", "gate.html", "encoder.fp16.onnx", "head.fp32.onnx"}  # fmt: skip
    assert report.half["frames"] == CHECK_FRAMES < 24 * 3
    assert bundle.manifest.graphs["encoder"].macs == 12 * (3 * 9 * 16**2 + 12 * 9 * (8**2 + 4**2 + 2**2))


@pytest.mark.slow
def test_fp16_that_turns_features_is_refused(small: Any, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check keeps in float32 what it must; where even that were not enough, the gate says so."""
    trained, validation = small
    monkeypatch.setattr("vidrisk.export.half.MIN_COSINE", 1.01)
    for allow_drop in (False, True):
        with pytest.raises(GateRefused, match=r"onnx fp32 → fp16 .*: the features of a frame turn: cosine 1\.0000, at least 1\.01"):
            export_bundle(trained, out, validation, None, ExportOptions(fp16=True, target="gpu", allow_drop=allow_drop))


@pytest.mark.slow
def test_values_beyond_fp16_stay_in_float32_and_the_bundle_says_which(
    make_trained: Make, small_encoder: Make, clips: Make, out: Path
) -> None:
    trained, validation = make_trained(small_encoder(outlier=1e6), "efficientnet-lite0", 32)
    options = ExportOptions(int8=True, fp16=True, target="gpu", max_drop=50)
    bundle, report = export_bundle(trained, out, validation, Frames(clips(16, 1, 32)[:, 0]), options)
    assert report.half["cosine"] >= 0.999
    reasons = {row["what"]: row["reason"] for row in report.float32}
    assert reasons["layers.3"].endswith("FP16 ends at 65504")
    made = types_made(bundle.path("encoder", "fp16"), "Conv")
    assert made == {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16}
    assert all(np.isfinite(hop.largest_feature_difference) for hop in report.hops)


def test_a_graph_that_tensorrt_refuses_stops_the_export(small: Any, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its parser says is tested with the parser itself; no graph of ours is known that it refuses."""
    trained, validation = small

    def refused(paths: Any, on_progress: Any) -> Parsed:
        return Parsed(("tensorrt 10.3.0",), {path: "tensorrt 10.3.0: Det det_7 of module layers.3: not supported" for path in paths
                                             if "fp16" in path.name})

    monkeypatch.setattr("vidrisk.export.half.parsed_graphs", refused)
    said = r"refused encoder\.fp16\.onnx, no bundle was written: .*Det det_7 of module layers\.3"
    with pytest.raises(GateRefused, match=said) as caught:
        export_bundle(trained, out, validation, None, ExportOptions(fp16=True, target="gpu"))
    assert caught.value.report.verdicts[-1].variant == "fp16"
    assert not out.exists()
    bundle, report = export_bundle(trained, out, validation, None, ExportOptions())  # for a processor nobody asks TensorRT
    assert report.parsed_by == () and bundle.passed == ("fp32",)


def test_where_a_gpu_is_every_variant_is_judged_on_its_engine(small: Any, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is none here: ONNX Runtime stands for the engines, and nothing is built."""
    trained, validation = small
    built: list[str] = []

    def ensured(graph: str, path: Path, inputs: Any, kind: str, on_progress: Any) -> None:
        if graph == "encoder" and "fp32" in path.name:
            raise RuntimeFailure("out of GPU memory")
        built.append(f"{kind} {path.name}")

    monkeypatch.setattr("vidrisk.export.half.ensured_engine", ensured)
    monkeypatch.setattr("vidrisk.export.half.installed_runtimes", lambda: ("onnxruntime", "tensorrt-rtx"))
    monkeypatch.setitem(BUNDLE_RUNTIMES, "tensorrt-rtx", OnnxRuntimeRunner)
    _, report = export_bundle(trained, out, validation, None, ExportOptions(fp16=True, target="gpu"))
    assert built == ["tensorrt-rtx encoder.fp16.onnx", "tensorrt-rtx head.fp32.onnx"]
    assert [(hop.name, hop.runtime) for hop in report.hops if hop.runtime == "tensorrt-rtx"] == [
        ("onnx fp32 → fp16 engine", "tensorrt-rtx")]  # that of fp32 could not be built here, which says nothing against it


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


def test_options_that_make_no_sense() -> None:
    with pytest.raises(SettingsError, match="an FP16 variant for target 'cpu'; allowed: gpu, jetson"):
        ExportOptions(fp16=True)
    with pytest.raises(SettingsError, match="allowed: fp32, int8; fix: make it, too: fp16"):
        ExportOptions(int8=True, only="fp16")
    with pytest.raises(SettingsError, match=r"only .*; allowed: fp32; fix: make it, too: int8"):
        ExportOptions(only="int8")
    with pytest.raises(SettingsError, match="a quantisation-aware finish without INT8"):
        ExportOptions(qat_steps=5)
    for wrong in ({"max_drop": float("nan")}, {"max_drop": -1.0}, {"search_s": -1.0}, {"int8": True, "qat_steps": -1}):
        with pytest.raises(SettingsError, match="allowed: numbers from 0"):
            ExportOptions(**wrong)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_quantisation_aware_finish_ships_its_own_head_and_leaves_fp32_alone(
    make_trained: Make, small_encoder: Make, clips: Make, out: Path
) -> None:
    trained, validation = make_trained(small_encoder(outlier=30), "efficientnet-lite0", 32)
    frames = Frames(clips(32, 1, 32, seed=9)[:, 0])
    options = ExportOptions(int8=True, max_drop=50, allow_drop=True)
    plain, _ = export_bundle(trained, out.with_name("plain"), validation, frames, options)
    with pytest.raises(DataError, match="no training samples for the quantisation-aware finish"):
        export_bundle(trained, out, validation, frames, replace(options, qat_steps=2))
    finished, report = export_bundle(
        replace(trained, clips=clips(32, 3, 32, seed=4)), out, validation, frames, replace(options, qat_steps=8)
    )
    for graph in ("encoder", "head"):
        assert finished.path(graph, "fp32").read_bytes() == plain.path(graph, "fp32").read_bytes()
    assert finished.path("head", finished.passed[1]).name == "head.finished.onnx"
    assert plain.path("head", plain.passed[1]).name == "head.fp32.onnx"
    assert [hop.name for hop in report.hops].count("finished → onnx") == 2
