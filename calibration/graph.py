"""An ONNX graph as a net of nodes and tensors: the maker and the readers of each tensor, and weights as arrays."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import chain, count
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from vidrisk.calibration.files import copy_graph
from vidrisk.calibration.tensors import array_of
from vidrisk.runtimes.contract.errors import DataError

FloatArray = npt.NDArray[np.float32]
WEIGHTED = ("Conv", "MatMul", "Gemm")
QUANTIZED = (
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "QLinearConv",
    "QLinearMatMul",
    "ConvInteger",
    "MatMulInteger",
    "MatMulNBits",
)


class Net:
    """An indexed private copy of a model; weights in files are shared.

    Edit ``model`` through the methods, and take it when done.

    Attributes:
        model: the copy.
        weights: initialisers by name.
        maker: the node that makes a tensor, by the tensor's name.
        readers: the nodes that read a tensor, by the tensor's name, in graph order.

    Raises:
        DataError: two nodes have the same name.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = copy_graph(model)
        graph = self.model.graph
        _name_nodes(graph)
        self.weights: dict[str, onnx.TensorProto] = {tensor.name: tensor for tensor in graph.initializer}
        self.maker: dict[str, onnx.NodeProto] = {name: node for node in graph.node for name in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in dict.fromkeys(node.input):
                self.readers[name].append(node)
        self.outputs = {value.name for value in graph.output}

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        return list(self.model.graph.node)

    @property
    def opset(self) -> int:
        return next((int(opset.version) for opset in self.model.opset_import if opset.domain in ("", "ai.onnx")), 0)

    def array(self, name: str) -> FloatArray:
        """Return the values of an initialiser, which must not be modified."""
        values: FloatArray = array_of(self.weights[name])
        return values

    def set_array(self, name: str, values: npt.NDArray[Any]) -> None:
        """Overwrite or add an initialiser."""
        self.set_tensor(numpy_helper.from_array(values, name))

    def set_tensor(self, tensor: onnx.TensorProto) -> None:
        """Overwrite the initialiser of the same name, or add it."""
        if tensor.name not in self.weights:
            self.weights[tensor.name] = self.model.graph.initializer.add()
        self.weights[tensor.name].CopyFrom(tensor)

    def set_nodes(self, nodes: Iterable[onnx.NodeProto]) -> None:
        """Replace all nodes, and drop the initialisers that are no longer read."""
        graph, nodes = self.model.graph, list(nodes)
        del graph.node[:]
        graph.node.extend(nodes)
        read = {name for node in nodes for name in node.input} | self.outputs
        kept = [tensor for tensor in graph.initializer if tensor.name in read]
        del graph.initializer[:]
        graph.initializer.extend(kept)

    def own_array(self, node: onnx.NodeProto, slot: int) -> FloatArray:
        """Return the values of a weight that ``node`` is about to change.

        A weight that other nodes also read is duplicated first.
        """
        name = node.input[slot]
        values = self.array(name)
        if len(self.readers[name]) > 1:
            self.readers[name].remove(node)
            node.input[slot] = f"{name}.{node.name}"
            self.readers[node.input[slot]].append(node)
            self.set_array(node.input[slot], values)
        return values

    def is_weighted(self, node: onnx.NodeProto) -> bool:
        """Return whether ``node`` multiplies an activation by a constant matrix or kernel."""
        return node.op_type in WEIGHTED and node.input[1] in self.weights and node.input[0] not in self.weights

    def is_depthwise(self, node: onnx.NodeProto) -> bool:
        """Return whether ``node`` is a convolution with one kernel per channel."""
        if node.op_type != "Conv" or not self.is_weighted(node):
            return False
        kernels, per_group = self.weights[node.input[1]].dims[:2]
        return bool(attribute(node, "group", 1) == kernels > 1 and per_group == 1)

    def output_axis(self, node: onnx.NodeProto) -> int:
        """Return the axis of a weighted node's matrix that runs over its output channels."""
        if node.op_type == "Conv":
            return 0
        if node.op_type == "Gemm":
            return 0 if attribute(node, "transB", 0) else 1
        return len(self.weights[node.input[1]].dims) - 1

    def input_axis(self, node: onnx.NodeProto) -> int:
        """Return the axis that runs over a weighted node's input channels.

        For a depthwise convolution, this is its output axis.
        """
        if self.is_depthwise(node):
            return 0
        if node.op_type == "Conv":
            return 1
        return len(self.weights[node.input[1]].dims) - 2 if node.op_type == "MatMul" else 1 - self.output_axis(node)


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Give every node a unique name, which ONNX does not require.

    Nodes are looked up, and Q/DQ nodes named, by it.
    """
    taken = {node.name for node in graph.node}
    seen: set[str] = set()
    for number, node in enumerate(graph.node):
        if not node.name or node.name in seen:
            plain = node.name or f"{node.op_type}_{number}"
            node.name = next(name for name in chain([plain], (f"{plain}_{i}" for i in count(1))) if name not in taken)
            taken.add(node.name)
        seen.add(node.name)


def along(vector: npt.NDArray[Any], axis: int, rank: int) -> npt.NDArray[Any]:
    """Reshape a vector to multiply ``axis`` of an array of rank ``rank``."""
    return vector.reshape([-1 if dimension == axis else 1 for dimension in range(rank)])


def largest_along(values: FloatArray, axis: int) -> FloatArray:
    """Return the largest magnitude for every index of ``axis``."""
    largest: FloatArray = np.abs(values).max(axis=tuple(i for i in range(values.ndim) if i != axis))
    return largest


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Return the value of an ONNX attribute, or ``default``, the standard's default, if it is absent."""
    return next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def check_float(model: onnx.ModelProto) -> None:
    """Refuse a graph that is already quantised, even in part.

    Raises:
        DataError: the graph has quantised nodes.
    """
    if any(node.op_type in QUANTIZED for node in model.graph.node):
        raise DataError("the graph is already quantised", fix="export from the floating-point run")
