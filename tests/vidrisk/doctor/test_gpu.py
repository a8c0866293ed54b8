"""Tests of the checks of a GPU on written descriptions of GPUs, since no GPU is needed to run them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vidrisk.doctor.check import Check
from vidrisk.doctor.facts import Facts, Gpu
from vidrisk.doctor.gpu import gpu_checks
from vidrisk.doctor.jetson import jetson_from_files

L4 = Gpu("NVIDIA L4", "8.9", 24_000_000_000, 23_000_000_000, "550.135", "12.8", works=True)
BINDINGS = {"cuda-bindings": "13.4.4"}
UBUNTU = {"etc/os-release": 'NAME="Ubuntu"\nID=ubuntu\nID_LIKE=debian\n'}
DEBIAN = {"etc/os-release": 'NAME="Debian GNU/Linux"\nID=debian\n'}


def checks_of(facts: Facts) -> dict[str, Check]:
    return {check.name: check for check in gpu_checks(facts)}


def test_no_gpu_is_no_fault() -> None:
    assert [check.state for check in gpu_checks(Facts())] == ["optional"]


def test_a_gpu_that_works() -> None:
    checks = checks_of(Facts(gpu=L4, packages=BINDINGS))
    assert checks["GPU"] == Check("GPU", "GPU", "ok", "NVIDIA L4, compute capability 8.9, 23.0 of 24.0 GB free")
    assert checks["driver"] == Check("GPU", "driver", "ok", "550.135, CUDA 12.8") and "CUDA" not in checks


def test_a_gpu_that_is_full() -> None:
    full = Gpu(**{**vars(L4), "free_bytes": 1_000_000_000})
    assert checks_of(Facts(gpu=full))["GPU"].state == "warning"


def test_without_cuda_python() -> None:
    check = checks_of(Facts(gpu=Gpu("Tesla T4", driver="535.1", cuda="12", problem="cuda is not installed")))["GPU"]
    assert (check.state, check.fix) == ("optional", "pip install 'vidrisk[tensorrt]'")


@pytest.mark.parametrize(
    ("gpu", "files", "fix"),
    [
        (
            Gpu("T4", driver="535.1", problem="Failed to initialize NVML: Driver/library version mismatch"),
            {},
            "sudo reboot",
        ),
        (
            Gpu("T4", driver="535.1", problem="cuInit: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"),
            {".dockerenv": ""},
            "sudo reboot",
        ),
        (Gpu(driver="535.1", problem="cuInit: CUDA_ERROR_NO_DEVICE"), {".dockerenv": ""}, "docker run --gpus all …"),
        (
            Gpu(driver="535.1", problem="cuInit: CUDA_ERROR_NO_DEVICE"),
            {"run/.containerenv": ""},
            "docker run --gpus all …",
        ),
        (Gpu(driver="535.1", problem="cuInit: CUDA_ERROR_UNKNOWN"), {}, "sudo nvidia-modprobe -u -c=0"),
        (Gpu(driver="535.1", problem="nvidia-smi: no answer within 5 s"), {"dev/nvidiactl": ""}, "sudo reboot"),
        (Gpu(problem="no NVIDIA GPU here"), UBUNTU, "sudo ubuntu-drivers install && sudo reboot"),
        (Gpu(problem="no NVIDIA GPU here"), DEBIAN, "sudo apt install nvidia-driver && sudo reboot"),
    ],
)
def test_a_gpu_that_cuda_cannot_use(gpu: Gpu, files: dict[str, str], fix: str, write_tree: Callable[..., Path]) -> None:
    check = checks_of(Facts(write_tree(files), gpu=gpu, packages=BINDINGS))["GPU"]
    assert (check.state, check.fix) == ("broken", fix) and gpu.problem in check.found


def test_a_gpu_that_is_hidden(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    gpu = Gpu("T4", driver="535.1", problem="no NVIDIA GPU is visible to this process")
    assert checks_of(Facts(tmp_path, gpu=gpu, packages=BINDINGS))["GPU"].fix == "unset CUDA_VISIBLE_DEVICES"


def test_a_jetson_in_a_container_and_without_its_group(
    board: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = board("orin nano super", {".dockerenv": "", "dev/nvmap": ""})
    facts = Facts(
        root, gpu=Gpu(problem="cuInit: CUDA_ERROR_NO_DEVICE"), packages=BINDINGS, jetson=jetson_from_files(root)
    )
    assert checks_of(facts)["GPU"].fix == "docker run --runtime nvidia …" and "driver" not in checks_of(facts)
    monkeypatch.setattr("vidrisk.doctor.gpu.os.access", lambda path, mode: False)
    assert checks_of(facts)["GPU"].fix.startswith('sudo usermod -aG video,render "$USER"')


def test_no_driver(write_tree: Callable[..., Path]) -> None:
    check = checks_of(Facts(write_tree(UBUNTU), gpu=Gpu(problem="no NVIDIA GPU here")))["driver"]
    assert (check.state, check.found) == ("warning", "no NVIDIA driver is loaded") and check.fix.startswith(
        "sudo ubuntu-drivers"
    )


def test_a_driver_older_than_the_packages_want(write_tree: Callable[..., Path], board: Callable[..., Path]) -> None:
    packages = {"tensorrt-rtx-cu13-bindings": "1.7.1", "tensorrt-cu12": "10.13", "numpy": "2.4"}
    check = checks_of(Facts(write_tree(DEBIAN), gpu=L4, packages=packages))["CUDA"]
    assert check.is_red and check.fix == "sudo apt install nvidia-driver && sudo reboot"
    assert (
        check.found
        == "tensorrt-rtx-cu13-bindings: CUDA 13, which needs driver 580 or newer; this one supports CUDA 12.8"
    )
    root = board("orin nano super")
    check = checks_of(Facts(root, gpu=L4, packages=packages, jetson=jetson_from_files(root)))["CUDA"]
    assert check.fix == "pip uninstall tensorrt-rtx-cu13-bindings"  # a Jetson keeps the driver of its JetPack


def test_many_packages_that_want_a_newer_driver(tmp_path: Path) -> None:
    packages = {f"nvidia-part{number}-cu14": "1" for number in range(9)}
    assert (
        "nvidia-part2-cu14 and 6 more: CUDA 14, which needs a newer driver"
        in checks_of(Facts(tmp_path, gpu=L4, packages=packages))["CUDA"].found
    )
