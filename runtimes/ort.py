"""ONNX Runtime behind ``Runner``: the engine that runs everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vidrisk.runtimes.errors import RuntimeFailure, require
from vidrisk.runtimes.runner import Array, Arrays, Runner
from vidrisk.runtimes.specs import TensorSpec


class OnnxRuntimeRunner(Runner):
    """Runs an ONNX file with ONNX Runtime, on CUDA where the installed package has it, else on the CPU.

    Args:
        path: the ONNX file.
        inputs, outputs: what the file declares, as its bundle says.
        threads: intra-op threads; None lets ONNX Runtime take the physical cores.
    """

    runtime = "onnxruntime"

    def __init__(self, path: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], *,
                 threads: int | None = None) -> None:
        super().__init__(inputs, outputs)
        ort: Any = require("onnxruntime", "cpu")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3
        try:
            self._session: Any = ort.InferenceSession(str(path), options, providers=_providers(ort))
        except Exception as error:  # onnxruntime raises a dozen types of its own, without a common base
            raise RuntimeFailure(f"ONNX Runtime cannot load {path.name}: {error}", fix="export the bundle again") from error

    def _infer(self, feed: Mapping[str, Array]) -> Arrays:
        names = [spec.name for spec in self.outputs]
        try:
            arrays = self._session.run(names, dict(feed))
        except Exception as error:
            raise RuntimeFailure(f"ONNX Runtime failed: {error}") from error
        return {name: np.asarray(array) for name, array in zip(names, arrays, strict=True)}

    def close(self) -> None:
        super().close()
        self._session = None


def _providers(ort: Any) -> list[str]:
    available = ort.get_available_providers()
    return [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]
