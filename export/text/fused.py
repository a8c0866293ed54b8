"""A fused text graph: the builder's output in the form that ``runtimes.text.session`` runs.

Nodes are named by their modules, as in all our graphs, so that recipes can name kinds of layers. States pass through a
GatherND before the output layer, which then computes only the requested logits: a prompt needs those of a single token.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from vidrisk.calibration.files import check_graph, graph_files, load_graph, save_graph
from vidrisk.calibration.graph import attribute
from vidrisk.export.convert.graphs import strip_traces
from vidrisk.export.text.builder import build_graph, read_config
from vidrisk.export.text.parity import MOST_APART, Parity, check_parity
from vidrisk.runtimes.contract.errors import DataError, RuntimeFailure
from vidrisk.runtimes.text.text_shape import METADATA

GRAPH, EMBEDDINGS = "text.fp32.onnx", "embeddings.npy"
HEAD = "lm_head"
EmbeddingType = Literal["float32", "float16"]


@dataclass(frozen=True)
class TextExport:
    """A text graph in float32, the embeddings of its tokens, and its distance from torch."""

    graph: Path
    embeddings: Path
    parity: Parity


def export_text(
    folder: Path, out: Path, reference: Any, *, embeddings: EmbeddingType = "float32", most_apart: float = MOST_APART
) -> TextExport:
    """Export a merged causal language model as a text graph with a KV cache.

    Args:
        folder: the model, written by ``save_pretrained``.
        out: folder for the files; it exists.
        reference: the same model, loaded by transformers in float32, to compare the graph with.
        embeddings: type of the embedding table, which is most of the size of a packed small model. The graph is judged
            with float32.
        most_apart: allowed distance from torch, in nats.

    Raises:
        SettingsError: an architecture that cannot be built.
        MissingExtra: onnxruntime-genai is not installed.
        RuntimeFailure: the builder fails, or its graph has an unexpected form.
        DataError: embeddings that are not finite.
        GateRefused: the graph's results differ from torch's; nothing is written.
    """
    config = read_config(folder)
    values = reference.get_input_embeddings().weight.detach().float().cpu().numpy()
    rounded = values.astype(embeddings)
    if not np.isfinite(rounded).all():
        raise DataError(
            f"embeddings of {folder.name} are not finite in {embeddings}",
            allowed="float32, and finite ones",
            fix="keep them in float32, or export an earlier checkpoint",
        )
    with tempfile.TemporaryDirectory(prefix="vidrisk-text-", dir=out) as name:
        work = Path(name)
        save_graph(select_logits(load_graph(build_graph(folder, work)), config), work / GRAPH)
        np.save(work / EMBEDDINGS, values, allow_pickle=False)
        parity = check_parity(work / GRAPH, work / EMBEDDINGS, reference, most_apart=most_apart)
        np.save(work / EMBEDDINGS, rounded, allow_pickle=False)
        for path in (*graph_files(work / GRAPH), work / EMBEDDINGS):
            path.replace(out / path.name)
    return TextExport(out / GRAPH, out / EMBEDDINGS, parity)


def select_logits(model: onnx.ModelProto, config: dict[str, Any]) -> onnx.ModelProto:
    """Rename nodes, make the output layer compute only the requested logits, and store the sizes, in place.

    Args:
        model: the builder's graph.
        config: of the model: ``max_position_embeddings``, ``hidden_size``, ``num_attention_heads``, ``head_dim``.

    Raises:
        RuntimeFailure: the graph has other inputs or another output layer than expected.
    """
    graph = model.graph
    foreign = [
        value.name
        for value in graph.input
        if value.name not in ("inputs_embeds", "attention_mask") and not value.name.startswith("past_key_values.")
    ]
    head = next((node for node in graph.node if node.name == f"/{HEAD}/MatMul"), None)
    if foreign or head is None:
        raise RuntimeFailure(
            f"the builder's graph {f'takes {foreign[0]}' if foreign else 'has no output layer'}",
            allowed="inputs_embeds, attention_mask and past keys and values; one matrix behind the last norm",
        )
    strip_traces(model)
    nodes = list(graph.node)
    states = helper.make_node("GatherND", [head.input[0], "logits_at"], ["wanted_states"], name=f"/{HEAD}/GatherND")
    nodes.insert(nodes.index(head), states)
    head.input[0] = states.output[0]
    for node in nodes:
        *modules, kind = node.name.strip("/").split("/")
        node.name = f"{'.'.join(modules)}/{kind}" if modules else kind
    del graph.node[:]
    graph.node.extend(_plain_norms(nodes, graph))
    graph.input.append(helper.make_tensor_value_info("logits_at", TensorProto.INT64, ["rows", 2]))
    logits = next(value for value in graph.output if value.name == "logits")
    width = logits.type.tensor_type.shape.dim[-1].dim_value
    logits.CopyFrom(helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", width]))
    head_size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    for value in (*graph.input, *graph.output):
        if value.name.startswith(("past_key_values.", "present.")):
            value.type.tensor_type.shape.dim[3].dim_value = head_size
    del graph.value_info[:]  # they have the old shapes and names
    positions = [tensor.dims[0] for tensor in graph.initializer if tensor.name == "cos_cache"]
    described = {"positions": int(min([config["max_position_embeddings"], *positions]))}
    model.metadata_props.add(key=METADATA, value=json.dumps(described))
    check_graph(model)
    return model


def _plain_norms(nodes: Iterable[onnx.NodeProto], graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Replace SimplifiedLayerNormalization, which is not an ONNX operator, by nodes that ONNX Runtime fuses into it."""
    plain: list[onnx.NodeProto] = []
    for node in nodes:
        if node.op_type != "SimplifiedLayerNormalization" or node.domain:
            plain.append(node)
            continue
        name, (values, weight) = node.name, node.input[:2]
        two, epsilon, axis = (f"{name}_{each}" for each in ("two", "epsilon", "axis"))
        graph.initializer.extend(
            [
                numpy_helper.from_array(np.array(2, np.float32), two),
                numpy_helper.from_array(np.array(attribute(node, "epsilon", 1e-5), np.float32), epsilon),
                numpy_helper.from_array(np.array([-1], np.int64), axis),
            ]
        )
        plain += [
            helper.make_node(kind, inputs, [output], name=f"{name}_{kind}")
            for kind, inputs, output in (
                ("Pow", [values, two], f"{name}_squares"),
                ("ReduceMean", [f"{name}_squares", axis], f"{name}_mean"),
                ("Add", [f"{name}_mean", epsilon], f"{name}_safe"),
                ("Sqrt", [f"{name}_safe"], f"{name}_root"),
                ("Div", [values, f"{name}_root"], f"{name}_unit"),
                ("Mul", [f"{name}_unit", weight], node.output[0]),
            )
        ]
    return plain
