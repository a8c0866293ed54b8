"""Conversion of a float graph to one with weight matrices packed in 4 or 8 bits and activations in floating point.

    float:   x ─► MatMul(W) ──► …        packed:  x ─► MatMulNBits(codes, scales, zero points) ──► …
             x ─► Gemm(W, b) ─► …                 x ─► MatMulNBits(codes, scales, zero points) ─► Add(b) ─► …

``com.microsoft::MatMulNBits`` is ONNX Runtime's; OpenVINO reads it as a compressed product. Its attribute
``accuracy_level`` 4 lets ONNX Runtime round activations to 8 bits, group by group, while it multiplies. Packing needs
no samples. It saves memory, and the time to read it, in models whose weights outweigh activations, such as language
models.

A graph of references stays one: weights are read, packed and written one after the other, each once per way of
rounding.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, shape_inference

from vidrisk.calibration.files import check_graph, make_shared_tensor, without_weights
from vidrisk.calibration.graph import FloatArray, Net, attribute, check_float
from vidrisk.calibration.nbits import WeightGrid, pack_weight
from vidrisk.calibration.tensors import size_bytes

DOMAIN = "com.microsoft"
ACCURACY_LEVEL = 4
Parts = tuple[TensorProto, ...]  # codes, scales, zero points


@dataclass(frozen=True)
class Packing:
    """How the weights of a graph are rounded.

    Attributes:
        wide: kinds of layers (``WeightPacker.kinds``) that are in 8 bits whatever the grid says.
    """

    grid: WeightGrid
    wide: tuple[str, ...] = ()

    def __str__(self) -> str:
        # full names: kinds may end alike, and this text is the key of stored measurements
        kinds = " and ".join(self.wide)
        return f"{self.grid}, int8 in {kinds}" if kinds else str(self.grid)


class WeightPacker:
    """Factory of packed graphs of one float model.

    Args:
        model: not modified; its large weights should refer to files (``files.load_graph`` with a folder).
        folder: for packed weights, which the graphs refer to.

    Raises:
        DataError: the graph is already quantised, or two of its nodes have the same name.
    """

    def __init__(self, model: onnx.ModelProto, folder: Path) -> None:
        check_float(model)
        self.model, self.folder = model, folder
        net = Net(model)
        self._known: dict[tuple[str, bool, WeightGrid], Parts] = {}
        self._matrices = {node.name: _matrix_of(net, node) for node in packable_nodes(net)}
        self._uses = [
            (node.name, slot, name) for node in net.nodes for slot, name in enumerate(node.input) if name in net.weights
        ]
        self._outputs = frozenset(net.outputs)

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the nodes whose weights can be packed, in graph order."""
        return tuple(self._matrices)

    @property
    def kinds(self) -> dict[str, tuple[str, ...]]:
        """The same nodes by the kind of their layer: the path of their module without numbers."""
        kinds: dict[str, tuple[str, ...]] = {}
        for name in self._matrices:
            kind = _kind(name)
            kinds[kind] = (*kinds.get(kind, ()), name)
        return kinds

    def pack(self, packing: Packing, keep_float: Collection[str] = ()) -> onnx.ModelProto:
        """Return the graph with packed weights; nodes named in ``keep_float`` keep theirs.

        Raises:
            DataError: a weight has values that are not finite.
        """
        net = Net(self.model)
        nodes: list[onnx.NodeProto] = []
        for node in net.nodes:
            if node.name in self._matrices and node.name not in keep_float:
                nodes += self._pack_node(net, node, _grid_of(node.name, packing))
            else:
                nodes.append(node)
        net.set_nodes(nodes)
        if not any(opset.domain == DOMAIN for opset in net.model.opset_import):
            net.model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
        check_graph(net.model)
        return net.model

    def size_bytes(self, packing: Packing, keep_float: Collection[str] = ()) -> int:
        """Return the bytes of all weights of the packed graph, without packing any."""
        weights = {tensor.name: tensor for tensor in self.model.graph.initializer}
        packed = {name: matrix for name, matrix in self._matrices.items() if name not in keep_float}
        made = {(*matrix, _grid_of(name, packing)) for name, matrix in packed.items()}
        # A weight is dropped if all its readers read it packed: a Gather may share a MatMul's.
        kept = self._outputs | {weight for name, slot, weight in self._uses if slot != 1 or name not in packed}
        total = sum(size_bytes(tensor) for name, tensor in weights.items() if name in kept)
        for name, is_transposed, grid in made:
            depth, width = weights[name].dims[:: -1 if is_transposed else 1]
            total += grid.size_bytes(depth, width)
        return total

    def _pack_node(self, net: Net, node: onnx.NodeProto, grid: WeightGrid) -> list[onnx.NodeProto]:
        name, is_transposed = self._matrices[node.name]
        parts = self._parts(net, name, is_transposed, grid)
        for tensor in parts:
            net.set_tensor(tensor)
        width, depth = net.weights[name].dims[:: 1 if is_transposed else -1]
        has_bias = len(node.input) > 2 and bool(node.input[2])
        result = f"{node.output[0]}_product" if has_bias else node.output[0]
        product = helper.make_node(
            "MatMulNBits",
            [node.input[0], *(tensor.name for tensor in parts)],
            [result],
            name=node.name,
            domain=DOMAIN,
            K=depth,
            N=width,
            bits=grid.bits,
            block_size=parts[0].dims[2] * 8 // grid.bits,
            accuracy_level=ACCURACY_LEVEL,
        )
        if not has_bias:
            return [product]
        return [product, helper.make_node("Add", [result, node.input[2]], list(node.output), name=f"{node.name}_bias")]

    def _parts(self, net: Net, name: str, is_transposed: bool, grid: WeightGrid) -> Parts:
        key = name, is_transposed, grid
        if key not in self._known:
            weight: FloatArray = net.array(name)
            packed = pack_weight(weight.T if is_transposed else weight, grid, f"weight {name}")
            prefix = f"{name}_int{grid.bits}{'_transposed' if is_transposed else ''}"
            arrays = {"codes": packed.codes, "scales": packed.scales, "zero_points": packed.zero_points}
            self._known[key] = tuple(
                make_shared_tensor(f"{prefix}_{what}", np.asarray(values), self.folder)
                for what, values in arrays.items()
            )
        return self._known[key]


