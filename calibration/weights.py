"""Weights in 8 or 7 bits: scales per output channel, and correction of biases for the mean rounding error."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx

from vidrisk.calibration.graph import FloatArray, Net, along, attribute, largest_along
from vidrisk.calibration.observers import Statistics

LARGEST = 127  # for eight bits; see ``Profile.largest_weight``
SMALLEST_SCALE = 1e-18  # engines flush smaller float32 products of two scales to zero
RATIOS = np.linspace(0.5, 1.0, 51, dtype=np.float32)


def plain_weight_scales(weight: FloatArray, axis: int, largest: int = LARGEST) -> FloatArray:
    """Return the largest absolute value per output channel divided by ``largest``.

    A dead channel, whose weights decayed to almost nothing, gets 1.

    Args:
        weight: of any rank.
        axis: the one that runs over output channels.
        largest: the integer of a channel's largest weight.
    """
    scale = largest_along(weight, axis) / np.float32(largest)
    return np.where(scale >= SMALLEST_SCALE, scale, 1).astype(np.float32)


def mse_weight_scales(weight: FloatArray, axis: int, largest: int = LARGEST) -> FloatArray:
    """Return the scale per output channel with the least squared error, out of ``RATIOS`` of the plain one.

    Clipping a channel's few largest weights can cost less than rounding all others coarsely (Banner et al. 2019).
    """
    plain = plain_weight_scales(weight, axis, largest)
    rows = (
        np.moveaxis(weight, axis, 0).reshape(len(plain), -1) / plain[:, None]
    )  # squares of small weights would underflow
    errors = np.stack(
        [np.square(round_weight(rows, np.full_like(plain, ratio), 0, largest) - rows).sum(axis=1) for ratio in RATIOS]
    )
    best: FloatArray = (plain * RATIOS[errors.argmin(axis=0)]).astype(np.float32)
    return best


def round_weight(weight: FloatArray, scale: FloatArray, axis: int, largest: int = LARGEST) -> FloatArray:
    """Return the weight that an engine computes with, on the grid of its scales."""
    values: FloatArray = (integers_from_weight(weight, scale, axis, largest) * along(scale, axis, weight.ndim)).astype(
        np.float32
    )
    return values


def integers_from_weight(weight: FloatArray, scale: FloatArray, axis: int, largest: int = LARGEST) -> FloatArray:
    values: FloatArray = np.clip(np.rint(weight / along(scale, axis, weight.ndim)), -largest, largest)
    return values


def correct_biases(
    model: onnx.ModelProto,
    statistics: Mapping[str, Statistics],
    scales: Mapping[str, FloatArray],
    keep_float: Collection[str] = (),
    largest: int = LARGEST,
) -> onnx.ModelProto:
    """Return the float graph with biases that compensate the mean effect of rounding its weights.

    Rounding W to Ŵ shifts the mean output by (Ŵ − W)·E[x]; the bias gets the opposite shift (Nagel et al. 2019, §4.2).
    The returned graph, whose weights are not rounded, therefore has shifted means on purpose: quantise it with the same
    scales.

    Args:
        model: the float graph.
        statistics: of the activations, by tensor name.
        scales: per output channel, by weight name.
        keep_float: names of nodes whose weights are not rounded.
        largest: largest integer of a weight.
    """
    net = Net(model)
    for node in net.nodes:
        slot = _bias_slot(net, node) if net.is_weighted(node) else None
        if node.name in keep_float or slot is None or not _is_observed(net, node, statistics):
            continue
        weight, axis = net.array(node.input[1]), net.output_axis(node)
        error = round_weight(weight, scales[node.input[1]], axis, largest) - weight
        mean = statistics[node.input[0]].channel_mean.astype(np.float32)
        holder, position = slot
        shift = _mean_output(net, node, error, mean)
        bias = net.own_array(holder, position)
        net.set_array(holder.input[position], (bias - shift).astype(np.float32))
    return net.model


def _is_observed(net: Net, node: onnx.NodeProto, statistics: Mapping[str, Statistics]) -> bool:
    """Return whether the statistics of a node's input have the channels that it reads.

    These are the channels of images, or of the rows of a matrix.
    """
    dims, found = net.weights[node.input[1]].dims, statistics.get(node.input[0])
    if found is None or len(dims) != (4 if node.op_type == "Conv" else 2):
        return False
    channels = dims[1] * attribute(node, "group", 1) if node.op_type == "Conv" else dims[net.input_axis(node)]
    return bool(len(found.channel_mean) == channels)


def _mean_output(net: Net, node: onnx.NodeProto, weight: FloatArray, mean: FloatArray) -> FloatArray:
    """Return the output for the mean input per output channel; borders count as inner pixels."""
    if node.op_type == "Conv":
        taps = weight.sum(axis=(2, 3))
        groups = len(mean) // taps.shape[1]
        inputs = mean.reshape(groups, 1, -1).repeat(len(taps) // groups, axis=1).reshape(len(taps), -1)
        return np.asarray((taps * inputs).sum(axis=1), np.float32)
    return np.asarray(mean @ weight if net.input_axis(node) == 0 else weight @ mean, np.float32)


def _bias_slot(net: Net, node: onnx.NodeProto) -> tuple[onnx.NodeProto, int] | None:
    """Return the node and input that hold a weighted node's bias.

    This is its own third input, or the constant that the next Add adds.
    """
    if len(node.input) > 2 and node.input[2] in net.weights:
        return node, 2
    readers = net.readers[node.output[0]]
    if node.op_type == "MatMul" and len(readers) == 1 and readers[0].op_type == "Add":
        position = 1 - list(readers[0].input).index(node.output[0])
        name = readers[0].input[position]
        if name in net.weights and list(net.weights[name].dims) == [net.array(node.input[1]).shape[-1]]:
            return readers[0], position
    return None
