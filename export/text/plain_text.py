"""A fused text graph with its attention in plain ONNX operators, for engines without ONNX Runtime's own.

    inputs_embeds float32 [batch, new, width]        positions int64 [batch, new]
    attention_bias float32 [batch, 1, new, total]    0 if a token sees another one, very low if it does not
    past_key_values.<layer>.key, .value              float32 [batch, kv_heads, past, head_size]; total = past + new
    logits_at int64 [rows, 2]                        as in the fused graph
    present.<layer>.key, .value                      of the new tokens only

Weights are unchanged. Packed ones are ONNX Runtime's MatMulNBits, which OpenVINO reads, but TensorRT does not.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from vidrisk.calibration.files import SHARED, check_graph, load_graph, save_graph
from vidrisk.calibration.graph import attribute
from vidrisk.runtimes.contract.errors import SettingsError

FUSED = "GroupQueryAttention"
# Settings of the fused operator that have no plain form here, with the values at which they do nothing.
UNUSED = {"softcap": 0.0, "local_window_size": -1, "rotary_interleaved": 0, "smooth_softmax": 0, "qk_output": 0}
COS, SIN = "cos_cache", "sin_cache"


def export_plain(graph: Path, out: Path) -> None:
    """Write a text graph without fused attention.

    Args:
        graph: of ``export_text`` or ``pack_text``.
        out: file to write.

    Raises:
        SettingsError: it has no fused attention, or one with settings that have no plain form.
    """
    with tempfile.TemporaryDirectory(prefix=f".{SHARED}-", dir=out.parent) as folder:
        save_graph(plain_attention(load_graph(graph, Path(folder))), out)


def plain_attention(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace every GroupQueryAttention by plain operators, in place.

    Raises:
        SettingsError: as ``export_plain``.
    """
    graph = model.graph
    fused = [node for node in graph.node if node.op_type == FUSED]
    if not fused:
        raise SettingsError("the graph has no fused attention", allowed="a text graph of export_text")
    heads, kv_heads = (int(attribute(fused[0], name, 0)) for name in ("num_heads", "kv_num_heads"))
    cos = next(tensor for tensor in graph.initializer if tensor.name == COS)
    past = next(value for value in graph.input if value.name == fused[0].input[3])
    size = past.type.tensor_type.shape.dim[3].dim_value
    for node in fused:
        odd = [name for name, nothing in UNUSED.items() if attribute(node, name, nothing) != nothing]
        if odd or not attribute(node, "do_rotary", 0) or 2 * cos.dims[1] != size or any(node.input[9:]):
            raise SettingsError(
                f"attention of {node.name} with {odd[0] if odd else 'other rotary embeddings'}",
                allowed="plain attention over all tokens",
                fix="run the fused graph on ONNX Runtime",
            )
    writer = _Writer(heads, kv_heads, size)
    nodes = [
        *writer.common_nodes(),
        *(each for node in graph.node for each in (writer.attention(node) if node.op_type == FUSED else [node])),
    ]
    del graph.node[:]
    graph.initializer.extend(writer.constants())
    graph.node.extend(_keep_needed(nodes, [value.name for value in graph.output]))
    read = {name for node in graph.node for name in node.input}
    inputs = [value for value in graph.input if value.name in read]
    inputs.insert(1, helper.make_tensor_value_info("positions", TensorProto.INT64, ["batch_size", "sequence_length"]))
    inputs.insert(
        2,
        helper.make_tensor_value_info(
            "attention_bias", TensorProto.FLOAT, ["batch_size", 1, "sequence_length", "total_sequence_length"]
        ),
    )
    del graph.input[:]
    graph.input.extend(inputs)
    for value in graph.output:
        if value.name.startswith("present."):
            value.type.tensor_type.shape.dim[2].dim_param = "sequence_length"
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    domains = {node.domain for node in graph.node}
    opsets = [opset for opset in model.opset_import if opset.domain in domains]
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    check_graph(model)
    return model


