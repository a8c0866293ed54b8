"""Fixtures and settings for all tests, with small real models.

The models have the architectures of the supported families and random weights, and are saved as users save
them.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import json
import os
import shutil
import signal
import sys
import types
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from backbones import BACKBONES, EMBEDDED, SIDE_PX, WINDOW
from hypothesis import settings

from vidrisk.runtimes.contract.errors import MissingExtra
from vidrisk.runtimes.gpu import visible_gpu

# Where it is set, each of the thousands of processes that tests start compiles the modules that it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
os.environ["HF_HUB_OFFLINE"] = "1"  # an unknown backbone must fail at once, not after asking a network
if "PYTEST_XDIST_WORKER" in os.environ:  # as many workers as cores: threads of torch would wait for one another
    os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("untimed", deadline=None)  # how long an example takes is the machine's business
settings.load_profile("untimed")

MINUTES_PER_TEST = 0.02  # of a file, beside what its slow ones are marked with


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the tests so that the files that take longest run first.

    A long file at the end would make every process but one wait for it.
    """
    marked: dict[Path, float] = {}
    for item in items:
        for marker in item.iter_markers("slow"):
            marked[item.path] = max(marked.get(item.path, 0), marker.kwargs.get("minutes", 1))
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: -marked.get(item.path, 0) - MINUTES_PER_TEST * tests[item.path])


def pytest_collection_finish() -> None:
    """Exclude imported objects from garbage collection, which would scan them again and again.

    The scans take a tenth of the time of an export.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Set a temporary cache folder, so that no test reads or writes the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIDRISK_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def no_gpu() -> Iterator[None]:
    """Hide the GPU, so that no test measures or gates on it by accident.

    Tests marked ``gpu`` request ``real_gpu``.
    """
    with pytest.MonkeyPatch.context() as patch:
        for module in ("registry", "select"):
            patch.setattr(f"vidrisk.runtimes.{module}.visible_gpu", lambda: None)
        yield


@pytest.fixture
def shellcheck() -> str:
    """Return the path of the ``shellcheck`` program.

    Where it is not installed, tests of scripts are skipped, or fail if it is required.
    """
    program = shutil.which("shellcheck")
    if not program:
        message = "shellcheck is not installed: apt-get install shellcheck"
        if os.environ.get("VIDRISK_REQUIRE_SHELLCHECK") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return program


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """Return SmolLM2-135M-Instruct as a Hugging Face folder.

    The folder is created in ten seconds, once per test process.
    """
    from vidrisk.models.vlm import smollm2

    try:
        return smollm2.smollm2_folder()
    except MissingExtra as error:
        if os.environ.get("VIDRISK_REQUIRE_SMOLLM2") == "1":
            pytest.fail(f"{error}, and VIDRISK_REQUIRE_SMOLLM2=1")
        pytest.skip(str(error))


@pytest.fixture
def real_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("registry", "select"):
        monkeypatch.setattr(f"vidrisk.runtimes.{module}.visible_gpu", visible_gpu)


@pytest.fixture(scope="session")
def backbone_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that creates a folder for a model type, as ``save_pretrained`` writes it.

    The models have images of 64 px, patches of 16 px, width 64 and 3 layers.
    """
    root = tmp_path_factory.mktemp("backbones")

    @functools.cache
    def make(family: str) -> Path:
        import torch
        import transformers

        backbone = BACKBONES[family]
        folder = root / family
        torch.manual_seed(0)
        config: Any = getattr(transformers, backbone.config_class)(**backbone.sizes)
        model = getattr(transformers, backbone.model_class)(config)
        for name, parameter in model.named_parameters():
            if name.endswith(("position_embeddings", "time_embeddings")) and not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02)  # as trained: some begin at zero, and tell nothing apart
        model.save_pretrained(folder)
        described = {
            "image_processor_type": backbone.processor,
            "image_mean": backbone.mean,
            "image_std": backbone.std,
            "resample": 3,
            "size": {"height": SIDE_PX, "width": SIDE_PX},
            **backbone.processing,
        }
        (folder / backbone.preprocessor).write_text(json.dumps(described), encoding="utf-8")
        return folder

    return make


@pytest.fixture(scope="session")
def adapted_encoder(backbone_folder: Callable[[str], Path]) -> Callable[[str], Any]:
    """Return a function that builds a fresh encoder with LoRA for a model type or ``efficientnet-lite0``.

    The matrix B of LoRA is not zero, so that merging matters.
    """

    def make(family: str) -> Any:
        import torch

        from vidrisk.models.config import LoraSettings
        from vidrisk.models.encoders import build_encoder
        from vidrisk.models.lora import add_lora

        embedded = family == EMBEDDED
        encoder = build_encoder(
            family if embedded else str(backbone_folder(family)),
            pixel={"height": SIDE_PX, "width": SIDE_PX} if embedded else None,
            frames=WINDOW if family in BACKBONES and BACKBONES[family].sees_windows else 1,
        )
        add_lora(encoder, LoraSettings(rank=4, alpha=8, last_blocks=2))
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in encoder.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.05, generator=generator)
        return encoder.eval()

    return make


@pytest.fixture(scope="session")
def exported_encoder(
    adapted_encoder: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Any]:
    """Return a function that gives the merged encoder of a family and its ONNX file.

    Every family is exported once, because the exporter takes seconds each time.
    """
    folder = tmp_path_factory.mktemp("encoders")

    @functools.cache
    def make(family: str) -> Any:
        from exported import export_encoder

        return export_encoder(adapted_encoder(family), folder / f"{family}.onnx")

    return make


