"""Checks of the GPU and its driver, and of whether the installed packages fit that driver."""

from __future__ import annotations

import os
from collections.abc import Iterator

from vidrisk.doctor.check import Check
from vidrisk.doctor.facts import FIRST_DRIVER, Facts, Gpu, cuda_majors
from vidrisk.runtimes.gpu import text_of

SECTION = "GPU"
LITTLE_FREE = 0.1  # of the GPU's memory
# Device nodes of a Jetson's GPU; they belong to the group video.
TEGRA_NODES = ("dev/nvmap", "dev/nvhost-gpu")
CONTAINER_MARKS = (".dockerenv", "run/.containerenv")


def gpu_checks(facts: Facts) -> Iterator[Check]:
    if facts.gpu is None:
        yield Check(SECTION, "GPU", "optional", "no NVIDIA GPU; everything runs on the processor")
        return
    yield _gpu(facts, facts.gpu)
    if not facts.jetson or facts.gpu.driver:
        yield _driver(facts, facts.gpu)
    too_new = (
        []
        if facts.gpu.cuda_major is None
        else [name for name, major in sorted(cuda_majors(facts.packages).items()) if major > facts.gpu.cuda_major]
    )
    if too_new:
        yield _too_old_driver(facts, facts.gpu, too_new)


def _gpu(facts: Facts, gpu: Gpu) -> Check:
    found = gpu.name or "an NVIDIA GPU"
    if gpu.compute_capability:
        found += f", compute capability {gpu.compute_capability}"
    if gpu.total_bytes is not None and gpu.free_bytes is not None:
        found += f", {gpu.free_bytes / 1e9:.1f} of {gpu.total_bytes / 1e9:.1f} GB free"
    if gpu.works:
        if gpu.total_bytes and (gpu.free_bytes or 0) < LITTLE_FREE * gpu.total_bytes and not facts.jetson:
            return Check(SECTION, "GPU", "warning", found, "nvidia-smi  # shows who holds its memory")
        return Check(SECTION, "GPU", "ok", found)
    if "cuda-bindings" not in facts.packages:
        return Check(
            SECTION,
            "GPU",
            "optional",
            f"{found}; cuda-python, through which engines use it, is not installed",
            "pip install 'vidrisk[tensorrt]'",
        )
    return Check(SECTION, "GPU", "broken", f"{found}; {gpu.problem}", _fix(facts, gpu))


def _fix(facts: Facts, gpu: Gpu) -> str:
    """Return the fix for the most likely reason why CUDA does not work although there is a GPU."""
    if "mismatch" in gpu.problem.lower():  # the driver was updated, and the old one is still loaded
        return "sudo reboot"
    if "CUDA_VISIBLE_DEVICES" in os.environ and "visible" in gpu.problem:
        return "unset CUDA_VISIBLE_DEVICES"
    if facts.jetson and any(
        (facts.root / node).exists() and not os.access(facts.root / node, os.R_OK | os.W_OK) for node in TEGRA_NODES
    ):
        return 'sudo usermod -aG video,render "$USER"  # then log in again'
    if any((facts.root / mark).exists() for mark in CONTAINER_MARKS):
        return "docker run --runtime nvidia …" if facts.jetson else "docker run --gpus all …"
    if gpu.driver and not facts.jetson and not (facts.root / "dev/nvidiactl").exists():
        return "sudo nvidia-modprobe -u -c=0"
    return "sudo reboot" if gpu.driver or facts.jetson else install_driver(facts)


def _driver(facts: Facts, gpu: Gpu) -> Check:
    if gpu.driver or gpu.works:
        return Check(SECTION, "driver", "ok", f"{gpu.driver or 'NVIDIA'}, CUDA {gpu.cuda}")
    return Check(SECTION, "driver", "warning", "no NVIDIA driver is loaded", install_driver(facts))


def _too_old_driver(facts: Facts, gpu: Gpu, packages: list[str]) -> Check:
    """Return the check for packages that need a newer driver.

    Programs built with a newer CUDA major than the driver supports fail with ``cudaErrorInsufficientDriver``.
    """
    majors = cuda_majors(facts.packages)
    needed = max(majors[name] for name in packages)
    named = ", ".join(packages[:3]) + (f" and {len(packages) - 3} more" if len(packages) > 3 else "")
    driver = f"driver {FIRST_DRIVER[needed]} or newer" if needed in FIRST_DRIVER else "a newer driver"
    found = f"{named}: CUDA {needed}, which needs {driver}; this one supports CUDA {gpu.cuda}"
    return Check(
        SECTION,
        "CUDA",
        "broken",
        found,
        f"pip uninstall {' '.join(packages)}" if facts.jetson else install_driver(facts),
    )


def install_driver(facts: Facts) -> str:
    is_ubuntu = "\nID=ubuntu\n" in f"\n{text_of(facts.root / 'etc/os-release')}\n"
    return f"sudo {'ubuntu-drivers install' if is_ubuntu else 'apt install nvidia-driver'} && sudo reboot"
