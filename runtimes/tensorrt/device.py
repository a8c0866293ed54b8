"""Query the GPU of this process from the CUDA driver through ``cuda-python``, without ``nvidia-smi`` or torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vidrisk.runtimes.contract.errors import RuntimeFailure, require
from vidrisk.runtimes.memory import available_bytes

NO_GPU_FIX = "check the NVIDIA driver with `vidrisk doctor`; without a GPU, use the runtime auto"


@dataclass(frozen=True)
class Device:
    """First GPU visible to this process (``CUDA_VISIBLE_DEVICES`` selects it).

    Attributes:
        name: name from the driver, for example ``Orin`` or ``NVIDIA GeForce RTX 4090``.
        compute_capability: ``8.7``.
        driver: newest CUDA version that the driver supports, ``12.8``.
        total_bytes: memory of the GPU; on a Jetson that of the whole machine.
        free_bytes: memory that can be allocated now.
        multiprocessors: number of SMs. All Jetson Orins have the same name but different numbers; the number also
            depends on the power mode of an Orin.
    """

    name: str
    compute_capability: str
    driver: str
    total_bytes: int
    free_bytes: int
    multiprocessors: int = 0

    @property
    def model(self) -> str:
        """GPU model that engines are tuned for: ``Orin, 16 SMs``; only the name if the SMs are unknown."""
        return f"{self.name}, {self.multiprocessors} SMs" if self.multiprocessors else self.name

    @property
    def driver_major(self) -> str:
        return self.driver.partition(".")[0]


def current_device() -> Device:
    """Return the GPU of this process.

    Raises:
        MissingExtra: cuda-python is not installed.
        RuntimeFailure: no driver, no GPU, or a driver that fails.
    """
    driver: Any = require("cuda.bindings.driver", "tensorrt")
    try:
        _call_driver(driver, driver.cuInit, 0)
        if not _call_driver(driver, driver.cuDeviceGetCount):
            raise RuntimeFailure(
                "no NVIDIA GPU is visible to this process", fix="unset CUDA_VISIBLE_DEVICES; " + NO_GPU_FIX
            )
        device = _call_driver(driver, driver.cuDeviceGet, 0)
        attributes = driver.CUdevice_attribute
        major, minor, integrated, count = (
            _call_driver(driver, driver.cuDeviceGetAttribute, attribute, device)
            for attribute in (
                attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
                attributes.CU_DEVICE_ATTRIBUTE_INTEGRATED,
                attributes.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
            )
        )
        name = (
            _call_driver(driver, driver.cuDeviceGetName, 128, device).split(b"\0")[0].decode("utf-8", "replace").strip()
        )
        version = _call_driver(driver, driver.cuDriverGetVersion)
        free, total = _memory_of(driver, device)
    except RuntimeError as error:  # raised by the bindings, itself or a subclass: no libcuda
        raise RuntimeFailure(
            "no NVIDIA GPU here: the driver library libcuda.so.1 does not load", fix=NO_GPU_FIX
        ) from error
    if integrated:  # the driver does not count reclaimable page cache
        free = max(free, available_bytes() or 0)
    return Device(name, f"{major}.{minor}", f"{version // 1000}.{version % 1000 // 10}", total, free, count)


def _call_driver(driver: Any, function: Callable[..., tuple[Any, ...]], *arguments: Any) -> Any:
    """Call a driver function; return its results without the status: a tuple, a single value or None.

    Raises:
        RuntimeFailure: the call failed; the message contains the status.
    """
    status, *answers = function(*arguments)
    if status != driver.CUresult.CUDA_SUCCESS:
        raise RuntimeFailure(f"{function.__name__}: {status.name}", fix=NO_GPU_FIX)
    return answers[0] if len(answers) == 1 else tuple(answers) or None


def _memory_of(driver: Any, device: Any) -> tuple[int, int]:
    """Return (free, total) bytes; querying free memory needs a context."""
    context = _call_driver(driver, driver.cuDevicePrimaryCtxRetain, device)
    try:
        _call_driver(driver, driver.cuCtxPushCurrent, context)
        try:
            free, total = _call_driver(driver, driver.cuMemGetInfo)
        finally:
            _call_driver(driver, driver.cuCtxPopCurrent)
    finally:
        _call_driver(driver, driver.cuDevicePrimaryCtxRelease, device)
    return int(free), int(total)
