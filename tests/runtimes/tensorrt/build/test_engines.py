"""Tests with real builds of engines: TensorRT for RTX builds ahead of time, without a GPU.

Where a GPU matters (its name, its memory) or TensorRT itself (timings, DLA, inspector), it is described to the
code or replaced by a fake, and the test says so.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from vidrisk.calibration import PROFILES, observe_statistics, qdq_from_float, ranges_from_statistics
from vidrisk.calibration.graph import Net
from vidrisk.calibration.half import half_from_float
from vidrisk.calibration.qdq import tensors_to_quantize
from vidrisk.runtimes import Bundle, Contract, Manifest, PixelSpec, Target, TensorSpec, TimeSpec, Variant, write_bundle
from vidrisk.runtimes.contract.errors import (
    BundleError,
    GraphRefused,
    Interrupted,
    RuntimeFailure,
    SettingsError,
    SpecError,
)
from vidrisk.runtimes.contract.stages import frame_encoder_stages
from vidrisk.runtimes.tensorrt.api import Api, find_installed_kinds, open_api
from vidrisk.runtimes.tensorrt.build import builder, engines, timings
from vidrisk.runtimes.tensorrt.build.builder import BuildOptions, build_engine, parse_errors
from vidrisk.runtimes.tensorrt.build.engines import build_engines, ensure_engines
from vidrisk.runtimes.tensorrt.build.layers import activations_bytes, layer_counts, layers_from_inspection
from vidrisk.runtimes.tensorrt.build.monitor import new_monitor
from vidrisk.runtimes.tensorrt.build.timings import keep_timings, timings_path, use_timings
from vidrisk.runtimes.tensorrt.cache import Batches, Engine, EngineKey, EngineStore, engine_store, graph_sha256
from vidrisk.runtimes.tensorrt.device import Device
from vidrisk.runtimes.tensorrt.engine_file import read_engine

ROOT = Path(__file__).parents[4]
needs_rtx = pytest.mark.skipif(
    "tensorrt-rtx" not in find_installed_kinds() and os.environ.get("VIDRISK_REQUIRE_TRT") != "1",
    reason="TensorRT for RTX is not installed: pip install 'vidrisk[tensorrt-rtx]'",
)
pytestmark = needs_rtx

SIDE, WIDTH, MOMENTS = 32, 16, 3
CONTRACT = Contract(
    task="action",
    pixel=PixelSpec(SIDE, SIDE),
    time=TimeSpec(MOMENTS),
    targets=(Target(name="action", labels=("run", "sit", "fall")),),
)
ENCODER, HEAD = frame_encoder_stages(CONTRACT, WIDTH)
INPUTS, OUTPUTS = ENCODER.inputs, ENCODER.outputs
AHEAD = BuildOptions(compute_capabilities=("8.6", "8.9"))
ADA = Device("NVIDIA GeForce RTX 4090", "8.9", "13.0", 24 << 30, 20 << 30, 128)
FAMILIES = ("clip_vision_model", "siglip_vision_model", "dinov2", "dinov3_vit", "vit", "efficientnet-lite0")


def graph_of(
    nodes: list[onnx.NodeProto],
    specs: tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]],
    weights: dict[str, np.ndarray],
) -> onnx.ModelProto:
    inputs, outputs = (
        [
            helper.make_tensor_value_info(s.name, helper.np_dtype_to_tensor_dtype(np.dtype(s.dtype)), s.shape)
            for s in some
        ]
        for some in specs
    )
    graph = helper.make_graph(
        nodes, "graph", inputs, outputs, [numpy_helper.from_array(w, n) for n, w in weights.items()]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def encoder_model() -> onnx.ModelProto:
    """Return a graph from frames through two convolutions to a mean; nodes have module names, as from the exporter."""
    rng = np.random.default_rng(0)
    weights: dict[str, Any] = {
        "scale": np.array([1 / 64], np.float32),
        "first": rng.normal(size=(8, 3, 3, 3)).astype(np.float32),
        "second": rng.normal(size=(WIDTH, 8, 3, 3)).astype(np.float32),
        "bias": np.ones(WIDTH, np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["frames"], ["float"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["channels"], "permute", perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["channels", "scale"], ["scaled"], "mul"),
        helper.make_node(
            "Conv", ["scaled", "first"], ["low"], "backbone.stem/conv", kernel_shape=[3, 3], strides=[2, 2]
        ),
        helper.make_node("Relu", ["low"], ["rectified"], "backbone.stem/relu"),
        helper.make_node(
            "Conv", ["rectified", "second", "bias"], ["high"], "backbone.blocks.0.expand/conv", kernel_shape=[3, 3]
        ),
        helper.make_node("Relu", ["high"], ["rectified_too"], "backbone.blocks.0/relu"),
        helper.make_node("GlobalAveragePool", ["rectified_too"], ["pooled"], "backbone.pool"),
        helper.make_node("Flatten", ["pooled"], ["features"], "flatten"),
    ]
    return onnx.shape_inference.infer_shapes(graph_of(nodes, (INPUTS, OUTPUTS), weights))


def head_model() -> onnx.ModelProto:
    nodes = [
        helper.make_node("ReduceMean", ["features", "axes"], ["summary"], "mean", keepdims=0),
        helper.make_node("MatMul", ["summary", "weights"], ["action_logits"], "classifier/matmul"),
    ]
    weights = {"weights": np.ones((WIDTH, 3), np.float32), "axes": np.array([1])}
    return graph_of(nodes, (HEAD.inputs, HEAD.outputs), weights)


def quantised(model: onnx.ModelProto, profile: Any, side: int = SIDE) -> onnx.ModelProto:
    frames = np.random.default_rng(1).integers(0, 256, (4, side, side, 3), np.uint8)
    statistics = observe_statistics(model, [{"frames": frames}], names=tensors_to_quantize(Net(model)))
    ranges = ranges_from_statistics(statistics, "minmax", symmetric=profile == "tensorrt")
    return qdq_from_float(model, ranges, PROFILES[profile])


@pytest.fixture(scope="session")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write encoders ``fp32``, ``fp16``, ``int8`` and ``cpu`` (processor INT8, refused by TensorRT), and a ``head``."""
    folder = tmp_path_factory.mktemp("graphs")
    fp32 = encoder_model()
    models = {
        "fp32": fp32,
        "fp16": half_from_float(fp32),
        "int8": half_from_float(quantised(fp32, "tensorrt")),
        "cpu": quantised(fp32, "cpu"),
        "head": head_model(),
    }
    for name, model in models.items():
        onnx.save_model(model, str(folder / f"{name}.onnx"))
    return {name: folder / f"{name}.onnx" for name in models}


