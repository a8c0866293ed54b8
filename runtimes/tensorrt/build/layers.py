"""Memory estimates and INT8 layer counts of networks that TensorRT parsed and of engines that it built."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidrisk.runtimes.contract.onnx_file import files_of_graph
from vidrisk.runtimes.layers import INT8, computing_layers
from vidrisk.runtimes.layers import layers_from_inspection as count_layers

if TYPE_CHECKING:
    import tensorrt as trt

COMPUTING = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "EINSUM")


def weights_bytes(path: Path) -> int:
    """Return the size of an ONNX file including its external weight files."""
    return sum(file.stat().st_size for file in files_of_graph(path))


def activations_bytes(network: trt.INetworkDefinition, rows: int) -> int:
    """Return the peak size of the live tensors, layer by layer before fusion; free axes have length ``rows``."""
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
    """Return JSON of the parsed layers: name, type, output types.

    A layer that is fed only by Q/DQ pairs computes in INT8: the network is strongly typed, so TensorRT has no choice.
    """
    layers = _layers(network)
    dequantized: set[str] = set()
    for layer in layers:
        of_dequantized = layer.type.name == "SHUFFLE" and {tensor.name for tensor in _inputs(layer)} <= dequantized
        if layer.type.name == "DEQUANTIZE" or of_dequantized:
            dequantized.update(tensor.name for tensor in _outputs(layer))
    described: list[dict[str, Any]] = []
    for layer in layers:
        row: dict[str, Any] = {
            "name": layer.name,
            "type": layer.type.name,
            "output": [t.dtype.name for t in _outputs(layer)],
        }
        if layer.type.name in COMPUTING:
            row["int8"] = {tensor.name for tensor in [*_inputs(layer)][:2]} <= dequantized
        described.append(row)
    computing = [row["int8"] for row in described if "int8" in row]
    return json.dumps(
        {"from": "network", "computing": len(computing), "int8": sum(computing), "layers": described}, indent=1
    )


def layers_from_inspection(text: str) -> str:
    """Return the JSON of the engine inspector with the same counts as ``layers_from_network``.

    Raises:
        ValueError: ``text`` is not JSON.
    """
    inspected, int8 = json.loads(text), count_layers(text).counts.get(INT8, 0)
    return json.dumps(
        {"from": "engine", "computing": len(computing_layers(inspected)), "int8": int8, **inspected}, indent=1
    )


def layer_counts(path: Path) -> tuple[int | None, int | None]:
    """Return the numbers of computing layers and of those in INT8 from a layers file; None twice if unreadable."""
    try:
        described = json.loads(path.read_bytes())
        return int(described["computing"]), int(described["int8"])
    except (OSError, ValueError, KeyError, TypeError):
        return None, None


def _layers(network: trt.INetworkDefinition) -> list[trt.ILayer]:
    return [network.get_layer(at) for at in range(network.num_layers)]


def _inputs(layer: trt.ILayer) -> Iterator[trt.ITensor]:
    """Return the inputs that are present; optional ones may be missing."""
    return (tensor for at in range(layer.num_inputs) if (tensor := layer.get_input(at)) is not None)


def _outputs(layer: trt.ILayer) -> Iterator[trt.ITensor]:
    return map(layer.get_output, range(layer.num_outputs))


def _tensor_bytes(tensor: trt.ITensor, rows: int) -> int:
    lengths = tensor.shape[:]
    return math.prod(rows if length < 0 else length for length in lengths) * int(tensor.dtype.itemsize)
