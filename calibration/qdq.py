"""Conversion of a float graph and ranges to an explicit Q/DQ graph (ONNX QuantizeLinear/DequantizeLinear).

    float:      x ──────────► Conv(W, b) ──► Clip ──────────► Conv …
    quantised:  x ─ Q ─ DQ ─► Conv(DQ Wq, DQ bq) ─► Clip ─ Q ─ DQ ─► Conv …

Every input of a quantised node gets one Q/DQ pair, shared by all its quantised readers; engines fuse the nodes between
a DQ and the next Q into one integer kernel. LayerNorm, Softmax and GELU stay in floating point. onnxruntime's quantiser
is not used: it puts a pair on the output of every node (an additional rounding per residual sum and per activation) and
accepts no external weight scales.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from vidrisk.calibration.files import check_graph
from vidrisk.calibration.graph import FloatArray, Net, check_float
from vidrisk.calibration.observers import Ranges
from vidrisk.calibration.profiles import Profile
from vidrisk.calibration.weights import SMALLEST_SCALE, integers_from_weight, plain_weight_scales
from vidrisk.runtimes.contract.errors import DataError

BIAS_MAX = 2**30  # half of the accumulator's range; the other half is for the products


def qdq_from_float(
    model: onnx.ModelProto,
    ranges: Ranges,
    profile: Profile,
    *,
    keep_float: Collection[str] = (),
    weight_scales: Mapping[str, FloatArray] | None = None,
) -> onnx.ModelProto:
    """Insert Q/DQ pairs around the operators that gain from INT8.

    Args:
        model: the float graph, which is not modified.
        ranges: smallest and largest value per activation.
        profile: how to quantise.
        keep_float: names of nodes to leave in floating point.
        weight_scales: scale per output channel by weight name; a missing one is derived from the channel's largest
            value.

    Raises:
        DataError: the graph is already quantised, or an activation has no range.
    """
    check_float(model)
    net = Net(model)
    scales = weight_scales or {}
    pairs = _Pairs(net, ranges, profile)
    # Decide everything before any change: a node whose weight has a DQ before it no longer counts as weighted.
    planned = [
        (node, activation_slots(net, node, profile), net.is_weighted(node))
        for node in quantizable_nodes(net)
        if node.name not in keep_float
    ]
    for node, slots, weighted in planned:
        for slot in slots:
            node.input[slot] = pairs.pair(node.input[slot])
        if weighted:
            _quantize_weight(net, node, pairs, scales.get(node.input[1]), profile)
            if profile.quantize_averaged and (average := _average_over(net, node)):
                average.input[0] = pairs.pair(average.input[0])
    return pairs.finish()


def quantizable_nodes(net: Net) -> list[onnx.NodeProto]:
    """Return the convolutions, matrix products and residual sums of a graph.

    The products are of an activation with weights or with another activation.
    """
    return [node for node in net.nodes if net.is_weighted(node) or node.op_type == "MatMul" or is_sum(net, node)]


def tensors_to_quantize(net: Net) -> set[str]:
    """Return the activations that quantised nodes read, whose ranges are needed whatever the profile."""
    nodes = quantizable_nodes(net)
    averages = [average for node in nodes if (average := _average_over(net, node))]
    return {name for node in nodes for name in node.input[:2] if name not in net.weights} | {
        node.input[0] for node in averages
    }


def is_sum(net: Net, node: onnx.NodeProto) -> bool:
    """Return whether a node is a residual sum of convolutions.

    Sums of transformers only feed layer norms, and gain nothing from 8 bits.
    """
    return (
        node.op_type == "Add"
        and not any(name in net.weights for name in node.input)
        and any(net.maker[name].op_type == "Conv" for name in node.input if name in net.maker)
    )


def activation_slots(net: Net, node: onnx.NodeProto, profile: Profile) -> list[int]:
    """Return the inputs of a quantised node that get a Q/DQ pair."""
    slots = [slot for slot, name in enumerate(node.input[:2]) if name not in net.weights]
    if is_sum(net, node) and not profile.quantize_sums:
        fused = [slot for slot in slots if _fuses_into(net, node.input[slot])]
        return [slot for slot in slots if slot not in fused[:1]]
    return slots


def _fuses_into(net: Net, name: str) -> bool:
    maker = net.maker.get(name)
    return maker is not None and net.is_weighted(maker) and len(net.readers[name]) == 1


class _Pairs:
    """Q/DQ pairs of one graph, one per tensor, inserted after the node that makes the tensor."""

    def __init__(self, net: Net, ranges: Ranges, profile: Profile) -> None:
        self.net, self.ranges, self.profile = net, ranges, profile
        self.behind: dict[str, list[onnx.NodeProto]] = {}
        self.before: list[onnx.NodeProto] = []
        self.scale_of: dict[str, float] = {}

    def pair(self, name: str) -> str:
        """Return the dequantised name of an activation."""
        result = f"{name}_dequantized"
        if name not in self.behind:
            if name not in self.ranges:
                raise DataError(
                    f"activation {name} has no range", fix="observe it: tensors_to_quantize lists all that are needed"
                )
            scale, zero_point = quantization_of(*self.ranges[name], self.profile)
            self.net.set_array(f"{name}_scale", np.array(scale, np.float32))
            self.net.set_array(f"{name}_zero_point", np.array(zero_point, self.profile.dtype))
            parameters = [f"{name}_scale", f"{name}_zero_point"]
            self.behind[name] = [
                helper.make_node("QuantizeLinear", [name, *parameters], [f"{name}_quantized"], name=f"{name}_quantize"),
                helper.make_node(
                    "DequantizeLinear", [f"{name}_quantized", *parameters], [result], name=f"{name}_dequantize"
                ),
            ]
            self.scale_of[result] = float(np.float32(scale))
        return result

    def constant(self, name: str, values: npt.NDArray[np.generic], scale: FloatArray, axis: int) -> str:
        """Return the dequantised name of an integer initialiser."""
        self.net.set_array(f"{name}_quantized", values)
        self.net.set_array(f"{name}_scale", scale)
        self.net.set_array(f"{name}_zero_point", np.zeros(scale.shape, values.dtype))
        self.before.append(
            helper.make_node(
                "DequantizeLinear",
                [f"{name}_quantized", f"{name}_scale", f"{name}_zero_point"],
                [f"{name}_dequantized"],
                name=f"{name}_dequantize",
                axis=axis,
            )
        )
        return f"{name}_dequantized"

    def finish(self) -> onnx.ModelProto:
        """Return the graph with all pairs inserted, without initialisers that are no longer read."""
        graph = self.net.model.graph
        nodes = [*self.before, *(pair for value in graph.input for pair in self.behind.get(value.name, []))]
        for node in self.net.nodes:
            nodes += [node, *(pair for name in node.output for pair in self.behind.get(name, []))]
        self.net.set_nodes(nodes)
        check_graph(self.net.model)
        return self.net.model


def quantization_of(low: float, high: float, profile: Profile) -> tuple[float, int]:
    """Return scale and zero point of an activation range, widened to represent zero exactly.

    A constant zero gets scale 1: whatever the scale, zero stays zero.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max(-low, high) / 127 if profile.symmetric else (high - low) / 255
    if scale < SMALLEST_SCALE:
        return 1.0, 0
    scale = float(profile.round_scales(np.array(scale)))
    return scale, 0 if profile.symmetric else round(-low / scale)


