"""Probes: facts that need libraries to be loaded, each in a process of its own that may crash or hang.

The processes are started by ``asking``. A probe returns its result in a form that JSON can hold, or raises an error.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from vidrisk.runtimes.contract.errors import VidriskError

# Codec → FFmpeg's software decoders for it, any of which will do. FFmpeg's own ``av1`` decoder needs a GPU.
DECODERS = {
    "h264": ("h264", "libopenh264"),
    "hevc": ("hevc",),
    "av1": ("libdav1d", "libaom-av1"),
    "vp9": ("vp9", "libvpx-vp9"),
    "mpeg4": ("mpeg4",),
}
PHOTO_FORMATS = {"jpg": "JPEG", "zlib": "PNG", "libtiff": "TIFF", "webp": "WebP"}
GPU_PROVIDERS = {"TensorrtExecutionProvider": "TensorRT", "CUDAExecutionProvider": "CUDA"}
# An ONNX model with one node, ``Identity``, on float (1,), as written by onnx: IR version 8, opset 17.
IDENTITY = bytes.fromhex(
    "08083a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a020801"
    "620f0a0179120a0a08080112040a02080142040a001011"
)


def main(name: str) -> None:
    """Run a probe, and print one line of JSON: its result, or the problem and perhaps its fix."""
    try:
        told = PROBES[name]()
    except VidriskError as error:
        told = {"problem": error.what, "fix": error.fix or ""}
    except Exception as error:  # whatever a broken library raises is the result
        told = {"problem": f"{type(error).__name__}: {error}"}
    print(json.dumps(told), flush=True)
    os._exit(0)  # some drivers crash when they are unloaded, after the probe has ended


def _version(module: str) -> dict[str, Any]:
    return {"version": str(getattr(import_module(module), "__version__", ""))}


def _pillow() -> dict[str, Any]:
    from PIL import features

    return {**_version("PIL"), "lacking": [name for key, name in PHOTO_FORMATS.items() if not features.check(key)]}


def _av() -> dict[str, Any]:
    import av

    there = av.codecs_available
    return {**_version("av"), "lacking": [codec for codec, names in DECODERS.items() if not there & set(names)]}


def _onnxruntime() -> dict[str, Any]:
    """Return the providers that run a model, and built-in ones that fall back to the processor."""
    import onnxruntime as ort

    built_in = [provider for provider in GPU_PROVIDERS if provider in ort.get_available_providers()]
    if built_in and hasattr(ort, "preload_dlls"):  # CUDA's libraries may be Python packages
        ort.preload_dlls()
    working = []
    for provider in built_in:
        try:
            session = ort.InferenceSession(IDENTITY, providers=[provider, "CPUExecutionProvider"])
        except Exception:  # the reason is on standard error, as for a provider that falls back
            continue
        if session.get_providers()[0] == provider:
            working.append(GPU_PROVIDERS[provider])
    ort.InferenceSession(IDENTITY, providers=["CPUExecutionProvider"])
    return {
        **_version("onnxruntime"),
        "providers": [*working, "CPU"],
        "fallen_back": [GPU_PROVIDERS[provider] for provider in built_in if GPU_PROVIDERS[provider] not in working],
    }


def _openvino() -> dict[str, Any]:
    import openvino

    return {"version": openvino.__version__.partition("-")[0], "devices": list(openvino.Core().available_devices)}


def _tensorrt() -> dict[str, Any]:
    from vidrisk.runtimes.tensorrt.api import open_api

    return {"version": open_api("tensorrt").version}


def _tensorrt_rtx() -> dict[str, Any]:
    from vidrisk.runtimes.tensorrt.api import open_api

    return {"version": open_api("tensorrt-rtx").version}


def _gpu() -> dict[str, Any]:
    from vidrisk.runtimes.tensorrt.device import current_device

    return asdict(current_device())


def _torch() -> dict[str, Any]:
    import torch

    return {**_version("torch"), "sees_gpu": torch.cuda.is_available()}


def _workers() -> dict[str, Any]:
    """Create and map sealed memory as a decode worker of ``infer`` does."""
    from vidrisk.decode.messages import ReadSettings
    from vidrisk.decode.wire import Slots, shared_memory
    from vidrisk.runtimes.contract.specs import PixelSpec

    settings = ReadSettings(pixel=PixelSpec(), time=None)
    descriptor = shared_memory(settings.slots, settings.slot_bytes)
    try:
        Slots(descriptor, settings.slots, settings.slot_bytes).next()[:] = 1
        return {"bytes": os.fstat(descriptor).st_size}
    finally:
        os.close(descriptor)


def _sandbox() -> dict[str, Any]:
    """Enter the sandbox of decode workers, and return which of its restrictions hold."""
    from vidrisk.decode.sandbox import confine_process

    sandbox = confine_process()
    holds = {"other files": False, "the network": False}

    def try_access() -> None:
        try:
            Path("/etc/passwd").read_bytes()
        except PermissionError:
            holds["other files"] = True
        try:
            socket.socket().close()
        except PermissionError:
            holds["the network"] = True

    sandbox.read_alone([sys.executable], try_access)
    return {
        "landlock": sandbox.landlock,
        "seccomp": sandbox.seccomp,
        "open": [what for what, held in holds.items() if not held],
    }


def _cache() -> dict[str, Any]:
    from vidrisk.runtimes.tensorrt.cache import engine_store

    store = engine_store()
    return {"engines": os.fspath(store.folder.absolute()), "limit_bytes": store.max_bytes}


def _read_verified() -> dict[str, Any]:
    """Return the last results of ``vidrisk verify`` for bundles that still exist, and changes since then."""
    from vidrisk.verify.kept import last_results

    return {"results": [{**asdict(kept), "changed": kept.changed} for kept in last_results() if kept.is_there]}


PROBES: dict[str, Callable[[], dict[str, Any]]] = {
    "numpy": lambda: _version("numpy"),
    "Pillow": _pillow,
    "PyAV": _av,
    "decord": lambda: _version("decord"),
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "tensorrt": _tensorrt,
    "tensorrt-rtx": _tensorrt_rtx,
    "GPU": _gpu,
    "torch": _torch,
    "workers": _workers,
    "sandbox": _sandbox,
    "cache": _cache,
    "verified": _read_verified,
}
