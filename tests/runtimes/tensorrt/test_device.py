"""Tests of the description of the GPU. The driver is a fake that answers as CUDA's does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from vidrisk.runtimes.contract.errors import RuntimeFailure
from vidrisk.runtimes.tensorrt import device
from vidrisk.runtimes.tensorrt.device import Device, current_device

OK = SimpleNamespace(name="CUDA_SUCCESS")
NO_DEVICE = SimpleNamespace(name="CUDA_ERROR_NO_DEVICE")
OUT_OF_MEMORY = SimpleNamespace(name="CUDA_ERROR_OUT_OF_MEMORY")


class FakeDriver:
    """One GPU, in terms of ``cuda.bindings.driver``; ``contexts`` lists those that were not released."""

    CUresult = SimpleNamespace(CUDA_SUCCESS=OK)
    CUdevice_attribute = SimpleNamespace(
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR="major",
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR="minor",
        CU_DEVICE_ATTRIBUTE_INTEGRATED="integrated",
        CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT="multiprocessors",
    )

    def __init__(
        self, name: bytes = b"Orin", *, count: int = 1, integrated: bool = False, driver: int = 12060, memory: Any = OK
    ) -> None:
        self.name, self.count, self.driver, self.memory = name, count, driver, memory
        self.attributes = {"major": 8, "minor": 7, "integrated": int(integrated), "multiprocessors": 16}
        self.contexts: list[str] = []

    def cuInit(self, flags: int) -> tuple[Any, ...]:
        return (OK,)

    def cuDeviceGetCount(self) -> tuple[Any, ...]:
        return OK, self.count

    def cuDeviceGet(self, ordinal: int) -> tuple[Any, ...]:
        return OK, f"device {ordinal}"

    def cuDeviceGetAttribute(self, attribute: str, of: str) -> tuple[Any, ...]:
        return OK, self.attributes[attribute]

    def cuDeviceGetName(self, length: int, of: str) -> tuple[Any, ...]:
        return OK, self.name.ljust(length, b"\0")

    def cuDriverGetVersion(self) -> tuple[Any, ...]:
        return OK, self.driver

    def cuDevicePrimaryCtxRetain(self, of: str) -> tuple[Any, ...]:
        self.contexts.append("retained")
        return OK, "context"

    def cuDevicePrimaryCtxRelease(self, of: str) -> tuple[Any, ...]:
        self.contexts.remove("retained")
        return (OK,)

    def cuCtxPushCurrent(self, context: str) -> tuple[Any, ...]:
        self.contexts.append("current")
        return (OK,)

    def cuCtxPopCurrent(self) -> tuple[Any, ...]:
        self.contexts.remove("current")
        return OK, "context"

    def cuMemGetInfo(self) -> tuple[Any, ...]:
        assert "current" in self.contexts
        return self.memory, 3 << 30, 8 << 30


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Any:
    def use(driver: Any) -> Any:
        monkeypatch.setattr(device, "require", lambda module, extra: driver)
        return driver

    return use


def test_a_gpu_of_its_own(use: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "available_bytes", lambda: 100 << 30)
    driver = use(FakeDriver(b"NVIDIA GeForce RTX 4090", driver=13010))
    found = current_device()
    assert found == Device("NVIDIA GeForce RTX 4090", "8.7", "13.1", 8 << 30, 3 << 30, 16)
    assert (found.driver_major, found.model) == ("13", "NVIDIA GeForce RTX 4090, 16 SMs") and driver.contexts == []


@pytest.mark.parametrize(("available", "free"), [(5 << 30, 5 << 30), (1 << 30, 3 << 30), (0, 3 << 30)])
def test_a_jetson_has_what_the_page_cache_would_give_back(
    use: Any, monkeypatch: pytest.MonkeyPatch, available: int, free: int
) -> None:
    monkeypatch.setattr(device, "available_bytes", lambda: available)
    use(FakeDriver(integrated=True))
    assert current_device() == Device("Orin", "8.7", "12.6", 8 << 30, free, 16)


def test_the_memory_of_this_machine() -> None:
    assert 1 << 24 < device.available_bytes() < 1 << 50


def test_no_gpu_is_visible(use: Any) -> None:
    use(FakeDriver(count=0))
    with pytest.raises(
        RuntimeFailure, match="no NVIDIA GPU is visible to this process; fix: unset CUDA_VISIBLE_DEVICES"
    ):
        current_device()


def test_what_the_driver_says_is_said(use: Any) -> None:
    driver = FakeDriver()
    driver.cuInit = lambda flags: (NO_DEVICE,)  # type: ignore[method-assign]
    driver.cuInit.__name__ = "cuInit"
    use(driver)
    with pytest.raises(RuntimeFailure, match="cuInit: CUDA_ERROR_NO_DEVICE; fix: "):
        current_device()


def test_the_context_is_given_back_whatever_happens(use: Any) -> None:
    driver = use(FakeDriver(memory=OUT_OF_MEMORY))
    with pytest.raises(RuntimeFailure, match="cuMemGetInfo: CUDA_ERROR_OUT_OF_MEMORY"):
        current_device()
    assert driver.contexts == []


def test_no_driver_here(use: Any) -> None:
    driver = FakeDriver()

    def absent(flags: int) -> tuple[Any, ...]:
        raise RuntimeError("Failed to dlopen libcuda.so.1")

    driver.cuInit = absent  # type: ignore[method-assign]
    use(driver)
    with pytest.raises(
        RuntimeFailure, match=r"no NVIDIA GPU here: .*libcuda\.so\.1 does not load; fix: .*vidrisk doctor"
    ):
        current_device()


def test_the_bindings_have_what_is_asked_of_them() -> None:
    """A fake accepts any name; the real bindings must have the names that the code uses."""
    driver: Any = pytest.importorskip("cuda.bindings.driver", reason="cuda-python is not installed")
    functions = [name for name in vars(FakeDriver) if name.startswith("cu")]
    assert len(functions) == 11 and all(hasattr(driver, name) for name in functions)
    assert all(hasattr(driver.CUdevice_attribute, name) for name in vars(FakeDriver.CUdevice_attribute))
    assert driver.CUresult.CUDA_SUCCESS.name == "CUDA_SUCCESS"