@pytest.fixture
def make_bundle(tmp_path: Path, graphs: dict[str, Path]) -> Callable[..., Bundle]:
    """Write a bundle with one encoder per variant and a common head."""

    def make(**encoders: str) -> Bundle:
        described = {
            v: Variant(
                files={"encoder": f"encoder.{v}.onnx", "head": "head.fp32.onnx"},
                precision={"encoder": v.partition("-")[0], "head": "fp32"},
                passed=True,
            )
            for v in encoders
        }
        files = {f"encoder.{v}.onnx": graphs[name] for v, name in encoders.items()} | {"head.fp32.onnx": graphs["head"]}
        manifest = Manifest(contract=CONTRACT, stages=(ENCODER, HEAD), variants=described, files={})
        return write_bundle(tmp_path / "a.bundle", manifest, files)

    return make


@pytest.fixture
def store(tmp_path: Path) -> EngineStore:
    return EngineStore(tmp_path / "engines")


@pytest.fixture
def own_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VIDRISK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def rtx() -> Api:
    return open_api("tensorrt-rtx")


def described(path: Path) -> dict[str, Any]:
    layers: dict[str, Any] = json.loads(path.with_suffix(".layers.json").read_text())
    return layers


def test_a_bundle_becomes_engines_once(make_bundle: Callable[..., Bundle], store: EngineStore, rtx: Api) -> None:
    bundle = make_bundle(fp32="fp32", fp16="fp16", int8="int8")
    said: list[tuple[str, int, int]] = []
    reports = build_engines(
        bundle, AHEAD, kind="tensorrt-rtx", store=store, on_progress=lambda *told: said.append(told)
    )
    assert [(r.stage, r.variants) for r in reports] == [
        ("encoder", ("fp32",)),
        ("head", ("fp32", "fp16", "int8")),
        ("encoder", ("fp16",)),
        ("encoder", ("int8",)),
    ]
    assert [(r.computing_layers, r.int8_layers) for r in reports] == [(2, 0), (1, 0), (2, 0), (2, 2)]
    assert all(r.seconds is not None and 0 < r.seconds < 60 and r.bytes > 1000 for r in reports)
    for what in {what for what, _, _ in said}:
        done = [percent for name, percent, total in said if name == what and total == 100]
        assert done == sorted(done) and done[-1] == 100
    assert {what for what, _, _ in said} == {
        f"building {name}.onnx for tensorrt-rtx"
        for name in ("encoder.fp32", "encoder.fp16", "encoder.int8", "head.fp32")
    }
    for report in reports:
        found = store.find(
            "tensorrt-rtx", rtx.version, ADA, graph_sha256(bundle.path(report.stage, report.variants[0]))
        )
        assert isinstance(found, Engine) and found.path == report.path and found.bytes == report.bytes
        assert found.key.batches == Batches(1, 8, 64) and found.key.compute_capabilities == ("8.6", "8.9")
    types = {row["name"]: row["output"] for row in described(reports[3].path)["layers"]}
    assert types["backbone.stem/conv"] == ["HALF"] and {"INT8"} in [set(t) for t in types.values()]
    before = {path: path.stat().st_mtime_ns for path in store.folder.glob("*.json")}
    again = build_engines(bundle, AHEAD, kind="tensorrt-rtx", store=store)
    assert [(r.path, r.seconds) for r in again] == [(r.path, None) for r in reports]
    assert {path: path.stat().st_mtime_ns for path in store.folder.glob("*.json")} == before
    one = build_engines(
        bundle, replace(AHEAD, batches=Batches(1, 2, 4)), kind="tensorrt-rtx", variants=["fp16"], store=store
    )
    assert len(one) == 2 and all(r.seconds and r.batches.max == 4 for r in one)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (BuildOptions(compute_capabilities=("8.7",)), "cannot build for compute capability 8.7"),
        (replace(AHEAD, dla=True), "this machine has no DLA that tensorrt-rtx .* can use; fix: do without the DLA"),
    ],
)
def test_what_cannot_be_built_for(
    make_bundle: Callable[..., Bundle], store: EngineStore, options: BuildOptions, says: str
) -> None:
    with pytest.raises(SettingsError, match=says):
        build_engines(make_bundle(fp32="fp32"), options, kind="tensorrt-rtx", store=store)
    assert not store.folder.exists() or not list(store.folder.iterdir())