@pytest.fixture(scope="session")
def clips() -> Callable[..., npt.NDArray[np.uint8]]:
    """Return a function that creates clips ``uint8 (N, T, H, W, 3)`` that differ from one another.

    Every clip has a colour, a bright bar that moves, and noise.
    """

    def make(count: int, frames: int = 1, side: int = SIDE_PX, seed: int = 0) -> npt.NDArray[np.uint8]:
        rng = np.random.default_rng(seed)
        values = rng.integers(0, 200, (count, 1, 1, 1, 3)) + rng.integers(0, 30, (count, frames, side, side, 3))
        for clip in range(count):
            for moment in range(frames):
                at = (rng.integers(side) + moment * side // 8) % side
                values[clip, moment, :, at : at + side // 8] += 60
        return np.clip(values, 0, 255).astype(np.uint8)

    return make


def pytest_configure() -> None:
    """Restore Ctrl-C where the shell has disabled it.

    A shell that starts the tests in the background makes them, and the processes that they start, ignore Ctrl-C.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if "torch" in sys.modules:
        remember_exports()
    if os.environ.get("OMP_NUM_THREADS") == "1":
        if "onnxruntime" in sys.modules:
            take_one_thread_of_onnx_runtime()
        if "vidrisk.runtimes.openvino" in sys.modules:
            take_one_thread_of_openvino()
    _need_gpu(item)


@functools.cache
def take_one_thread_of_onnx_runtime() -> None:
    """Let ONNX Runtime sessions in this process use one thread, like torch, unless more are requested.

    On cores that other tests keep busy, threads wait for one another at every node and spin meanwhile.
    """
    import onnxruntime

    opened = onnxruntime.InferenceSession.__init__

    @functools.wraps(opened)
    def with_one_thread(self: Any, path: Any, sess_options: Any = None, *arguments: Any, **further: Any) -> None:
        options = sess_options or onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.intra_op_num_threads or 1
        opened(self, path, options, *arguments, **further)

    onnxruntime.InferenceSession.__init__ = with_one_thread


@functools.cache
def take_one_thread_of_openvino() -> None:
    """Let OpenVINO runners in this process use one thread unless more are requested.

    ``take_one_thread_of_onnx_runtime`` does the same for ONNX Runtime and gives the reason.
    """
    from vidrisk.runtimes.openvino import OpenVinoRunner

    opened = OpenVinoRunner.__init__

    @functools.wraps(opened)
    def with_one_thread(self: Any, *arguments: Any, threads: int | None = None, **further: Any) -> None:
        opened(self, *arguments, threads=threads or 1, **further)

    OpenVinoRunner.__init__ = with_one_thread  # type: ignore[method-assign]


@functools.cache
def remember_exports() -> None:
    """Cache ONNX exports, so that torch converts equal modules once.

    The exporter takes three seconds for four layers, and tests often export the same ones.

    Modules are equal when their classes, settings and weights are equal. The cache holds the graph that the
    exporter returned; every caller gets a copy of its own.
    """
    import onnx
    import onnx_ir
    import torch

    export, known, kinds = torch.onnx.export, {}, set()

    @functools.wraps(export)
    def remembered(module: Any, *arguments: Any, **options: Any) -> Any:
        key = _key_of_export(module, arguments, options)
        if key is None or not options.get("dynamo"):
            return export(module, *arguments, **options)
        if key not in known:
            kind = frozenset(type(part) for part in module.modules())
            with _untraced() if kind in kinds else contextlib.nullcontext():
                program = export(module, *arguments, **options)
            kinds.add(kind)
            known[key] = onnx_ir.to_proto(program.model).SerializeToString(), program.exported_program
        graph, exported = known[key]
        return torch.onnx.ONNXProgram(onnx_ir.from_proto(onnx.load_from_string(graph)), exported)

    torch.onnx.export = remembered


@contextlib.contextmanager
def _untraced() -> Iterator[None]:
    """Suspend tracing where coverage would record the same lines again.

    The exporter is pure Python, and tracing it costs two thirds more time.
    """
    trace = sys.gettrace()
    sys.settrace(None)
    try:
        yield
    finally:
        sys.settrace(trace)


def _key_of_export(module: Any, arguments: Any, options: Any) -> tuple[Any, ...] | None:
    """Return everything that an export depends on, or None if an object is known by its address alone."""
    import torch

    def described(value: Any) -> str:
        if isinstance(value, types.FunctionType | types.BuiltinFunctionType):
            return f"{value.__module__}.{value.__qualname__}"
        if isinstance(value, torch.Tensor):
            values = value.detach().float() if value.dtype == torch.bfloat16 else value.detach()
            return f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(values.numpy().tobytes()).hexdigest()}"
        if isinstance(value, dict | list | tuple | set):
            items = value.items() if isinstance(value, dict) else value
            return f"{type(value).__name__}({', '.join(map(described, items))})"
        config = getattr(value, "_attn_implementation", "")
        return f"{value!r}{config}"

    classes, parts = [], [described(arguments), described(options)]
    for name, part in module.named_modules():
        classes.append(type(part))
        parts += [f"{name}.{key}={described(value)}" for key, value in vars(part).items() if key != "_modules"]
    return None if any(" at 0x" in part for part in parts) else (*classes, *parts)


def _need_gpu(item: pytest.Item) -> None:
    """Skip a test marked ``gpu`` if no GPU is visible, or fail it if a GPU is required."""
    if item.get_closest_marker("gpu") and not visible_gpu():
        if os.environ.get("VIDRISK_REQUIRE_GPU") == "1":
            pytest.fail("no NVIDIA GPU is visible, and VIDRISK_REQUIRE_GPU=1", pytrace=False)
        pytest.skip("no NVIDIA GPU is visible")
