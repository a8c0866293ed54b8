"""The few CUDA calls that running an engine takes, through ``cuda-python``; every failure becomes one of ours.

They are those of the driver, not of the CUDA runtime that ``cuda-python`` carries: that one refuses a driver older than
itself, and a Jetson keeps the driver of its JetPack. Addresses and handles are plain integers, as TensorRT takes them.
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
    """The GPU's memory, or what may be pinned of the host's, does not suffice: fewer rows at once may."""


class Cuda(Protocol):
    """What ``Belt`` needs of a GPU. Work that is given to a stream runs later, in order within the stream."""

    def activate(self) -> None:
        """Let the calling thread make the other calls."""

    def host_array(self, size: int) -> Bytes:
        """``size`` bytes of pinned memory of the host: a copy between it and the device runs beside everything else."""
        ...

    def free_host(self, array: Bytes) -> None: ...

    def device_memory(self, size: int) -> int:
        """Address of ``size`` bytes of the device, aligned to 256."""
        ...

    def free_device(self, address: int) -> None: ...

    def new_stream(self) -> int: ...

    def free_stream(self, stream: int) -> None: ...

    def new_event(self) -> int: ...

    def free_event(self, event: int) -> None: ...

    def upload(self, to_device: int, from_host: int, size: int, stream: int) -> None: ...

    def download(self, to_host: int, from_device: int, size: int, stream: int) -> None: ...

    def record(self, event: int, stream: int) -> None:
        """The event comes once all that the stream has been given until now is done."""

    def wait(self, stream: int, event: int) -> None:
        """The stream goes on once the event has come."""

    def synchronise(self, stream: int) -> None:
        """Return once the stream is done."""

    def synchronise_event(self, event: int) -> None:
        """Return once the event has come."""

    def begin_recording(self, stream: int) -> None:
        """What the stream is given from now on is not run, but becomes a CUDA graph."""

    def end_recording(self, stream: int) -> int:
        """The graph, ready to be launched. Also to be called when what was recorded has failed, and will then fail itself."""
        ...

    def launch(self, recording: int, stream: int) -> None: ...

    def free_recording(self, recording: int) -> None: ...


class CudaDriver:
    """``Cuda`` by the driver, on the first GPU that it shows to this process. Get it from ``open_cuda``."""

    def __init__(self) -> None:
        self._driver: Any = require("cuda.bindings.driver", "tensorrt")
        driver = self._driver
        try:
            _asked(driver, driver.cuInit, 0)
        except RuntimeError as error:  # the bindings' word for a driver's library that is not there
            raise RuntimeFailure(f"no NVIDIA GPU here: {error}", fix="vidrisk doctor") from error
        # Held until the process ends: TensorRT works in the same context.
        self._context = _asked(driver, driver.cuDevicePrimaryCtxRetain, _asked(driver, driver.cuDeviceGet, 0))
        self._own_stream_flag = int(driver.CUstream_flags.CU_STREAM_NON_BLOCKING)
        self._event_flag = int(driver.CUevent_flags.CU_EVENT_DISABLE_TIMING)
        # Other threads may allocate while this one records.
        self._recording_mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL

    def activate(self) -> None:
        _asked(self._driver, self._driver.cuCtxSetCurrent, self._context)

    def host_array(self, size: int) -> Bytes:
        address = int(_asked(self._driver, self._driver.cuMemHostAlloc, size, 0))
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def free_host(self, array: Bytes) -> None:
        self._freed(self._driver.cuMemFreeHost, array.ctypes.data)

    def device_memory(self, size: int) -> int:
        return int(_asked(self._driver, self._driver.cuMemAlloc, size))

    def free_device(self, address: int) -> None:
        self._freed(self._driver.cuMemFree, address)

    def new_stream(self) -> int:
        return int(_asked(self._driver, self._driver.cuStreamCreate, self._own_stream_flag))

    def free_stream(self, stream: int) -> None:
        self._freed(self._driver.cuStreamDestroy, stream)

    def new_event(self) -> int:
        return int(_asked(self._driver, self._driver.cuEventCreate, self._event_flag))

    def free_event(self, event: int) -> None:
        self._freed(self._driver.cuEventDestroy, event)

    def upload(self, to_device: int, from_host: int, size: int, stream: int) -> None:
        _asked(self._driver, self._driver.cuMemcpyHtoDAsync, to_device, from_host, size, stream)

    def download(self, to_host: int, from_device: int, size: int, stream: int) -> None:
        _asked(self._driver, self._driver.cuMemcpyDtoHAsync, to_host, from_device, size, stream)

    def record(self, event: int, stream: int) -> None:
        _asked(self._driver, self._driver.cuEventRecord, event, stream)

    def wait(self, stream: int, event: int) -> None:
        _asked(self._driver, self._driver.cuStreamWaitEvent, stream, event, 0)

    def synchronise(self, stream: int) -> None:
        _asked(self._driver, self._driver.cuStreamSynchronize, stream)

    def synchronise_event(self, event: int) -> None:
        _asked(self._driver, self._driver.cuEventSynchronize, event)

    def begin_recording(self, stream: int) -> None:
        _asked(self._driver, self._driver.cuStreamBeginCapture, stream, self._recording_mode)

    def end_recording(self, stream: int) -> int:
        graph = _asked(self._driver, self._driver.cuStreamEndCapture, stream)
        try:
            return int(_asked(self._driver, self._driver.cuGraphInstantiate, graph, 0))
        finally:
            self._freed(self._driver.cuGraphDestroy, graph)

    def launch(self, recording: int, stream: int) -> None:
        _asked(self._driver, self._driver.cuGraphLaunch, recording, stream)

    def free_recording(self, recording: int) -> None:
        self._freed(self._driver.cuGraphExecDestroy, recording)

    def _freed(self, function: Callable[..., tuple[Any, ...]], handle: Any) -> None:
        """After a failure of the device nothing can be freed any more; who is cleaning up cannot help that."""
        try:
            _asked(self._driver, function, handle)
        except RuntimeFailure as error:
            log.debug("not freed: %s", error)


@functools.cache
def open_cuda() -> CudaDriver:
    """The GPU of this process.

    Raises:
        MissingExtra: cuda-python is not installed.
        RuntimeFailure: no driver, no GPU, or one that fails.
    """
    return CudaDriver()


def _asked(driver: Any, function: Callable[..., tuple[Any, ...]], *arguments: Any) -> Any:
    """Call the driver: its one answer, or None.

    Raises:
        OutOfMemory: it says so.
        RuntimeFailure: it says anything else but yes.
    """
    status, *answers = function(*arguments)
    if status == driver.CUresult.CUDA_SUCCESS:
        return answers[0] if answers else None
    kind = OutOfMemory if status == driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY else RuntimeFailure
    _, words = driver.cuGetErrorString(status)
    raise kind(f"{function.__name__}: {words.decode() if words else status.name}", fix="vidrisk doctor")