def test_options_that_contradict_one_another() -> None:
    for wrong in (BuildOptions(dla=True), AHEAD):
        with pytest.raises(
            SettingsError, match=r"a portable engine and (the DLA|compute capabilities 8\.6,8\.9) together"
        ):
            replace(wrong, portable=True)


def test_no_gpu_and_nothing_said_of_another(
    make_bundle: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_here() -> Device:
        raise RuntimeFailure("no NVIDIA GPU here", fix="get one")

    monkeypatch.setattr(engines, "current_device", none_here)
    bundle = make_bundle(fp32="fp32")
    with pytest.raises(RuntimeFailure, match=r"no NVIDIA GPU here; fix: name compute capabilities"):
        build_engines(bundle, BuildOptions(), kind="tensorrt-rtx")
    with pytest.raises(RuntimeFailure, match="no NVIDIA GPU here; fix: get one"):
        ensure_engines(bundle, "tensorrt-rtx", ["fp32"])


def test_a_variant_that_is_not_there(make_bundle: Callable[..., Bundle], store: EngineStore) -> None:
    with pytest.raises(BundleError, match="no variant 'fp16'"):
        build_engines(make_bundle(fp32="fp32"), AHEAD, kind="tensorrt-rtx", variants=["fp16"], store=store)


def test_a_portable_engine_runs_on_any_gpu_from_ampere_on(
    make_bundle: Callable[..., Bundle], store: EngineStore, rtx: Api
) -> None:
    (encoder, _) = build_engines(
        make_bundle(fp32="fp32"), BuildOptions(portable=True), kind="tensorrt-rtx", store=store
    )
    sha256 = encoder.path.name[:64]
    for capability, fits in (("8.0", True), ("12.0", True), ("7.5", False)):
        found = store.find("tensorrt-rtx", rtx.version, replace(ADA, compute_capability=capability), sha256)
        assert isinstance(found, Engine) == fits


def test_what_the_parser_refuses_is_named(
    graphs: dict[str, Path], make_bundle: Callable[..., Bundle], store: EngineStore
) -> None:
    assert all(parse_errors(graphs[name], "tensorrt-rtx") == [] for name in ("fp32", "fp16", "int8", "head"))
    (line,) = parse_errors(graphs["cpu"], "tensorrt-rtx")
    assert line == (
        "DequantizeLinear conv_bias_dequantize of module backbone.blocks.0.expand: input has type Int32 but must have "
        "type FP8, FP4, Int4, Int8, or UInt8"
    )
    with pytest.raises(
        RuntimeFailure,
        match=r"cannot read encoder\.int8\.onnx: DequantizeLinear conv_bias_dequantize of module "
        r"backbone\.blocks\.0\.expand: .*; fix: export for TensorRT",
    ):
        build_engines(make_bundle(int8="cpu"), AHEAD, kind="tensorrt-rtx", store=store, variants=["int8"])
    assert list(store.folder.iterdir()) == []


def test_what_the_parser_refuses_is_left_out_unless_it_is_asked_for(
    make_bundle: Callable[..., Bundle], store: EngineStore, caplog: pytest.LogCaptureFixture
) -> None:
    """A bundle of schema 1 does not name the types of engines that its variants are made for."""
    built = build_engines(make_bundle(int8="cpu", fp32="fp32"), AHEAD, kind="tensorrt-rtx", store=store)
    assert {each.stage: each.variants for each in built} == {"encoder": ("fp32",), "head": ("fp32", "int8")}
    assert re.search(r"int8 is left out: tensorrt-rtx cannot read encoder\.int8\.onnx: DequantizeLinear", caplog.text)


def test_a_bundle_of_nothing_that_tensorrt_takes_is_refused(
    make_bundle: Callable[..., Bundle], store: EngineStore
) -> None:
    with pytest.raises(GraphRefused, match="cannot read"):
        build_engines(make_bundle(int8="cpu"), AHEAD, kind="tensorrt-rtx", store=store)


def test_an_operator_that_tensorrt_lacks(tmp_path: Path) -> None:
    model = encoder_model()
    relu = next(node for node in model.graph.node if node.name == "backbone.blocks.0/relu")
    relu.op_type, relu.domain = "Unheard", "of.nobody"
    model.opset_import.append(helper.make_opsetid("of.nobody", 1))
    onnx.save_model(model, str(tmp_path / "a.onnx"))
    errors = parse_errors(tmp_path / "a.onnx", "tensorrt-rtx")
    assert any("Unheard relu of module backbone.blocks.0: " in line for line in errors) and "\n" not in "".join(errors)


@pytest.mark.parametrize("data", [b"", b"no graph at all"])
def test_a_file_that_is_no_graph(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.onnx").write_bytes(data)
    errors = parse_errors(tmp_path / "a.onnx", "tensorrt-rtx")
    assert errors and "\n" not in "".join(errors)


def test_weights_beside_the_graph(graphs: dict[str, Path], tmp_path: Path, rtx: Api) -> None:
    onnx.save_model(
        onnx.load(str(graphs["fp32"])),
        str(tmp_path / "a.onnx"),
        save_as_external_data=True,
        location="a.onnx.data",
        size_threshold=100,
    )
    assert (tmp_path / "a.onnx.data").stat().st_size > 1000
    built = build_engine(tmp_path / "a.onnx", INPUTS, rtx, None, AHEAD)
    assert len(built.blob) > 1000 and json.loads(built.layers_json)["computing"] == 2
    (tmp_path / "a.onnx.data").unlink()
    assert parse_errors(tmp_path / "a.onnx", "tensorrt-rtx")


def test_inputs_that_the_graph_does_not_have(graphs: dict[str, Path], rtx: Api) -> None:
    with pytest.raises(SpecError, match="has the free axes moments; allowed: batch"):
        build_engine(graphs["fp32"], (TensorSpec("frames", "uint8", ("batch", "moments", 3)),), rtx, None, AHEAD)
    with pytest.raises(RuntimeFailure, match=r"cannot build fp32\.onnx for batches of 64"):
        build_engine(graphs["fp32"], (TensorSpec("photos", "uint8", ("batch", SIDE, SIDE, 3)),), rtx, None, AHEAD)


def test_ctrl_c_stops_at_the_next_step(graphs: dict[str, Path], rtx: Api) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted, match=r"stopped by Ctrl-C while building fp32\.onnx for tensorrt-rtx"):
        build_engine(graphs["fp32"], INPUTS, rtx, None, AHEAD, interrupt)
    rtx.errors.clear()
    assert build_engine(graphs["fp32"], INPUTS, rtx, None, AHEAD).blob


def test_a_terminal_that_is_gone_ends_the_build(graphs: dict[str, Path], rtx: Api) -> None:
    def hang_up(what: str, done: int, total: int) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        build_engine(graphs["fp32"], INPUTS, rtx, None, AHEAD, hang_up)


def test_progress_counts_phases_in_phases(rtx: Api) -> None:
    monitor = new_monitor(rtx)
    monitor.phase_start("build", None, 4)
    assert monitor.step_complete("build", 0) and monitor.percent == 25
    monitor.phase_start("tactics", "build", 10)
    for step in range(5):
        monitor.step_complete("tactics", step)
    assert monitor.percent == 37
    monitor.phase_start("reformats", "tactics", 2)
    monitor.step_complete("reformats", 0)
    assert monitor.percent == 38
    for phase in ("reformats", "tactics"):
        monitor.phase_finish(phase)
    monitor.phase_start("tactics", "build", 10)  # the next step's own
    assert monitor.percent == 38
    monitor.cancelled = True
    assert not monitor.step_complete("build", 1) and monitor.percent == 50
    monitor.phase_finish("unheard of")


# From here on a GPU is described to the code that is not here. Its engine is built all the same: TensorRT for RTX needs
# no GPU.


def test_an_engine_for_the_gpu_that_is_here(
    graphs: dict[str, Path], rtx: Api, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger=builder.__name__):
        built = build_engine(graphs["int8"], INPUTS, rtx, ADA, BuildOptions())
    assert built.batches == Batches() and layer_json(built)["int8"] == 2
    assert "the engine cannot be inspected" in caplog.text  # for want of a GPU


def layer_json(built: builder.Built) -> dict[str, Any]:
    layers: dict[str, Any] = json.loads(built.layers_json)
    return layers


def test_memory_is_estimated_before_building(
    graphs: dict[str, Path], rtx: Api, caplog: pytest.LogCaptureFixture
) -> None:
    by_rows = [activations_bytes(builder._parse(rtx, graphs["fp32"])[0].network, rows) for rows in (1, 2, 64)]
    frame, low, high = SIDE * SIDE * 3 * 4, 8 * 15 * 15 * 4, WIDTH * 13 * 13 * 4
    assert frame * 2 <= by_rows[0] <= frame * 2 + low + high
    assert by_rows[2] - by_rows[1] == 62 * (by_rows[1] - by_rows[0]) >= 62 * frame * 2
    weights = graphs["fp32"].stat().st_size
    roomy = replace(ADA, free_bytes=weights + by_rows[2])
    assert build_engine(graphs["fp32"], INPUTS, rtx, roomy, BuildOptions()).batches == Batches(1, 8, 64)
    assert "halving" not in caplog.text
    tight = replace(ADA, free_bytes=weights + 10 * by_rows[0])
    assert build_engine(graphs["fp32"], INPUTS, rtx, tight, BuildOptions()).batches == Batches(1, 8, 8)
    halvings = [record.getMessage() for record in caplog.records if "halving" in record.getMessage()]
    assert len(halvings) == 3 and "for batches of 64: needs 0.00 GB of GPU memory" in halvings[0]
    with pytest.raises(
        RuntimeFailure, match=r"needs .* GB of GPU memory, but only 0\.00 GB are available, for batches of 1; fix: "
    ):
        build_engine(graphs["fp32"], INPUTS, rtx, replace(ADA, free_bytes=1000), BuildOptions())


class FailingBuilder:
    """The real builder, except that its first builds fail."""

    def __init__(self, api: Api, failures: int, says: str) -> None:
        self._builder, self._api, self._left, self._says = api.new_builder(), api, failures, says

    def __getattr__(self, name: str) -> Any:
        return getattr(self._builder, name)

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        self._left -= 1
        if self._left >= 0:
            self._api.errors.append(self._says)
            return None
        return self._builder.build_serialized_network(network, config)


@pytest.fixture
def failing(rtx: Api, monkeypatch: pytest.MonkeyPatch) -> Callable[[int, str], None]:
    def fail(failures: int, says: str) -> None:
        real = builder._parse

        def parsed(api: Api, path: Path) -> Any:
            found, errors = real(api, path)
            return replace(found, builder=FailingBuilder(api, failures, says)), errors

        monkeypatch.setattr(builder, "_parse", parsed)

    return fail


@pytest.mark.parametrize(
    "says",
    [
        "Error Code 2: OutOfMemory (Requested size was 34359738368 bytes.)",
        "[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)",
    ],
)
def test_out_of_gpu_memory_halves_the_batch(
    graphs: dict[str, Path], rtx: Api, failing: Callable[[int, str], None], caplog: pytest.LogCaptureFixture, says: str
) -> None:
    failing(2, says)
    built = build_engine(graphs["fp32"], INPUTS, rtx, None, AHEAD)
    assert built.batches == Batches(1, 8, 16) and len(built.blob) > 1000
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        f"fp32.onnx for batches of {rows}: out of GPU memory; halving to {rows // 2}" for rows in (64, 32)
    ]


