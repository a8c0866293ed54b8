"""What works on this machine: Python, processor, runtimes, decoders, extras, memory and disk."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from vidrisk import __version__
from vidrisk.runtimes.errors import VidriskError, is_installed, require
from vidrisk.runtimes.select import BUNDLE_RUNTIMES, cache_folder

# Import name → (package, extra, what it is for).
EXTRAS = {
    "decord": ("decord2", "decord", "the other video decoder"),
    "pyarrow": ("pyarrow", "parquet", "Parquet manifests"),
    "torch": ("torch", "train", "train, export, eval of runs"),
    "peft": ("peft", "train", "LoRA"),
    "accelerate": ("accelerate", "train", "training loop"),
    "transformers": ("transformers", "train", "Hugging Face backbones"),
    "onnx": ("onnx", "export", "export"),
    "optimum": ("optimum", "export", "export"),
    "matplotlib": ("matplotlib", "train", "plots"),
    "elpv_dataset": ("elpv-dataset", "demo", "data of vidrisk demo"),
}
CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "avx512_bf16", "asimddp", "i8mm")


@dataclass(frozen=True)
class Check:
    """One line: ``ok``, ``optional`` (not there, and nobody has to miss it) or ``missing`` (``infer`` will not run)."""

    name: str
    state: Literal["ok", "optional", "missing"]
    found: str
    fix: str = ""


def examine() -> list[Check]:
    """All checks, in the order in which they matter."""
    return [*_machine(), *_runtimes(), *_decoders(), *_extras()]


def _machine() -> Iterator[Check]:
    yield Check("vidrisk", "ok", f"{__version__}, Python {platform.python_version()} on {sys.platform} {platform.machine()}")
    flags = _cpu_flags()
    found = ", ".join(flag for flag in CPU_FLAGS if flag in flags) or "no vector flags known"
    yield Check("processor", "ok", f"{os.cpu_count()} cores; {found}")
    free_gb, cache = shutil.disk_usage(Path.cwd()).free / 1e9, cache_folder()
    yield Check("disk", "ok", f"{free_gb:.0f} GB free here") if free_gb > 1 else Check(
        "disk", "missing", f"{free_gb:.1f} GB free here", f"free some space, for example: rm -r {cache}")
    memory_gb = _available_memory_gb()
    if memory_gb is not None:
        yield Check("memory", "ok", f"{memory_gb:.1f} GB available")


def _runtimes() -> Iterator[Check]:
    working = 0
    for name in BUNDLE_RUNTIMES:
        if not is_installed(name):
            continue
        try:
            module = require(name, "cpu")
            working += 1
            yield Check(name, "ok", str(getattr(module, "__version__", "")))
        except (ImportError, OSError, VidriskError) as error:
            yield Check(name, "optional", f"does not load: {error}", f"pip install --force-reinstall {name}")
    if not working:
        yield Check("inference runtime", "missing", "none", "pip install 'vidrisk[cpu]'")


def _decoders() -> Iterator[Check]:
    for module, package in (("av", "PyAV"), ("PIL", "Pillow")):
        try:
            yield Check(package, "ok", str(require(module, "cpu").__version__))
        except (ImportError, OSError, VidriskError) as error:
            yield Check(package, "missing", str(error), f"pip install --force-reinstall {package.lower().replace('pyav', 'av')}")


def _extras() -> Iterator[Check]:
    for module, (package, extra, purpose) in EXTRAS.items():
        if is_installed(module):
            yield Check(package, "ok", _version(package))
        else:
            yield Check(package, "optional", f"not installed ({purpose})", f"pip install 'vidrisk[{extra}]'")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "installed"


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.partition(":")[2].split()}


def _available_memory_gb() -> float | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    available = next((line for line in lines if line.startswith("MemAvailable")), None)
    return int(available.split()[1]) / 1e6 if available else None
