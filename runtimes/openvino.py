"""OpenVINO behind ``Runner``: the fastest engine on most x86 machines, reading the same ONNX files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vidrisk.runtimes.errors import RuntimeFailure, require
from vidrisk.runtimes.runner import Array, Arrays, Runner
from vidrisk.runtimes.specs import TensorSpec


class OpenVinoRunner(Runner):
    """Runs an ONNX file with OpenVINO's CPU plugin, tuned for throughput of whole batches.

    The execution precision is pinned to float32, so that a variant computes what its name says: OpenVINO would otherwise
    take bfloat16 where the processor has it.

    Args:
        path: the ONNX file.
        inputs, outputs: what the file declares, as its bundle says.
        threads: inference threads; None lets OpenVINO take all cores.
    """

    runtime = "openvino"

    def __init__(self, path: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], *,
                 threads: int | None = None) -> None:
        super().__init__(inputs, outputs)
        ov: Any = require("openvino", "cpu")
        config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if threads:
            config["INFERENCE_NUM_THREADS"] = threads
        try:
            compiled = ov.Core().compile_model(str(path), "CPU", config)
            self._request: Any = compiled.create_infer_request()
        except Exception as error:  # openvino raises RuntimeError and its own types alike
            raise RuntimeFailure(f"OpenVINO cannot load {path.name}: {error}", fix="export the bundle again") from error

    def _infer(self, feed: Mapping[str, Array]) -> Arrays:
        try:
            # Inputs are shared (they outlive the call), outputs are copied (they outlive the next call).
            results = self._request.infer({name: np.ascontiguousarray(a) for name, a in feed.items()}, share_inputs=True)
            return {spec.name: np.array(results[spec.name]) for spec in self.outputs}
        except Exception as error:
            raise RuntimeFailure(f"OpenVINO failed: {error}") from error

    def close(self) -> None:
        super().close()
        self._request = None