def test_out_of_gpu_memory_to_the_end(graphs: dict[str, Path], rtx: Api, failing: Callable[[int, str], None]) -> None:
    failing(99, "Error Code 2: OutOfMemory (no further information)")
    with pytest.raises(RuntimeFailure, match=r"for batches of 2: Error Code 2: OutOfMemory.*; fix: .*a smaller batch"):
        build_engine(graphs["fp32"], INPUTS, rtx, None, replace(AHEAD, batches=Batches(2, 2, 8)))


def test_another_failure_is_not_tried_again(
    graphs: dict[str, Path], rtx: Api, failing: Callable[[int, str], None]
) -> None:
    failing(1, "Error Code 10: Internal Error (Could not find any implementation for node backbone.stem/conv.)")
    with pytest.raises(RuntimeFailure, match=r"for batches of 64: .*implementation for node backbone\.stem/conv"):
        build_engine(graphs["fp32"], INPUTS, rtx, None, AHEAD)


def test_what_the_builder_got_over_is_not_said_of_what_fails_later(graphs: dict[str, Path], rtx: Api) -> None:
    def say(what: str, done: int, total: int) -> None:
        rtx.errors.append("Error Code 2: OutOfMemory (a kernel that was tried)")

    build_engine(graphs["fp32"], INPUTS, rtx, None, AHEAD, say)
    assert not rtx.errors


