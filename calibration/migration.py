"""Moving range from activations into weights, without changing the function.

An activation channel far larger than the others takes the 8 bits of all of them. Dividing channel c of a tensor by s_c
where it is made, and multiplying the weights that read it by s_c, is exact:

    x = LayerNorm(u; γ, β)   or   x = W₁u + b        made:  γ/s, β/s   or   W₁/s, b/s
    y = W₂ x                                         read:  W₂·s

With s_c = max|x_c|^α / max|W₂_c|^(1−α): for the inputs of a transformer's linear layers SmoothQuant (Xiao et al. 2023,
α = ½), between convolutions cross-layer equalisation (Nagel et al. 2019). It passes through Relu and residual sums,
which commute with positive scales, and not through ReLU6 or GELU, which do not.
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
LIMIT = 1e4  # of a scale: farther apart than that, one of the channels is dead


def smoothed_from_float(model: onnx.ModelProto, statistics: Mapping[str, Statistics]) -> onnx.ModelProto:
    """Migrate from the outputs of layer norms into the linear layers that read them."""
    return _migrated(model, statistics, made_by=("LayerNormalization",))


def equalised_from_float(model: onnx.ModelProto, statistics: Mapping[str, Statistics]) -> onnx.ModelProto:
    """Migrate between weighted layers, through Relu and residual sums."""
    return _migrated(model, statistics, made_by=("Conv", "Gemm", "MatMul"))


def migrated_tensors(model: onnx.ModelProto) -> set[str]:
    """Activations that either migration may scale: all others stay what they are, and so do their statistics."""
    return {name for stream in _streams(Net(model)) for name in stream.tensors}


@dataclass(frozen=True)
class Stream:
    """Tensors that must be scaled alike, with all that make and all that read them."""

    tensors: tuple[str, ...]
    makers: tuple[onnx.NodeProto, ...]
    sums: tuple[onnx.NodeProto, ...]
    readers: tuple[onnx.NodeProto, ...]

    @property
    def read(self) -> set[str]:
        """The tensors that ``readers`` read."""
        return {node.input[0] for node in self.readers}


def _migrated(
    model: onnx.ModelProto, statistics: Mapping[str, Statistics], made_by: tuple[str, ...]
) -> onnx.ModelProto:
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
    """Every set of tensors joined by Relu, residual sums and bias sums that only scalable nodes make and read."""
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
    """Whether f(x·s) = f(x)·s for positive s per channel, once constants that are added are scaled, too."""
    if node.op_type == "Relu":
        return True
    if node.op_type != "Add":
        return False
    return all(len(net.weights[name].dims) == 1 for name in node.input if name in net.weights)


def _has_one_channel_axis(net: Net, stream: Stream) -> bool:
    """Channels of convolutions lie along axis 1, those of all others, and of constants that are added, along the last one."""
    images = {node.op_type == "Conv" for node in (*stream.makers, *stream.readers)}
    constants = [name for node in stream.sums for name in node.input if name in net.weights]
    return images == {False} or (images == {True} and not constants)


def _is_maker(net: Net, node: onnx.NodeProto) -> bool:
    """A weighted node or a layer norm whose weights and biases, where it has any, are constants with one entry per channel."""
    constant = all(name in net.weights for name in node.input[1:])
    vectors = node.input[1:] if node.op_type == "LayerNormalization" else node.input[2:]
    return (
        constant
        and (net.is_weighted(node) or node.op_type == "LayerNormalization")
        and all(len(net.weights[name].dims) == 1 for name in vectors)
    )


def _is_reader(net: Net, node: onnx.NodeProto) -> bool:
    """A weighted node whose matrix has one entry per input channel; grouped convolutions have fewer, depthwise ones exactly one."""
    return net.is_weighted(node) and (
        node.op_type != "Conv" or attribute(node, "group", 1) == 1 or net.is_depthwise(node)
    )


def _is_observed(net: Net, stream: Stream, statistics: Mapping[str, Statistics]) -> bool:
    """Whether the statistics are by the channels of the readers: those of rank 4 are by axis 1, also where the last one is read."""
    channels = {net.weights[node.input[1]].dims[net.input_axis(node)] for node in stream.readers}
    return {len(statistics[name].channel_largest) for name in stream.read} == channels and len(channels) == 1


def _scale(net: Net, stream: Stream, statistics: Mapping[str, Statistics]) -> FloatArray:
    """s per channel; 1 for channels that are always zero. Depthwise readers have a scale per channel, so α = 1 costs nothing."""
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