def _kind(node: str) -> str:
    """Return the path of a node's module without the numbers of layers: ``layers.*.mlp.fc1``."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", node.partition("/")[0])


def _grid_of(node: str, packing: Packing) -> WeightGrid:
    return WeightGrid(8, packing.grid.group) if _kind(node) in packing.wide else packing.grid


def packable_nodes(net: Net) -> list[onnx.NodeProto]:
    """Return the products of an activation with a constant float32 matrix, in graph order."""
    vectors = _vectors(net.model)
    return [
        node
        for node in net.nodes
        if node.op_type in ("MatMul", "Gemm")
        and not node.domain
        and net.is_weighted(node)
        and _is_matrix(net.weights[node.input[1]])
        and node.input[0] not in vectors
        and _is_plain(node)
    ]


def _is_matrix(tensor: onnx.TensorProto) -> bool:
    return tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 2 and min(tensor.dims) > 0


def _is_plain(node: onnx.NodeProto) -> bool:
    """Return whether a node only multiplies and adds: a Gemm may also scale, and transpose its activation."""
    return not attribute(node, "transA", 0) and attribute(node, "alpha", 1.0) == 1 == attribute(node, "beta", 1.0)


def _matrix_of(net: Net, node: onnx.NodeProto) -> tuple[str, bool]:
    """Return the name of a node's weight, and whether it is transposed."""
    return node.input[1], net.input_axis(node) == 1


def _vectors(model: onnx.ModelProto) -> set[str]:
    """Return the one-dimensional tensors, which MatMulNBits does not support."""
    graph = shape_inference.infer_shapes(without_weights(model)).graph
    return {
        value.name
        for value in (*graph.value_info, *graph.input)
        if value.type.tensor_type.HasField("shape") and len(value.type.tensor_type.shape.dim) == 1
    }
