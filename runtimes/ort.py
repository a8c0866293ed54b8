"""ONNX Runtime behind ``Runner``: the engine that runs everywhere, on the processor or by one of its ways to a GPU."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vidrisk.runtimes.errors import RuntimeFailure, VidriskError, require
from vidrisk.runtimes.folders import cache_folder
from vidrisk.runtimes.runner import Array, Arrays, Runner
from vidrisk.runtimes.specs import TensorSpec

log = logging.getLogger(__name__)

# Runtime → ONNX Runtime's providers: the one that is meant, and those for the nodes that it leaves.
PROVIDERS = {
    "onnxruntime": ("CPUExecutionProvider",),
    "onnxruntime-cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "onnxruntime-tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
}
GPU_FIX = "pip uninstall onnxruntime, then pip install 'vidrisk[gpu]'"
# ONNX Runtime makes a floating-point bias int32 beside quantised weights, and computes that in the type of their scales: in FP16
# the quotients overflow, and the graph computes nonsense (1.31). Graphs for processors bring their biases as int32.
UNSAFE_OPTIMIZERS = ["WeightBiasQuantization"]
BATCHES = {"min": 1, "opt": 8, "max": 64}  # that the TensorRT provider builds its engine for


class OnnxRuntimeRunner(Runner):
    """Runs an ONNX file with ONNX Runtime, by the provider that the runtime's name says and no other: where ONNX Runtime would
    quietly take the processor instead of the GPU, this is an error.

    With ``onnxruntime-cuda`` float32 is float32, not TF32, so that a variant computes what its name says. ``onnxruntime-tensorrt``
    cannot promise as much: ONNX Runtime leaves the types to TensorRT, which is free to round every layer that it may round
    any. It builds an engine when it first runs, without a word, and keeps it in the user's cache.

    Args:
        path: the ONNX file. In ``<graph>.<variant>.onnx`` the variant says what TensorRT may round to.
        inputs, outputs: what the file declares, as its bundle says.
        threads: intra-op threads; None lets ONNX Runtime take the physical cores.
        runtime: a name of ``PROVIDERS``.
    """

    runtime = "onnxruntime"

    def __init__(self, path: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], *,
                 threads: int | None = None, runtime: str = "onnxruntime") -> None:
        super().__init__(inputs, outputs)
        self.runtime = runtime
        wanted = PROVIDERS[runtime]
        ort: Any = require("onnxruntime", "cpu" if runtime == "onnxruntime" else "gpu")
        ort.disable_telemetry_events()  # what a site films is nobody else's business
        if wanted[0] not in ort.get_available_providers():
            raise RuntimeFailure(f"ONNX Runtime {ort.__version__} was built without its {wanted[0]}", fix=GPU_FIX)
        if runtime != "onnxruntime":
            _load_cuda(ort)
        session_options = ort.SessionOptions()
        session_options.intra_op_num_threads = threads or 0
        session_options.log_severity_level = 3
        providers = [(name, self._options(name, path)) for name in wanted]
        try:
            self._session: Any = ort.InferenceSession(str(path), session_options, providers=providers, enable_fallback=0,
                                                      disabled_optimizers=UNSAFE_OPTIMIZERS)
        except Exception as error:  # onnxruntime raises a dozen types of its own, without a common base
            raise RuntimeFailure(f"ONNX Runtime cannot load {path.name}: {error}", fix="export the bundle again") from error
        if wanted[0] not in self._session.get_providers():
            raise RuntimeFailure(f"ONNX Runtime's {wanted[0]} does not load here: a library of CUDA, cuDNN or TensorRT is missing, "
                                 "or of another version", fix="install what onnxruntime-gpu names, or use another --runtime")

    def _options(self, provider: str, path: Path) -> dict[str, str]:
        if provider == "CUDAExecutionProvider":
            return {"use_tf32": "0"}
        if provider != "TensorrtExecutionProvider":
            return {}
        folder = cache_folder() / "onnxruntime-tensorrt"
        folder.mkdir(parents=True, exist_ok=True)
        variant = path.stem.rpartition(".")[2]
        return {"trt_fp16_enable": str(int(variant in ("fp16", "int8", "mixed"))),
                "trt_int8_enable": str(int(variant in ("int8", "mixed"))),
                "trt_engine_cache_enable": "1", "trt_engine_cache_path": str(folder),
                "trt_timing_cache_enable": "1", "trt_timing_cache_path": str(folder),
                **{f"trt_profile_{which}_shapes": ",".join(_shape_text(spec, rows) for spec in self.inputs)
                   for which, rows in BATCHES.items()}}

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


def _shape_text(spec: TensorSpec, rows: int) -> str:
    return f"{spec.name}:{'x'.join(map(str, (rows, *spec.shape[1:])))}"


def has_provider(runtime: str) -> bool:
    """Whether the ONNX Runtime that is installed was built with what the runtime needs."""
    try:
        ort: Any = require("onnxruntime", "gpu")
    except VidriskError:
        return False
    return PROVIDERS[runtime][0] in ort.get_available_providers()


def _load_cuda(ort: Any) -> None:
    """Load CUDA and cuDNN from NVIDIA's wheels, where they are: ONNX Runtime does not look there by itself."""
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()) as said:  # it prints what it does not find
            ort.preload_dlls()
        for line in said.getvalue().splitlines():
            log.debug("%s", line)