def _keep_needed(nodes: list[onnx.NodeProto], outputs: Iterable[str]) -> list[onnx.NodeProto]:
    """Return the nodes that an output depends on, without those that only the fused operators needed."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted & set(node.output):
            kept.append(node)
            wanted |= set(node.input)
    return kept[::-1]


class _Writer:
    """Writer of plain nodes for the attention of all layers; heads that share keys are rows of one matrix."""

    def __init__(self, heads: int, kv_heads: int, size: int) -> None:
        self._heads, self._kv_heads, self._size = heads, kv_heads, size
        self._nodes: list[onnx.NodeProto] = []
        self._values: dict[str, np.ndarray] = {}

    def constants(self) -> list[onnx.TensorProto]:
        return [numpy_helper.from_array(value, name) for name, value in self._values.items()]

    def common_nodes(self) -> list[onnx.NodeProto]:
        """Return the nodes for the angles of the new tokens and the bias of every row."""
        self._nodes = []
        for table in (COS, SIN):
            angles = self._node("Gather", [table, "positions"], f"attention/{table}/Gather", axis=0)
            self._node("Unsqueeze", [angles, self._ints("axis_1", 1)], f"attention/{table}/Unsqueeze")
        self._node("Concat", ["attention_bias"] * (self._heads // self._kv_heads), "attention/bias/Concat", axis=2)
        return self._nodes

    def attention(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Return the nodes that replace one fused operator."""
        self._nodes = []
        root = node.name.rpartition("/")[0]
        query, key, value = self._split(node, root)
        query, key = (self._rotate(each, f"{root}/{name}") for each, name in ((query, "query"), (key, "key")))
        for source, target in ((key, node.output[1]), (value, node.output[2])):
            self._nodes.append(helper.make_node("Identity", [source], [target], name=f"{target}/Identity"))
        keys = self._node("Concat", [node.input[3], key], f"{root}/keys/Concat", axis=2)
        values = self._node("Concat", [node.input[4], value], f"{root}/values/Concat", axis=2)
        self._values["attention/scale"] = np.array(attribute(node, "scale", 0.0) or self._size**-0.5, np.float32)
        query = self._node("Mul", [query, "attention/scale"], f"{root}/scale/Mul")
        rows = self._node(
            "Reshape", [query, self._ints("rows", 0, self._kv_heads, -1, self._size)], f"{root}/rows/Reshape"
        )
        turned = self._node("Transpose", [keys], f"{root}/keys/Transpose", perm=[0, 1, 3, 2])
        scores = self._node("MatMul", [rows, turned], f"{root}/scores/MatMul")
        scores = self._node("Add", [scores, "attention/bias/Concat"], f"{root}/scores/Add")
        shares = self._node("Softmax", [scores], f"{root}/scores/Softmax", axis=-1)
        found = self._node("MatMul", [shares, values], f"{root}/attended/MatMul")
        found = self._node(
            "Reshape", [found, self._ints("heads", 0, self._heads, -1, self._size)], f"{root}/attended/Reshape"
        )
        found = self._node("Transpose", [found], f"{root}/attended/Transpose", perm=[0, 2, 1, 3])
        width = self._ints("width", 0, 0, self._heads * self._size)
        self._nodes.append(helper.make_node("Reshape", [found, width], [node.output[0]], name=f"{root}/merged/Reshape"))
        return self._nodes

    def _split(self, node: onnx.NodeProto, root: str) -> list[str]:
        """Return queries, keys and values by head, ``[batch, heads, new, size]``."""
        counts = (self._heads, self._kv_heads, self._kv_heads)
        parts = list(node.input[:3])
        if not parts[1]:  # all three in one
            sizes = self._ints("parts", *(count * self._size for count in counts))
            packed, parts = parts[0], [f"{root}/{name}" for name in ("query", "key", "value")]
            self._nodes.append(helper.make_node("Split", [packed, sizes], parts, name=f"{root}/Split", axis=-1))
        found = []
        for part, name, count in zip(parts, ("query", "key", "value"), counts, strict=True):
            shaped = self._node(
                "Reshape", [part, self._ints(f"by_{count}", 0, 0, count, self._size)], f"{root}/{name}/Reshape"
            )
            found.append(self._node("Transpose", [shaped], f"{root}/{name}/Transpose", perm=[0, 2, 1, 3]))
        return found

    def _rotate(self, source: str, root: str) -> str:
        cos, sin = (f"attention/{table}/Unsqueeze" for table in (COS, SIN))
        halves = [f"{root}/first", f"{root}/second"]
        self._nodes.append(
            helper.make_node("Split", [source], halves, name=f"{root}/halves/Split", axis=-1, num_outputs=2)
        )
        first, second = halves
        products = {
            name: self._node("Mul", [half, table], f"{root}/{name}/Mul")
            for name, half, table in (
                ("first_cos", first, cos),
                ("second_sin", second, sin),
                ("second_cos", second, cos),
                ("first_sin", first, sin),
            )
        }
        turned = [
            self._node("Sub", [products["first_cos"], products["second_sin"]], f"{root}/Sub"),
            self._node("Add", [products["second_cos"], products["first_sin"]], f"{root}/Add"),
        ]
        return self._node("Concat", turned, f"{root}/Concat", axis=-1)

    def _node(self, kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def _ints(self, name: str, *values: int) -> str:
        self._values[f"attention/{name}"] = np.array(values, np.int64)
        return f"attention/{name}"
