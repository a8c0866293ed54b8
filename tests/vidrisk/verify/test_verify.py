"""Tests of verification with really exported bundles and real engines; every planted fault is named."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import DEVICE, VERSION, FakeCuda, FakeTensorRt
from golden_bundles import changed_bundle, export_small

from vidrisk.runtimes import Bundle
from vidrisk.runtimes.contract.bundle import sha256_of
from vidrisk.runtimes.contract.errors import AnswersDiffer, BundleError, Interrupted, RuntimeFailure, SettingsError
from vidrisk.runtimes.golden import read_golden
from vidrisk.runtimes.openvino import OpenVinoRunner
from vidrisk.runtimes.ort import OnnxRuntimeRunner
from vidrisk.runtimes.registry import BUNDLE_RUNTIMES
from vidrisk.runtimes.runner import Array, Arrays
from vidrisk.runtimes.tensorrt import context, runner
from vidrisk.runtimes.tensorrt.cache import EngineKey, engine_store, graph_sha256
from vidrisk.verify import Row, Verification, verify_bundle
from vidrisk.verify.faults import faults_of as faults_of_rows

PROCESSOR = ("onnxruntime", "openvino")


def faults_of(found: Verification) -> set[tuple[str, str, str]]:
    return {(fault.name, fault.runtime, fault.variant) for fault in found.faults}


def states_of(found: Verification) -> dict[tuple[str, str], str]:
    return {(row.runtime, row.variant): found.state_of(row) for row in found.rows}


@pytest.fixture
def quantised(small: Path) -> str:
    return Bundle.open(small).passed[1]


@pytest.fixture
def spoilt(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that makes a real runtime change its outputs or open another file."""

    def spoil(
        runtime: str, change: Callable[[Array], Array] = lambda array: array, *, file: Callable[[Path], Path] = Path
    ) -> None:
        kind: Any = {"onnxruntime": OnnxRuntimeRunner, "openvino": OpenVinoRunner}[runtime]

        class Spoilt(kind):  # type: ignore[misc, valid-type]
            def __init__(self, path: Path, *specs: Any, **options: Any) -> None:
                super().__init__(file(path), *specs, **options)

            def _infer(self, feed: Mapping[str, Array]) -> Arrays:
                return {name: change(array) for name, array in super()._infer(feed).items()}

        monkeypatch.setitem(BUNDLE_RUNTIMES, runtime, Spoilt)

    return spoil


def test_every_runtime_and_variant_answers_as_at_export(small: Path, quantised: str) -> None:
    found = verify_bundle(small)
    assert (
        found.samples == 32 and found.reference.startswith("onnxruntime 1.") and found.faults == () and found.is_whole
    )
    assert set(states_of(found).items()) == {((r, v), "same") for r in PROCESSOR for v in ("fp32", quantised)}
    for row in found.rows:
        assert row.largest <= row.tolerance and row.wrong == row.unanswered == 0 and not row.unproved and row.engine
        assert (row.layers.get("int8", 0) > 0) == (
            row.variant != "fp32"
        )  # three of the four convolutions and two heads at least
        assert sum(row.layers.values()) == 6
    assert all(row.agreement == 1 and row.largest < 1e-5 for row in found.rows if row.variant == "fp32")
    only = verify_bundle(small, runtime="openvino", variant="fp32")
    assert [(row.runtime, row.variant) for row in only.rows] == [("openvino", "fp32")]


def test_what_is_asked_for_and_not_there(small: Path) -> None:
    with pytest.raises(SettingsError, match="runtime 'abacus' cannot run a bundle"):
        verify_bundle(small, runtime="abacus")
    with pytest.raises(BundleError, match=r"has no variant 'fp16'; allowed: fp32"):
        verify_bundle(small, variant="fp16")
    with pytest.raises(RuntimeFailure, match=r"nothing runs walls\.bundle here: tensorrt fp32: "):
        verify_bundle(small, runtime="tensorrt")


def test_a_bundle_without_golden_samples_says_so(small: Path, tmp_path: Path) -> None:
    for golden, why in (
        (False, "left out when it was exported"),
        (None, "exported by a version without them"),
        (True, "taken out after the export"),
    ):

        def leave_out(manifest: dict[str, Any], golden: bool | None = golden) -> None:
            del manifest["files"]["golden.zip"]
            manifest["golden"] = golden

        found = verify_bundle(changed_bundle(small, tmp_path / str(golden), manifest=leave_out))
        assert (found.rows, found.samples, found.is_whole) == ((), 0, False) and why in found.without