def test_an_engine_is_kept_under_the_batches_that_it_got(
    make_bundle: Callable[..., Bundle], store: EngineStore, failing: Callable[[int, str], None]
) -> None:
    failing(1, "out of memory")
    held: list[int] = []
    add = store.add
    store.add = lambda key, *what: (held.append(len([*store.folder.glob(f"{key.stem}.lock")])), add(key, *what))[1]  # type: ignore[method-assign]
    reports = build_engines(make_bundle(fp32="fp32"), AHEAD, kind="tensorrt-rtx", store=store)
    assert [report.batches.max for report in reports] == [32, 32] and held == [1, 1]
    assert sorted(path.suffix for path in store.folder.iterdir()) == [".engine", ".engine", ".json", ".json"]


def test_missing_engines_are_built_with_the_reason(
    make_bundle: Callable[..., Bundle],
    own_cache_folder: Path,
    rtx: Api,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bundle, here = make_bundle(fp32="fp32", int8="int8"), [ADA]
    monkeypatch.setattr(engines, "current_device", lambda: here[0])

    def ensure() -> tuple[list[bool], list[str]]:
        caplog.clear()
        reports = ensure_engines(bundle, "tensorrt-rtx", ["fp32"])
        said = [record.getMessage() for record in caplog.records if record.name == engines.__name__]
        return [report.seconds is not None for report in reports], said

    assert ensure() == (
        [True, True],
        [
            f"{name}.fp32.onnx needs a tensorrt-rtx engine: none has been built yet; building it once may take minutes"
            for name in ("encoder", "head")
        ],
    )
    assert ensure() == ([False, False], [])
    found = engine_store().find("tensorrt-rtx", rtx.version, ADA, graph_sha256(bundle.path("head", "fp32")))
    assert isinstance(found, Engine) and found.key.gpu == ADA.model
    found.path.write_bytes(found.path.read_bytes()[:-1])
    built, said = ensure()
    assert built == [False, True] and "head.fp32.onnx needs a tensorrt-rtx engine: its file has" in said[0]
    here[0] = replace(ADA, name="NVIDIA GeForce RTX 5090", compute_capability="12.0", multiprocessors=170)
    built, said = ensure()
    assert built == [True, True]
    assert f"built for {ADA.model} (8.9), here is NVIDIA GeForce RTX 5090, 170 SMs (12.0)" in said[0]
    here[0] = replace(here[0], driver="14.0")
    built, said = ensure()
    assert built == [True, True] and "built with a driver for CUDA 13, here is one for CUDA 14" in said[0]
    monkeypatch.setattr(engines, "open_api", lambda kind: replace(rtx, version="1.8.0.1"))
    built, said = ensure()
    assert built == [True, True] and f"built for tensorrt-rtx {rtx.version}, here is 1.8.0.1" in said[0]


def test_another_gpu_of_an_unknown_capability_is_asked_of_the_driver(rtx: Api) -> None:
    asked: list[Any] = []
    config: Any = SimpleNamespace(
        set_compute_capability=lambda capability, at: asked.append(capability.name) or at == 0
    )
    for capability in ("8.9", "9.0"):
        rtx.set_this_gpu(config, capability)
    assert asked == ["SM89", "CURRENT"] and config.num_compute_capabilities == 1
    with pytest.raises(RuntimeFailure, match=f"tensorrt-rtx {rtx.version} does not build for SM89"):
        rtx.set_compute_capabilities(config, ("8.6", "8.9"))


# What TensorRT has and TensorRT for RTX has not is played by fakes.


def fake_tensorrt(**members: Any) -> Api:
    return Api("tensorrt", "10.3.0", SimpleNamespace(**members), None, deque(maxlen=8))


def test_timings_are_kept_per_library_and_gpu(own_cache_folder: Path) -> None:
    api, orin = fake_tensorrt(), Device("Orin (nvgpu)", "8.7", "12.6", 8 << 30, 4 << 30)
    used: list[bytes] = []
    accepted = [b"", b"known"]

    def set_timing_cache(cache: bytes, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        used.append(cache)
        return cache in accepted

    config: Any = SimpleNamespace(
        create_timing_cache=bytes,
        set_timing_cache=set_timing_cache,
        get_timing_cache=lambda: SimpleNamespace(serialize=lambda: b"known"),
    )
    use_timings(api, config, orin)
    keep_timings(api, config, orin)
    assert timings_path(api, orin) == own_cache_folder / "timings" / "tensorrt-10.3.0-Orin-nvgpu-8.7.cache"
    assert [path.name for path in timings_path(api, orin).parent.iterdir()] == ["tensorrt-10.3.0-Orin-nvgpu-8.7.cache"]
    use_timings(api, config, orin)
    accepted.remove(b"known")
    use_timings(api, config, orin)
    assert used == [b"", b"known", b"known", b""]


def test_timings_that_cannot_be_kept_cost_no_build(own_cache_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    own_cache_folder.write_bytes(b"a file where the folder should be")
    config: Any = SimpleNamespace(get_timing_cache=lambda: SimpleNamespace(serialize=lambda: b"known"))
    with caplog.at_level(logging.INFO, logger=timings.__name__):
        keep_timings(fake_tensorrt(), config, ADA)
    assert "timings are not cached" in caplog.text


def test_dla_with_the_gpu_behind_it() -> None:
    flags: list[str] = []
    config: Any = SimpleNamespace(set_flag=flags.append)
    fake_tensorrt(DeviceType=SimpleNamespace(DLA="dla"), BuilderFlag=SimpleNamespace(GPU_FALLBACK="fallback")).use_dla(
        config
    )
    assert (config.default_device_type, config.DLA_core, flags) == ("dla", 0, ["fallback"])


def test_portable_engines_of_tensorrt_itself(rtx: Api) -> None:
    flags: list[str] = []
    config: Any = SimpleNamespace(set_flag=flags.append)
    fake_tensorrt(
        BuilderFlag=SimpleNamespace(VERSION_COMPATIBLE="version"),
        HardwareCompatibilityLevel=SimpleNamespace(AMPERE_PLUS="ampere"),
    ).make_portable(config)
    assert (flags, config.hardware_compatibility_level) == (["version"], "ampere")
    rtx.make_portable(config)
    assert flags == ["version"]


def test_what_the_inspector_says_of_int8(tmp_path: Path) -> None:
    """The texts are those of TensorRT's manual, section "Engine Inspector"."""

    def layer(kind: str, *formats: str) -> dict[str, Any]:
        return {"Name": "a", "LayerType": kind, "Inputs": [{"Name": "x", "Format/Datatype": text} for text in formats]}

    inspected = {
        "Layers": [
            layer("Reformat", "Row major linear FP32"),
            layer("CaskConvolution", "Thirty-two wide Int8 format"),
            layer("CaskGemmConvolution", "Row major linear FP16 format"),
            layer("NoOp", "Int8"),
            "a name alone",
        ],
        "Bindings": ["x"],
    }
    text = layers_from_inspection(json.dumps(inspected))
    (tmp_path / "a.layers.json").write_text(text)
    assert layer_counts(tmp_path / "a.layers.json") == (2, 1)
    assert json.loads(text)["Layers"] == inspected["Layers"]
    (tmp_path / "a.layers.json").write_text("{}")
    assert layer_counts(tmp_path / "a.layers.json") == layer_counts(tmp_path / "none") == (None, None)
    with pytest.raises(ValueError):
        layers_from_inspection("no JSON")


# Several processes, and what kills them.


@pytest.fixture
def python(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Return a function that starts a process with this code; its ``build()`` builds ``a.bundle`` ahead of time."""
    begin = f"""
        import logging, resource, sys, time
        from pathlib import Path
        from vidrisk.runtimes.tensorrt.build.builder import BuildOptions
        from vidrisk.runtimes.tensorrt.build.engines import build_engines
        from vidrisk.runtimes.contract.bundle import Bundle
        from vidrisk.runtimes.contract.errors import VidriskError
        from vidrisk.runtimes.tensorrt.cache import EngineStore
        logging.basicConfig(level="WARNING", stream=sys.stdout, format="%(message)s")
        store, options = EngineStore(Path({str(tmp_path / "engines")!r})), BuildOptions(compute_capabilities=("8.9",))
        def build(on_progress=lambda *told: None):
            bundle = Bundle.open({str(tmp_path / "a.bundle")!r})
            return build_engines(bundle, options, kind="tensorrt-rtx", store=store, on_progress=on_progress)
    """

    def run(code: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(begin) + textwrap.dedent(code)],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        )

    return run


def test_two_builders_at_once_build_once(
    make_bundle: Callable[..., Bundle], store: EngineStore, python: Callable[..., subprocess.Popen[str]]
) -> None:
    make_bundle(fp32="fp32")
    builders = [
        python("""
        waits = iter([0.7])
        reports = build(lambda *told: time.sleep(next(waits, 0)))
        print(sum(report.seconds is not None for report in reports))
    """)
        for _ in range(2)
    ]
    ends = [process.communicate(timeout=120) for process in builders]
    assert [(process.returncode, error) for process, (_, error) in zip(builders, ends, strict=True)] == [(0, "")] * 2
    assert sum(int(out.split()[-1]) for out, _ in ends) == 2
    assert sum("another process is building this engine; waiting for it" in out for out, _ in ends) >= 1
    assert sorted(path.suffix for path in store.folder.iterdir()) == [".engine", ".engine", ".json", ".json"]


def test_a_builder_that_is_killed_leaves_no_engine(
    make_bundle: Callable[..., Bundle], store: EngineStore, python: Callable[..., subprocess.Popen[str]]
) -> None:
    bundle = make_bundle(fp32="fp32")
    builder_ = python("build(lambda *told: (print('at it', flush=True), time.sleep(60)))")
    assert builder_.stdout is not None and builder_.stdout.readline() == "at it\n"
    builder_.send_signal(signal.SIGKILL)
    builder_.communicate(timeout=60)
    assert [path.suffix for path in store.folder.iterdir()] == [".lock"]
    begin = time.monotonic()
    reports = build_engines(bundle, AHEAD, kind="tensorrt-rtx", store=store)
    assert time.monotonic() - begin < 30 and all(
        isinstance(store.get(read_engine(r.path).key), Engine) for r in reports
    )


def test_a_full_disk_is_one_line(
    make_bundle: Callable[..., Bundle], store: EngineStore, python: Callable[..., subprocess.Popen[str]]
) -> None:
    make_bundle(fp32="fp32")
    process = python("""
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        try:
            build()
        except VidriskError as error:
            print(error)
    """)
    out, error = process.communicate(timeout=60)
    assert (process.returncode, error, out.count("\n")) == (0, "", 1)
    assert "an engine cannot be stored in" in out and "File too large; fix: free some space there" in out
    assert list(store.folder.iterdir()) == []


def test_it_runs_where_torch_and_onnx_are_not(
    make_bundle: Callable[..., Bundle], store: EngineStore, python: Callable[..., subprocess.Popen[str]]
) -> None:
    make_bundle(int8="int8")
    process = python("""
        blocked = "torch", "onnx", "onnxscript", "onnxruntime", "transformers", "peft", "openvino"
        assert not set(blocked) & set(sys.modules)
        sys.modules.update(dict.fromkeys(blocked))
        print([(report.stage, report.int8_layers) for report in build()])
    """)
    out, error = process.communicate(timeout=60)
    assert (process.returncode, error, out) == (0, "", "[('encoder', 2), ('head', 0)]\n")


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_in_every_precision(
    exported_encoder: Callable[[str], Any], tmp_path: Path, rtx: Api, family: str
) -> None:
    exported = exported_encoder(family)
    fp32 = onnx.load(str(exported.path))
    models = {
        "fp32": fp32,
        "fp16": half_from_float(fp32),
        "int8": half_from_float(quantised(fp32, "tensorrt", side=64)),
    }
    store, computing = EngineStore(tmp_path / "engines"), set()
    for precision, model in models.items():
        path = tmp_path / f"{precision}.onnx"
        onnx.save_model(model, str(path))
        assert parse_errors(path, "tensorrt-rtx") == []
        built = build_engine(path, exported.stage.inputs, rtx, None, AHEAD)
        layers = layer_json(built)
        computing.add(layers["computing"])
        assert layers["int8"] == (layers["computing"] if precision == "int8" else 0)
        types = {name for row in layers["layers"] if "int8" in row for name in row["output"]}
        assert types == ({"FLOAT"} if precision == "fp32" else {"HALF"}), precision
        key = EngineKey(
            "tensorrt-rtx", rtx.version, "", AHEAD.compute_capabilities, "", graph_sha256(path), built.batches
        )
        with store.lock(key):
            store.add(key, built.blob, built.layers_json)
        found = store.find("tensorrt-rtx", rtx.version, ADA, key.graph_sha256)
        assert isinstance(found, Engine) and bytes(found.blob()) == bytes(built.blob)
    assert len(computing) == 1
