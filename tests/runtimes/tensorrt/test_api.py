"""Tests of the common interface of the three TensorRTs.

TensorRT for RTX is real. For TensorRT only the type stubs are installed: a fake module stands for its behaviour, and
the stubs for its names.
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import logging
import os
import re
import subprocess
import sys
import textwrap
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vidrisk.runtimes.contract.errors import MissingExtra, RuntimeFailure, SettingsError
from vidrisk.runtimes.tensorrt import api as api_module
from vidrisk.runtimes.tensorrt.api import Api, find_installed_kinds, open_api

ROOT = Path(__file__).parents[3]
REQUIRED = os.environ.get("VIDRISK_REQUIRE_TRT") == "1"  # then a test fails rather than be skipped
needs_rtx = pytest.mark.skipif(
    "tensorrt-rtx" not in find_installed_kinds() and not REQUIRED,
    reason="TensorRT for RTX is not installed: pip install 'vidrisk[tensorrt-rtx]'",
)
needs_stubs = pytest.mark.skipif(
    not REQUIRED and importlib.util.find_spec("tensorrt_stubs") is None,
    reason="the stubs of TensorRT are not installed: pip install tensorrt-stubs",
)
WHO_TALKS_TO_TENSORRT = "runtimes/tensorrt"


def fake_api(kind: Any, **members: Any) -> Api:
    return Api(kind, "10.3.0", SimpleNamespace(**members), None, deque(maxlen=8))


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Return a Python environment without NVIDIA packages, except those that a test puts into ``tmp_path``."""
    own = [entry for entry in sys.path if "site-packages" not in entry and "dist-packages" not in entry]
    monkeypatch.setattr(sys, "path", [str(tmp_path), *own])
    monkeypatch.setattr(api_module, "_load", api_module._load.__wrapped__)
    for name in ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.fixture
