"""Migration of range from activations into weights, without changing the function.

An activation channel far larger than the others takes up the 8 bits of all of them. Dividing channel c of a tensor by
s_c where it is made, and multiplying the weights that read it by s_c, is exact:

    x = LayerNorm(u; γ, β)   or   x = W₁u + b        made:  γ/s, β/s   or   W₁/s, b/s
    y = W₂ x                                         read:  W₂·s

s_c = max|x_c|^α / max|W₂_c|^(1−α). For the inputs of a transformer's linear layers this is SmoothQuant (Xiao et al.
2023, α = ½), between convolutions cross-layer equalisation (Nagel et al. 2019). Scales pass through Relu and residual
sums, which commute with positive scales, but not through ReLU6 or GELU, which do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from vidrisk.calibration.graph import FloatArray, Net, along, attribute, largest_along
from vidrisk.calibration.observers import Statistics

ALPHA = 0.5
LIMIT = 1e4  # of a scale: beyond that, one of the channels is dead


def smooth_activations(model: onnx.ModelProto, statistics: Mapping[str, Statistics]) -> onnx.ModelProto:
    """Migrate from the outputs of layer norms into the linear layers that read them."""
    return _migrate(model, statistics, made_by=("LayerNormalization",))


def equalize_layers(model: onnx.ModelProto, statistics: Mapping[str, Statistics]) -> onnx.ModelProto:
    """Migrate between weighted layers, through Relu and residual sums."""
    return _migrate(model, statistics, made_by=("Conv", "Gemm", "MatMul"))


def migratable_tensors(model: onnx.ModelProto) -> set[str]:
    """Return the activations that either migration may scale; all others keep their values and statistics."""
    return {name for stream in _streams(Net(model)) for name in stream.tensors}


@dataclass(frozen=True)
class Stream:
    """Tensors that must have the same scale, with all nodes that make or read them."""

    tensors: tuple[str, ...]
    makers: tuple[onnx.NodeProto, ...]
    sums: tuple[onnx.NodeProto, ...]
    readers: tuple[onnx.NodeProto, ...]

    @property
    def read(self) -> set[str]:
        """The tensors that ``readers`` read."""
        return {node.input[0] for node in self.readers}


def _migrate(model: onnx.ModelProto, statistics: Mapping[str, Statistics], made_by: tuple[str, ...]) -> onnx.ModelProto:
    net = Net(model)
    for stream in _streams(net):
        if all(node.op_type in made_by for node in stream.makers) and _is_observed(net, stream, statistics):
            scale = _scale(net, stream, statistics)
            for node in stream.makers:
                for slot in range(1, len(node.input)):
                    _multiply(
                        net, node, slot, 1 / scale, net.output_axis(node) if slot == 1 and net.is_weighted(node) else 0
                    )
            for node in stream.sums:
                for slot, name in enumerate(node.input):
                    if name in net.weights:
                        _multiply(net, node, slot, 1 / scale, 0)
            for node in stream.readers:
                _multiply(net, node, 1, scale, net.input_axis(node))
    return net.model


def _streams(net: Net) -> list[Stream]:
    """Return every set of tensors joined by Relu, residual sums and bias sums, made and read by scalable nodes only."""
    joined: dict[str, str] = {}

    def root(name: str) -> str:
        while joined.setdefault(name, name) != name:
            name = joined[name]
        return name

    for node in net.nodes:
        if _passes_scale(net, node):
            for name in node.input:
                if name not in net.weights:
                    joined[root(name)] = root(node.output[0])
    members: dict[str, list[str]] = {}
    for node in net.nodes:
        for name in node.output[:1]:
            members.setdefault(root(name), []).append(name)
    streams = []
    for tensors in members.values():
        inside = set(tensors)
        made = [net.maker[name] for name in tensors]
        makers = [node for node in made if not _passes_scale(net, node)]
        readers = [node for name in tensors for node in net.readers[name] if not _passes_scale(net, node)]
        sums = [node for node in made if _passes_scale(net, node)]
        added = {name for node in sums for name in node.input if name not in net.weights}
        stream = Stream(tuple(tensors), tuple(makers), tuple(sums), tuple(readers))
        if (
            makers
            and readers
            and added <= inside
            and not inside & net.outputs
            and _has_one_channel_axis(net, stream)
            and all(_is_maker(net, node) for node in makers)
            and all(_is_reader(net, node) and node.input[0] in inside for node in readers)
        ):
            streams.append(stream)
    return streams


def _passes_scale(net: Net, node: onnx.NodeProto) -> bool:
    """Return whether f(x·s) = f(x)·s for positive s per channel, if added constants are scaled, too."""
    if node.op_type == "Relu":
        return True
    if node.op_type != "Add":
        return False
    return all(len(net.weights[name].dims) == 1 for name in node.input if name in net.weights)


def _has_one_channel_axis(net: Net, stream: Stream) -> bool:
    """Return whether all nodes of a stream have their channels along the same axis.

    Channels of convolutions lie along axis 1; those of all other nodes, and of added constants, along the last axis.
    """
    images = {node.op_type == "Conv" for node in (*stream.makers, *stream.readers)}
    constants = [name for node in stream.sums for name in node.input if name in net.weights]
    return images == {False} or (images == {True} and not constants)


def _is_maker(net: Net, node: onnx.NodeProto) -> bool:
    """Return whether a node's output can be scaled through its constants.

    This is a weighted node or a layer norm whose weights and biases, if any, are constants with one entry per channel.
    """
    constant = all(name in net.weights for name in node.input[1:])
    vectors = node.input[1:] if node.op_type == "LayerNormalization" else node.input[2:]
    return (
        constant
        and (net.is_weighted(node) or node.op_type == "LayerNormalization")
        and all(len(net.weights[name].dims) == 1 for name in vectors)
    )


def _is_reader(net: Net, node: onnx.NodeProto) -> bool:
    """Return whether a node is weighted and its matrix has one entry per input channel.

    Grouped convolutions have fewer, depthwise ones exactly one.
    """
    return net.is_weighted(node) and (
        node.op_type != "Conv" or attribute(node, "group", 1) == 1 or net.is_depthwise(node)
    )


def _is_observed(net: Net, stream: Stream, statistics: Mapping[str, Statistics]) -> bool:
    """Return whether the statistics have the same channels as the readers.

    Statistics of rank 4 are along axis 1, even for a reader of the last axis.
    """
    channels = {net.weights[node.input[1]].dims[net.input_axis(node)] for node in stream.readers}
    return {len(statistics[name].channel_largest) for name in stream.read} == channels and len(channels) == 1


def _scale(net: Net, stream: Stream, statistics: Mapping[str, Statistics]) -> FloatArray:
    """Return s per channel, which is 1 for channels that are always zero.

    Depthwise readers have a scale per channel, so α = 1 costs nothing.
    """
    activation = np.max([statistics[name].channel_largest for name in stream.read], axis=0)
    weight = np.max([largest_along(net.array(node.input[1]), net.input_axis(node)) for node in stream.readers], axis=0)
    alpha = 1.0 if all(net.is_depthwise(node) for node in stream.readers) else ALPHA
    alive = (activation > 0) & (weight > 0)
    scale = np.ones_like(activation, dtype=np.float64)
    scale[alive] = activation[alive] ** alpha / weight[alive] ** (1 - alpha)
    scale[alive] /= np.exp(np.log(scale[alive]).mean()) if alive.any() else 1
    return np.clip(scale, 1 / LIMIT, LIMIT).astype(np.float32)


def _multiply(net: Net, node: onnx.NodeProto, slot: int, factor: npt.NDArray[np.floating[Any]], axis: int) -> None:
    values = net.own_array(node, slot)
    net.set_array(node.input[slot], values * along(factor, axis, values.ndim))
