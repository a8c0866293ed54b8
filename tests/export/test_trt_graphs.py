"""Tests of the graphs for TensorRT of every family: stated types, same function, accepted by TensorRT's own parser."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from backbones import FAMILIES
from onnx import TensorProto, shape_inference

from vidrisk.calibration.files import data_path, save_graph
from vidrisk.calibration.graph import Net
from vidrisk.calibration.half import half_from_float, round_to_half
from vidrisk.calibration.half_check import check_half, worst_cosine
from vidrisk.calibration.observers import observe_statistics, ranges_from_statistics
from vidrisk.calibration.profiles import PROFILES
from vidrisk.calibration.qdq import qdq_from_float, tensors_to_quantize
from vidrisk.calibration.single import types_of
from vidrisk.export.convert.graphs import MAX_OPSET
from vidrisk.runtimes.contract.errors import RuntimeFailure
from vidrisk.runtimes.openvino import OpenVinoRunner
from vidrisk.runtimes.ort import OnnxRuntimeRunner
from vidrisk.runtimes.processor import may_saturate
from vidrisk.runtimes.tensorrt.api import find_installed_kinds
from vidrisk.runtimes.tensorrt.build.parse import parse_graphs

LAYERS = ("Conv", "MatMul", "Gemm")
Make = Callable[..., Any]
Frames = npt.NDArray[np.uint8]

needs_tensorrt = pytest.mark.skipif(
    not find_installed_kinds() and os.environ.get("VIDRISK_REQUIRE_TRT") != "1",
    reason="no TensorRT is installed: pip install 'vidrisk[tensorrt-rtx]'",
)


@dataclass(frozen=True)
class Case:
    """Files of a graph before and after the rewrite, and of one that rounds as FP16 does."""

    stage: Any
    single: Path
    half: Path
    rounded: Path

    def features(self, path: Path, frames: Frames, runner: Any = OnnxRuntimeRunner) -> npt.NDArray[np.float32]:
        with runner(path, self.stage.inputs, self.stage.outputs) as opened:
            return np.asarray(opened.infer({"frames": frames})["features"])


@pytest.fixture(scope="session")
def case(exported_encoder: Make, clips: Make, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Case]:
    """Return a function from a family and ``fp16`` or ``int8`` to the graphs."""
    folder = tmp_path_factory.mktemp("typed")

    @functools.cache
    def make(family: str, precision: str) -> Case:
        exported = exported_encoder(family)
        model, frames = onnx.load(str(exported.path)), exported.seen(clips, 8, seed=5)
        if precision == "int8":
            statistics = observe_statistics(model, [{"frames": frames}], names=tensors_to_quantize(Net(model)))
            model = qdq_from_float(
                model, ranges_from_statistics(statistics, "minmax", symmetric=True), PROFILES["tensorrt"]
            )
        paths = [folder / f"{family}.{precision}.{kind}.onnx" for kind in ("single", "half", "rounded")]
        for path, graph in zip(paths, (model, half_from_float(model), round_to_half(model)), strict=True):
            save_graph(graph, path)
        return Case(exported.stage, *paths)

    return make


both = [
    pytest.mark.slow,
    pytest.mark.parametrize("family", FAMILIES),
    pytest.mark.parametrize("precision", ["fp16", "int8"]),
]


def for_every_graph(test: Any) -> Any:
    for mark in both:
        test = mark(test)
    return test


@for_every_graph
def test_types_are_as_they_are_said(case: Callable[[str, str], Case], family: str, precision: str) -> None:
    model = onnx.load(str(case(family, precision).half))
    onnx.checker.check_model(model, full_check=True)
    assert 19 <= model.opset_import[0].version <= MAX_OPSET and model.ir_version <= 10
    ends = [value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)]
    assert ends == [TensorProto.UINT8, TensorProto.FLOAT]
    del model.graph.value_info[:]
    types = types_of(shape_inference.infer_shapes(model, strict_mode=True, check_type=True))
    for node in model.graph.node:
        made = {types[name] for name in node.output}
        if node.op_type in LAYERS:
            assert made == {types[name] for name in node.input} == {TensorProto.FLOAT16}, node.name
        elif node.op_type in ("LayerNormalization", "Softmax", "ReduceMean"):
            assert made == {TensorProto.FLOAT}, node.name
    maker = {name: node for node in model.graph.node for name in node.output}
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    assert len({node.input[0] for node in casts}) == len(casts)  # none twice
    assert not [node.name for node in casts if node.input[0] in maker and maker[node.input[0]].op_type == "Cast"]


@for_every_graph
def test_engines_on_a_processor_compute_the_same(
    case: Callable[[str, str], Case], exported_encoder: Make, clips: Make, family: str, precision: str
) -> None:
    graphs, frames = case(family, precision), exported_encoder(family).seen(clips, 8, seed=6)
    exact = graphs.features(graphs.single, frames)
    # Rounding before a quantiser costs an integer more or less here and there.
    least = 0.999 if precision == "fp16" else 0.98
    assert worst_cosine(exact, graphs.features(graphs.half, frames)) >= least
    assert worst_cosine(exact, graphs.features(graphs.rounded, frames)) >= least
    try:
        assert worst_cosine(exact, graphs.features(graphs.half, frames, OpenVinoRunner)) >= least
    except RuntimeFailure as failure:  # it says so, and computes nothing wrong
        assert may_saturate(graphs.half) and "cannot compute this INT8 graph exactly" in failure.what


@for_every_graph
@needs_tensorrt
def test_tensorrt_reads_it(case: Callable[[str, str], Case], family: str, precision: str) -> None:
    graphs = case(family, precision)
    parsed = parse_graphs([graphs.single, graphs.half], lambda what, done, total: None)
    assert parsed.libraries and not parsed.refusals


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_check_keeps_features_where_they_were(exported_encoder: Make, clips: Make, family: str) -> None:
    exported = exported_encoder(family)
    check = check_half(onnx.load(str(exported.path)), [{"frames": exported.seen(clips, 10)}])
    assert check.cosine >= 0.999


@needs_tensorrt
def test_what_tensorrt_refuses_is_named(tmp_path: Path, exported_head: Make) -> None:
    good, bad = exported_head("linear", 3).path, tmp_path / "bad.onnx"
    model = onnx.load(str(good))
    model.graph.node[-1].op_type, model.graph.node[-1].name = "Det", "classifiers.0/determinant"
    onnx.save_model(model, str(bad))
    done: list[tuple[str, int, int]] = []
    parsed = parse_graphs([good, bad], lambda *step: done.append(step))
    assert parsed.refusals.keys() == {bad}
    assert "Det determinant of module classifiers.0" in parsed.refusals[bad]
    assert [step[1:] for step in done][:2] == [(0, 2), (1, 2)]
    assert all(library.startswith("tensorrt") for library in parsed.libraries)


@needs_tensorrt
def test_weights_beside_the_file_are_read(exported_head: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vidrisk.calibration import files

    monkeypatch.setattr(files, "MAX_INLINE_BYTES", 0)
    monkeypatch.setattr(files, "SMALL_BYTES", 64)
    path = tmp_path / "head.onnx"
    save_graph(onnx.load(str(exported_head("linear", 3).path)), path)
    assert data_path(path).is_file()
    assert not parse_graphs([path], lambda what, done, total: None).refusals
    data_path(path).unlink()
    assert parse_graphs([path], lambda what, done, total: None).refusals