def install(alone: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Install a package ``tensorrt`` with this code as the only TensorRT."""

    def install(code: str, file: str = "__init__.py") -> None:
        (tmp_path / "tensorrt").mkdir()
        (tmp_path / "tensorrt" / file).write_text(code, encoding="utf-8")
        monkeypatch.setitem(sys.modules, "tensorrt", None)  # noted, so that it goes again
        del sys.modules["tensorrt"]
        importlib.invalidate_caches()

    return install


@pytest.mark.usefixtures("alone")
def test_nothing_is_installed() -> None:
    assert find_installed_kinds() == ()
    with pytest.raises(
        RuntimeFailure, match=r"neither TensorRT nor TensorRT for RTX is installed; fix: .*system-site-packages"
    ):
        open_api()
    with pytest.raises(
        RuntimeFailure, match=r"TensorRT is not installed, or not for this Python; fix: .*--system-site-packages"
    ):
        open_api("tensorrt")
    with pytest.raises(
        MissingExtra, match=r"tensorrt_rtx is not installed; fix: pip install 'vidrisk\[tensorrt-rtx\]'"
    ):
        open_api("tensorrt-rtx")


def test_type_stubs_are_no_tensorrt(install: Callable[..., None]) -> None:
    install("class Builder: ...", "__init__.pyi")
    assert importlib.util.find_spec("tensorrt") is not None
    assert find_installed_kinds() == ()


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (
            "__version__ = '8.6.1'\nBuilder = object",
            "TensorRT 8.6.1 is too old; allowed: 10.3 or later; fix: JetPack 6.1",
        ),
        ("__version__ = '10.2.0'\nBuilder = object", "TensorRT 10.2.0 is too old"),
        ("__version__ = '10.3.0'", "is not a complete TensorRT"),
        ("Builder = object", "is not a complete TensorRT"),
        ("raise ImportError('libnvinfer.so.10: cannot open shared object file')", "does not load: libnvinfer.so.10"),
        ("import ctypes\nctypes.CDLL('libnvinfer.so.99')", "does not load: libnvinfer.so.99"),
    ],
)
def test_a_tensorrt_that_cannot_be_used(install: Callable[..., None], code: str, says: str) -> None:
    install(code)
    assert find_installed_kinds() == ("tensorrt",)
    kinds: tuple[Any, ...] = (None, "tensorrt")
    for kind in kinds:
        with pytest.raises(RuntimeFailure, match=says):
            open_api(kind)


@pytest.mark.parametrize("version", ["10.3.0", "10.13.3.9", "11.0.0"])
def test_a_tensorrt_that_can(install: Callable[..., None], version: str) -> None:
    install(f"""
__version__ = {version + ".post1"!r}
class Builder: pass
class ILogger:
    class Severity:
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)
""")
    api = open_api()
    assert (api.kind, api.version, api.compute_capabilities, api.keeps_timings) == ("tensorrt", version, (), True)
    with pytest.raises(
        SettingsError, match=r"tensorrt builds for the GPU that it runs on, not for 8\.6; fix: .*tensorrt-rtx"
    ):
        api.check_compute_capabilities(("8.6",))


def test_networks_are_strongly_typed_by_a_flag_or_by_nature() -> None:
    builder: Any = SimpleNamespace(create_network=lambda flags: flags)
    ten = fake_api("tensorrt", NetworkDefinitionCreationFlag=SimpleNamespace(EXPLICIT_BATCH=0, STRONGLY_TYPED=1))
    eleven = fake_api("tensorrt", NetworkDefinitionCreationFlag=SimpleNamespace())
    flags: list[Any] = [ten.new_network(builder), eleven.new_network(builder)]
    assert flags == [2, 0]


def test_portable_engines_bring_code_that_is_allowed_for_them_alone() -> None:
    runtimes: list[Any] = []

    def make(logger: Any) -> Any:
        runtimes.append(SimpleNamespace(deserialize_cuda_engine=lambda blob: "engine", engine_host_code_allowed=False))
        return runtimes[-1]

    for kind, portable, allowed in (
        ("tensorrt", True, True),
        ("tensorrt", False, False),
        ("tensorrt-rtx", True, False),
    ):
        engine: Any = fake_api(kind, Runtime=make).load_engine(b"", portable=portable)
        assert (engine, runtimes[-1].engine_host_code_allowed) == ("engine", allowed)


def test_a_failure_quotes_tensorrt_once_and_forgets() -> None:
    api = fake_api("tensorrt")
    api.errors.extend(["Error Code 2: OutOfMemory (Requested size was 34 bytes.)", "cudaError 35: driver", "so", "so"])
    assert api.out_of_memory
    assert str(api.failure("it")) == "it: Error Code 2: OutOfMemory (Requested size was 34 bytes.); so"
    assert str(api.failure("it")) == "it: tensorrt does not say why" and not api.out_of_memory


@needs_rtx
def test_tensorrt_for_rtx_opens_once() -> None:
    api = open_api("tensorrt-rtx")
    assert api is open_api("tensorrt-rtx") and api.kind == "tensorrt-rtx"
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.\d+)?", api.version)
    assert {"8.6", "8.9", "12.0"} <= set(api.compute_capabilities) and not api.keeps_timings
    with pytest.raises(SettingsError, match=r"cannot build for compute capability 8\.7; allowed: .*8\.6, 8\.9"):
        api.check_compute_capabilities(("8.6", "8.7"))


@needs_rtx
def test_what_tensorrt_says_is_logged_and_quoted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    api = open_api("tensorrt-rtx")
    api.errors.clear()
    (tmp_path / "no.onnx").write_bytes(b"no graph")
    builder = api.new_builder()
    network = api.new_network(builder)
    with caplog.at_level(logging.DEBUG, logger=api_module.__name__):
        assert not api.new_parser(network).parse_from_file(str(tmp_path / "no.onnx"))
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}
    said = str(api.failure("parsing"))
    assert "Failed to parse the ONNX model" in said and not api.errors


@needs_rtx
def test_the_library_is_found_without_onnx_runtime() -> None:
    code = """
        import sys
        from vidrisk.runtimes.tensorrt.api import find_installed_kinds, open_api
        assert "tensorrt-rtx" in find_installed_kinds() and "tensorrt_rtx_bindings" not in sys.modules
        api = open_api("tensorrt-rtx")
        assert api.new_builder()
        assert not {"onnxruntime", "onnxruntime_ep_nv_tensorrt_rtx", "onnx", "torch"} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, cwd=ROOT, timeout=60)


