"""Tests of the layers that engines report: of ONNX Runtime, of OpenVINO, and as texts of TensorRT's inspector."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from vidrisk.runtimes import TensorSpec
from vidrisk.runtimes.layers import Layers, layers_from_inspection, layers_from_profile
from vidrisk.runtimes.openvino import OpenVinoRunner
from vidrisk.runtimes.ort import OnnxRuntimeRunner

WIDTH = 32
INPUTS, OUTPUTS = [TensorSpec("x", "float32", ("batch", WIDTH))], [TensorSpec("y", "float32", ("batch", WIDTH))]
RUNNERS: list[Any] = [OnnxRuntimeRunner, OpenVinoRunner]


def saved(path: Path, kind: str) -> Path:
    """Return two matrix products with a Relu between them, saved as a graph.

    In ``float32``, ``float16``, the first in ``int8``, or ``none`` at all.
    """
    weights = {
        name: np.random.default_rng(seed).normal(size=(WIDTH, WIDTH)).astype(np.float32)
        for seed, name in enumerate("ab")
    }
    constants: dict[str, np.ndarray] = dict(weights)
    if kind == "none":
        nodes, constants = [helper.make_node("Relu", ["x"], ["y"])], {}
    elif kind == "float16":
        constants = {name: value.astype(np.float16) for name, value in weights.items()}
        nodes = [
            helper.make_node("Cast", ["x"], ["half"], to=TensorProto.FLOAT16),
            helper.make_node("MatMul", ["half", "a"], ["m"]),
            helper.make_node("Relu", ["m"], ["r"]),
            helper.make_node("MatMul", ["r", "b"], ["n"]),
            helper.make_node("Cast", ["n"], ["y"], to=TensorProto.FLOAT),
        ]
    else:
        first, middle = ["x", "a"], []
        nodes = []
        if kind == "int8":
            constants["a"] = np.clip(weights["a"] * 40, -127, 127).astype(np.int8)
            constants |= {"s": np.array(0.025, np.float32), "z": np.array(0, np.int8), "zu": np.array(128, np.uint8)}
            nodes = [
                helper.make_node("QuantizeLinear", ["x", "s", "zu"], ["q"]),
                helper.make_node("DequantizeLinear", ["q", "s", "zu"], ["d"]),
                helper.make_node("DequantizeLinear", ["a", "s", "z"], ["w"]),
            ]
            first = ["d", "w"]
            middle = [
                helper.make_node("QuantizeLinear", ["m", "s", "zu"], ["mq"]),
                helper.make_node("DequantizeLinear", ["mq", "s", "zu"], ["md"]),
            ]
        nodes += [
            helper.make_node("MatMul", first, ["m"]),
            *middle,
            helper.make_node("Relu", ["md" if middle else "m"], ["r"]),
            helper.make_node("MatMul", ["r", "b"], ["y"]),
        ]
    tensors = [
        [helper.make_tensor_value_info(spec.name, TensorProto.FLOAT, spec.shape) for spec in specs]
        for specs in (INPUTS, OUTPUTS)
    ]
    graph = helper.make_graph(
        nodes, "g", *tensors, initializer=[numpy_helper.from_array(v, n) for n, v in constants.items()]
    )
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))
    return path


def layers_of(kind: Any, path: Path) -> Layers:
    with kind(path, INPUTS, OUTPUTS) as runner:
        runner.infer({"x": np.ones((2, WIDTH), np.float32)})
        found: Layers = runner.layers()
        return found


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize(("bits", "counts"), [(4, {"int4": 1}), (8, {"int8": 1})])
def test_products_with_packed_weights_count_by_the_width_of_these(
    tmp_path: Path, runner: Any, bits: int, counts: dict[str, int]
) -> None:
    groups, group = 3, 16
    depth = groups * group
    arrays = {
        "codes": np.full((WIDTH, groups, group * bits // 8), 0x37, np.uint8),
        "scales": np.ones((WIDTH, groups), np.float32),
        "zeros": np.zeros((WIDTH, -(-groups * bits // 8)), np.uint8),
    }
    product = helper.make_node(
        "MatMulNBits", ["x", *arrays], ["y"], domain="com.microsoft", K=depth, N=WIDTH, bits=bits, block_size=group
    )
    x = TensorSpec("x", "float32", ("batch", depth))
    tensors = [[helper.make_tensor_value_info(spec.name, TensorProto.FLOAT, spec.shape)] for spec in (x, OUTPUTS[0])]
    graph = helper.make_graph(
        [product], "g", *tensors, initializer=[numpy_helper.from_array(v, n) for n, v in arrays.items()]
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    onnx.save_model(helper.make_model(graph, opset_imports=opsets, ir_version=10), str(tmp_path / "m.onnx"))
    with runner(tmp_path / "m.onnx", [x], OUTPUTS) as opened:
        assert opened.infer({"x": np.ones((2, depth), np.float32)})["y"][0, 0] == depth * (5 if bits == 4 else 0x37)
        assert (dict(opened.layers().counts), opened.layers().unproved) == (counts, "")


def test_a_packed_product_of_one_group_proves_nothing() -> None:
    event = {
        "cat": "Node",
        "name": "a_kernel_time",
        "args": {
            "op_name": "MatMulNBits",
            "provider": "P",
            "input_type_shape": [{"float": [1, 64]}, {"float": [8, 1]}, {"uint8": [8, 1]}],
        },
    }
    assert layers_from_profile([event], "P") == Layers({}, "the engine does not say the types of all layers")


@pytest.mark.parametrize("runner", RUNNERS)
def test_engines_tell_what_they_run(tmp_path: Path, runner: Any) -> None:
    for kind, counts in (("float32", {"float32": 2}), ("int8", {"int8": 1, "float32": 1}), ("none", {})):
        found = layers_of(runner, saved(tmp_path / f"{kind}.onnx", kind))
        assert (dict(found.counts), found.unproved) == (counts, "")


@pytest.mark.parametrize("runner", RUNNERS)
def test_fp16_on_a_processor_is_computed_in_float32(tmp_path: Path, runner: Any) -> None:
    found = layers_of(runner, saved(tmp_path / "half.onnx", "float16"))
    assert (dict(found.counts), found.unproved) == ({"float32": 2}, "")


def test_an_engine_that_ran_nothing_proves_nothing(tmp_path: Path) -> None:
    with OpenVinoRunner(saved(tmp_path / "a.onnx", "float32"), INPUTS, OUTPUTS) as opened:
        assert opened.layers().unproved == "openvino does not say how its layers run"


def kernel(name: str, types: list[str], provider: str = "CUDAExecutionProvider") -> dict[str, Any]:
    return {
        "cat": "Node",
        "name": f"{name}_1_kernel_time",
        "args": {"op_name": name, "provider": provider, "input_type_shape": [{each: [1]} for each in types]},
    }


@pytest.mark.parametrize(
    ("events", "said"),
    [
        (
            [kernel("Conv", ["float16", "float16"]), kernel("Conv", ["float16"]), kernel("Gemm", ["float"])],
            "float16 2, float32 1",
        ),
        (
            [
                kernel("QLinearConv", ["uint8", "float", "uint8", "float", "int8"]),
                kernel("QGemm", ["int8"]),
                kernel("DynamicQuantizeMatMul", ["float", "int8"]),
                kernel("MatMulIntegerToFloat", ["uint8", "int8"]),
            ],
            "int8 4",
        ),
        (
            [kernel("ConvTranspose", ["float"], "CPUExecutionProvider"), kernel("Conv", ["float"])],
            "float32 by CPUExecutionProvider 1, float32 1",
        ),
        (
            [
                kernel("Relu", ["float"]),
                kernel("ConvertElementType", ["int8"]),
                {"cat": "Session", "name": "Conv_kernel_time"},
                {"cat": "Node", "name": "Conv_fence_before", "args": {"op_name": "Conv"}},
            ],
            "not proved: ",
        ),
        ([kernel("Conv", [])], "not proved: the engine does not say the types of all layers"),
        (
            [kernel("TRTKernel_graph_0", ["uint8"]), kernel("Conv", ["float"])],
            "not proved: TensorRT inside ONNX Runtime does not say how its layers run",
        ),
    ],
)
def test_kernels_of_a_profile(events: list[dict[str, Any]], said: str) -> None:
    assert str(layers_from_profile(events, "CUDAExecutionProvider")) == said


def layer(kind: str, *types: str) -> dict[str, Any]:
    return {
        "Name": "int8",
        "LayerType": kind,
        "Inputs": [{"Name": "int8 x", "Format/Datatype": text} for text in types],
    }


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        (
            [
                layer("CaskConvolution", "Thirty-two wide channel vectorized row major Int8 format"),
                layer("Reformat", "Int8"),
                layer("CaskGemmConvolution", "Int8", "Row major linear FP32"),
            ],
            "int8 2",
        ),
        (
            [
                layer("CaskConvolution", "Channel major FP16 format where channel % 8 == 0"),
                layer("gemm", "Half"),
                layer("kgen", "Float"),
                layer("NoOp", "Half"),
                layer("gemm", "BFloat16"),
            ],
            "float16 2, float32 1, bfloat16 1",
        ),
        ([layer("kgen", "UInt8"), layer("gemm", "FP8")], "float8 1"),  # pixels, which no layer multiplies as they are
        (
            [layer("gemm", "N/A due to dynamic shapes"), layer("gemm", "Half")],
            "float16 1; not proved: the engine does not say the types of all layers",
        ),
        (["conv1", "conv2"], "not proved: the engine lists no layers that compute, or only their names"),
        ([], "not proved: the engine lists no layers that compute, or only their names"),
    ],
)
def test_layers_of_an_inspected_engine(layers: list[Any], said: str) -> None:
    assert str(layers_from_inspection(json.dumps({"Layers": layers, "Bindings": []}))) == said


def test_two_graphs_together() -> None:
    both = Layers({"float32": 2, "int8": 1}) + Layers({"int8": 4}, "")
    assert list(both.counts.items()) == [("int8", 5), ("float32", 2)] and both.unproved == ""
    assert (both + Layers(unproved="why")).unproved == "why"
