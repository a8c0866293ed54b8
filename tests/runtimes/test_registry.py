"""Tests of the list of usable runtimes, which depends on the hardware first, and then on libraries."""

from __future__ import annotations

from pathlib import Path

import pytest

from vidrisk.runtimes import registry
from vidrisk.runtimes.contract.bundle import Bundle
from vidrisk.runtimes.contract.errors import RuntimeFailure, VidriskError
from vidrisk.runtimes.gpu import visible_gpu
from vidrisk.runtimes.registry import (
    BUNDLE_RUNTIMES,
    GPU_RUNTIMES,
    engine_version,
    exact_runtimes,
    file_runtimes,
    installed_runtimes,
    possible_runtimes,
)
from vidrisk.runtimes.tensorrt.api import KINDS


def test_without_a_gpu_no_runtime_of_one_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "visible_gpu", lambda: None)
    monkeypatch.setattr(registry, "has_provider", lambda runtime: True)
    monkeypatch.setattr(registry, "find_installed_kinds", lambda: KINDS)
    for found in (possible_runtimes(), installed_runtimes(), exact_runtimes(), file_runtimes()):
        assert set(found) == {"onnxruntime", "openvino"}


def test_with_a_gpu_it_is_a_question_of_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "visible_gpu", lambda: "Orin, CUDA 12.6")
    monkeypatch.setattr(registry, "has_provider", lambda runtime: True)
    monkeypatch.setattr(registry, "find_installed_kinds", lambda: ("tensorrt",))
    assert possible_runtimes() == tuple(BUNDLE_RUNTIMES)
    assert installed_runtimes() == tuple(name for name in BUNDLE_RUNTIMES if name != "tensorrt-rtx")
    assert exact_runtimes() == ("onnxruntime", "openvino", "tensorrt", "onnxruntime-cuda")
    assert file_runtimes() == ("onnxruntime", "openvino", "onnxruntime-cuda")
    monkeypatch.setattr(registry, "has_provider", lambda runtime: False)
    monkeypatch.setattr(registry, "find_installed_kinds", lambda: ())
    assert installed_runtimes() == ("onnxruntime", "openvino")


def test_a_driver_that_is_not_there_has_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidrisk.runtimes.gpu.DRIVER", "libcuda.so.nowhere")
    assert visible_gpu.__wrapped__() is None


@pytest.mark.parametrize("runtime", GPU_RUNTIMES)
def test_runtimes_of_a_gpu_say_in_a_line_why_they_do_not_run(
    runtime: str, onnx_files: dict[str, Path], graphs: dict
) -> None:
    if visible_gpu():
        pytest.skip("there is a GPU")
    with pytest.raises(VidriskError, match="fix: ") as caught:
        BUNDLE_RUNTIMES[runtime](onnx_files["encoder"], graphs["encoder"].inputs, graphs["encoder"].outputs, threads=1)
    assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 300


def test_versions_are_those_of_the_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime
    import openvino

    assert engine_version("onnxruntime") == engine_version("onnxruntime-cuda") == onnxruntime.__version__
    assert openvino.__version__.startswith(engine_version("openvino") or "none")

    def fails(kind: str) -> None:
        raise RuntimeFailure("does not load")

    monkeypatch.setattr(registry, "open_api", fails)
    assert engine_version("tensorrt") is None and engine_version("no such runtime") is None


def test_the_version_of_tensorrt_for_rtx() -> None:
    pytest.importorskip("onnxruntime_ep_nv_tensorrt_rtx")
    assert (engine_version("tensorrt-rtx") or "").count(".") >= 2


def test_the_default_runtime_is_on_the_processor(make_bundle) -> None:
    bundle: Bundle = make_bundle()
    graph = bundle.manifest.stage("encoder")
    with BUNDLE_RUNTIMES["onnxruntime"](bundle.path("encoder", "fp32"), graph.inputs, graph.outputs) as runner:
        assert runner.runtime == "onnxruntime" and runner._session.get_providers() == ["CPUExecutionProvider"]
