"""Tests of the checks of runtimes; engines that need a GPU are only described."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vidrisk.doctor.asking import Probe
from vidrisk.doctor.check import Check
from vidrisk.doctor.facts import Environment, Facts, Gpu
from vidrisk.doctor.jetson import jetson_from_files
from vidrisk.doctor.probes import IDENTITY
from vidrisk.doctor.runtimes import runtime_checks

CPU = Probe({"version": "1.31.1", "providers": ["CPU"], "fallen_back": []})
T4 = Gpu("Tesla T4", "7.5", 16 << 30, 15 << 30, "535.1", "12.2", works=True)
NUMPY_1 = "A module that was compiled using NumPy 1.x cannot be run in\nNumPy 2.4.6 as it may crash.\n"
SYSTEM_TENSORRT = {"usr/lib/python3.10/dist-packages/tensorrt/__init__.py": ""}


def checks_of(facts: Facts) -> dict[str, Check]:
    return {check.name: check for check in runtime_checks(facts)}


def test_the_probe_is_a_model() -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(IDENTITY)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Identity"]


def test_a_processor_and_onnx_runtime() -> None:
    checks = checks_of(Facts(probes={"onnxruntime": CPU}))
    assert {name: check.state for name, check in checks.items()} == {
        "onnxruntime": "ok",
        "openvino": "optional",
        "tensorrt": "optional",
        "tensorrt-rtx": "optional",
    }
    assert checks["onnxruntime"].found == "1.31.1: CPU"
    assert checks["openvino"].fix == "pip install 'vidrisk[cpu]'"
    assert checks["tensorrt-rtx"].fix == "pip install 'vidrisk[tensorrt-rtx]'"
    arm = checks_of(Facts(is_x86=False, probes={"onnxruntime": CPU}))
    assert (arm["openvino"].fix, arm["tensorrt-rtx"].fix) == ("", "")


def test_without_any_runtime() -> None:
    checks = checks_of(Facts(probes={"openvino": Probe(problem="crashes (Illegal instruction)")}))
    assert (checks["openvino"].state, checks["openvino"].fix) == ("broken", "pip install --force-reinstall openvino")
    assert (checks["inference runtime"].state, checks["inference runtime"].fix) == (
        "missing",
        "pip install 'vidrisk[cpu]'",
    )


def test_openvino_without_a_device() -> None:
    assert checks_of(Facts(probes={"openvino": Probe({"version": "2026.4.1", "devices": ["CPU", "GPU"]})}))[
        "openvino"
    ].found == ("2026.4.1: CPU, GPU")
    assert (
        checks_of(Facts(probes={"openvino": Probe({"version": "2026.4.1", "devices": []})}))["openvino"].state
        == "broken"
    )


def test_a_provider_that_falls_back() -> None:
    probe = Probe(
        {"version": "1.22.0", "providers": ["CPU"], "fallen_back": ["TensorRT", "CUDA"]},
        stderr="Failed to load library libonnxruntime_providers_cuda.so with error: "
        "libcudnn.so.9: cannot open shared object file: No such file or directory",
    )
    packages = {"onnxruntime-gpu": "1.22.0"}
    check = checks_of(Facts(packages=packages, probes={"onnxruntime": probe}, gpu=T4))["onnxruntime"]
    assert check.state == "warning" and check.fix == "pip install 'onnxruntime-gpu[cuda,cudnn]'"
    assert check.found == "1.22.0: CPU; TensorRT, CUDA falls back to the processor: libcudnn.so.9 not found"
    assert (
        checks_of(Facts(packages=packages, probes={"onnxruntime": probe}))["onnxruntime"].state == "ok"
    )  # no GPU to miss


def test_stubs_are_not_tensorrt() -> None:
    packages = {"tensorrt-stubs": "10.13.3.9"}
    check = checks_of(Facts(packages=packages))["tensorrt"]
    assert (check.state, check.found) == ("optional", "not installed, only its type stubs; it needs an NVIDIA GPU")
    check = checks_of(Facts(packages=packages, gpu=T4))["tensorrt"]
    assert (check.state, check.fix) == ("warning", "pip install tensorrt-cu12")


def test_tensorrt() -> None:
    probes = {"tensorrt": Probe({"version": "10.13.3"}), "tensorrt-rtx": Probe({"version": "1.7.1"})}
    checks = checks_of(Facts(probes=probes, gpu=T4))
    assert (checks["tensorrt"].found, checks["tensorrt-rtx"].found) == (
        "10.13.3",
        "1.7.1",
    ) and "inference runtime" not in checks
    assert checks_of(Facts(probes=probes))["tensorrt-rtx"].found == "1.7.1, to build ahead of time"


def test_tensorrt_alone_is_no_runtime_without_a_gpu() -> None:
    probes = {"tensorrt": Probe({"version": "10.13.3"}), "tensorrt-rtx": Probe({"version": "1.7.1"})}
    assert checks_of(Facts(probes=probes))["inference runtime"].state == "missing"


def test_tensorrt_that_is_too_old() -> None:
    old = Probe(problem="TensorRT 8.6.2 is too old", fix="JetPack 6.1 or later has it")
    check = checks_of(Facts(probes={"tensorrt": old}, gpu=T4))["tensorrt"]
    assert (check.state, check.fix) == ("broken", "JetPack 6.1 or later has it") and "8.6.2" in check.found


def test_a_library_built_for_numpy_1() -> None:
    probe = Probe(problem="ImportError: numpy.core.multiarray failed to import", stderr=NUMPY_1)
    check = checks_of(Facts(probes={"tensorrt": probe}, gpu=T4))["tensorrt"]
    assert (check.state, check.fix) == ("broken", "pip install 'numpy<2'")


def test_jetpack_s_tensorrt_in_a_closed_environment(board: Callable[..., Path]) -> None:
    root = board("orin nano super", SYSTEM_TENSORRT)
    jetson = jetson_from_files(root)
    gpu = Gpu("Orin", "8.7", cuda="12.6", works=True)
    closed = Facts(root, False, Environment("3.10", Path("/opt/my env"), True), gpu=gpu, jetson=jetson)
    check = checks_of(closed)["tensorrt"]
    assert (
        check.is_red and check.fix == "sed -i '/^include-system-site-packages/s/false/true/' '/opt/my env/pyvenv.cfg'"
    )
    newer = Facts(root, False, Environment("3.12", Path("/opt/env"), False), gpu=gpu, jetson=jetson)
    check = checks_of(newer)["tensorrt"]
    assert check.is_red and check.found == "the system has it for Python 3.10, this is 3.12"
    assert check.fix == "python3.10 -m venv --system-site-packages /opt/env-3.10"


def test_the_fix_for_a_closed_environment_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_tree: Callable[..., Path]
) -> None:
    folder = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    monkeypatch.setattr(sys, "prefix", str(folder))
    closed = Environment.current()
    assert closed.is_closed
    there = {f"usr/lib/python{closed.python}/dist-packages/tensorrt/__init__.py": ""}
    check = checks_of(Facts(write_tree(there), environment=closed))["tensorrt"]
    subprocess.run(shlex.split(check.fix), check=True)
    assert not Environment.current().is_closed


def test_a_jetson_without_tensorrt(board: Callable[..., Path]) -> None:
    root = board("agx thor")
    gpu = Gpu("NVIDIA Thor", "11.0", cuda="13.0", works=True)
    check = checks_of(Facts(root, False, gpu=gpu, jetson=jetson_from_files(root)))["tensorrt"]
    assert (check.state, check.fix) == ("warning", "sudo apt update && sudo apt install nvidia-jetpack")


@pytest.mark.parametrize(
    ("version", "sees", "state", "fix"),
    [
        ("2.13.0+cu126", True, "ok", ""),
        ("2.13.0+cpu", False, "warning", "pip uninstall -y torch && pip install torch"),
        ("2.13.0+cu126", False, "warning", "pip install --force-reinstall torch"),
    ],
)
def test_torch_beside_a_gpu(version: str, sees: bool, state: str, fix: str) -> None:
    check = checks_of(Facts(probes={"torch": Probe({"version": version, "sees_gpu": sees})}, gpu=T4))[
        "torch on the GPU"
    ]
    assert (check.state, check.fix) == (state, fix)
