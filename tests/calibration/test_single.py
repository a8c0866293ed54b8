"""Tests of the nodes that stay in float32 whatever their values are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper, numpy_helper

from vidrisk.calibration.graph import Net
from vidrisk.calibration.single import CONSTANTS, NORMS, OPERATORS, PIXELS, half_holds, single_nodes, types_of

Make = Callable[..., onnx.ModelProto]


def single(model: onnx.ModelProto) -> dict[str, str]:
    return single_nodes(Net(model), types_of(model))


def node(kind: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), [output], name=output, **attributes)


def test_softmax_and_norms_of_a_transformer(make_transformer: Make) -> None:
    assert single(make_transformer()) == dict.fromkeys(
        ["norm1/norm", "norm2/norm", "norm3/norm", "attention/softmax"], NORMS
    )


def test_the_average_of_a_convolutional_network(make_mobilenet: Make) -> None:
    assert single(make_mobilenet("Clip")) == {"mean/mean": NORMS}


def test_every_piece_of_a_norm_and_the_residual_sum_not(make_graph: Make) -> None:
    """All nine nodes of a norm stay in float32; the residual sum does not.

    The graph computes x + W·norm(x). A product of a tensor with itself does not count as part of a norm.
    """
    nodes = [
        node("ReduceMean", "x last", "mean"),
        node("Sub", "x mean", "centred"),
        node("Mul", "centred centred", "squares"),
        node("ReduceMean", "squares last", "variance"),
        node("Add", "variance epsilon", "positive"),
        node("Sqrt", "positive", "deviation"),
        node("Div", "centred deviation", "normal"),
        node("Mul", "normal gain", "scaled"),
        node("Add", "scaled bias", "normed"),
        node("MatMul", "normed w", "product"),
        node("Add", "x product", "sum"),
        node("Mul", "sum sum", "gated"),
        node("Relu", "gated", "y"),
    ]
    weights = {
        "last": np.array([-1]),
        "epsilon": np.array(1e-12, np.float32),
        "gain": np.ones(16, np.float32),
        "bias": np.ones(16, np.float32),
        "w": np.ones((16, 16), np.float32),
    }
    model = make_graph(nodes, weights, ["batch", 4, 16], ["batch", 4, 16])
    assert list(single(model)) == [
        "mean",
        "centred",
        "squares",
        "variance",
        "positive",
        "deviation",
        "normal",
        "scaled",
        "normed",
    ]
    assert set(single(model).values()) == {NORMS}


def pixels(*nodes: onnx.NodeProto, **weights: Any) -> onnx.ModelProto:
    """Build a graph from ``frames uint8 (batch, 8, 8, 3)`` to ``y``.

    A Cast to ``float`` and a transposition to ``image`` precede the given nodes.
    """
    front = [
        node("Cast", "frames", "float", to=TensorProto.FLOAT),
        node("Transpose", "float", "image", perm=[0, 3, 1, 2]),
    ]
    graph = helper.make_graph(
        [*front, *nodes],
        "graph",
        [helper.make_tensor_value_info("frames", TensorProto.UINT8, ["batch", 8, 8, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(w), name) for name, w in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_the_arithmetic_on_pixels_ends_at_the_first_layer() -> None:
    """Only the nodes before the first layer count as arithmetic on pixels.

    A token that is repeated for every frame reads the batch size of the pixels, but is not part of that
    arithmetic.
    """
    model = pixels(
        node("Mul", "image scale", "scaled"),
        node("Conv", "scaled kernel", "tokens"),
        node("Shape", "float", "shape", start=0, end=1),
        node("Concat", "shape ones", "target", axis=0),
        node("Expand", "token target", "repeated"),
        node("Add", "tokens repeated", "y"),
        scale=np.float32(1 / 255),
        kernel=np.ones((4, 3, 8, 8), np.float32),
        ones=np.array([1, 1, 1]),
        token=np.ones((1, 4, 1, 1), np.float32),
    )
    assert single(model) == dict.fromkeys(["float", "image", "scaled"], PIXELS)


@pytest.mark.parametrize(
    ("value", "stays"),
    [
        (65504, False),
        (-65504, False),
        (65536, True),
        (-3.4e38, True),
        (-np.inf, False),
        (6e-8, False),
        (1e-12, True),
        (0, False),
    ],
)
def test_constants_that_fp16_does_not_hold(make_graph: Make, value: float, stays: bool) -> None:
    nodes = [node("Add", "x c", "sum"), node("Relu", "sum", "y")]
    model = make_graph(nodes, {"c": np.array(value, np.float32)}, ["b", 4], ["b", 4])
    assert single(model) == ({"sum": CONSTANTS} if stays else {})


def test_a_few_weights_may_vanish() -> None:
    assert half_holds(np.array([1, 1e-12], np.float32))
    assert not half_holds(np.array([1, 1e-12], np.float32), exactly=True)


@given(arrays.arrays(np.float32, st.integers(0, 8), elements=st.floats(width=16, allow_nan=False)))
def test_fp16_holds_fp16(values: Any) -> None:
    assert half_holds(values) and half_holds(values, exactly=True)


def test_operators_that_make_floats_of_nothing_keep_their_type(make_graph: Make) -> None:
    """ConstantOfShape stays in float32, but Resize does not.

    The factors that Resize takes are float32 by the standard, whatever type it resizes.
    """
    nodes = [
        node("ConstantOfShape", "two", "zeros", value=numpy_helper.from_array(np.zeros(1, np.float32))),
        helper.make_node("Resize", ["x", "", "factors"], ["large"], name="large"),
        node("Add", "large zeros", "y"),
    ]
    weights = {"two": np.array([2]), "factors": np.array([1, 2], np.float32)}
    model = make_graph(nodes, weights, ["b", 1], ["b", 2])
    assert single(model) == {"zeros": OPERATORS}
