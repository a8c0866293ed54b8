"""Detection of an NVIDIA GPU through its driver, once per process and without allocating GPU memory."""

from __future__ import annotations

import ctypes
import functools
import re
from pathlib import Path

DRIVER = "libcuda.so.1"


@functools.cache
def visible_gpu() -> str | None:
    """Return the first GPU visible to CUDA and the driver's CUDA version (``Orin, CUDA 12.6``), or None."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return None
    count, device, version, name = ctypes.c_int(), ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(128)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return None
    failed = (
        driver.cuDeviceGet(ctypes.byref(device), 0)
        or driver.cuDeviceGetName(name, len(name), device)
        or driver.cuDriverGetVersion(ctypes.byref(version))
    )
    return (
        None
        if failed
        else f"{name.value.decode(errors='replace')}, CUDA {version.value // 1000}.{version.value % 1000 // 10}"
    )


def driver_version(root: Path = Path("/")) -> str:
    """Return the version of NVIDIA's driver and, on a Jetson, the L4T release; empty without either.

    ``580.95.05``, or ``540.4.0, R36 (release), REVISION: 4.3``: several releases share one driver.
    """
    release = text_of(root / "etc/nv_tegra_release").partition(", GCID")[0].strip("# \n")
    return ", ".join(filter(None, (driver_from_text(text_of(root / "proc/driver/nvidia/version")), release)))


def text_of(path: Path) -> str:
    """Read a text file; return an empty string if it is missing or unreadable."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def driver_from_text(text: str) -> str:
    """Extract the version (``580.95.05``) from ``/proc/driver/nvidia/version``; empty if there is none."""
    match = re.search(r"Kernel Module(?: for \S+)?\s+(\d+(?:\.\d+)+)", text)
    return match[1] if match else ""
