from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from vidrisk.export.convert.graphs import export_onnx
from vidrisk.export.convert.macs import macs_from_onnx
from vidrisk.models.encoders import build_encoder
from vidrisk.runtimes import TensorSpec

PUBLISHED_LITE0 = 0.4e9  # multiply-accumulates at 224², as the authors and timm round them


def model_of(
    nodes: list[onnx.NodeProto], inputs: dict[str, tuple[Any, ...]], output: str, **weights: tuple[int, ...]
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in weights.items()]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    graph = helper.make_graph(
        nodes, "g", infos, [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)], tensors
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_a_small_network_by_hand() -> None:
    nodes = [
        helper.make_node("Conv", ["frames", "stem"], ["a"], strides=[2, 2], pads=[1, 1, 1, 1]),  # 8 channels of 4 x 4
        helper.make_node("Conv", ["a", "depthwise"], ["b"], group=8, pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("ConvTranspose", ["c", "up"], ["d"], strides=[2, 2]),  # 2 channels of 8 x 8
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("Gemm", ["e", "dense", "bias"], ["f"], transB=1),
        helper.make_node("MatMul", ["f", "last"], ["out"]),
    ]
    model = model_of(
        nodes,
        {"frames": ("batch", 3, 8, 8)},
        "out",
        stem=(8, 3, 3, 3),
        depthwise=(8, 1, 3, 3),
        up=(8, 2, 2, 2),
        dense=(10, 128),
        bias=(10,),
        last=(10, 5),
    )
    by_hand = (8 * 4 * 4) * (3 * 3 * 3) + (8 * 4 * 4) * (3 * 3) + (8 * 4 * 4) * (2 * 2 * 2) + 128 * 10 + 10 * 5
    assert macs_from_onnx(model) == by_hand


def test_a_transposed_first_matrix_of_gemm() -> None:
    model = model_of([helper.make_node("Gemm", ["a", "b"], ["out"], transA=1)], {"a": (7, 3)}, "out", b=(7, 5))
    assert macs_from_onnx(model) == 3 * 7 * 5


def test_products_of_two_activations_count() -> None:
    nodes = [
        helper.make_node("Transpose", ["q"], ["k"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["q", "k"], ["scores"]),
        helper.make_node("MatMul", ["scores", "q"], ["out"]),
    ]
    assert macs_from_onnx(model_of(nodes, {"q": ("batch", 4, 17, 16)}, "out")) == 2 * 4 * 17 * 17 * 16


def test_rounding_changes_no_count() -> None:
    plain = model_of([helper.make_node("Conv", ["x", "w"], ["out"])], {"x": ("batch", 2, 6, 6)}, "out", w=(4, 2, 3, 3))
    weights = numpy_helper.from_array(np.zeros((4, 2, 3, 3), np.int8), "w8")
    step = numpy_helper.from_array(np.array(0.1, np.float32), "step")
    zero = numpy_helper.from_array(np.array(0, np.uint8), "zero")
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["x8"]),
        helper.make_node("DequantizeLinear", ["x8", "step", "zero"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w8", "step"], ["wd"]),
        helper.make_node("Conv", ["xd", "wd"], ["out"]),
    ]
    rounded = model_of(nodes, {"x": ("batch", 2, 6, 6)}, "out")
    rounded.graph.initializer.extend([weights, step, zero])
    assert macs_from_onnx(rounded) == macs_from_onnx(plain) == 4 * 4 * 4 * 2 * 3 * 3


def test_shapes_that_nobody_knows() -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["n"]),
        helper.make_node("Cast", ["n"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["w", "f"], ["out"]),
    ]
    assert macs_from_onnx(model_of(nodes, {"x": ("batch", 4)}, "out", w=(3, 2))) is None


@given(st.data())
def test_a_convolution_of_any_shape(data: st.DataObject) -> None:
    groups, stride, pad = (data.draw(st.integers(1, 3)) for _ in range(3))
    inputs, outputs = (groups * data.draw(st.integers(1, 4)) for _ in range(2))
    height, width, kernel = data.draw(st.integers(5, 12)), data.draw(st.integers(5, 12)), data.draw(st.integers(1, 3))
    node = helper.make_node("Conv", ["x", "w"], ["out"], group=groups, strides=[stride] * 2, pads=[pad] * 4)
    model = model_of(
        [node], {"x": ("batch", inputs, height, width)}, "out", w=(outputs, inputs // groups, kernel, kernel)
    )
    with torch.no_grad():  # every output of a convolution of ones with ones, unpadded, is the number of its products
        conv = torch.nn.Conv2d(inputs, outputs, kernel, stride, 0, groups=groups, bias=False)
        conv.weight.fill_(1.0)
        sums = conv(torch.ones(1, inputs, height + 2 * pad, width + 2 * pad))
    assert macs_from_onnx(model) == int(sums.sum())


def test_a_transformer_by_hand(exported_encoder: Callable[[str], Any]) -> None:
    tokens, width, layers, heads = 17, 64, 3, 4
    projections, mlp = 4 * tokens * width * width, 2 * tokens * width * 4 * width
    attention = 2 * heads * tokens * tokens * (width // heads)
    patches = (tokens - 1) * width * 3 * 16 * 16
    counted = macs_from_onnx(onnx.load(str(exported_encoder("dinov2").path)))
    assert counted == patches + layers * (projections + attention + mlp)


@pytest.mark.slow
def test_efficientnet_lite0_has_the_published_count(tmp_path: Path) -> None:
    encoder = build_encoder("efficientnet-lite0", pixel={"height": 224, "width": 224})
    inputs, outputs = (
        TensorSpec("frames", "uint8", ("batch", 224, 224, 3)),
        TensorSpec("features", "float32", ("batch", 1280)),
    )
    export_onnx(
        encoder, [torch.zeros((2, 224, 224, 3), dtype=torch.uint8)], [inputs], [outputs], tmp_path / "lite0.onnx"
    )
    assert macs_from_onnx(onnx.load(str(tmp_path / "lite0.onnx"))) == pytest.approx(PUBLISHED_LITE0, rel=0.06)
