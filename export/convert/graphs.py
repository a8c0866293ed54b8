"""Conversion of torch modules to ONNX by ``torch.export`` and the dynamo exporter: dynamic batch, opset ≤ 20."""

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
from vidrisk.export.convert.attention import plain_attention
from vidrisk.export.convert.program import graph_from_program
from vidrisk.runtimes.contract.errors import RuntimeFailure
from vidrisk.runtimes.contract.specs import TensorSpec

log = logging.getLogger(__name__)
logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(
    logging.ERROR
)  # it reports torchvision as missing, which is not needed

MAX_OPSET = 20  # TensorRT 10.3 (JetPack 6) reads none newer
IR_VERSION = 10  # written by onnx 1.16; devices have readers of that age


def export_onnx(
    module: nn.Module,
    example: Sequence[torch.Tensor],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    path: Path,
) -> None:
    """Write ``module`` as an ONNX file with the names and axes of the specs.

    Args:
        module: takes a tensor per input, returns a tensor or a tuple of tensors.
        example: a tensor per input, with a batch of at least 2 (a batch of 1 would become a constant).
        inputs: names, dtypes and shapes of the graph's inputs; text axes become dynamic. ``4*tokens`` is four times as
            long as ``tokens``, whether an axis of that name exists or not.
        outputs: the same for its outputs.
        path: file to write.

    Raises:
        RuntimeFailure: torch cannot export the module, or the graph's tensors differ from the specs.
    """
    try:
        with warnings.catch_warnings(), plain_attention(module):
            warnings.simplefilter("ignore")  # torch.export deprecations that torch itself causes
            program = torch.onnx.export(
                module.eval(),
                tuple(example),
                dynamo=True,
                opset_version=MAX_OPSET,
                verbose=False,
                input_names=[spec.name for spec in inputs],
                output_names=[spec.name for spec in outputs],
                dynamic_shapes=dynamic_axes(inputs),
                optimize=True,
            )
    except Exception as error:  # torch.export raises many types, with pages of report
        reason = str(error).strip().splitlines()[0]
        raise RuntimeFailure(f"torch cannot export {type(module).__name__}: {reason}") from error
    if program is None:
        raise RuntimeFailure(f"torch exported nothing for {type(module).__name__}")
    model = graph_from_program(program, path)
    model.ir_version = min(model.ir_version, IR_VERSION)
    _name_by_module(model)
    strip_traces(model)
    _read_pixels_by_cast(model)
    _name_axes(model, inputs, outputs)
    check_graph(model)
    _check_tensors(model, [*inputs], [*outputs])
    save_graph(model, path)


def dynamic_axes(inputs: Sequence[TensorSpec]) -> tuple[dict[int, Any], ...]:
    """Return named axes by input, as ``torch.export`` takes them; axes of the same name are the same axis."""
    named: dict[str, Any] = {}

    def dim(axis: str) -> Any:
        factor, _, name = axis.rpartition("*")
        root = named.setdefault(name, torch.export.Dim(name, min=1))
        return int(factor) * root if factor else root

    return tuple(
        {place: dim(axis) for place, axis in enumerate(spec.shape) if isinstance(axis, str)} for spec in inputs
    )


def _name_by_module(model: onnx.ModelProto) -> None:
    """Name nodes by the module that they come from: ``backbone.blocks.3.expand.0/conv2d_9``.

    Tables and engines show these names.
    """
    for node in model.graph.node:
        scopes = next((p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"), "[]")
        modules = [scope for scope in ast.literal_eval(scopes)[:-1] if scope]
        node.name = "/".join([*modules[-1:], node.name.removeprefix("node_")])


def strip_traces(model: onnx.ModelProto) -> None:
    """Drop the exporter's metadata: module names, and source lines with paths of its machine.

    They are half of a small file.
    """
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    for item in (
        *model.graph.node,
        *model.graph.value_info,
        *model.graph.input,
        *model.graph.output,
        *model.graph.initializer,
    ):
        del item.metadata_props[:]
        item.doc_string = ""


def _read_pixels_by_cast(model: onnx.ModelProto) -> None:
    """Make a Cast the only reader of uint8 inputs, since TensorRT 10 supports no other reader.

    Nodes that need their shape read the Cast's output.
    """
    for name in [
        value.name for value in model.graph.input if value.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    ]:
        nodes = list(model.graph.node)
        cast = next((node for node in nodes if node.op_type == "Cast" and name in node.input), None)
        if cast is None:
            continue
        for node in nodes:
            if node.op_type in ("Shape", "Size") and node.input[0] == name:
                node.input[0] = cast.output[0]
        del model.graph.node[:]
        model.graph.node.extend([cast, *(node for node in nodes if node is not cast)])


def _name_axes(model: onnx.ModelProto, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Name the output axes that follow from an input but are not an axis of one; torch has only symbols for them."""
    known = {axis for spec in inputs for axis in spec.shape}
    for value, spec in zip(model.graph.output, outputs, strict=False):
        for dim, axis in zip(value.type.tensor_type.shape.dim, spec.shape, strict=False):
            if isinstance(axis, str) and axis not in known and dim.dim_param and dim.dim_param not in known:
                dim.dim_param = axis


def _check_tensors(model: onnx.ModelProto, inputs: list[TensorSpec], outputs: list[TensorSpec]) -> None:
    for specs, values in ((inputs, model.graph.input), (outputs, model.graph.output)):
        found = [tensor_spec(value) for value in values]
        if [(s.name, s.dtype, s.shape) for s in found] != [(s.name, s.dtype, s.shape) for s in specs]:
            raise RuntimeFailure(f"the exported graph has {found}", allowed=str(specs))


def tensor_spec(value: Any) -> TensorSpec:
    """Return the spec of an ONNX graph input or output."""
    tensor = value.type.tensor_type
    dtype = str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    return TensorSpec(value.name, dtype, tuple(d.dim_param or d.dim_value for d in tensor.shape.dim))
