"""Conversion of a float or Q/DQ graph to FP16, for engines that compute in a graph's types (strongly typed TensorRT).

    float32:  x ─► LayerNorm ──────────► MatMul(W) ──► Add(b) ────────────► Softmax ───────────► …
    typed:    x ─► LayerNorm ─ Cast₁₆ ─► MatMul(W₁₆) ─► Add(b₁₆) ─ Cast₃₂ ─► Softmax ─ Cast₁₆ ─► …

Nodes that ``single`` selects stay in float32, the rest becomes FP16; inputs and outputs of the graph keep their types.
A tensor is cast once, however many nodes read it. QuantizeLinear takes the type of its input, DequantizeLinear that of
its readers. Their scales keep the same values (``Profile.half_scales``), and so do the integers.

This is not left to existing converters: onnxruntime's (``onnxruntime.transformers.float16``) silently truncates
constants that overflow, wraps every node that it leaves in float32 in casts of its own, and rounds the scales of Q/DQ
nodes; NVIDIA's (``modelopt.onnx.autocast``) depends on half a dozen packages for GPU machines.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import TensorProto, helper

from vidrisk.calibration.files import check_graph
from vidrisk.calibration.graph import Net
from vidrisk.calibration.single import castable_inputs, floats, half_holds, single_nodes, types_of
from vidrisk.runtimes.contract.errors import DataError

OLDEST_OPSET = 19  # the first with FP16 scales


def half_from_float(model: onnx.ModelProto, keep_float32: Collection[str] = ()) -> onnx.ModelProto:
    """Convert a graph to FP16.

    Args:
        model: a float32 graph with or without Q/DQ pairs; it is not modified.
        keep_float32: names of additional nodes that stay in float32.

    Raises:
        DataError: the graph's opset is older than 19, or it has branches or loops.
    """
    return _Typing(model, keep_float32, rounded=False).build()


def round_to_half(model: onnx.ModelProto, keep_float32: Collection[str] = ()) -> onnx.ModelProto:
    """Return a float32 graph that rounds every value that ``half_from_float`` stores in FP16.

    These are constants, and every tensor that a node makes. On a CPU this shows which values overflow or lose precision
    in FP16. The FP16 graph itself does not: ONNX Runtime and OpenVINO compute it in float32 on a CPU and round nothing
    between its nodes. It is stricter than an engine that fuses nodes and rounds only their last result, and it does not
    model the order and width of a GPU's sums.
    """
    return _Typing(model, keep_float32, rounded=True).build()


class _Typing:
    """A pass over the nodes in order that inserts casts between types.

    Attributes:
        half: tensors in FP16, or rounded to it.
        casts: the name of a tensor in the other type, by its name and whether that type is FP16.
    """

    def __init__(self, model: onnx.ModelProto, keep_float32: Collection[str], *, rounded: bool) -> None:
        self.net, self.types, self.rounded = Net(model), types_of(model), rounded
        _check(self.net)
        self.single = {*single_nodes(self.net, self.types), *keep_float32}
        self.single |= {
            node.name
            for node in self.net.nodes
            if node.op_type == "DequantizeLinear"
            and all(reader.name in self.single for reader in self.net.readers[node.output[0]])
        }
        self.half: set[str] = set()
        self.casts: dict[tuple[str, bool], str] = {}
        self.nodes: list[onnx.NodeProto] = []

    def build(self) -> onnx.ModelProto:
        for node in self.net.nodes:
            self._type(node)
        self.net.set_nodes(self.nodes)
        for value in self.net.model.graph.value_info:
            if value.name in self.half and not self.rounded:
                value.type.tensor_type.elem_type = TensorProto.FLOAT16
        check_graph(self.net.model)
        return self.net.model

    def _type(self, node: onnx.NodeProto) -> None:
        made = floats(node.output, self.types)
        half = self._is_half(node)
        if made or node.op_type == "QuantizeLinear" or len(floats(node.input, self.types)) > 1:
            for slot in castable_inputs(self.net, node, self.types):
                node.input[slot] = self._read(node.input[slot], half=half)
        # Nodes that read one tensor and make no float output (Shape, IsNaN) take either type.
        self.nodes.append(node)
        if half and made:
            self._make_half(node)

    def _is_half(self, node: onnx.NodeProto) -> bool:
        if node.op_type == "QuantizeLinear":
            return node.input[0] in self.half and half_holds(self.net.array(node.input[1]), exactly=True)
        return node.name not in self.single

    def _read(self, name: str, *, half: bool) -> str:
        """Return the name of a tensor in the type that a node reads."""
        if name in self.net.weights:
            return self._constant(name) if half else name
        if half == (name in self.half) or (self.rounded and not half):
            return name
        if (name, half) not in self.casts:
            self.casts[name, half] = f"{name}_{'half' if half else 'single'}"
            self._cast(name, self.casts[name, half], half=half)
        return self.casts[name, half]

    def _constant(self, name: str) -> str:
        result = f"{name}_half"
        if result not in self.net.weights:
            values = self.net.array(name).astype(np.float16)
            self.net.set_array(result, values.astype(np.float32) if self.rounded else values)
        return result

    def _make_half(self, node: onnx.NodeProto) -> None:
        """Turn the last appended node into one that makes FP16.

        Its outputs keep their names; outputs of the graph also keep their type.
        """
        if node.op_type == "Cast" and not self.rounded:
            next(attribute for attribute in node.attribute if attribute.name == "to").i = TensorProto.FLOAT16
        for slot, name in enumerate(node.output):
            if self.types.get(name) != TensorProto.FLOAT:
                continue
            if self.rounded:
                node.output[slot] = f"{name}_exact"
                self._cast(f"{name}_exact", name, half=True)
                self.half.add(name)
            elif name in self.net.outputs:
                node.output[slot] = self.casts[name, True] = f"{name}_half"
                self._cast(f"{name}_half", name, half=False)
            else:
                self.half.add(name)

    def _cast(self, name: str, result: str, *, half: bool) -> None:
        if self.rounded:
            self.nodes.append(
                helper.make_node("Cast", [name], [f"{result}_fp16"], name=f"{result}_round", to=TensorProto.FLOAT16)
            )
            self.nodes.append(
                helper.make_node("Cast", [f"{result}_fp16"], [result], name=f"{result}_widen", to=TensorProto.FLOAT)
            )
        else:
            to = TensorProto.FLOAT16 if half else TensorProto.FLOAT
            self.nodes.append(helper.make_node("Cast", [name], [result], name=f"{result}_cast", to=to))


def _check(net: Net) -> None:
    if net.opset < OLDEST_OPSET:
        raise DataError(
            f"a graph of opset {net.opset} cannot be typed FP16",
            allowed=f"{OLDEST_OPSET} or later",
            fix="export it again",
        )
    nested = [node.name for node in net.nodes for part in node.attribute if part.type in (part.GRAPH, part.GRAPHS)]
    if nested:
        raise DataError(f"a graph with branches or loops ({nested[0]}) cannot be typed FP16", fix="export it without")
