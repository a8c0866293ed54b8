"""Single runs of a float ONNX graph, with one error type for all engine errors."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx

from vidrisk.calibration.files import graph_source
from vidrisk.runtimes.contract.errors import RuntimeFailure, require

Array = npt.NDArray[Any]


class Computes(Protocol):
    """A callable graph: outputs from inputs, by name."""

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]: ...


class Session:
    """A graph in ONNX Runtime on the CPU.

    Raises:
        RuntimeFailure: ONNX Runtime rejects the graph.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        ort: Any = require("onnxruntime", "cpu")
        options: Any = ort.SessionOptions()
        options.log_severity_level = 4
        try:
            with graph_source(model) as source:
                self._session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises a dozen types of its own, without a common base
            raise RuntimeFailure(f"ONNX Runtime cannot load the model: {error}") from error
        self.outputs: list[str] = [output.name for output in self._session.get_outputs()]
        self.floats = {output.name for output in self._session.get_outputs() if output.type == "tensor(float)"}

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Compute all outputs.

        Raises:
            RuntimeFailure: ONNX Runtime fails.
        """
        try:
            values: list[Array] = self._session.run(None, dict(feed))
        except Exception as error:
            raise RuntimeFailure(f"ONNX Runtime cannot run the model: {error}") from error
        return dict(zip(self.outputs, values, strict=True))


def noise(shape: tuple[int, ...], dtype: Any, low: float = 0, high: float | None = None) -> Array:
    """Return reproducible random numbers from ``low`` to ``high``.

    The default of ``high`` is 255 for uint8 and 1 otherwise.
    """
    if high is None:
        high = 255 if np.dtype(dtype) == np.uint8 else 1
    return np.random.default_rng(0).uniform(low, high, shape).astype(dtype)


def simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with its constants folded by ONNX Runtime; all operators stay in the standard.

    Raises:
        RuntimeFailure: ONNX Runtime rejects the graph.
    """
    ort: Any = require("onnxruntime", "cpu")
    options: Any = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory(prefix="vidrisk-simplified-") as folder:
        options.optimized_model_filepath = str(Path(folder) / "graph.onnx")
        try:
            with graph_source(model) as source:
                ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
            result = onnx.load(options.optimized_model_filepath)
        except Exception as error:
            raise RuntimeFailure(f"ONNX Runtime cannot simplify the model: {error}") from error
    used = {node.domain for node in result.graph.node}
    kept = [opset for opset in result.opset_import if opset.domain in used]
    del result.opset_import[:]
    result.opset_import.extend(kept)
    return result
