"""Bounds of a graph's tensors for any image, by interval arithmetic over its operators."""

from __future__ import annotations

import math
from collections.abc import Callable
from math import inf

import onnx
from onnx import numpy_helper

from vidrisk.export.foreign.read import STANDARD

Range = tuple[float, float]
UNBOUNDED: Range = -inf, inf
PASSED = ("Identity", "Cast", "Dropout")  # operators that may lie between a softmax and its output
BOUNDED: dict[str, Range] = {
    "Sigmoid": (0, 1),
    "HardSigmoid": (0, 1),
    "Softmax": (0, 1),
    "Tanh": (-1, 1),
    "Erf": (-1, 1),
}
KEPT = (
    *PASSED,
    "Reshape",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "Transpose",
    "Slice",
    "Gather",
    "Split",
    "Expand",
    "ReduceMean",
    "ReduceMax",
    "ReduceMin",
    "GlobalAveragePool",
    "GlobalMaxPool",
)  # return their inputs, or means of them


def ranges_of(model: onnx.ModelProto) -> dict[str, Range]:
    """Return the least and greatest number per tensor, as far as operators prove them."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    constants |= {
        node.output[0]: attribute.t
        for node in model.graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    }  # as exporters write it
    found: dict[str, Range] = {}

    def range_of(name: str) -> Range:
        if name in constants and name not in found:
            values = numpy_helper.to_array(constants[name])
            if values.size and values.dtype.kind in "fiu":
                found[name] = float(values.min()), float(values.max())
        return found.get(name, UNBOUNDED)

    for node in model.graph.node:  # in topological order
        if node.domain in STANDARD and node.op_type != "Constant":
            low, high = _range(node, range_of)
            found |= dict.fromkeys(node.output, (-inf if math.isnan(low) else low, inf if math.isnan(high) else high))
    return found


def _range(node: onnx.NodeProto, range_of: Callable[[str], Range]) -> Range:
    """Return bounds of a node's output; NaN if infinities leave none."""
    kind, names = node.op_type, node.input
    if kind in BOUNDED:
        return BOUNDED[kind]
    if kind in KEPT:
        return range_of(names[0])
    if kind in ("Relu", "Exp", "Neg", "Reciprocal"):
        return _range_of_one(kind, *range_of(names[0]))
    if kind in ("Clip", "Min", "Max"):
        return _range_of_limits(kind, [range_of(name) if name else UNBOUNDED for name in names])
    if kind in ("Add", "Sub", "Mul", "Div"):
        return _range_of_two(kind, range_of(names[0]), range_of(names[1]))
    return UNBOUNDED


def _range_of_one(kind: str, low: float, high: float) -> Range:
    if kind == "Relu":
        return max(low, 0.0), max(high, 0.0)
    if kind == "Exp":
        return math.exp(min(low, 700)), math.exp(high) if high < 700 else inf  # limits of floats
    if kind == "Neg":
        return -high, -low
    return _range_of_two("Div", (1, 1), (low, high))


def _range_of_limits(kind: str, ranges: list[Range]) -> Range:
    if kind == "Clip":
        (low, high), (least, _), (_, most) = [*ranges, UNBOUNDED, UNBOUNDED][:3]
        return min(max(low, least), most), max(min(high, most), least)
    choose = min if kind == "Min" else max
    return choose(low for low, _ in ranges), choose(high for _, high in ranges)


def _range_of_two(kind: str, one: Range, other: Range) -> Range:
    if kind == "Add":
        return one[0] + other[0], one[1] + other[1]
    if kind == "Sub":
        return one[0] - other[1], one[1] - other[0]
    if kind == "Div":
        if other[0] < 0 < other[1] or other == (0, 0):
            return UNBOUNDED
        other = 1 / other[1] if other[1] else -inf, 1 / other[0] if other[0] else inf
    ends = [a * b for a in one for b in other]
    return UNBOUNDED if any(map(math.isnan, ends)) else (min(ends), max(ends))
