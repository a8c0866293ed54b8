"""OpenVINO behind ``Runner``: the fastest engine on most x86 machines, reading the same ONNX files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from vidrisk.runtimes.errors import RuntimeFailure, require
from vidrisk.runtimes.runner import Array, Arrays, Runner
from vidrisk.runtimes.specs import TensorSpec

# Of input per request: two frames of 224 x 224. Activations then stay in a core's cache, and all streams have work until the
# end of a batch; a request of a few bytes would not be worth the trouble to start it.
REQUEST_BYTES = 1 << 18


class OpenVinoRunner(Runner):
    """Runs an ONNX file with OpenVINO's CPU plugin, tuned for throughput: a batch is cut into requests of a few rows, which run
    side by side on a part of the cores each, instead of one request in which all cores wait for one another.

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
        config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "THROUGHPUT"}
        if threads:
            config["INFERENCE_NUM_THREADS"] = threads
        try:
            self._queue: Any = ov.AsyncInferQueue(ov.Core().compile_model(str(path), "CPU", config))
        except Exception as error:  # openvino raises RuntimeError and its own types alike
            raise RuntimeFailure(f"OpenVINO cannot load {path.name}: {error}", fix="export the bundle again") from error

    def _infer(self, feed: Mapping[str, Array]) -> Arrays:
        arrays = {name: np.ascontiguousarray(array) for name, array in feed.items()}  # shared with the engine for the call
        rows = len(next(iter(arrays.values())))
        step = max(1, round(REQUEST_BYTES * rows / max(1, sum(array.nbytes for array in arrays.values()))))
        parts: dict[int, Arrays] = {}

        def keep(request: Any, start: int) -> None:
            parts[start] = {spec.name: np.array(request.get_tensor(spec.name).data) for spec in self.outputs}

        try:
            self._queue.set_callback(keep)
            for start in range(0, rows, step):
                part = {name: array[start:start + step] for name, array in arrays.items()}
                self._queue.start_async(part, start, share_inputs=True)
            self._queue.wait_all()
        except Exception as error:
            with suppress(Exception):  # requests that have begun read the arrays
                self._queue.wait_all()
            raise RuntimeFailure(f"OpenVINO failed: {error}") from error
        return {spec.name: np.concatenate([parts[start][spec.name] for start in sorted(parts)]) for spec in self.outputs}

    def close(self) -> None:
        super().close()
        self._queue = None
