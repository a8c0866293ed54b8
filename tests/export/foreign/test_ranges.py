"""Tests of tensor bounds: they hold for every input, and are found for every form of a probability."""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from vidrisk.export.foreign.ranges import ranges_of
from vidrisk.export.foreign.session import Session

CONSTANTS = {"zero": 0.0, "half": 0.5, "one": 1.0, "minus": -2.0}


def graph(*nodes: tuple[str, list[str]], **attributes: Any) -> onnx.ModelProto:
    """Build a graph of consecutive nodes.

    The output of every node is named by its position, and a node may read all earlier names.
    """
    made = [
        helper.make_node(kind, inputs, [str(place)], **(attributes if place == len(nodes) - 1 else {}))
        for place, (kind, inputs) in enumerate(nodes)
    ]
    weights = [helper.make_tensor(name, TensorProto.FLOAT, [1], [value]) for name, value in CONSTANTS.items()]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [64])
    outputs = [helper.make_tensor_value_info(str(place), TensorProto.FLOAT, None) for place in range(len(nodes))]
    made.insert(
        0,
        helper.make_node("Constant", [], ["third"], value=helper.make_tensor("value", TensorProto.FLOAT, [], [1 / 3])),
    )
    return helper.make_model(
        helper.make_graph(made, "g", [x], outputs, weights), opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )


@pytest.mark.parametrize(
    "nodes",
    [
        [("Sigmoid", ["x"]), ("Identity", ["0"])],
        [("HardSigmoid", ["x"])],
        [("Clip", ["x", "zero", "one"])],
        [("Clip", ["x", "zero", ""]), ("Min", ["0", "one"])],
        [("Sigmoid", ["x"]), ("Sub", ["one", "0"])],
        [("Tanh", ["x"]), ("Mul", ["0", "half"]), ("Add", ["half", "1"])],
        [("Tanh", ["x"]), ("Add", ["0", "one"]), ("Mul", ["1", "half"])],
        [("Tanh", ["x"]), ("Mul", ["third", "0"]), ("Add", ["1", "half"])],
        [("Neg", ["x"]), ("Exp", ["0"]), ("Add", ["1", "one"]), ("Reciprocal", ["2"])],
        [("Neg", ["x"]), ("Exp", ["0"]), ("Add", ["1", "one"]), ("Div", ["one", "2"])],
        [("Sigmoid", ["x"]), ("Sigmoid", ["0"]), ("Add", ["0", "1"]), ("Mul", ["2", "half"])],
        [("Softmax", ["x"]), ("Slice", ["0", "starts", "ends"])],
    ],
    ids=lambda nodes: " ".join(kind for kind, _ in nodes),
)
def test_a_probability_is_known_however_it_is_written(nodes: list[tuple[str, list[str]]]) -> None:
    low, high = ranges_of(graph(*nodes))[str(len(nodes) - 1)]
    assert low >= 0 and high <= 1


@pytest.mark.parametrize(
    "nodes",
    [
        [("Relu", ["x"])],
        [("Tanh", ["x"])],
        [("Abs", ["x"])],
        [("Sigmoid", ["x"]), ("Log", ["0"])],
        [("Clip", ["x", "zero", ""])],
        [("Sigmoid", ["x"]), ("Add", ["0", "one"])],
    ],
)
def test_other_numbers_are_none(nodes: list[tuple[str, list[str]]]) -> None:
    low, high = ranges_of(graph(*nodes)).get(str(len(nodes) - 1), (-inf, inf))
    assert low < 0 or high > 1


KINDS = {
    "Sigmoid": 1,
    "HardSigmoid": 1,
    "Tanh": 1,
    "Erf": 1,
    "Relu": 1,
    "Exp": 1,
    "Neg": 1,
    "Reciprocal": 1,
    "Abs": 1,
    "Min": 2,
    "Max": 2,
    "Add": 2,
    "Sub": 2,
    "Mul": 2,
    "Div": 2,
    "Clip": 3,
}


@st.composite
def rows_of_nodes(draw: st.DrawFn) -> list[tuple[str, list[str]]]:
    nodes: list[tuple[str, list[str]]] = []
    for place in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(sorted(KINDS)))
        names = st.sampled_from(["x", *map(str, range(place)), *CONSTANTS, "third"])
        limits = (
            [draw(st.sampled_from(["zero", "minus"])), draw(st.sampled_from(["one", "half"]))] if kind == "Clip" else []
        )
        nodes.append((kind, [*(draw(names) for _ in range(KINDS[kind] - len(limits))), *limits]))
    return nodes


@given(rows_of_nodes(), st.integers(0, 99))
def test_every_number_lies_within_its_bounds(nodes: list[tuple[str, list[str]]], seed: int) -> None:
    model = graph(*nodes)
    x = np.random.default_rng(seed).normal(0, 3, 64).astype(np.float32)
    values, ranges = Session(model).run({"x": x}), ranges_of(model)
    for name, found in values.items():
        low, high = ranges.get(name, (-inf, inf))
        finite = found[np.isfinite(found)].astype(np.float64)
        slack = 1e-5 * np.maximum(1, np.abs(finite))
        assert (finite >= low - slack).all() and (finite <= high + slack).all(), (name, low, high)