def test_a_changed_file_of_golden_samples_is_refused_by_its_sha256(small: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path / "b")
    with (tmp_path / "b" / "golden.zip").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"!")
    with pytest.raises(BundleError, match=r"golden\.zip in b was changed after export"):
        verify_bundle(tmp_path / "b")


def test_a_stale_temperature_is_named_with_both(small: Path, tmp_path: Path, quantised: str) -> None:
    before = Bundle.open(small).manifest.variants["fp32"].temperature["level"]

    def heat(manifest: dict[str, Any]) -> None:
        manifest["variants"]["fp32"]["temperature"]["level"] = before * 3

    found = verify_bundle(changed_bundle(small, tmp_path / "b", manifest=heat))
    assert faults_of(found) == {("stale temperature", "", "fp32")}
    assert (
        f"the temperature {before * 3:.4g} for level, and its answers were sealed with {before:.4g}"
        in found.faults[0].said
    )
    assert states_of(found) == {
        (r, v): "differs" if v == "fp32" else "same" for r in PROCESSOR for v in ("fp32", quantised)
    }
    fp32 = [row for row in found.rows if row.variant == "fp32"]
    assert all(
        row.wrong == 0 and row.largest > row.tolerance for row in fp32
    )  # the engine is right, what is told is not


def test_golden_samples_of_another_model_are_named(tmp_path: Path) -> None:
    one, other = (export_small(tmp_path / str(seed), seed=seed, int8=False).root for seed in (3, 5))
    found = verify_bundle(
        changed_bundle(one, tmp_path / "b", files={"golden.zip": (other / "golden.zip").read_bytes()})
    )
    assert {fault.name for fault in found.faults} == {"another model"}
    assert "sha256 of encoder.fp32.onnx is" in found.faults[0].said
    assert states_of(found) == {(runtime, "fp32"): "differs" for runtime in PROCESSOR}  # asked all the same


def test_answers_that_were_exchanged_and_bound_to_these_graphs(small: Path, tmp_path: Path) -> None:
    """Exchanged answers are found although the hashes bind them to these graphs, because no runtime agrees."""

    def turn(told: dict[str, Any], entries: dict[str, bytes]) -> None:
        for variant in told["variants"].values():
            for by_target in (variant["logits"], variant["probabilities"]):
                for target in by_target:
                    by_target[target] = [row[1:] + row[:1] for row in by_target[target]]

    found = verify_bundle(changed_bundle(small, tmp_path / "b", golden=turn))
    assert faults_of(found) == {("another model", "", "")} and set(states_of(found).values()) == {"differs"}
    assert "every runtime and variant gives other answers to 32 of 32 golden samples" in found.faults[0].said


def test_a_graph_that_was_exchanged(small: Path, other: Path, tmp_path: Path, quantised: str) -> None:
    other_graph = (other / "encoder.fp32.onnx").read_bytes()
    found = verify_bundle(changed_bundle(small, tmp_path / "b", files={"encoder.fp32.onnx": other_graph}))
    assert faults_of(found) == {("another model", "", "fp32")}
    assert {state for (_, variant), state in states_of(found).items() if variant == quantised} == {"same"}


def test_a_runtime_that_runs_another_graph(small: Path, other: Path, spoilt: Callable[..., None]) -> None:
    spoilt("openvino", file=lambda path: other / "encoder.fp32.onnx" if path.name == "encoder.fp32.onnx" else path)
    found = verify_bundle(small)
    assert faults_of(found) == {("another graph", "openvino", "fp32")}
    assert "openvino fp32 does not run this graph: it gives other answers to" in found.faults[0].said


def test_a_runtime_that_answers_nothing_finite(small: Path, spoilt: Callable[..., None], quantised: str) -> None:
    spoilt("openvino", lambda array: np.full_like(array, np.nan))
    found = verify_bundle(small)
    assert faults_of(found) == {("not finite", "openvino", v) for v in ("fp32", quantised)}
    assert "its answers to 32 of 32 golden samples are not finite" in found.faults[0].said
    assert json.loads(found.to_json())["rows"][-1]["unanswered"] == 32  # JSON, with no NaN in it


