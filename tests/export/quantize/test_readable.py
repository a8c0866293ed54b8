"""Tests that a runtime which misreads packed weights is detected, whatever it gets wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from vidrisk.calibration.graph import attribute
from vidrisk.calibration.nbits import WeightGrid
from vidrisk.export.quantize.readable import reading_fault
from vidrisk.export.quantize.weight_bits import GRIDS
from vidrisk.runtimes.contract.errors import RuntimeFailure
from vidrisk.runtimes.registry import BUNDLE_RUNTIMES, file_runtimes

Change = Callable[[onnx.ModelProto], None]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_the_runtimes_here_read_every_grid(grid: WeightGrid) -> None:
    assert {runtime: reading_fault(runtime, grid) for runtime in file_runtimes()} == dict.fromkeys(file_runtimes(), "")


def without_zero_points(model: onnx.ModelProto) -> None:
    del model.graph.node[0].input[3]


def without_zero_points_of_an_odd_number_of_groups(model: onnx.ModelProto) -> None:
    if attribute(model.graph.node[0], "K", 0) // attribute(model.graph.node[0], "block_size", 1) % 2:
        without_zero_points(model)


def with_swapped_halves(model: onnx.ModelProto) -> None:
    codes = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("_codes"))
    values = numpy_helper.to_array(codes)
    codes.CopyFrom(numpy_helper.from_array((values >> 4) | (values << 4), codes.name))


def with_scales_of_the_neighbour(model: onnx.ModelProto) -> None:
    scales = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("_scales"))
    scales.CopyFrom(
        numpy_helper.from_array(np.roll(numpy_helper.to_array(scales), 1, axis=0) * np.float32(1.2), scales.name)
    )


@pytest.mark.parametrize(
    "change",
    [
        without_zero_points,
        without_zero_points_of_an_odd_number_of_groups,
        with_swapped_halves,
        with_scales_of_the_neighbour,
    ],
)
def test_a_runtime_that_reads_otherwise_is_found_out(change: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(path: Path, *specs: Any, **settings: Any) -> Any:
        model = onnx.load(str(path))
        change(model)
        onnx.save_model(model, str(path))
        return BUNDLE_RUNTIMES["onnxruntime"](path, *specs, **settings)

    monkeypatch.setitem(BUNDLE_RUNTIMES, change.__name__, opened)
    assert reading_fault(change.__name__, WeightGrid(4, 64)).startswith(
        "its products of int4 weights in groups of 64 are off by "
    )


@dataclass(frozen=True)
class Slipping:
    """A runner whose products of some number of rows are 1.5 times as large."""

    inner: Any
    rows: int

    def __enter__(self) -> Slipping:
        self.inner.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self.inner.__exit__(*raised)

    def infer(self, feeds: dict[str, Any]) -> dict[str, Any]:
        slip = np.float32(1.5 if len(feeds["x"]) == self.rows else 1)
        return {name: values * slip for name, values in self.inner.infer(feeds).items()}


@pytest.mark.parametrize("rows", [1, 3])
def test_a_runtime_that_multiplies_one_row_or_several_otherwise_is_found_out(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"slipping at {rows}"
    monkeypatch.setitem(
        BUNDLE_RUNTIMES,
        name,
        lambda *given, **settings: Slipping(BUNDLE_RUNTIMES["onnxruntime"](*given, **settings), rows),
    )  # type: ignore[arg-type]
    assert reading_fault(name, WeightGrid(4, 64)).startswith(
        "its products of int4 weights in groups of 64 are off by 5"
    )


def test_a_runtime_that_refuses_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*_: Any, **__: Any) -> Any:
        raise RuntimeFailure("cannot load product.onnx: unsupported bits count")

    monkeypatch.setitem(BUNDLE_RUNTIMES, "older", opened)
    assert reading_fault("older", WeightGrid(8, 32)) == (
        "it does not run int8 weights in groups of 32: cannot load product.onnx: unsupported bits count"
    )
