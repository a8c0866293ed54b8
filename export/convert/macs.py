"""The amount of computation of a graph: multiply-accumulates of one sample, counted from its shapes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from math import prod

import onnx
from onnx import shape_inference

from vidrisk.calibration.files import without_weights

log = logging.getLogger(__name__)

Shape = tuple[int, ...]


def macs_from_onnx(model: onnx.ModelProto) -> int | None:
    """Return the multiply-accumulates of convolutions and matrix products for a batch of 1.

    Products of two activations are included. Every named axis of the inputs counts as 1. A Q/DQ graph counts like its
    floating-point original. Element-wise work, normalisation and pooling are left out, as is usual.

    Returns:
        The sum over the graph's nodes; None if a node's shapes cannot be inferred.
    """
    shapes = _shapes_of_one_sample(model)
    total = 0
    for node in model.graph.node:
        count = COUNTERS.get(node.op_type)
        if count is None:
            continue
        try:
            total += count([shapes[name] for name in node.input[:2]], shapes[node.output[0]])
        except KeyError as error:
            log.info("%s: the shape of %s is unknown; multiply-accumulates are not counted", node.name, error)
            return None
    return total


def _shapes_of_one_sample(model: onnx.ModelProto) -> dict[str, Shape]:
    """Return the shapes of all tensors with fully known shapes, by name."""
    single = without_weights(model)
    for value in (*single.graph.input, *single.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = 1  # replaces the name
    del single.graph.value_info[:]  # these belong to the dynamic batch
    graph = shape_inference.infer_shapes(single, data_prop=True).graph
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    shapes |= {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    return {name: tuple(shape) for name, shape in shapes.items() if all(shape)}


def _conv(inputs: Sequence[Shape], output: Shape) -> int:
    """Count one convolution: each output element sums over its group's channels and the kernel.

    That is all of the weight ``(O, I / groups, …)`` but O.
    """
    return prod(output) * prod(inputs[1][1:])


def _conv_transpose(inputs: Sequence[Shape], output: Shape) -> int:
    """Count one transposed convolution: each input element is spread over the weight ``(I, O / groups, …)`` but I."""
    return prod(inputs[0]) * prod(inputs[1][1:])


def _gemm(inputs: Sequence[Shape], output: Shape) -> int:
    """Count a product ``(M, N)`` whose first matrix has M x K elements, transposed or not."""
    return prod(inputs[0]) * output[1]


def _matmul(inputs: Sequence[Shape], output: Shape) -> int:
    """Count a product: each output element multiplies two vectors as long as the first matrix's last axis."""
    return prod(output) * inputs[0][-1]


COUNTERS: dict[str, Callable[[Sequence[Shape], Shape], int]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
}