def test_confidence_that_collapses_is_caught_where_labels_hold(
    small: Path, spoilt: Callable[..., None], quantised: str
) -> None:
    spoilt(
        "onnxruntime", lambda array: array * np.float32(0.4) if array.shape[1] < 12 else array
    )  # logits, and no features
    found = verify_bundle(small)
    wrong = [row for row in found.rows if row.runtime == "onnxruntime"]
    assert all(row.agreement == 1 and found.state_of(row) == "differs" for row in wrong)
    assert {found.state_of(row) for row in found.rows if row.runtime == "openvino"} == {"same"}


def test_one_sample_that_differs_is_one_fault(small: Path, spoilt: Callable[..., None]) -> None:
    def change(array: Array) -> Array:
        changed = np.array(array)
        if changed.shape[1] < 12:
            changed[5] += [4] + [0] * (changed.shape[1] - 1)
        return changed

    spoilt("openvino", change)
    found = verify_bundle(small, variant="fp32")
    assert faults_of(found) == {("answers differ", "openvino", "fp32")}
    assert (
        "openvino fp32 gives other answers to 1 of 32 golden samples: probabilities differ by up to "
        in found.faults[0].said
    )


def test_a_runtime_that_does_not_load_hides_no_other(
    small: Path, monkeypatch: pytest.MonkeyPatch, quantised: str
) -> None:
    def broken(*specs: Any, **options: Any) -> Any:
        raise RuntimeFailure("libopenvino.so: cannot open shared object file")

    monkeypatch.setitem(BUNDLE_RUNTIMES, "openvino", broken)
    found = verify_bundle(small)
    ends = {"onnxruntime": "same", "openvino": "does not run"}
    assert states_of(found) == {(r, v): ends[r] for r in PROCESSOR for v in ("fp32", quantised)}
    assert found.faults == () and not found.is_whole
    assert "cannot open shared object" in found.rows[-1].problem


def test_ctrl_c_while_an_engine_is_built_ends_it_all(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*specs: Any, **options: Any) -> Any:
        raise Interrupted("stopped by Ctrl-C while building")

    monkeypatch.setitem(BUNDLE_RUNTIMES, "onnxruntime", stopped)
    with pytest.raises(Interrupted):
        verify_bundle(small)