def names_asked_for() -> set[tuple[str, ...]]:
    """Return the names in the code that calls TensorRT.

    ``trt.A.B`` and ``self.trt.A.B`` are ("A", "B"), ``trt.A`` is ("A",).
    """
    found: set[tuple[str, ...]] = set()
    for path in sorted((ROOT / WHO_TALKS_TO_TENSORRT).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            words: list[str] = []
            while isinstance(node, ast.Attribute):
                words.insert(0, node.attr)
                node = node.value
            words = (
                words[1:] if words[:1] == ["trt"] else words if isinstance(node, ast.Name) and node.id == "trt" else []
            )
            if words and words[0][:1].isupper():
                found.add(tuple(words[:2]))
    return found


# What one of the three has and another has not; asked for by its kind alone.
ONLY_RTX = {"ComputeCapability", "CudaGraphStrategy"}


@needs_rtx
def test_tensorrt_for_rtx_has_every_name() -> None:
    trt = open_api("tensorrt-rtx").trt
    names = names_asked_for()
    assert len(names) > 10 and ("BuilderFlag", "TF32") in names
    for words in names:
        found = trt
        for word in words:
            assert hasattr(found, word), words
            found = getattr(found, word)


def mended_stubs(folder: Path) -> Path:
    """Return the stubs of TensorRT 10 in a form that a type checker can read.

    In the published form, parameters are named ``in``, and a constant ``bool``.
    """
    files = [file for file in importlib.metadata.files("tensorrt-stubs") or () if file.suffix == ".pyi"]
    assert files
    for file in files:
        text = Path(str(file.locate())).read_text(encoding="utf-8")
        text = re.sub(r"\bin: ", "in_: ", text).replace("\nbool: DataType", "\nbool_: DataType")
        text = text.replace("channel_axis: int) -> IScaleLayer", "channel_axis: int = 0) -> IScaleLayer")
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text, encoding="utf-8")
    return folder


@needs_stubs
def test_tensorrt_10_has_every_name(tmp_path: Path) -> None:
    (stub,) = mended_stubs(tmp_path).glob("tensorrt_bindings/tensorrt.pyi")
    tree = ast.parse(stub.read_text(encoding="utf-8"))
    classes = {node.name: ast.unparse(node) for node in tree.body if isinstance(node, ast.ClassDef)}
    missing = [
        words
        for words in names_asked_for()
        if words[0] not in ONLY_RTX
        and not (words[0] in classes and all(re.search(rf"\b{word}\b", classes[words[0]]) for word in words[1:]))
    ]
    assert missing == []


@pytest.mark.slow
@needs_stubs
def test_the_types_are_those_of_tensorrt_10(tmp_path: Path) -> None:
    """mypy --strict checks the code that calls TensorRT against its stubs."""
    mended_stubs(tmp_path / "stubs")
    (tmp_path / "mypy.ini").write_text(
        textwrap.dedent("""
        [mypy]
        strict = True
        plugins = pydantic.mypy
        follow_imports = silent
        [mypy-tensorrt.*,tensorrt_bindings.*,tensorrt_libs.*,cuda.*]
        ignore_errors = True
        ignore_missing_imports = True
    """)
    )
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file",
        str(tmp_path / "mypy.ini"),
        "--cache-dir",
        str(tmp_path / "cache"),
        "-pvidrisk.runtimes.tensorrt",
    ]
    ended = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": str(tmp_path / "stubs")},
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
