"""Runner for ONNX Runtime, the engine that runs everywhere, on the processor or through one of its GPU providers."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vidrisk.runtimes.contract.errors import RuntimeFailure, VidriskError, require
from vidrisk.runtimes.contract.specs import TensorSpec
from vidrisk.runtimes.folders import cache_folder, make_private_folder, open_private
from vidrisk.runtimes.layers import Layers, layers_from_profile
from vidrisk.runtimes.processor import may_saturate
from vidrisk.runtimes.runner import Array, Arrays, Runner

log = logging.getLogger(__name__)

# Runtime → ONNX Runtime's providers: the intended one, then those for the nodes that it does not support.
PROVIDERS = {
    "onnxruntime": ("CPUExecutionProvider",),
    "onnxruntime-cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "onnxruntime-tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
}
GPU_FIX = "pip uninstall onnxruntime, then pip install 'vidrisk[gpu]'"
# ONNX Runtime 1.31 converts a floating-point bias beside quantised weights to int32 and computes it in the type of the
# scales: in FP16 the quotients overflow, and the outputs are wrong. Graphs for processors have int32 biases already.
UNSAFE_OPTIMIZERS = ["WeightBiasQuantization"]
# Multiply uint8 by uint8, which is slower and does not saturate (``processor``).
EXACT_SUMS = ("session.x64quantprecision", "1")
BATCHES = {"min": 1, "opt": 8, "max": 64}  # rows for which the TensorRT provider builds its engine


class OnnxRuntimeRunner(Runner):
    """Runner of an ONNX file on ONNX Runtime, using only the provider that the runtime's name says.

    ONNX Runtime would silently fall back from the GPU to the processor; this class raises an error instead.

    With ``onnxruntime-cuda`` float32 means float32, not TF32, so a variant computes what its name says.
    ``onnxruntime-tensorrt`` cannot guarantee this: ONNX Runtime leaves the types to TensorRT, which may round every
    layer once it may round any. On its first run it builds an engine without reporting it, and keeps it in the user's
    cache.

    Args:
        path: the ONNX file. In ``<graph>.<variant>.onnx`` the variant says what TensorRT may round to.
        inputs, outputs: what the file declares, according to its bundle.
        constants: values of inputs that never change.
        threads: intra-op threads; None lets ONNX Runtime use the physical cores.
        runtime: a name of ``PROVIDERS``.
    """

    runtime = "onnxruntime"

    def __init__(
        self,
        path: Path,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        *,
        threads: int | None = None,
        runtime: str = "onnxruntime",
        constants: Mapping[str, Array] | None = None,
    ) -> None:
        super().__init__(inputs, outputs, constants)
        self.runtime = runtime
        wanted = PROVIDERS[runtime]
        self._path, self._threads = path, threads
        self._ort: Any = require("onnxruntime", "cpu" if runtime == "onnxruntime" else "gpu")
        ort = self._ort
        ort.disable_telemetry_events()  # recordings of a site are private
        if wanted[0] not in ort.get_available_providers():
            raise RuntimeFailure(f"ONNX Runtime {ort.__version__} was built without its {wanted[0]}", fix=GPU_FIX)
        if runtime != "onnxruntime":
            _load_cuda(ort)
        self._session = self._open_session()
        if wanted[0] not in self._session.get_providers():
            raise RuntimeFailure(
                f"ONNX Runtime's {wanted[0]} does not load here: a library of CUDA, cuDNN or TensorRT is missing, "
                "or of another version",
                fix="install what onnxruntime-gpu names, or use another runtime",
            )

    def _open_session(self, profile: str = "") -> Any:
        """Open a session; ``profile`` is the name prefix of a file to list the executed kernels in."""
        session_options = self._ort.SessionOptions()
        session_options.intra_op_num_threads = self._threads or 0
        session_options.log_severity_level = 3
        if may_saturate(self._path):
            session_options.add_session_config_entry(*EXACT_SUMS)
        if profile:
            session_options.enable_profiling, session_options.profile_file_prefix = True, profile
        providers = [(name, self._options(name, self._path)) for name in PROVIDERS[self.runtime]]
        try:
            return self._ort.InferenceSession(
                str(self._path),
                session_options,
                providers=providers,
                enable_fallback=0,
                disabled_optimizers=UNSAFE_OPTIMIZERS,
            )
        except Exception as error:  # onnxruntime raises a dozen types of its own, without a common base
            raise RuntimeFailure(
                f"ONNX Runtime cannot load {self._path.name}: {error}", fix="export the bundle again"
            ) from error

    def layers(self) -> Layers:
        """Count layers by precision, in a second session that runs one row."""
        feed: dict[str, Array] = {
            spec.name: np.zeros([1, *map(int, spec.shape[1:])], spec.dtype) for spec in self.inputs
        }
        feed |= self.constants
        with tempfile.TemporaryDirectory(prefix="vidrisk-profile-") as folder:
            session = self._open_session(str(Path(folder) / "kernels"))
            try:
                session.run(None, feed)
                events = json.loads(Path(session.end_profiling()).read_bytes())
            except Exception as error:
                return Layers(unproved=f"ONNX Runtime does not show what it runs: {error}")
        return layers_from_profile(events, PROVIDERS[self.runtime][0])

    def _options(self, provider: str, path: Path) -> dict[str, str]:
        if provider == "CUDAExecutionProvider":
            return {"use_tf32": "0"}
        if provider != "TensorrtExecutionProvider":
            return {}
        variant = path.stem.rpartition(".")[2].partition("-")[0]
        return {
            "trt_fp16_enable": str(int(variant in ("fp16", "int8", "mixed"))),
            "trt_int8_enable": str(int(variant in ("int8", "mixed"))),
            **_engine_cache_options(cache_folder() / "onnxruntime-tensorrt"),
            **{f"trt_profile_{which}_shapes": ",".join(self._shape_texts(rows)) for which, rows in BATCHES.items()},
        }

    def _shape_texts(self, rows: int) -> list[str]:
        shapes = {spec.name: (rows, *spec.shape[1:]) for spec in self.inputs}
        shapes |= {name: array.shape for name, array in self.constants.items()}
        return [f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items()]

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


def _engine_cache_options(folder: Path) -> dict[str, str]:
    """Let TensorRT keep its engines and timings in a folder, unless somebody else may have put files there."""
    try:
        make_private_folder(folder)
        for path in folder.iterdir():
            open_private(path).close()
    except OSError as error:
        log.warning("TensorRT's engines are not cached and are built at every start: %s", error)
        return {}
    return {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
    }


def has_provider(runtime: str) -> bool:
    """Tell whether the installed ONNX Runtime was built with the provider that the runtime needs."""
    try:
        ort: Any = require("onnxruntime", "gpu")
    except VidriskError:
        return False
    return PROVIDERS[runtime][0] in ort.get_available_providers()


def _load_cuda(ort: Any) -> None:
    """Load CUDA and cuDNN from NVIDIA's wheels if installed: ONNX Runtime does not look there by itself."""
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()) as said:  # it prints missing libraries
            ort.preload_dlls()
        for line in said.getvalue().splitlines():
            log.debug("%s", line)