def test_a_precision_that_cannot_be_proved_is_said_and_not_assumed(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mute(self: OnnxRuntimeRunner, profile: str = "") -> Any:
        if profile:
            raise RuntimeFailure("no space left on device")
        return real(self)

    real = OnnxRuntimeRunner._open_session
    monkeypatch.setattr(OnnxRuntimeRunner, "_open_session", mute)
    row = verify_bundle(small, runtime="onnxruntime").rows[1]
    assert (dict(row.layers), row.unproved, row.note) == ({}, "no space left on device", "")


def test_nothing_heavy_is_imported(small: Path) -> None:
    code = (
        "import sys, pathlib; from vidrisk.verify import verify_bundle; verify_bundle(pathlib.Path(sys.argv[1]));"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    end = subprocess.run([sys.executable, "-c", code, str(small)], capture_output=True, text=True, check=True)
    assert not {"torch", "onnx", "transformers", "av", "jinja2"} & set(end.stdout.split())


# An engine of TensorRT: the GPU is a fake, the engine cache and the runner are real.


@pytest.fixture
def trt(own_cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> FakeTensorRt:
    cuda = FakeCuda()
    made = FakeTensorRt(cuda)
    monkeypatch.setattr(context, "open_api", lambda kind: made.api)
    monkeypatch.setattr(context, "current_device", lambda: DEVICE)
    monkeypatch.setattr(runner, "open_cuda", lambda: cuda)
    monkeypatch.setattr("vidrisk.runtimes.registry.open_api", lambda kind: made.api)
    return made


def keep_engines(trt: FakeTensorRt, bundle: Path, engines_of: Path) -> None:
    """Put engines for the fp32 graphs of a bundle into the cache, created from the files of another bundle."""
    for name in ("encoder.fp32.onnx", "head.fp32.onnx"):
        key = EngineKey(
            trt.kind,
            VERSION,
            DEVICE.name,
            (DEVICE.compute_capability,),
            DEVICE.driver_major,
            graph_sha256(bundle / name),
            trt.batches,
        )
        engine_store().add(key, (engines_of / name).read_bytes(), "{}")


def inspected(text: str) -> str:
    layers = [
        {"Name": "a", "LayerType": "CaskConvolution", "Inputs": [{"Name": "frames", "Format/Datatype": text}]},
        {"Name": "b", "LayerType": "Reformat", "Inputs": [{"Name": "x", "Format/Datatype": "Int8"}]},
    ]
    return json.dumps({"Layers": layers})


def test_an_engine_answers_as_at_export_and_tells_its_layers(small: Path, trt: FakeTensorRt) -> None:
    keep_engines(trt, small, small)
    trt.inspection = inspected("Row major linear FP32")
    found = verify_bundle(small, runtime="tensorrt", variant="fp32")
    (row,) = found.rows
    assert (found.faults, row.engine, dict(row.layers), row.unproved) == ((), VERSION, {"float32": 2}, "")
    assert row.engine_files.split() == [sha256_of(small / name) for name in ("encoder.fp32.onnx", "head.fp32.onnx")]


def test_an_engine_of_another_graph_is_named_and_how_to_rebuild_it(small: Path, other: Path, trt: FakeTensorRt) -> None:
    keep_engines(trt, small, other)
    found = verify_bundle(small, runtime="tensorrt", variant="fp32")
    assert faults_of(found) == {("another graph", "tensorrt", "fp32")}
    said = found.faults[0].said
    assert "tensorrt fp32 does not run this graph" in said and "rebuild its engines: rm " in said
    end = subprocess.run(["bash", "-c", said.partition("rebuild its engines: ")[2].rpartition(", and")[0]], check=True)
    assert end.returncode == 0 and list(engine_store().folder.glob("*.engine")) == []


def test_an_engine_that_is_not_what_it_is_called_fails(small: Path, trt: FakeTensorRt) -> None:
    """An engine that runs in another precision than requested is a fault on a GPU, even with right answers.

    This holds for FP32 that runs in FP16, and for the reverse.
    """
    keep_engines(trt, small, small)
    trt.inspection = inspected("Row major linear FP16 format")
    found = verify_bundle(small, runtime="tensorrt", variant="fp32")
    assert faults_of(found) == {("precision", "tensorrt", "fp32")}
    assert "made for float32, but no layer runs in it here" in found.faults[0].said


@pytest.mark.parametrize(
    ("runtime", "variant", "fails"),
    [
        ("tensorrt", "int8", True),
        ("tensorrt-rtx", "fp16", True),
        ("onnxruntime-cuda", "fp16", True),
        ("onnxruntime-cuda", "int8", False),
        ("openvino", "fp16", False),
        ("onnxruntime", "int8", False),
    ],
)
def test_only_a_gpu_has_to_run_what_was_asked_for(small: Path, runtime: str, variant: str, fails: bool) -> None:
    bundle = Bundle.open(small)
    golden = read_golden(bundle)
    assert golden is not None
    known = bundle.manifest.variants
    named = {variant: known["fp32"].model_copy(update={"precision": {"encoder": variant, "head": "fp32"}}), **known}
    bundle = replace(bundle, manifest=bundle.manifest.model_copy(update={"variants": named}))
    faults = faults_of_rows(bundle, golden, [Row(runtime, variant, note="made for something else")])
    assert [fault.name for fault in faults] == ["precision"] * fails


def test_an_engine_that_tells_no_types_proves_nothing(small: Path, trt: FakeTensorRt) -> None:
    keep_engines(trt, small, small)
    trt.inspection = inspected("N/A due to dynamic shapes")
    row = verify_bundle(small, runtime="tensorrt", variant="fp32").rows[0]
    assert (row.unproved, row.note) == ("the engine does not say the types of all layers", "")


def test_golden_samples_of_another_contract(small: Path, tmp_path: Path) -> None:
    def rename(told: dict[str, Any], entries: dict[str, bytes]) -> None:
        told["contract"] = "0" * 64

    with pytest.raises(AnswersDiffer, match=r"golden samples in b belong to another model: contract 000000000000"):
        verify_bundle(changed_bundle(small, tmp_path / "b", golden=rename))
