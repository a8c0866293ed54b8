"""Tests of ``Net``: producers, readers, weights, channel axes, and a weight changed for one reader alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from vidrisk.calibration.graph import Net, attribute, check_float
from vidrisk.runtimes.contract.errors import DataError

Make = Callable[..., onnx.ModelProto]


def node(net: Net, name: str) -> onnx.NodeProto:
    return next(node for node in net.nodes if node.name == name)


def test_makers_and_readers(make_mobilenet: Make) -> None:
    net = Net(make_mobilenet())
    assert net.maker["sum"].op_type == "Add"
    assert [reader.name for reader in net.readers["stem.a"]] == ["expand/conv", "sum/add"]
    assert "x" not in net.maker
    assert net.outputs == {"y"}


def test_the_model_given_is_left_as_it_is(make_mobilenet: Make) -> None:
    model = make_mobilenet()
    before = model.SerializeToString(deterministic=True)
    net = Net(model)
    net.set_array("head.b", np.zeros(5, np.float32))
    net.set_array("new", np.zeros(5, np.float32))
    node(net, "head/gemm").input[2] = "new"
    assert model.SerializeToString(deterministic=True) == before
    np.testing.assert_array_equal(net.array("head.b"), np.zeros(5))
    assert [tensor.name for tensor in net.model.graph.initializer].count("new") == 1


def graph_of(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    return helper.make_model(helper.make_graph(list(nodes), "g", [], []))


def test_nodes_without_a_name_get_one_that_nobody_has_and_the_others_keep_theirs() -> None:
    net = Net(
        graph_of(
            helper.make_node("Relu", ["x"], ["a"], name="MatMul_2"),
            helper.make_node("Relu", ["a"], ["b"], name="MatMul_2_1"),
            helper.make_node("MatMul", ["b", "w"], ["c"]),
            helper.make_node("Relu", ["c"], ["y"]),
        )
    )
    assert [node.name for node in net.nodes] == ["MatMul_2", "MatMul_2_1", "MatMul_2_2", "Relu_3"]


def test_nodes_of_one_name_get_names_of_their_own() -> None:
    """Nodes that share a name get unique names.

    ONNX allows shared names, and edits of graphs create them.
    """
    twins = graph_of(
        *(helper.make_node("MatMul", ["x", w], [w + "x"], name="mm") for w in ("a", "b", "c")),
        helper.make_node("Relu", ["cx"], ["y"], name="mm_1"),
    )
    assert [node.name for node in Net(twins).nodes] == ["mm", "mm_2", "mm_3", "mm_1"]


@pytest.mark.parametrize(
    ("op", "dims", "attributes", "output_axis", "input_axis", "depthwise"),
    [
        ("Conv", (8, 4, 3, 3), {}, 0, 1, False),
        ("Conv", (8, 1, 3, 3), {"group": 8}, 0, 0, True),
        ("Conv", (8, 2, 3, 3), {"group": 2}, 0, 1, False),
        ("Conv", (8, 1, 3, 3), {"group": 4}, 0, 1, False),  # two kernels per channel
        ("Conv", (1, 1, 3, 3), {}, 0, 1, False),
        ("MatMul", (4, 8), {}, 1, 0, False),
        ("MatMul", (2, 4, 8), {}, 2, 1, False),
        ("Gemm", (4, 8), {}, 1, 0, False),
        ("Gemm", (8, 4), {"transB": 1}, 0, 1, False),
    ],
)
def test_axes(
    op: str, dims: tuple[int, ...], attributes: dict[str, Any], output_axis: int, input_axis: int, depthwise: bool
) -> None:
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "w"], ["y"], name="it", **attributes)],
        "g",
        [],
        [],
        [onnx.numpy_helper.from_array(np.zeros(dims, np.float32), "w")],
    )
    net = Net(helper.make_model(graph))
    it = node(net, "it")
    assert net.is_weighted(it)
    assert (net.output_axis(it), net.input_axis(it), net.is_depthwise(it)) == (output_axis, input_axis, depthwise)


def test_what_has_no_constant_weights_is_not_weighted(make_transformer: Make) -> None:
    net = Net(make_transformer())
    weighted = {it.name for it in net.nodes if net.is_weighted(it)}
    assert weighted == {f"{name}/matmul" for name in ("q", "k", "v", "out", "fc1", "fc2")}
    assert not any(net.is_depthwise(it) for it in net.nodes)


def test_a_convolution_with_computed_kernels_is_neither_weighted_nor_depthwise() -> None:
    graph = helper.make_graph([helper.make_node("Conv", ["x", "k"], ["y"], name="it", group=8)], "g", [], [])
    net = Net(helper.make_model(graph))
    assert not net.is_weighted(node(net, "it"))
    assert not net.is_depthwise(node(net, "it"))


def test_a_shared_weight_is_duplicated_before_it_is_changed(make_transformer: Make) -> None:
    net = Net(make_transformer(shared=True))
    shared = net.array("q.w").copy()
    for name in ("k/matmul", "v/matmul"):
        it = node(net, name)
        values = net.own_array(it, 1)
        np.testing.assert_array_equal(values, shared)
        net.set_array(it.input[1], values + 1)
    weights = [node(net, f"{name}/matmul").input[1] for name in "qkv"]
    assert weights[0] == "q.w" and len(set(weights)) == 3
    np.testing.assert_array_equal(net.array("q.w"), shared)
    net.own_array(node(net, "q/matmul"), 1)
    assert node(net, "q/matmul").input[1] == "q.w"  # the last reader keeps the name
    onnx.checker.check_model(net.model)


def test_absent_attributes_take_the_standard_value() -> None:
    it = helper.make_node("Gemm", ["a", "b"], ["c"], transB=1)
    assert (attribute(it, "transB", 0), attribute(it, "transA", 0)) == (1, 0)


@pytest.mark.parametrize("op", ["QuantizeLinear", "DequantizeLinear"])
def test_quantised_graphs_are_refused(op: str) -> None:
    graph = helper.make_graph([helper.make_node(op, ["x", "s", "z"], ["y"])], "g", [], [])
    with pytest.raises(DataError, match="the graph is already quantised; fix: export from the floating-point run"):
        check_float(helper.make_model(graph))


def test_float_graphs_are_not(make_mobilenet: Make) -> None:
    check_float(make_mobilenet())
