"""Tests of driver calls without a GPU: they fit the bindings, and their failures become errors of vidrisk."""

from __future__ import annotations

import inspect
from enum import Enum
from types import SimpleNamespace

import numpy as np
import pytest

from vidrisk.runtimes.contract.errors import RuntimeFailure
from vidrisk.runtimes.gpu import visible_gpu
from vidrisk.runtimes.tensorrt import cuda
from vidrisk.runtimes.tensorrt.cuda import Cuda, CudaDriver, OutOfMemory, open_cuda

driver = pytest.importorskip("cuda.bindings.driver")


class Result(Enum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_ILLEGAL_ADDRESS = 700


DRIVER = SimpleNamespace(
    CUresult=Result, cuGetErrorString=lambda status: (0, b"in words" if status.value == 700 else None)
)


def cuSomething(status: Result, *answers: int) -> tuple[object, ...]:
    return status, *answers


def test_answers_and_failures() -> None:
    assert cuda._call_driver(DRIVER, cuSomething, Result.CUDA_SUCCESS, 3) == 3
    assert cuda._call_driver(DRIVER, cuSomething, Result.CUDA_SUCCESS) is None
    with pytest.raises(OutOfMemory, match=r"^cuSomething: CUDA_ERROR_OUT_OF_MEMORY"):
        cuda._call_driver(DRIVER, cuSomething, Result.CUDA_ERROR_OUT_OF_MEMORY)
    with pytest.raises(RuntimeFailure, match=r"^cuSomething: in words") as caught:
        cuda._call_driver(DRIVER, cuSomething, Result.CUDA_ERROR_ILLEGAL_ADDRESS)
    assert not isinstance(caught.value, OutOfMemory)


@pytest.fixture
def without_gpu() -> CudaDriver:
    if visible_gpu():
        pytest.skip("there is a GPU")
    made = CudaDriver.__new__(CudaDriver)
    made._driver, made._context, made._own_stream_flag, made._event_flag = driver, 0, 1, 2
    made._recording_mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    return made


@pytest.mark.parametrize("method", [name for name in vars(Cuda) if not name.startswith("_")])
def test_every_call_fits_the_bindings(without_gpu: CudaDriver, method: str) -> None:
    """The bindings check the arguments before they look for the driver's library."""
    function = getattr(without_gpu, method)
    takes = inspect.signature(function).parameters.values()
    arguments = [np.zeros(8, np.uint8) if "Bytes" in str(parameter.annotation) else 4096 for parameter in takes]
    with pytest.raises(RuntimeError, match="driver library"):
        function(*arguments)


def test_without_a_driver_it_is_one_line() -> None:
    if visible_gpu():
        pytest.skip("there is a GPU")
    with pytest.raises(RuntimeFailure, match=r"^no NVIDIA GPU here: .*; fix: vidrisk doctor$") as caught:
        open_cuda()
    assert len(str(caught.value).splitlines()) == 1
