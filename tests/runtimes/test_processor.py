"""Tests of INT8 sums on processors with saturating instructions: every engine gives the answers of the graph."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from vidrisk.runtimes import TensorSpec, processor
from vidrisk.runtimes.openvino import OpenVinoRunner
from vidrisk.runtimes.ort import OnnxRuntimeRunner
from vidrisk.runtimes.processor import saturates_int8


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Clear the cached facts about the processor before and after each test."""
    saturates_int8.cache_clear()
    yield
    saturates_int8.cache_clear()


def product(path: Path, weight: int) -> Path:
    """Write a product in which every pair of neighbours sums to 2 x 255 x ``weight``: ``x (N, 64)`` → ``y (N, 8)``."""
    constants = {
        "one": np.array(1, np.float32),
        "zero": np.array(0, np.uint8),
        "zero_w": np.array(0, np.int8),
        "w": np.full((64, 8), weight, np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "one", "zero"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "one", "zero_w"], ["wd"]),
        helper.make_node("MatMul", ["xd", "wd"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 8])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))
    return path


@pytest.mark.parametrize("weight", [63, 64, 65, 127, -128])
@pytest.mark.parametrize("engine", [OnnxRuntimeRunner, OpenVinoRunner])
def test_the_largest_products_are_added_exactly(
    engine: type[OnnxRuntimeRunner] | type[OpenVinoRunner], weight: int, tmp_path: Path
) -> None:
    inputs, outputs = (TensorSpec("x", "float32", ("batch", 64)),), (TensorSpec("y", "float32", ("batch", 8)),)
    x = np.full((3, 64), 255, np.float32)
    runner = engine(product(tmp_path / "product.onnx", weight), inputs, outputs, threads=1)
    assert runner.infer({"x": x})["y"].tolist() == [[64 * 255 * weight] * 8] * 3


@pytest.mark.parametrize(("weight", "expected"), [(63, False), (64, False), (65, True), (-65, True), (-128, True)])
def test_weights_of_seven_bits_never_saturate(
    weight: int, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = product(tmp_path / "product.onnx", weight)
    monkeypatch.setattr(processor, "saturates_int8", lambda: True)
    assert processor.may_saturate(path) is expected
    outside = tmp_path / "outside.onnx"
    onnx.save_model(onnx.load(str(path)), str(outside), save_as_external_data=True, location="w", size_threshold=0)
    assert processor.may_saturate(outside)  # what is not looked at is not trusted
    monkeypatch.setattr(processor, "saturates_int8", lambda: False)
    assert not processor.may_saturate(path)


@pytest.mark.parametrize(
    ("flags", "saturates"),
    [
        ("fpu avx2 fma", True),
        ("avx2 avx512f avx512bw", True),
        ("avx2 avx512_vnni", False),
        ("avx2 avx_vnni", False),
        ("amx_int8", False),
    ],
)
def test_vnni_decides(flags: str, saturates: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(processor.Path, "read_text", lambda path, **options: f"model name\t: any\nflags\t\t: {flags}\n")
    assert saturates_int8() is saturates


def test_arm_adds_in_32_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor.platform, "machine", lambda: "aarch64")
    assert not saturates_int8()
