"""Which GPU this process would use, asked of the CUDA driver through ``cuda-python``; no ``nvidia-smi``, no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vidrisk.runtimes.contract.errors import RuntimeFailure, require
from vidrisk.runtimes.memory import available_bytes

NO_GPU_FIX = "check the NVIDIA driver with `vidrisk doctor`; without a GPU, infer, eval and bench take the runtime auto"


@dataclass(frozen=True)
class Device:
    """The first GPU that CUDA shows to this process (``CUDA_VISIBLE_DEVICES`` decides which that is).

    Attributes:
        name: as the driver says it, for example ``Orin`` or ``NVIDIA GeForce RTX 4090``.
        compute_capability: ``8.7``.
        driver: newest CUDA version that the driver speaks, ``12.8``.
        total_bytes: memory of the GPU; on a Jetson all of the machine's.
        free_bytes: what could be allocated now.
        multiprocessors: all of Jetson's Orins have one name, and differ in these; so does one Orin in its power modes.
    """

    name: str
    compute_capability: str
    driver: str
    total_bytes: int
    free_bytes: int
    multiprocessors: int = 0

    @property
    def model(self) -> str:
        """What an engine is tuned for: ``Orin, 16 SMs``; the name alone where the multiprocessors are not known."""
        return f"{self.name}, {self.multiprocessors} SMs" if self.multiprocessors else self.name

    @property
    def driver_major(self) -> str:
        return self.driver.partition(".")[0]


def current_device() -> Device:
    """The GPU of this process.

    Raises:
        MissingExtra: cuda-python is not installed.
        RuntimeFailure: no driver, no GPU, or a driver that fails.
    """
    driver: Any = require("cuda.bindings.driver", "tensorrt")
    try:
        _asked(driver, driver.cuInit, 0)
        if not _asked(driver, driver.cuDeviceGetCount):
            raise RuntimeFailure(
                "no NVIDIA GPU is visible to this process", fix="unset CUDA_VISIBLE_DEVICES; " + NO_GPU_FIX
            )
        device = _asked(driver, driver.cuDeviceGet, 0)
        attributes = driver.CUdevice_attribute
        major, minor, integrated, count = (
            _asked(driver, driver.cuDeviceGetAttribute, attribute, device)
            for attribute in (
                attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
                attributes.CU_DEVICE_ATTRIBUTE_INTEGRATED,
                attributes.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
            )
        )
        name = _asked(driver, driver.cuDeviceGetName, 128, device).split(b"\0")[0].decode("utf-8", "replace").strip()
        version = _asked(driver, driver.cuDriverGetVersion)
        free, total = _memory_of(driver, device)
    except RuntimeError as error:  # the bindings' own, or a subclass of it: no libcuda
        raise RuntimeFailure(
            "no NVIDIA GPU here: the driver library libcuda.so.1 does not load", fix=NO_GPU_FIX
        ) from error
    if integrated:  # the driver does not count what the page cache would give back
        free = max(free, available_bytes() or 0)
    return Device(name, f"{major}.{minor}", f"{version // 1000}.{version % 1000 // 10}", total, free, count)


def _asked(driver: Any, function: Callable[..., tuple[Any, ...]], *arguments: Any) -> Any:
    """Call the driver: its answers without the status, the one answer alone, or None.

    Raises:
        RuntimeFailure: the driver says no; its word for it is in the message.
    """
    status, *answers = function(*arguments)
    if status != driver.CUresult.CUDA_SUCCESS:
        raise RuntimeFailure(f"{function.__name__}: {status.name}", fix=NO_GPU_FIX)
    return answers[0] if len(answers) == 1 else tuple(answers) or None


def _memory_of(driver: Any, device: Any) -> tuple[int, int]:
    """(free, total) bytes; only a context can be asked for what is free."""
    context = _asked(driver, driver.cuDevicePrimaryCtxRetain, device)
    try:
        _asked(driver, driver.cuCtxPushCurrent, context)
        try:
            free, total = _asked(driver, driver.cuMemGetInfo)
        finally:
            _asked(driver, driver.cuCtxPopCurrent)
    finally:
        _asked(driver, driver.cuDevicePrimaryCtxRelease, device)
    return int(free), int(total)
