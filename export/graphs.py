"""torch modules → ONNX graphs, by ``torch.export`` and the dynamo exporter, with dynamic batch and opset ≤ 20."""

from __future__ import annotations

import ast
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from vidrisk.calibration.files import check_graph, save_graph
from vidrisk.export.attention import plain_attention
from vidrisk.export.registry import MAX_OPSET
from vidrisk.runtimes.errors import RuntimeFailure
from vidrisk.runtimes.specs import TensorSpec

log = logging.getLogger(__name__)
logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)  # it misses torchvision: we do not

IR_VERSION = 10  # what onnx 1.16 writes; readers of that age are on devices


def export_onnx(module: nn.Module, example: torch.Tensor, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec],
                path: Path) -> None:
    """Write ``module`` as an ONNX file with the names and axes of the specs.

    Args:
        module: takes one tensor, gives a tensor or a tuple of tensors.
        example: an input with a batch of at least 2 (a batch of 1 would be taken for a constant).
        inputs, outputs: names, dtypes and shapes of the graph; text axes become dynamic.

    Raises:
        RuntimeFailure: torch cannot export the module, or the graph came out with other tensors than the specs say.
    """
    spec = inputs[0]
    try:
        with warnings.catch_warnings(), plain_attention(module):
            warnings.simplefilter("ignore")  # torch.export deprecations of its own making
            program = torch.onnx.export(module.eval(), (example,), dynamo=True, opset_version=MAX_OPSET, verbose=False,
                                        input_names=[spec.name], output_names=[o.name for o in outputs],
                                        dynamic_shapes=(dynamic_axes(spec),), optimize=True)
    except Exception as error:  # torch.export raises many types, with reports of pages
        reason = str(error).strip().splitlines()[0]
        raise RuntimeFailure(f"torch cannot export {type(module).__name__}: {reason}") from error
    if program is None:
        raise RuntimeFailure(f"torch exported nothing for {type(module).__name__}")
    model: onnx.ModelProto = program.model_proto
    model.ir_version = min(model.ir_version, IR_VERSION)
    _name_by_module(model)
    _strip(model)
    _read_pixels_by_cast(model)
    check_graph(model)
    _check_tensors(model, [*inputs], [*outputs])
    save_graph(model, path)


def dynamic_axes(spec: TensorSpec) -> dict[int, Any]:
    """Named axes as ``torch.export`` wants them."""
    return {axis: torch.export.Dim(name, min=1) for axis, name in enumerate(spec.shape) if isinstance(name, str)}


def _name_by_module(model: onnx.ModelProto) -> None:
    """Name nodes by the module that they come from, as tables and engines will: ``backbone.blocks.3.expand.0/conv2d_9``."""
    for node in model.graph.node:
        scopes = next((p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"), "[]")
        modules = [scope for scope in ast.literal_eval(scopes)[:-1] if scope]
        node.name = "/".join([*modules[-1:], node.name.removeprefix("node_")])


def _strip(model: onnx.ModelProto) -> None:
    """Drop the exporter's traces (module names, source lines with paths of this machine): they are half of a small file."""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    for item in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del item.metadata_props[:]
        item.doc_string = ""


def _read_pixels_by_cast(model: onnx.ModelProto) -> None:
    """Let nothing but a Cast read uint8 inputs: TensorRT 10 takes them into nothing else. What asks for their shape asks the
    Cast's result."""
    for name in [value.name for value in model.graph.input if value.type.tensor_type.elem_type == onnx.TensorProto.UINT8]:
        nodes = list(model.graph.node)
        cast = next((node for node in nodes if node.op_type == "Cast" and name in node.input), None)
        if cast is None:
            continue
        for node in nodes:
            if node.op_type in ("Shape", "Size") and node.input[0] == name:
                node.input[0] = cast.output[0]
        del model.graph.node[:]
        model.graph.node.extend([cast, *(node for node in nodes if node is not cast)])


def _check_tensors(model: onnx.ModelProto, inputs: list[TensorSpec], outputs: list[TensorSpec]) -> None:
    for specs, values in ((inputs, model.graph.input), (outputs, model.graph.output)):
        found = [tensor_spec(value) for value in values]
        if [(s.name, s.dtype, s.shape) for s in found] != [(s.name, s.dtype, s.shape) for s in specs]:
            raise RuntimeFailure(f"the exported graph has {found}", allowed=str(specs))


def tensor_spec(value: Any) -> TensorSpec:
    """The spec of an ONNX graph input or output."""
    tensor = value.type.tensor_type
    dtype = str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    return TensorSpec(value.name, dtype, tuple(d.dim_param or d.dim_value for d in tensor.shape.dim))
