"""Tests of facts about a machine; a GPU is only described, by outputs of ``nvidia-smi`` and driver files.

The outputs and files are real ones.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidrisk.doctor import facts
from vidrisk.doctor.asking import Probe
from vidrisk.doctor.facts import (
    Environment,
    Gpu,
    cuda_from_driver,
    cuda_majors,
    driver_from_text,
    gather_facts,
    gpu_from_smi,
    is_there,
    name_from_information,
)

NO_CUDA = Probe(problem="cuda is not installed", fix="pip install 'vidrisk[tensorrt]'")
OPEN_580 = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (dvs-builder@U22-I3-B17-02-5)  "
    "Tue Sep 23 09:55:41 UTC 2025\nGCC version:  gcc version 11.4.0 (Ubuntu 11.4.0-1ubuntu1~22.04.2)\n"
)
INFORMATION = (
    "Model: \t\t NVIDIA GeForce RTX 3060\nIRQ:   \t\t 154\nGPU UUID: \t GPU-00000000-0000-0000-0000-000000000000\n"
    "Video BIOS: \t 94.06.2f.00.5b\nBus Type: \t PCIe\n"
)


@pytest.mark.parametrize(
    ("text", "driver"),
    [
        (OPEN_580, "580.95.05"),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.135  Fri Jan 10 20:00:00 UTC 2025\n", "550.135"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build\n", "540.4.0"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  TempVersion  Release Build\n", ""),
        ("", ""),
    ],
)
def test_driver(text: str, driver: str) -> None:
    assert driver_from_text(text) == driver


@pytest.mark.parametrize(
    ("driver", "cuda"),
    [
        ("580.95.05", "13"),
        ("595.78", "13"),
        ("579.1", "12"),
        ("540.4.0", "12"),
        ("525.60.13", "12"),
        ("470.256.02", "11"),
        ("390.157", "10"),
        ("", ""),
    ],
)
def test_cuda_that_a_driver_speaks(driver: str, cuda: str) -> None:
    assert cuda_from_driver(driver) == cuda


def test_nvidia_smi() -> None:
    gpu = gpu_from_smi("NVIDIA GeForce RTX 4070 Laptop GPU, 560.35.03, 8188, 7805, 8.9\n", "why")
    assert gpu == Gpu(
        "NVIDIA GeForce RTX 4070 Laptop GPU", "8.9", 8188 << 20, 7805 << 20, "560.35.03", "12", problem="why"
    )
    jetson = gpu_from_smi("Orin (nvgpu), 540.4.0, [N/A], [N/A], [N/A]", "")
    assert jetson == Gpu("Orin (nvgpu)", driver="540.4.0", cuda="12")
    assert gpu_from_smi("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", "") is None


@given(st.text())
def test_no_output_of_nvidia_smi_is_too_strange(text: str) -> None:
    gpu = gpu_from_smi(text, "")
    assert gpu is None or text.count(",") >= 4


def test_packages_and_their_cuda() -> None:
    packages = {
        "tensorrt-cu12-libs": "10.13.3",
        "tensorrt-rtx-cu13-bindings": "1.7.1",
        "nvidia-cuda-runtime": "13.0.96",
        "torch": "2.13.0+cu126",
        "numpy": "2.4.6",
        "cuda-python": "13.4.4",
        "accupy": "1",
    }
    assert cuda_majors(packages) == {
        "tensorrt-cu12-libs": 12,
        "tensorrt-rtx-cu13-bindings": 13,
        "nvidia-cuda-runtime": 13,
        "torch": 12,
    }
    assert cuda_majors({"torch": "2.13.0+cpu"}) == {}


def test_type_stubs_are_not_a_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "only_stubs").mkdir()
    (tmp_path / "only_stubs" / "__init__.pyi").touch()
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert is_there("whole") and not any(map(is_there, ("only_stubs", "nowhere", "nowhere.inside")))


def test_an_environment_that_sees_no_system_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    config = tmp_path / "pyvenv.cfg"
    config.write_text("home = /usr/bin\ninclude-system-site-packages = false\nversion = 3.10.12\n", encoding="ascii")
    closed = Environment.current()
    assert closed.is_closed and closed.folder == tmp_path and closed.python == f"3.{sys.version_info.minor}"
    config.write_text("include-system-site-packages = true\n", encoding="ascii")
    assert not Environment.current().is_closed


@pytest.fixture
def gather(monkeypatch: pytest.MonkeyPatch) -> Callable[..., facts.Facts]:
    """Return a function that gathers the facts of a machine from a root and the results of its probes.

    Only modules that have a probe count as installed. By default CUDA is not installed.
    """

    def make(root: Path, gpu: Probe = NO_CUDA, **probes: Probe) -> facts.Facts:
        told = {"GPU": gpu, **probes}
        monkeypatch.setattr(facts, "is_there", lambda module: module in probes)
        monkeypatch.setattr(facts, "run_probes", lambda names: {name: told.get(name, Probe()) for name in names})
        return gather_facts(root)

    return make


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that installs an ``nvidia-smi`` which runs the given shell code.

    Until it is called, there is no ``nvidia-smi``.
    """
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    def install(code: str) -> None:
        (tmp_path / "bin" / "nvidia-smi").write_text(f"#!/bin/sh\n{code}\n", encoding="ascii")
        (tmp_path / "bin" / "nvidia-smi").chmod(0o755)

    return install


