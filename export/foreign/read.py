"""Reader of foreign ONNX files: external data, local functions, opset and half precision.

Operators that no engine here computes are refused.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, inliner, numpy_helper, version_converter

from vidrisk.calibration.graph import QUANTIZED
from vidrisk.export.convert.graphs import MAX_OPSET, strip_traces
from vidrisk.runtimes.contract.errors import DataError
from vidrisk.runtimes.contract.onnx_file import NotOnnxError, external_files

MIN_OPSET = 13  # the first with one scale per channel in Q/DQ nodes
STANDARD = ("", "ai.onnx")
KNOWN_DOMAINS = (*STANDARD, "com.microsoft")  # that ONNX Runtime has kernels for


def read_model(path: Path, least_opset: int = MIN_OPSET) -> onnx.ModelProto:
    """Read an ONNX file as one graph in float32, of an opset that all engines read.

    Weights in other files are loaded, the file's own functions are inlined, and half precision is widened (which is
    exact).

    Raises:
        DataError: not an ONNX file, missing weights, custom operators, a quantised graph, or an opset that cannot be
            converted.
    """
    if not path.is_file():
        raise DataError(f"{path} is not a file", fix="give an ONNX file")
    try:
        missing = sorted(name for name in external_files(path) if not (path.parent / name).is_file())
    except NotOnnxError as error:
        raise DataError(
            f"{path.name} is not an ONNX file: {error}", fix="export the model with torch.onnx.export"
        ) from error
    if missing:
        raise DataError(
            f"{path.name} refers to weights in {missing[0]}, which is not beside it", fix="copy that file, too"
        )
    try:
        model = onnx.load(str(path))
    except Exception as error:  # protobuf and onnx raise their own types
        raise DataError(f"{path.name} cannot be read: {error}", fix="copy it again, whole") from error
    if model.functions:
        model = inliner.inline_local_functions(model)
    _check_operators(model, path.name)
    model = with_opset(model, path.name, least_opset, MAX_OPSET)
    widen_half(model.graph)
    _strip(model)
    return model


def _check_operators(model: onnx.ModelProto, name: str) -> None:
    used = {(node.domain, node.op_type) for node in model.graph.node}
    custom = sorted(f"{domain}.{op}" for domain, op in used if domain not in KNOWN_DOMAINS)
    if custom:
        raise DataError(
            f"{name} uses the custom operator {custom[0]}",
            allowed="operators of ai.onnx and com.microsoft",
            fix="export the model without it",
        )
    if any(op in QUANTIZED for _, op in used):
        raise DataError(
            f"{name} is already quantised",
            allowed="a model in floating point",
            fix="give the file from before it was quantised",
        )


def opset_of(model: onnx.ModelProto) -> int:
    """Return the opset of the standard operators; 0 if a model names none."""
    return next((int(opset.version) for opset in model.opset_import if opset.domain in STANDARD), 0)


def with_opset(model: onnx.ModelProto, name: str, least: int, most: int) -> onnx.ModelProto:
    """Return the model, converted if its opset is outside ``least`` to ``most``.

    Raises:
        DataError: it cannot be converted.
    """
    opset = opset_of(model)
    if least <= opset <= most:
        return model
    wanted = least if opset < least else most
    try:
        converted = version_converter.convert_version(model, wanted)
        onnx.checker.check_model(converted)
    except Exception as error:  # the converter raises bare RuntimeErrors with C++ traces
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise DataError(
            f"{name} has opset {opset}, and cannot be converted to {wanted}: {reason}",
            allowed=f"{least} to {most}",
            fix=f"export it again with opset {most}",
        ) from error
    return converted


def widen_half(graph: onnx.GraphProto) -> None:
    """Change the types of a float16 graph to float32, in place.

    This includes inputs, outputs, and graphs of branches and loops.
    """
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for node in graph.node:
        for body in _bodies(node):
            widen_half(body)
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                _widen_tensor(attribute.t)
            elif attribute.name in ("to", "dtype") and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT16:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))


def _bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """Return the graphs inside a node: branches and loop bodies."""
    return [
        graph for a in node.attribute for graph in (*a.graphs, *([a.g] if a.type == onnx.AttributeProto.GRAPH else []))
    ]


def read_inside(node: onnx.NodeProto) -> set[str]:
    """Return the tensors that the graphs inside a node read."""
    return {name for graph in _bodies(node) for inner in graph.node for name in {*inner.input, *read_inside(inner)}}


def _strip(model: onnx.ModelProto) -> None:
    """Drop the exporter's metadata and the shapes of its old batch, and name nodes without a name."""
    del model.graph.value_info[:]
    strip_traces(model)
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"


def graph_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Return the inputs that are not weights; files of an old IR version list those, too."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def dims_of(value: onnx.ValueInfoProto) -> list[int | str]:
    """Return the axes of a tensor: lengths, and names (or '') of free axes."""
    return [
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else dim.dim_param
        for dim in value.type.tensor_type.shape.dim
    ]


def prune(model: onnx.ModelProto) -> None:
    """Drop the nodes, weights and listed inputs that no output needs, in place; the images stay."""
    inputs = list(graph_inputs(model))
    needed, kept = {value.name for value in model.graph.output}, []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed |= set(node.input) | read_inside(node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(kept))
    weights = [tensor for tensor in model.graph.initializer if tensor.name in needed]
    del model.graph.initializer[:], model.graph.input[:]
    model.graph.initializer.extend(weights)
    model.graph.input.extend(inputs)