def _average_over(net: Net, node: onnx.NodeProto) -> onnx.NodeProto | None:
    """Return the average that is the only reader of a convolution's result, or None.

    It may read the result in 8 bits, since averaging over so many values hides the rounding.
    """
    if node.op_type != "Conv":
        return None
    name = node.output[0]
    if [reader.op_type for reader in net.readers[name]] in (["Relu"], ["Clip"]):
        name = net.readers[name][0].output[0]
    readers = net.readers[name]
    alone = len(readers) == 1 and name not in net.outputs
    return readers[0] if alone and readers[0].op_type in ("ReduceMean", "GlobalAveragePool") else None


def _quantize_weight(net: Net, node: onnx.NodeProto, pairs: _Pairs, scale: FloatArray | None, profile: Profile) -> None:
    name, axis = node.input[1], net.output_axis(node)
    weight = net.array(name)
    plain = plain_weight_scales(weight, axis, profile.largest_weight) if scale is None else scale
    scale = np.asarray(profile.round_scales(plain), np.float32)
    input_scale = pairs.scale_of[node.input[0]]
    has_bias = (
        len(node.input) > 2 and node.input[2] in net.weights and list(net.weights[node.input[2]].dims) == [len(scale)]
    )
    if has_bias and profile.integer_bias:
        bias = net.array(node.input[2])
        # A channel whose bias would overflow has negligible weights: a coarser scale loses nothing.
        scale = np.maximum(scale, np.abs(bias) / BIAS_MAX / input_scale).astype(np.float32)
        unit = (scale * np.float32(input_scale)).astype(np.float32)
        integers = np.rint(bias.astype(np.float64) / unit).astype(np.int32)
        node.input[2] = pairs.constant(f"{node.name}_bias", integers, unit, 0)
    rounded = integers_from_weight(weight, scale, axis, profile.largest_weight).astype(np.int8)
    node.input[1] = pairs.constant(f"{node.name}_weight", rounded, scale, axis)
