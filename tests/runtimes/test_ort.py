"""Tests of ONNX Runtime's GPU providers, as far as possible without a GPU: options, and forbidden fallbacks."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vidrisk.runtimes import Stage, ort
from vidrisk.runtimes.contract.errors import MissingExtra, RuntimeFailure
from vidrisk.runtimes.ort import PROVIDERS, OnnxRuntimeRunner, has_provider


class Session:
    """An ``InferenceSession`` that reports the providers that it took."""

    taken: tuple[str, ...] = ()

    def __init__(self, path: str, options: Any, **settings: Any) -> None:
        self.path, self.settings = path, settings

    def get_providers(self) -> list[str]:
        return list(self.taken)


@pytest.fixture
def gpu_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[Session]:
    """Replace ONNX Runtime by a package like onnxruntime-gpu, and return its session type.

    It has all providers, prints what is missing, and takes those in ``Session.taken``.
    """
    monkeypatch.setenv("VIDRISK_CACHE", str(tmp_path / "cache"))
    session = type("Taken", (Session,), {})
    package = SimpleNamespace(
        __version__="1.99",
        InferenceSession=session,
        SessionOptions=lambda: SimpleNamespace(add_session_config_entry=lambda key, value: None),
        get_available_providers=lambda: list(PROVIDERS["onnxruntime-tensorrt"]),
        preload_dlls=lambda: print("libcudnn.so.9!"),
        disable_telemetry_events=lambda: None,
    )
    monkeypatch.setattr(ort, "require", lambda module, extra: package)
    return session


def open_runner(graph: Stage, runtime: str, path: str = "encoder.fp32.onnx") -> OnnxRuntimeRunner:
    return OnnxRuntimeRunner(Path(path), graph.inputs, graph.outputs, runtime=runtime)


@pytest.mark.parametrize("runtime", ["onnxruntime-cuda", "onnxruntime-tensorrt"])
def test_a_quiet_fall_back_to_the_processor_is_an_error(
    graphs: dict[str, Stage], gpu_package: type[Session], capsys: pytest.CaptureFixture[str], runtime: str
) -> None:
    gpu_package.taken = PROVIDERS[runtime][1:]
    with pytest.raises(
        RuntimeFailure, match=rf"{PROVIDERS[runtime][0]} does not load here.*; fix: install what onnxruntime-gpu"
    ):
        open_runner(graphs["encoder"], runtime)
    assert capsys.readouterr().out == ""
    gpu_package.taken = PROVIDERS[runtime]
    runner = open_runner(graphs["encoder"], runtime)
    assert runner.runtime == runtime and has_provider(runtime)
    assert runner._session.settings["enable_fallback"] == 0
    assert [name for name, _ in runner._session.settings["providers"]] == list(PROVIDERS[runtime])


def test_a_variant_is_not_rounded_further(graphs: dict[str, Stage], gpu_package: type[Session], tmp_path: Path) -> None:
    gpu_package.taken = PROVIDERS["onnxruntime-tensorrt"]
    for name, fp16, int8 in (
        ("fp32", "0", "0"),
        ("fp16", "1", "0"),
        ("int8", "1", "1"),
        ("mixed", "1", "1"),
        ("int8-tensorrt", "1", "1"),
        ("", "0", "0"),
    ):
        runner = open_runner(graphs["encoder"], "onnxruntime-tensorrt", f"encoder.{name}.onnx" if name else "encoder")
        (_, options), (_, cuda), (_, nothing) = runner._session.settings["providers"]
        assert (options["trt_fp16_enable"], options["trt_int8_enable"]) == (fp16, int8)
        assert options["trt_profile_max_shapes"] == "frames:64x8x8x3" and cuda == {"use_tf32": "0"} and nothing == {}
        assert (
            Path(options["trt_engine_cache_path"]).is_relative_to(tmp_path)
            and options["trt_engine_cache_enable"] == "1"
        )


def test_a_package_without_the_provider_is_named(graphs: dict[str, Stage]) -> None:
    if has_provider("onnxruntime-cuda"):
        pytest.skip("onnxruntime-gpu is installed")
    said = r"was built without its CUDAExecutionProvider; fix: .*pip install 'vidrisk\[gpu\]'"
    with pytest.raises(RuntimeFailure, match=said):
        open_runner(graphs["encoder"], "onnxruntime-cuda")


def test_without_onnxruntime_there_is_no_provider(graphs: dict[str, Stage], monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str, extra: str) -> None:
        raise MissingExtra(module, extra)

    monkeypatch.setattr(ort, "require", missing)
    assert not has_provider("onnxruntime-cuda")
    with pytest.raises(MissingExtra, match=r"pip install 'vidrisk\[gpu\]'"):
        open_runner(graphs["encoder"], "onnxruntime-cuda")
