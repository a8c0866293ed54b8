"""The kinds of machine that a bundle can be deployed to."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from vidrisk.runtimes.contract.errors import SettingsError

TargetName = Literal["jetson-orin", "jetson-thor", "x86-gpu", "cpu"]

# glibc of the oldest supported system with that Python: Ubuntu 22.04 and 24.04, Debian 12 and 13.
GLIBC: Mapping[str, tuple[int, int]] = {"3.10": (2, 35), "3.11": (2, 36), "3.12": (2, 39), "3.13": (2, 41)}


@dataclass(frozen=True)
class Target:
    """A kind of machine.

    Attributes:
        machines: possible outputs of ``uname -m``.
        pythons: possible versions of the system's Python; the first is the default.
        extras: of vidrisk.
        requirements: in addition to vidrisk's own.
        engine: that runs the model; empty if ``auto`` measures it.
        l4t: possible releases of Jetson Linux: major and least minor.
        base_image: of the Dockerfile.
    """

    machines: tuple[str, ...]
    pythons: tuple[str, ...]
    extras: tuple[str, ...]
    requirements: tuple[str, ...] = ()
    engine: str = ""
    l4t: tuple[tuple[int, int], ...] = ()
    base_image: str = "ubuntu:24.04"

    @property
    def is_jetson(self) -> bool:
        return bool(self.l4t)

    def python(self, asked: str | None) -> str:
        """Return the version of Python to collect wheels for.

        Raises:
            SettingsError: the machine does not have this version.
        """
        if asked is not None and asked not in self.pythons:
            raise SettingsError(f"python={asked}", allowed=", ".join(self.pythons))
        return asked or self.pythons[0]


# The CUDA bindings must not be newer than the driver, which comes with JetPack: CUDA 12.6 with JetPack 6 (Python 3.10),
# CUDA 13 with JetPack 7.
JETSON_CUDA = ("cuda-python>=12.6,<13; python_version < '3.11'", "cuda-python>=13,<14; python_version >= '3.11'")
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
PYTHONS = tuple(GLIBC)
PYTHONS_HERE_FIRST = tuple(sorted(PYTHONS, key=lambda version: version != HERE))

TARGETS: Mapping[TargetName, Target] = {
    # JetPack 6.1 and later (TensorRT 10.3; 6.0 has 8.6), JetPack 7.2 and later.
    "jetson-orin": Target(
        ("aarch64",),
        ("3.10", "3.12"),
        ("cpu", "tensorrt"),
        JETSON_CUDA,
        "tensorrt",
        ((36, 4), (39, 2)),
        "nvcr.io/nvidia/l4t-jetpack:r36.4.0",
    ),
    # JetPack 7: ARM servers and Thor share their images.
    "jetson-thor": Target(
        ("aarch64",),
        ("3.12",),
        ("cpu", "tensorrt"),
        JETSON_CUDA,
        "tensorrt",
        ((38, 2), (39, 2)),
        "nvcr.io/nvidia/tensorrt:25.09-py3",
    ),
    "x86-gpu": Target(
        ("x86_64",),
        PYTHONS_HERE_FIRST,
        ("cpu", "tensorrt-rtx"),
        engine="tensorrt-rtx",
        base_image="nvcr.io/nvidia/cuda:13.0.1-base-ubuntu24.04",
    ),
    "cpu": Target(tuple(dict.fromkeys((platform.machine(), "x86_64", "aarch64"))), PYTHONS_HERE_FIRST, ("cpu",)),
}
