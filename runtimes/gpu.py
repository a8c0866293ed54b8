"""Whether there is an NVIDIA GPU to compute on: asked of its driver, once, and without taking any of its memory."""

from __future__ import annotations

import ctypes
import functools

DRIVER = "libcuda.so.1"


@functools.cache
def visible_gpu() -> str | None:
    """The first GPU that CUDA shows to this process and the CUDA version of its driver, ``Orin, CUDA 12.6``; None without one."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return None
    count, device, version, name = ctypes.c_int(), ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(128)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return None
    failed = (driver.cuDeviceGet(ctypes.byref(device), 0) or driver.cuDeviceGetName(name, len(name), device)
              or driver.cuDriverGetVersion(ctypes.byref(version)))
    return None if failed else f"{name.value.decode(errors='replace')}, CUDA {version.value // 1000}.{version.value % 1000 // 10}"
