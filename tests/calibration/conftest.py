"""A small convolutional graph and a small transformer-like one, made by hand."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, shape_inference


def made(
    nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], shape: list[int | str], out: list[int | str]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        initializer=[numpy_helper.from_array(w.astype(w.dtype), n) for n, w in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return shape_inference.infer_shapes(model, strict_mode=True)


def normal(seed: int, *shape: int) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=shape) / np.sqrt(np.prod(shape[1:]) or 1)).astype(np.float32)


@pytest.fixture(scope="session")
def cnn() -> onnx.ModelProto:
    """Conv → Relu → depthwise Conv → pointwise Conv → Conv → average → Gemm: ``x (N, 3, 8, 8)`` → ``y (N, 5)``."""
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], name="stem", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], name="depthwise", group=8),
        helper.make_node("Conv", ["c2", "w3"], ["c3"], name="pointwise"),
        helper.make_node("Conv", ["c3", "w4"], ["c4"], name="last"),
        helper.make_node("ReduceMean", ["c4", "axes"], ["m"], name="mean", keepdims=0),
        helper.make_node("Gemm", ["m", "w5", "b5"], ["y"], name="classifier"),
    ]
    weights = {
        "w1": normal(1, 8, 3, 3, 3),
        "b1": normal(2, 8),
        "w2": normal(3, 8, 1, 3, 3),
        "w3": normal(4, 8, 8, 1, 1),
        "w4": normal(5, 8, 8, 1, 1),
        "axes": np.array([2, 3]),
        "w5": normal(6, 8, 5) * 3,
        "b5": normal(7, 5),
    }
    return made(nodes, weights, ["batch", 3, 8, 8], ["batch", 5])


@pytest.fixture(scope="session")
def attention() -> onnx.ModelProto:
    """``softmax(q kᵀ) v`` and a LayerNorm: ``x (N, 4, 16)`` → ``y (N, 4, 16)``."""
    nodes = [
        *(helper.make_node("MatMul", ["x", f"w{n}"], [n], name=f"project_{n}") for n in "qkv"),
        helper.make_node("Transpose", ["k"], ["kt"], name="transpose", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "kt"], ["scores"], name="scores"),
        helper.make_node("Softmax", ["scores"], ["p"], name="softmax"),
        helper.make_node("MatMul", ["p", "v"], ["mixed"], name="mix"),
        helper.make_node("Add", ["mixed", "x"], ["sum"], name="add"),
        helper.make_node("LayerNormalization", ["sum", "g"], ["y"], name="norm"),
    ]
    weights = {f"w{n}": normal(i, 16, 16) for i, n in enumerate("qkv")} | {"g": np.ones(16, np.float32)}
    return made(nodes, weights, ["batch", 4, 16], ["batch", 4, 16])
