"""Float or Q/DQ graph → FP16-typed graph, for engines that compute in the types that a graph states (TensorRT, strongly typed).

    float32:  x ─► LayerNorm ──────────► MatMul(W) ──► Add(b) ────────────► Softmax ───────────► …
    typed:    x ─► LayerNorm ─ Cast₁₆ ─► MatMul(W₁₆) ─► Add(b₁₆) ─ Cast₃₂ ─► Softmax ─ Cast₁₆ ─► …

What ``single`` names stays in float32, the rest becomes FP16; inputs and outputs of the graph keep their types. A
tensor is cast once, however many read it. QuantizeLinear takes the type of what it reads, DequantizeLinear that of its
readers, and their scales stay the same numbers (``Profile.half_scales``), so that the integers do, too.

Written here because onnxruntime's converter (``onnxruntime.transformers.float16``) truncates constants that overflow
without a word, wraps every node that it leaves alone in casts of its own, and rounds the scales of Q/DQ; and NVIDIA's
(``modelopt.onnx.autocast``) brings half a dozen packages for GPU machines along.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import TensorProto, helper

from vidrisk.calibration.files import check_graph
from vidrisk.calibration.graph import Net
from vidrisk.calibration.single import floats, half_holds, retyped_inputs, single_nodes, types_of
from vidrisk.runtimes.contract.errors import DataError

OLDEST_OPSET = 19  # the first that has FP16 scales


def half_from_float(model: onnx.ModelProto, keep_float32: Collection[str] = ()) -> onnx.ModelProto:
    """The graph in FP16.

    Args:
        model: a float32 graph, with Q/DQ pairs or without; left untouched.
        keep_float32: names of nodes that stay in float32, besides those that always do.

    Raises:
        DataError: a graph of an opset before 19, or with branches or loops.
    """
    return _Typing(model, keep_float32, rounded=False).typed()


def rounded_from_float(model: onnx.ModelProto, keep_float32: Collection[str] = ()) -> onnx.ModelProto:
    """A float32 graph that rounds all that ``half_from_float`` holds in FP16: constants, and every tensor that a node makes.

    It shows on a CPU what FP16 overflows and loses. The FP16 graph itself does not: ONNX Runtime and OpenVINO compute
    it in float32 there and round nothing between its nodes. It is stricter than an engine that fuses nodes and rounds
    their last result alone, and it says nothing of the order and the width of a GPU's sums.
    """
    return _Typing(model, keep_float32, rounded=True).typed()


class _Typing:
    """Goes through the nodes in order and casts where types meet.

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

    def typed(self) -> onnx.ModelProto:
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
            for slot in retyped_inputs(self.net, node, self.types):
                node.input[slot] = self._read(node.input[slot], half=half)
        # What looks at one tensor and makes no float of it (Shape, IsNaN) takes either type as it comes.
        self.nodes.append(node)
        if half and made:
            self._make_half(node)

    def _is_half(self, node: onnx.NodeProto) -> bool:
        if node.op_type == "QuantizeLinear":
            return node.input[0] in self.half and half_holds(self.net.array(node.input[1]), exactly=True)
        return node.name not in self.single

    def _read(self, name: str, *, half: bool) -> str:
        """A tensor as a node of that type reads it."""
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
        """Let a node that was just appended make FP16. Its outputs keep their names, those of the graph their type as well."""
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
