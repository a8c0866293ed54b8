"""A test of whether a runtime reads packed weights as their operator defines them.

Some versions read only one width, or misread zero points. A small product is computed, and compared with the weights
that its codes represent. One of its rows has large values of one sign, whose sums would saturate in 16 bits; in
another, neighbours have opposite signs, so that swapped half-bytes show.
"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from vidrisk.calibration.files import save_graph
from vidrisk.calibration.graph import FloatArray
from vidrisk.calibration.nbits import WeightGrid, pack_weight, weight_from_packed
from vidrisk.calibration.weight_only import Packing, WeightPacker
from vidrisk.runtimes.contract.errors import VidriskError
from vidrisk.runtimes.contract.specs import TensorSpec
from vidrisk.runtimes.registry import BUNDLE_RUNTIMES

WIDTH = 24
TOLERANCE = 0.1  # of the largest product of a row: several times the error of rounding activations to 8 bits


@functools.cache
def reading_fault(runtime: str, grid: WeightGrid) -> str:
    """Return why a runtime cannot use weights on a grid, or an empty string if it can."""
    # An odd number of groups leaves half a byte of zero points; the last depth is padded with zeros.
    for depth in (4 * grid.group, 5 * grid.group, 3 * grid.group + 8):
        weight, rows = _weight(depth), _rows(depth)
        expected: FloatArray = np.tile(rows @ weight_from_packed(pack_weight(weight, grid)), (2, 1))
        try:
            found = _products(runtime, grid, weight, rows)
        except VidriskError as error:
            return f"it does not run {grid}: {error.what}"
        off = float((np.abs(found - expected).max(axis=1) / np.abs(expected).max(axis=1)).max())
        if not off <= TOLERANCE:
            return f"its products of {grid} are off by {off:.0%}"
    return ""


def _weight(depth: int) -> FloatArray:
    """Return a weight whose columns have one sign each."""
    rng = np.random.default_rng(0)
    weight: FloatArray = (rng.uniform(0.5, 1, (depth, WIDTH)) * rng.choice([-1, 1], WIDTH)).astype(np.float32)
    return weight


def _rows(depth: int) -> FloatArray:
    rng = np.random.default_rng(1)
    rows: FloatArray = np.stack([rng.uniform(0.9, 1, depth), np.resize([1, -1], depth), rng.normal(size=depth)]).astype(
        np.float32
    )
    return rows


def _products(runtime: str, grid: WeightGrid, weight: FloatArray, rows: FloatArray) -> FloatArray:
    """Return the products of all rows at once, and of each row alone, which uses other kernels."""
    inputs = TensorSpec("x", "float32", ("batch", len(weight))), TensorSpec("y", "float32", ("batch", WIDTH))
    values = [helper.make_tensor_value_info(spec.name, TensorProto.FLOAT, spec.shape) for spec in inputs]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        values[:1],
        values[1:],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    with tempfile.TemporaryDirectory(prefix="vidrisk-read-") as folder:
        path = Path(folder) / "product.onnx"
        save_graph(WeightPacker(model, Path(folder)).pack(Packing(grid)), path)
        with BUNDLE_RUNTIMES[runtime](path, inputs[:1], inputs[1:], threads=1) as runner:
            found: FloatArray = np.concatenate(
                [runner.infer({"x": part})["y"] for part in (rows, *np.split(rows, len(rows)))]
            )
            return found.astype(np.float32)
