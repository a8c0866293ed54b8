"""The few CUDA calls needed to run an engine, through ``cuda-python``; failures are converted to our errors.

They use the driver API, not the CUDA runtime bundled with ``cuda-python``, which refuses a driver older than itself: a
Jetson keeps the driver of its JetPack. Addresses and handles are plain integers, as TensorRT takes them.
"""

from __future__ import annotations

import ctypes
import functools
import logging
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from vidrisk.runtimes.contract.errors import RuntimeFailure, require

log = logging.getLogger(__name__)

Bytes = npt.NDArray[np.uint8]


class OutOfMemory(RuntimeFailure):
    """Too little GPU memory or pinnable host memory; fewer rows at once may fit."""


class Cuda(Protocol):
    """GPU operations that ``Belt`` needs. Work on a stream is asynchronous and in order."""

    def activate(self) -> None:
        """Make the context current in the calling thread, which the other calls require."""

    def host_array(self, size: int) -> Bytes:
        """Allocate ``size`` bytes of pinned host memory, which copies to and from the device asynchronously."""
        ...

    def free_host(self, array: Bytes) -> None: ...

    def device_memory(self, size: int) -> int:
        """Allocate ``size`` bytes on the device, aligned to 256; return the address."""
        ...

    def free_device(self, address: int) -> None: ...

    def new_stream(self) -> int: ...

    def free_stream(self, stream: int) -> None: ...

    def new_event(self) -> int: ...

    def free_event(self, event: int) -> None: ...

    def upload(self, to_device: int, from_host: int, size: int, stream: int) -> None: ...

    def download(self, to_host: int, from_device: int, size: int, stream: int) -> None: ...

    def record(self, event: int, stream: int) -> None:
        """Record the event on the stream: it completes when all work enqueued so far is done."""

    def wait(self, stream: int, event: int) -> None:
        """Make the stream wait for the event."""

    def synchronise(self, stream: int) -> None:
        """Wait until the stream is done."""

    def synchronise_event(self, event: int) -> None:
        """Wait until the event is complete."""

    def begin_recording(self, stream: int) -> None:
        """Start recording: work enqueued from now on is not run, but becomes a CUDA graph."""

    def end_recording(self, stream: int) -> int:
        """End recording and return the executable graph.

        It must also be called if recording has failed, and then raises an error itself.
        """
        ...

    def launch(self, recording: int, stream: int) -> None: ...

    def free_recording(self, recording: int) -> None: ...


class CudaDriver:
    """``Cuda`` on the driver API and the first visible GPU. Get it from ``open_cuda``."""

    def __init__(self) -> None:
        self._driver: Any = require("cuda.bindings.driver", "tensorrt")
        driver = self._driver
        try:
            _call_driver(driver, driver.cuInit, 0)
        except RuntimeError as error:  # raised by the bindings if the driver library is missing
            raise RuntimeFailure(f"no NVIDIA GPU here: {error}", fix="vidrisk doctor") from error
        # Held until the process ends: TensorRT works in the same context.
        self._context = _call_driver(
            driver, driver.cuDevicePrimaryCtxRetain, _call_driver(driver, driver.cuDeviceGet, 0)
        )
        self._own_stream_flag = int(driver.CUstream_flags.CU_STREAM_NON_BLOCKING)
        self._event_flag = int(driver.CUevent_flags.CU_EVENT_DISABLE_TIMING)
        # Lets other threads allocate while this one records.
        self._recording_mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL

    def activate(self) -> None:
        _call_driver(self._driver, self._driver.cuCtxSetCurrent, self._context)

    def host_array(self, size: int) -> Bytes:
        address = int(_call_driver(self._driver, self._driver.cuMemHostAlloc, size, 0))
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def free_host(self, array: Bytes) -> None:
        self._free(self._driver.cuMemFreeHost, array.ctypes.data)

    def device_memory(self, size: int) -> int:
        return int(_call_driver(self._driver, self._driver.cuMemAlloc, size))

    def free_device(self, address: int) -> None:
        self._free(self._driver.cuMemFree, address)

    def new_stream(self) -> int:
        return int(_call_driver(self._driver, self._driver.cuStreamCreate, self._own_stream_flag))

    def free_stream(self, stream: int) -> None:
        self._free(self._driver.cuStreamDestroy, stream)

    def new_event(self) -> int:
        return int(_call_driver(self._driver, self._driver.cuEventCreate, self._event_flag))

    def free_event(self, event: int) -> None:
        self._free(self._driver.cuEventDestroy, event)

    def upload(self, to_device: int, from_host: int, size: int, stream: int) -> None:
        _call_driver(self._driver, self._driver.cuMemcpyHtoDAsync, to_device, from_host, size, stream)

    def download(self, to_host: int, from_device: int, size: int, stream: int) -> None:
        _call_driver(self._driver, self._driver.cuMemcpyDtoHAsync, to_host, from_device, size, stream)

    def record(self, event: int, stream: int) -> None:
        _call_driver(self._driver, self._driver.cuEventRecord, event, stream)

    def wait(self, stream: int, event: int) -> None:
        _call_driver(self._driver, self._driver.cuStreamWaitEvent, stream, event, 0)

    def synchronise(self, stream: int) -> None:
        _call_driver(self._driver, self._driver.cuStreamSynchronize, stream)

    def synchronise_event(self, event: int) -> None:
        _call_driver(self._driver, self._driver.cuEventSynchronize, event)

    def begin_recording(self, stream: int) -> None:
        _call_driver(self._driver, self._driver.cuStreamBeginCapture, stream, self._recording_mode)

    def end_recording(self, stream: int) -> int:
        graph = _call_driver(self._driver, self._driver.cuStreamEndCapture, stream)
        try:
            return int(_call_driver(self._driver, self._driver.cuGraphInstantiate, graph, 0))
        finally:
            self._free(self._driver.cuGraphDestroy, graph)

    def launch(self, recording: int, stream: int) -> None:
        _call_driver(self._driver, self._driver.cuGraphLaunch, recording, stream)

    def free_recording(self, recording: int) -> None:
        self._free(self._driver.cuGraphExecDestroy, recording)

    def _free(self, function: Callable[..., tuple[Any, ...]], handle: Any) -> None:
        """Free a resource, ignoring errors: after a device failure nothing can be freed any more."""
        try:
            _call_driver(self._driver, function, handle)
        except RuntimeFailure as error:
            log.debug("not freed: %s", error)


@functools.cache
def open_cuda() -> CudaDriver:
    """Return the driver API of this process's GPU.

    Raises:
        MissingExtra: cuda-python is not installed.
        RuntimeFailure: no driver, no GPU, or a failing one.
    """
    return CudaDriver()


def _call_driver(driver: Any, function: Callable[..., tuple[Any, ...]], *arguments: Any) -> Any:
    """Call a driver function and return its result, or None if it has none.

    Raises:
        OutOfMemory: out of memory.
        RuntimeFailure: any other error.
    """
    status, *answers = function(*arguments)
    if status == driver.CUresult.CUDA_SUCCESS:
        return answers[0] if answers else None
    kind = OutOfMemory if status == driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY else RuntimeFailure
    _, words = driver.cuGetErrorString(status)
    raise kind(f"{function.__name__}: {words.decode() if words else status.name}", fix="vidrisk doctor")
