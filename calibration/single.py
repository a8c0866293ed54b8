"""Nodes that stay in float32 when the rest of a graph becomes FP16, whatever their values.

These are:

    norms       softmax, LayerNorm and similar, whole or in pieces: squares overflow, sums lose precision, small roots
                vanish
    pixels      the arithmetic between uint8 pixels and the first layer: it costs next to nothing, and stays exact
    constants   weights out of FP16's range; scales of Q/DQ that FP16 does not represent exactly
    operators   those that the standard does not define for FP16
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import TensorProto, shape_inference

from vidrisk.calibration.files import without_weights
from vidrisk.calibration.graph import WEIGHTED, FloatArray, Net

Types = Mapping[str, int]  # ONNX element type by tensor

WHOLE = (
    "LayerNormalization",
    "RMSNormalization",
    "InstanceNormalization",
    "GroupNormalization",
    "MeanVarianceNormalization",
    "LpNormalization",
    "Softmax",
    "LogSoftmax",
)
PIECES = (
    "ReduceMean",
    "ReduceSum",
    "ReduceSumSquare",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceProd",
    "GlobalAveragePool",
    "CumSum",
    "Pow",
    "Sqrt",
    "Reciprocal",
    "Exp",
    "Log",
    "Sin",
    "Cos",
)
BETWEEN = ("Add", "Sub", "Mul", "Div", "Neg", "Abs")
NORMS, PIXELS, CONSTANTS, OPERATORS = "norms", "pixels", "constants", "operators"


def single_nodes(net: Net, types: Types) -> dict[str, str]:
    """Return the names of the nodes, with the reason why each stays in float32 (one of four)."""
    pixels, pieces = _pixel_nodes(net, types), _norm_pieces(net)

    def reason(node: onnx.NodeProto) -> str:
        if node.name in pixels:
            return PIXELS
        if node.op_type in WHOLE or node.name in pieces:
            return NORMS
        if not has_half_version(net, node, types):
            return OPERATORS
        constants = [node.input[slot] for slot in castable_inputs(net, node, types) if node.input[slot] in net.weights]
        exactly = node.op_type == "DequantizeLinear"
        return "" if all(half_holds(net.array(name), exactly=exactly) for name in constants) else CONSTANTS

    makers = [node for node in net.nodes if floats(node.output, types) and node.op_type != "QuantizeLinear"]
    return {node.name: why for node in makers if (why := reason(node))}


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    """Return the ONNX element types of all tensors, including weights."""
    graph = shape_inference.infer_shapes(without_weights(model)).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)}
    return types | {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def floats(names: Iterable[str], types: Types) -> list[str]:
    return [name for name in names if types.get(name) == TensorProto.FLOAT]


def castable_inputs(net: Net, node: onnx.NodeProto, types: Types) -> list[int]:
    """Return the float inputs that the standard also allows in FP16."""
    if node.op_type == "Cast":
        return []  # reads anything
    formal = onnx.defs.get_schema(node.op_type, net.opset, node.domain).inputs
    return [
        slot
        for slot, name in enumerate(node.input)
        if types.get(name) == TensorProto.FLOAT and "tensor(float16)" in formal[min(slot, len(formal) - 1)].types
    ]


def has_half_version(net: Net, node: onnx.NodeProto, types: Types) -> bool:
    """Return whether the node makes FP16 from FP16.

    A node that makes floats from no float input states their type in an attribute, and keeps it.
    """
    return node.op_type == "Cast" or bool(castable_inputs(net, node, types))


def half_holds(values: FloatArray, *, exactly: bool = False) -> bool:
    """Return whether an array fits into FP16: nothing overflows, and not all of it vanishes."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if exactly:
        return bool((half == values).all())
    return bool(np.isfinite(half[np.isfinite(values)]).all() and half.any() == values.any())


def _pixel_nodes(net: Net, types: Types) -> set[str]:
    """Return the nodes reachable from uint8 inputs before a layer with weights or a quantiser."""
    reached = {value.name for value in net.model.graph.input if types[value.name] == TensorProto.UINT8}
    nodes = set()
    for node in net.nodes:
        made = floats(node.output, types)
        if made and reached.intersection(node.input) and node.op_type not in (*WEIGHTED, "QuantizeLinear"):
            nodes.add(node.name)
            reached.update(made)
    return nodes


def _norm_pieces(net: Net) -> set[str]:
    """Return the pieces of norms.

    These are sums, powers and roots, the arithmetic that leads from one of them to another, and nodes that read only
    those.
    """
    after: set[str] = set()  # tensors made by pieces, or by arithmetic after them
    for node in net.nodes:
        if node.op_type in PIECES or (node.op_type in BETWEEN and after.intersection(node.input)):
            after.update(node.output)
    before: set[str] = set()  # tensors read by pieces, or by arithmetic before them
    for node in reversed(net.nodes):
        if node.op_type in PIECES or (node.op_type in BETWEEN and before.intersection(node.output)):
            before.update(node.input)
    inside: set[str] = set()
    made: set[str] = set()
    for node in net.nodes:
        activations = [name for name in node.input if name not in net.weights]
        between = node.op_type in BETWEEN and (
            (after.intersection(node.input) and before.intersection(node.output)) or made.issuperset(activations)
        )
        if node.op_type in PIECES or between:
            inside.add(node.name)
            made.update(node.output)
    return inside
