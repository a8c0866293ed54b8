"""What can be said of a network that TensorRT has parsed, and of an engine that it has built: memory, and layers in INT8."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidrisk.runtimes.contract.onnx_file import files_of_graph
from vidrisk.runtimes.layers import INT8, computing_layers
from vidrisk.runtimes.layers import layers_from_inspection as counted_layers

if TYPE_CHECKING:
    import tensorrt as trt

COMPUTING = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "EINSUM")


def weights_bytes(path: Path) -> int:
    """Size of an ONNX file, and of the files that it takes weights from."""
    return sum(file.stat().st_size for file in files_of_graph(path))


def activations_bytes(network: trt.INetworkDefinition, rows: int) -> int:
    """Size of the tensors that are alive together at most, layer by layer, before anything is fused; free axes have ``rows``."""
    layers = _layers(network)
    last_use = {tensor.name: at for at, layer in enumerate(layers) for tensor in _inputs(layer)}
    freed_after = [0] * len(layers)
    alive = most = 0
    for at, layer in enumerate(layers):
        for tensor in _outputs(layer):
            if layer.type.name == "CONSTANT":
                continue
            size = _tensor_bytes(tensor, rows)
            alive += size
            freed_after[last_use.get(tensor.name, len(layers) - 1)] += size
        most = max(most, alive)
        alive -= freed_after[at]
    return most


def layers_from_network(network: trt.INetworkDefinition) -> str:
    """JSON of the parsed layers: name, type, types of the outputs. What only Q/DQ pairs feed will compute in INT8: the network is
    strongly typed, so TensorRT has no choice.
    """
    layers = _layers(network)
    dequantised: set[str] = set()
    for layer in layers:
        of_dequantised = layer.type.name == "SHUFFLE" and {tensor.name for tensor in _inputs(layer)} <= dequantised
        if layer.type.name == "DEQUANTIZE" or of_dequantised:
            dequantised.update(tensor.name for tensor in _outputs(layer))
    described: list[dict[str, Any]] = []
    for layer in layers:
        row: dict[str, Any] = {
            "name": layer.name,
            "type": layer.type.name,
            "output": [t.dtype.name for t in _outputs(layer)],
        }
        if layer.type.name in COMPUTING:
            row["int8"] = {tensor.name for tensor in [*_inputs(layer)][:2]} <= dequantised
        described.append(row)
    computing = [row["int8"] for row in described if "int8" in row]
    return json.dumps(
        {"from": "network", "computing": len(computing), "int8": sum(computing), "layers": described}, indent=1
    )


def layers_from_inspection(text: str) -> str:
    """JSON of the engine inspector, with counts as ``layers_from_network`` has them.

    Raises:
        ValueError: ``text`` is no JSON.
    """
    inspected, int8 = json.loads(text), counted_layers(text).counts.get(INT8, 0)
    return json.dumps(
        {"from": "engine", "computing": len(computing_layers(inspected)), "int8": int8, **inspected}, indent=1
    )


def layer_counts(path: Path) -> tuple[int | None, int | None]:
    """(layers that compute, those of them in INT8) of a file of layers; None where there is none."""
    try:
        described = json.loads(path.read_bytes())
        return int(described["computing"]), int(described["int8"])
    except (OSError, ValueError, KeyError, TypeError):
        return None, None


def _layers(network: trt.INetworkDefinition) -> list[trt.ILayer]:
    return [network.get_layer(at) for at in range(network.num_layers)]


def _inputs(layer: trt.ILayer) -> Iterator[trt.ITensor]:
    """The inputs that there are: an optional one may be left out."""
    return (tensor for at in range(layer.num_inputs) if (tensor := layer.get_input(at)) is not None)


def _outputs(layer: trt.ILayer) -> Iterator[trt.ITensor]:
    return map(layer.get_output, range(layer.num_outputs))


def _tensor_bytes(tensor: trt.ITensor, rows: int) -> int:
    lengths = tensor.shape[:]
    return math.prod(rows if length < 0 else length for length in lengths) * int(tensor.dtype.itemsize)