def test_no_gpu(gather: Callable[..., facts.Facts], nvidia_smi: Any, tmp_path: Path) -> None:
    found = gather(tmp_path)
    assert found.gpu is None and not found.has_gpu and found.jetson is None


def test_a_gpu_that_cuda_can_use(gather: Callable[..., facts.Facts], write_tree: Callable[..., Path]) -> None:
    told = {
        "name": "NVIDIA L4",
        "compute_capability": "8.9",
        "driver": "12.8",
        "total_bytes": 24 << 30,
        "free_bytes": 23 << 30,
    }
    found = gather(write_tree({"proc/driver/nvidia/version": OPEN_580}), Probe(told))
    assert found.gpu == Gpu("NVIDIA L4", "8.9", 24 << 30, 23 << 30, "580.95.05", "12.8", works=True)
    assert found.gpu.cuda_major == 12 and found.has_gpu


def test_without_cuda_python_nvidia_smi_is_asked(
    gather: Callable[..., facts.Facts], nvidia_smi: Callable[[str], None], tmp_path: Path
) -> None:
    nvidia_smi("echo 'Tesla T4, 535.183.01, 15360, 15100, 7.5'")
    found = gather(tmp_path)
    assert found.gpu == Gpu("Tesla T4", "7.5", 15360 << 20, 15100 << 20, "535.183.01", "12", problem=NO_CUDA.problem)


def test_without_nvidia_smi_the_kernel_is_asked(
    gather: Callable[..., facts.Facts], nvidia_smi: Any, write_tree: Callable[..., Path]
) -> None:
    root = write_tree(
        {"proc/driver/nvidia/version": OPEN_580, "proc/driver/nvidia/gpus/0000:01:00.0/information": INFORMATION}
    )
    assert gather(root).gpu == Gpu("NVIDIA GeForce RTX 3060", driver="580.95.05", cuda="13", problem=NO_CUDA.problem)
    assert name_from_information("") == ""


def test_nvidia_smi_that_fails_says_why(
    gather: Callable[..., facts.Facts], nvidia_smi: Callable[[str], None], write_tree: Callable[..., Path]
) -> None:
    nvidia_smi("echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18")
    gpu = gather(write_tree({"proc/driver/nvidia/version": OPEN_580})).gpu
    assert gpu is not None and gpu.problem == "nvidia-smi: Failed to initialize NVML: Driver/library version mismatch"


def test_a_card_without_a_driver_is_found_on_the_bus(
    gather: Callable[..., facts.Facts], nvidia_smi: Any, write_tree: Callable[..., Path]
) -> None:
    bus = "sys/bus/pci/devices/0000:01:00.0"
    assert gather(write_tree({f"{bus}/vendor": "0x10de\n", f"{bus}/class": "0x040300\n"})).gpu is None  # its sound
    gpu = gather(write_tree({f"{bus}/vendor": "0x10de\n", f"{bus}/class": "0x030000\n"})).gpu
    assert gpu == Gpu(problem=NO_CUDA.problem)


def test_a_jetson_has_a_gpu_whoever_is_asked(
    gather: Callable[..., facts.Facts], nvidia_smi: Any, board: Callable[..., Path]
) -> None:
    found = gather(board("orin nano super"))
    assert found.gpu == Gpu(problem=NO_CUDA.problem) and found.has_gpu and found.jetson is not None


def test_nvpmodel_is_asked_where_no_file_says_the_mode(
    gather: Callable[..., facts.Facts], board: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "nvpmodel").write_text(
        "#!/bin/sh\necho 'NVPM WARN: fan mode is not set!'\necho 'NV Power Mode: MAXN'\necho 0\n", encoding="ascii"
    )
    (tmp_path / "nvpmodel").chmod(0o755)
    found = gather(board("agx thor"))
    assert found.jetson is not None and found.jetson.power_mode == "MAXN"


def test_this_machine() -> None:
    found = gather_facts()
    assert {"numpy", "Pillow", "PyAV", "onnxruntime", "workers", "cache", "GPU"} <= set(found.probes)
    assert found.packages["numpy"] == found.probes["numpy"].told["version"]
    assert not found.probes["onnxruntime"].problem and "CPU" in found.probes["onnxruntime"].told["providers"]
    assert not found.probes["workers"].problem and found.probes["workers"].told["bytes"] > 1e6
