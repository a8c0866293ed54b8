"""One interface to the three TensorRT libraries; all differences between them are handled here.

    TensorRT 10.3 to 10.x   ``tensorrt``, a system package of JetPack or a wheel from NVIDIA's index
    TensorRT 11             ``tensorrt``; networks are always strongly typed, with explicit batch
    TensorRT for RTX        ``tensorrt_rtx``, or ``tensorrt_rtx_bindings`` over the libraries that
                            ``onnxruntime_ep_nv_tensorrt_rtx`` ships; can build for several GPUs ahead of time, without
                            a GPU

Flags for FP16 or INT8 are never set: the graph defines the precision (types and Q/DQ), which is the only way that all
three support. Values from ``Api.trt`` are annotated with the stubs of TensorRT 10 where they are used.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import logging
import re
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from typing_extensions import Buffer

from vidrisk.runtimes.contract.choices import EngineName
from vidrisk.runtimes.contract.errors import MissingExtra, RuntimeFailure, SettingsError

if TYPE_CHECKING:
    from tensorrt import Builder, IBuilderConfig, ICudaEngine, INetworkDefinition, OnnxParser, Runtime

log = logging.getLogger(__name__)

Kind = EngineName
KINDS: tuple[Kind, ...] = get_args(Kind)
OLDEST_TENSORRT = (10, 3)
MODULES: dict[Kind, tuple[str, ...]] = {
    "tensorrt": ("tensorrt",),
    "tensorrt-rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}
# ``tensorrt_rtx_bindings`` contains no libraries; this package does. The parser needs the first one, hence the order.
RTX_LIBRARY_PACKAGE = "onnxruntime_ep_nv_tensorrt_rtx"
RTX_LIBRARIES = ("libtensorrt_rtx.so.*", "libtensorrt_onnxparser_rtx.so.*")
TENSORRT_FIX = (
    "make the environment with `python3 -m venv --system-site-packages` on a Jetson; pip install tensorrt elsewhere"
)
ERRORS_KEPT = 8
# Follows every other error if there is no GPU, as when building ahead of time.
NO_DRIVER = "cudaError 35"
# Positions in TensorRT's source, which are useless to the reader.
SOURCE_POSITION = re.compile(r" *\(?\b[Ii]n \S+ at \S+:\d+")


@dataclass(frozen=True)
class Api:
    """Loaded TensorRT library. Get it from ``open_api``, because TensorRT allows only one logger per kind and process.

    Attributes:
        kind: ``tensorrt`` or ``tensorrt-rtx``.
        version: version of the library, ``10.3.0``.
        trt: the imported module.
        logger: forwards TensorRT's messages to our logger, and keeps the last errors.
        errors: the last errors that TensorRT logged, oldest first.
    """

    kind: Kind
    version: str
    trt: Any
    logger: Any
    errors: deque[str]

    def failure(self, what: str, *, fix: str | None = None) -> RuntimeFailure:
        """Return an error for ``what`` with TensorRT's own error messages, which are then cleared."""
        said = [error for error in dict.fromkeys(self.errors) if NO_DRIVER not in error]
        self.errors.clear()
        return RuntimeFailure(f"{what}: {'; '.join(said) or f'{self.kind} does not say why'}", fix=fix)

    @property
    def out_of_memory(self) -> bool:
        """Whether one of the last errors is about memory."""
        return any(re.search(r"out ?of ?memory|bad_alloc", said, re.IGNORECASE) for said in self.errors)

    def new_builder(self) -> Builder:
        builder: Builder = self._make(self.trt.Builder)
        return builder

    def new_network(self, builder: Builder) -> INetworkDefinition:
        """Create a strongly typed network: by a flag in TensorRT 10, always in TensorRT 11."""
        flag = getattr(self.trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        return builder.create_network(0 if flag is None else 1 << int(flag))

    def new_parser(self, network: INetworkDefinition) -> OnnxParser:
        parser: OnnxParser = self.trt.OnnxParser(network, self.logger)
        return parser

    def new_config(self, builder: Builder) -> IBuilderConfig:
        """Create a build configuration.

        TensorFloat-32 is off, so a variant computes what its name says. Layers can be inspected. Batches below the
        maximum take less memory if this version of TensorRT supports that.
        """
        config = builder.create_builder_config()
        config.clear_flag(self.trt.BuilderFlag.TF32)
        config.profiling_verbosity = self.trt.ProfilingVerbosity.DETAILED
        resizing = getattr(self.trt.PreviewFeature, "RUNTIME_ACTIVATION_RESIZE_10_10", None)
        if resizing is not None:
            config.set_preview_feature(resizing, True)
        return config

    @property
    def compute_capabilities(self) -> tuple[str, ...]:
        """Compute capabilities (``8.6``) to build for without a GPU; empty for TensorRT, which needs the GPU."""
        if self.kind == "tensorrt":
            return ()
        found = (re.fullmatch(r"SM(\d+)(\d)", name) for name in self.trt.ComputeCapability.__members__)
        return tuple(f"{match[1]}.{match[2]}" for match in found if match)

    @property
    def keeps_timings(self) -> bool:
        """Whether a timing cache speeds up the next build. TensorRT for RTX selects kernels without timing them."""
        return self.kind == "tensorrt"

    def check_compute_capabilities(self, capabilities: tuple[str, ...]) -> None:
        """Check that this library can build ahead of time for these compute capabilities.

        Raises:
            SettingsError: it cannot.
        """
        if not self.compute_capabilities:
            raise SettingsError(
                f"{self.kind} builds for the GPU that it runs on, not for {', '.join(capabilities)}",
                fix="use tensorrt-rtx, or build on the device",
            )
        unknown = [capability for capability in capabilities if capability not in self.compute_capabilities]
        if unknown:
            raise SettingsError(
                f"{self.kind} {self.version} cannot build for compute capability {', '.join(unknown)}",
                allowed=", ".join(self.compute_capabilities),
            )

    def set_compute_capabilities(self, config: IBuilderConfig, capabilities: tuple[str, ...]) -> None:
        """Build for these GPUs, which need not be present."""
        self.check_compute_capabilities(capabilities)
        self._set_capabilities(config, [f"SM{capability.replace('.', '')}" for capability in capabilities])

    def set_this_gpu(self, config: IBuilderConfig, capability: str) -> None:
        """Build for the present GPU.

        TensorRT always does; TensorRT for RTX queries the driver if it does not know the capability.
        """
        if self.kind == "tensorrt-rtx":
            known = capability in self.compute_capabilities
            self._set_capabilities(config, [f"SM{capability.replace('.', '')}" if known else "CURRENT"])

    def _set_capabilities(self, config: Any, names: list[str]) -> None:  # not in the stubs of TensorRT 10
        config.num_compute_capabilities = len(names)
        for at, name in enumerate(names):
            if not config.set_compute_capability(self.trt.ComputeCapability.__members__[name], at):
                raise self.failure(f"{self.kind} {self.version} does not build for {name}")

    def use_dla(self, config: IBuilderConfig) -> None:
        """Run layers on the first deep-learning accelerator (DLA) if it supports them, else on the GPU."""
        config.default_device_type = self.trt.DeviceType.DLA
        config.DLA_core = 0
        config.set_flag(self.trt.BuilderFlag.GPU_FALLBACK)

    def set_workspace(self, config: IBuilderConfig, limit_bytes: int) -> None:
        config.set_memory_pool_limit(self.trt.MemoryPoolType.WORKSPACE, limit_bytes)

    def make_portable(self, config: IBuilderConfig) -> None:
        """Let the engine run on any GPU from Ampere on except a Jetson's, and with later versions of TensorRT.

        The engine may be slower. TensorRT for RTX by default builds for all these GPUs, but always for one version.
        """
        if self.kind == "tensorrt":
            config.set_flag(self.trt.BuilderFlag.VERSION_COMPATIBLE)
            config.hardware_compatibility_level = self.trt.HardwareCompatibilityLevel.AMPERE_PLUS

    def new_runtime(self) -> Runtime:
        runtime: Runtime = self._make(self.trt.Runtime)
        return runtime

    def _make(self, kind: Any) -> Any:
        try:
            return kind(self.logger)
        except TypeError as error:  # pybind11 raises it for a null pointer
            raise self.failure(f"{self.kind} {self.version} cannot start CUDA here", fix="vidrisk doctor") from error

    def load_engine(self, blob: Buffer, *, portable: bool) -> ICudaEngine:
        """Deserialize an engine; allow the host code that a portable engine of TensorRT contains.

        Raises:
            RuntimeFailure: another GPU or version, a damaged engine, out of memory, or any other error of TensorRT.
        """
        runtime = self.new_runtime()
        if portable and self.kind == "tensorrt":
            runtime.engine_host_code_allowed = True
        engine: ICudaEngine | None = runtime.deserialize_cuda_engine(blob)
        if engine is None:
            raise self.failure("the engine cannot be loaded")
        return engine


def open_api(kind: Kind | None = None) -> Api:
    """Load TensorRT.

    Args:
        kind: None uses TensorRT if it is installed, else TensorRT for RTX.

    Raises:
        MissingExtra, RuntimeFailure: it is not installed, does not load, or is older than 10.3.
    """
    if kind is None:
        kind = next(iter(find_installed_kinds()), None)
    if kind is None:
        raise RuntimeFailure(
            "neither TensorRT nor TensorRT for RTX is installed",
            fix=f"{TENSORRT_FIX}; pip install 'vidrisk[tensorrt-rtx]' on a PC with an RTX GPU",
        )
    return _load(kind)


def find_installed_kinds() -> tuple[Kind, ...]:
    """Return the installed kinds without loading them; they may still fail to load."""
    return tuple(kind for kind in KINDS if any(_is_there(module) for module in MODULES[kind]))


def _is_there(module: str) -> bool:
    """Tell whether a module has code: type stubs install an importable but empty folder ``tensorrt``."""
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.origin is not None


@functools.cache
def _load(kind: Kind) -> Api:
    module = next((name for name in MODULES[kind] if _is_there(name)), None)
    if module is None:
        if kind == "tensorrt":
            raise RuntimeFailure("TensorRT is not installed, or not for this Python", fix=TENSORRT_FIX)
        raise MissingExtra(MODULES[kind][0], kind)
    try:
        if module == "tensorrt_rtx_bindings":
            for library in _rtx_libraries():
                ctypes.CDLL(str(library))
        trt: Any = importlib.import_module(module)
    except (ImportError, OSError) as error:
        raise RuntimeFailure(f"{module} is installed but does not load: {error}", fix="vidrisk doctor") from error
    number = re.match(r"\d+(\.\d+){0,3}", str(getattr(trt, "__version__", "")))
    if number is None or not hasattr(trt, "Builder"):
        raise RuntimeFailure(f"{module} at {trt.__file__} is not a complete TensorRT", fix="install the package again")
    version = number[0]
    if kind == "tensorrt" and tuple(map(int, version.split(".")))[:2] < OLDEST_TENSORRT:
        raise RuntimeFailure(
            f"TensorRT {version} is too old", allowed="10.3 or later", fix="JetPack 6.1 or later has it"
        )
    errors: deque[str] = deque(maxlen=ERRORS_KEPT)
    return Api(kind, version, trt, _logger(trt, errors), errors)


def _rtx_libraries() -> list[Path]:
    """Return the libraries for ``tensorrt_rtx_bindings`` in loading order; empty if the system has them."""
    spec = importlib.util.find_spec(RTX_LIBRARY_PACKAGE)  # not imported: it would import ONNX Runtime
    if spec is None or spec.origin is None:
        return []
    folder = Path(spec.origin).parent
    return [path for pattern in RTX_LIBRARIES for path in sorted(folder.glob(pattern))[-1:]]


def _logger(trt: Any, errors: deque[str]) -> Any:
    """Return a logger that forwards TensorRT's messages to ours.

    Errors are kept for ``Api.failure``, which quotes them, and are therefore only logged at debug level.
    """
    severity = trt.ILogger.Severity

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # required by pybind11

        def log(self, level: Any, message: str) -> None:
            if level in (severity.INTERNAL_ERROR, severity.ERROR):
                errors.append(SOURCE_POSITION.sub("", " ".join(message.split())))
            if level != severity.VERBOSE:
                log.log(logging.INFO if level == severity.WARNING else logging.DEBUG, "%s", message)

    return Logger()
