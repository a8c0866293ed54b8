"""Tests of the name of a GPU's driver: on a PC, on a Jetson, in a container, and without a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from vidrisk.runtimes.gpu import driver_version

DRIVER = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build  (buildbrain@mobile)  Mon Jan 1\n"
)
RELEASE = "# R36 (release), REVISION: 4.{}, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025\n"


def write(root: Path, *, driver: str = "", release: str = "") -> Path:
    for name, text in (("proc/driver/nvidia/version", driver), ("etc/nv_tegra_release", release)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if text:
            (root / name).write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize(
    ("driver", "release", "said"),
    [
        ("", "", ""),
        (DRIVER, "", "540.4.0"),
        ("", RELEASE.format(3), "R36 (release), REVISION: 4.3"),
        (DRIVER, RELEASE.format(7), "540.4.0, R36 (release), REVISION: 4.7"),
        ("nothing with a number", "", ""),
    ],
)
def test_a_driver_is_told_by_its_version_and_a_jetson_by_its_release_too(
    tmp_path: Path, driver: str, release: str, said: str
) -> None:
    assert driver_version(write(tmp_path, driver=driver, release=release)) == said
