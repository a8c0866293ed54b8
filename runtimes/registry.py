"""Registry of runtimes: how each opens a graph file, whether it works on this machine, and its version.

The runtimes:

    onnxruntime, openvino       on the processor
    tensorrt, tensorrt-rtx      on an NVIDIA GPU; run engines, which vidrisk.runtimes.tensorrt.build.engines builds once
    onnxruntime-cuda            on an NVIDIA GPU, with ONNX Runtime's own kernels
    onnxruntime-tensorrt        TensorRT through ONNX Runtime; it may round any layer, so ``auto`` leaves it out
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Protocol

from vidrisk.runtimes.contract.bundle import Bundle
from vidrisk.runtimes.contract.errors import BundleError, SettingsError, VidriskError, is_installed
from vidrisk.runtimes.contract.manifest import Engines, Variant, VariantName
from vidrisk.runtimes.contract.specs import TensorSpec
from vidrisk.runtimes.gpu import visible_gpu
from vidrisk.runtimes.openvino import OpenVinoRunner
from vidrisk.runtimes.ort import OnnxRuntimeRunner, has_provider
from vidrisk.runtimes.runner import Array, Runner
from vidrisk.runtimes.tensorrt.api import Kind, find_installed_kinds, open_api


class OpenFile(Protocol):
    """Function that opens an ONNX file with known tensors. The runner itself feeds the inputs in ``constants``."""

    def __call__(
        self,
        path: Path,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        *,
        threads: int | None = None,
        constants: Mapping[str, Array] | None = None,
    ) -> Runner: ...


def _tensorrt(kind: Kind) -> OpenFile:
    def open_engine(
        path: Path,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        *,
        threads: int | None = None,
        constants: Mapping[str, Array] | None = None,
    ) -> Runner:
        from vidrisk.runtimes.tensorrt.runner import TensorRtRunner  # only with a GPU

        return TensorRtRunner(path, inputs, outputs, kind=kind, constants=constants)

    return open_engine


BUNDLE_RUNTIMES: dict[str, OpenFile] = {
    "onnxruntime": OnnxRuntimeRunner,
    "openvino": OpenVinoRunner,
    "tensorrt": _tensorrt("tensorrt"),
    "tensorrt-rtx": _tensorrt("tensorrt-rtx"),
    "onnxruntime-cuda": partial(OnnxRuntimeRunner, runtime="onnxruntime-cuda"),
    "onnxruntime-tensorrt": partial(OnnxRuntimeRunner, runtime="onnxruntime-tensorrt"),
}
ENGINE_KINDS: dict[str, Kind] = {
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt-rtx",
}  # runtimes that need an engine first
GPU_RUNTIMES = (*ENGINE_KINDS, "onnxruntime-cuda", "onnxruntime-tensorrt")


def possible_runtimes() -> tuple[str, ...]:
    """Return the runtimes that this machine's hardware supports, installed or not."""
    return tuple(name for name in BUNDLE_RUNTIMES if name not in GPU_RUNTIMES or visible_gpu())


def installed_runtimes() -> tuple[str, ...]:
    """Return the runtimes whose hardware and library are present; the library is not loaded to verify it."""
    return tuple(name for name in possible_runtimes() if _is_installed(name))


def exact_runtimes() -> tuple[str, ...]:
    """Return the installed runtimes that compute exactly what an ONNX file says, which is what the gate judged."""
    return tuple(name for name in installed_runtimes() if name != "onnxruntime-tensorrt")


def file_runtimes() -> tuple[str, ...]:
    """Return the exact runtimes that open an ONNX file directly, without building an engine first."""
    return tuple(name for name in exact_runtimes() if name not in ENGINE_KINDS)


def fits(engines: Engines, runtime: str) -> bool:
    """Tell whether a variant made for a kind of engine can run on a runtime."""
    if engines == "processor":
        return runtime not in GPU_RUNTIMES
    return engines == "any" or runtime in ENGINE_KINDS


def variant_for(variants: Mapping[VariantName, Variant], name: str, runtime: str) -> VariantName | None:
    """Return the variant that a runtime uses for a name, or None if no variant of that name fits.

    For TensorRT, ``int8`` means ``int8-tensorrt`` if there is one.
    """
    for known, variant in variants.items():
        if known in (name, f"{name}-tensorrt") and fits(variant.engines, runtime):
            return known
    return None


def check_runtime(runtime: str) -> None:
    """Refuse a name that is not a runtime for bundles.

    Raises:
        SettingsError: it cannot run a bundle.
    """
    if runtime not in BUNDLE_RUNTIMES:
        raise SettingsError(f"runtime {runtime!r} cannot run a bundle", allowed=", ".join(BUNDLE_RUNTIMES))


def pairs_for(
    bundle: Bundle, runtimes: Iterable[str], variants: str | Sequence[VariantName]
) -> list[tuple[str, VariantName]]:
    """Pair runtimes with the variants of a bundle that are made for them.

    Args:
        bundle: the bundle.
        runtimes: names of runtimes.
        variants: several variants, or one name as for ``variant_for``.

    Raises:
        SettingsError: a runtime cannot run a bundle.
        BundleError: no variant of that name exists, or none is made for any of the runtimes.
    """
    known, runtimes = bundle.manifest.variants, tuple(runtimes)
    for runtime in runtimes:
        check_runtime(runtime)
    if isinstance(variants, str) and variants not in known:
        raise BundleError(f"{bundle.root.name} has no variant {variants!r}", allowed=", ".join(known))
    if not variants:
        raise BundleError(f"{bundle.root.name} has no variant that passed the gate", allowed=", ".join(known))
    if isinstance(variants, str):
        pairs = [(runtime, taken) for runtime in runtimes if (taken := variant_for(known, variants, runtime))]
    else:
        pairs = [(runtime, name) for runtime in runtimes for name in variants if fits(known[name].engines, runtime)]
    if not pairs:
        asked = variants if isinstance(variants, str) else ", ".join(variants)
        raise BundleError(
            f"{bundle.root.name} has {asked}, but not for {', '.join(runtimes)}",
            allowed=", ".join(f"{name} for {of.engines} engines" for name, of in known.items()),
        )
    return pairs


def _is_installed(runtime: str) -> bool:
    if runtime in ENGINE_KINDS:
        return runtime in find_installed_kinds()
    return has_provider(runtime) if runtime in GPU_RUNTIMES else is_installed(runtime)


def engine_version(runtime: str) -> str | None:
    """Return the version of the library of a runtime, or None if it is not installed."""
    if runtime in ENGINE_KINDS:
        try:
            return open_api(ENGINE_KINDS[runtime]).version
        except VidriskError:
            return None
    for package in ("onnxruntime", "onnxruntime-gpu") if runtime.startswith("onnxruntime") else (runtime,):
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return None
