"""Comparison of packed weights with the original ones, matrix by matrix.

A fault in one of many layers would not show in the answers.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from vidrisk.calibration.files import load_graph
from vidrisk.calibration.graph import FloatArray, Net, attribute
from vidrisk.calibration.nbits import Bits, PackedWeight, weight_from_packed
from vidrisk.export.gate.text_report import WeightFigures
from vidrisk.export.text.limits import WEIGHT_ERROR

COLUMNS = 4096  # columns of a matrix that are unpacked at once


def compare_weights(graph: Path, packed: Path) -> WeightFigures | None:
    """Compare the weights of a packed text graph with those of its float graph, matching nodes by name.

    Returns:
        Figures of the matrix nearest to its limit, or furthest beyond it; None if nothing is packed.
    """
    exact, rounded = Net(load_graph(graph)), Net(load_graph(packed))
    sources = {node.name: node for node in exact.nodes}
    nodes = [node for node in rounded.nodes if node.op_type == "MatMulNBits"]
    found = []
    for node in nodes:
        bits: Bits = 4 if attribute(node, "bits", 8) == 4 else 8
        error = _relative_error(exact, sources.get(node.name), _read_packed(rounded, node, bits))
        found.append(WeightFigures(len(nodes), error, WEIGHT_ERROR[bits], node.name.partition("/")[0]))
    return max(found, key=lambda figures: figures.error / figures.limit, default=None)


def _read_packed(net: Net, node: onnx.NodeProto, bits: Bits) -> PackedWeight:
    parts: list[npt.NDArray[Any]] = [net.array(name) for name in node.input[1:4]]
    codes, scales, zero_points = parts
    return PackedWeight(
        codes,
        scales.reshape(len(codes), -1),
        zero_points.reshape(len(codes), -1),
        bits,
        int(attribute(node, "block_size", 0)),
        int(attribute(node, "K", 0)),
    )


def _relative_error(net: Net, source: onnx.NodeProto | None, packed: PackedWeight) -> float:
    """Return the root mean square of the error relative to that of the weights; infinite if there is no such matrix."""
    if source is None or len(source.input) < 2 or source.input[1] not in net.weights:
        return math.inf
    weight: FloatArray = net.array(source.input[1])
    weight = weight.T if net.input_axis(source) == 1 else weight
    if weight.shape != (packed.depth, len(packed.codes)):
        return math.inf
    missed = power = 0.0
    for begin in range(0, weight.shape[1], COLUMNS):
        columns = slice(begin, begin + COLUMNS)
        part = PackedWeight(
            packed.codes[columns],
            packed.scales[columns],
            packed.zero_points[columns],
            packed.bits,
            packed.group,
            packed.depth,
        )
        missed += float(np.square(weight_from_packed(part) - weight[:, columns]).sum(dtype=np.float64))
        power += float(np.square(weight[:, columns]).sum(dtype=np.float64))
    error = math.sqrt(missed / power) if power else math.sqrt(missed)
    return error if math.isfinite(error) else math.inf
