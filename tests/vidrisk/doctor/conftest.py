"""Jetsons represented by folders of their files, with contents that boards have shown in public.

AGX Thor: github.com/rbonghi/jetson_stats, issue 711. The others: outputs that users of the boards show in
public repositories, of ``cat /etc/nv_tegra_release``, ``/etc/nvpmodel.conf``, ``dpkg -s nvidia-jetpack`` and
files under ``/sys``. The Jetson Linux Developer Guide (r36.4, Platform Power and Performance) describes their
meaning.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

RELEASE = (
    "# R{major} (release), REVISION: {revision}, GCID: {gcid}, BOARD: generic, EABI: aarch64, DATE: {date}\n"
    "# KERNEL_VARIANT: oot\nTARGET_USERSPACE_LIB_DIR=nvidia\n"
    "TARGET_USERSPACE_LIB_DIR_PATH=usr/lib/aarch64-linux-gnu/nvidia\n"
)
SUPER_MODES = """< PM_CONFIG DEFAULT=1 >
< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=1 NAME=25W >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=3 NAME=7W >
CPU_ONLINE CORE_0 1
"""
JETPACK = """Package: libc6
Status: install ok installed
Version: 2.35-0ubuntu3.8

Package: nvidia-jetpack
Status: {status}
Priority: standard
Section: metapackages
Installed-Size: 194
Maintainer: NVIDIA Corporation
Architecture: arm64
Version: {version}
Description: NVIDIA Jetpack Meta Package

Package: zlib1g
Status: install ok installed
Version: 1:1.2.11
"""

ORIN_NANO_SUPER = {
    "etc/nv_tegra_release": RELEASE.format(
        major=36, revision="4.7", gcid=42132812, date="Thu Sep 18 22:54:44 UTC 2025"
    ),
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
    "etc/nvpmodel.conf": SUPER_MODES,
    "var/lib/nvpmodel/status": "pmode:0001",
    "var/lib/dpkg/status": JETPACK.format(status="install ok installed", version="6.2.1+b38"),
    "sys/class/devfreq/17000000.gpu/min_freq": "306000000\n",
    "sys/class/devfreq/17000000.gpu/max_freq": "1020000000\n",
    "sys/class/devfreq/17000000.gpu/cur_freq": "306000000\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_min_freq": "729600\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": "1344000\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "51718\n",
    "sys/class/thermal/thermal_zone8/type": "tj-thermal\n",
    "sys/class/thermal/thermal_zone8/temp": "52125\n",
    "sys/class/thermal/cooling_device7/type": "pwm-fan\n",
    "sys/class/thermal/cooling_device7/cur_state": "2\n",
    "sys/class/thermal/cooling_device9/type": "gpu-throttle-alert\n",
    "sys/class/thermal/cooling_device9/cur_state": "0\n",
    "sys/devices/platform/soctherm-oc-event/hwmon/hwmon3/oc1_event_cnt": "0\n",
    "sys/devices/platform/soctherm-oc-event/hwmon/hwmon3/oc2_event_cnt": "0\n",
    "sys/devices/platform/soctherm-oc-event/hwmon/hwmon3/oc3_event_cnt": "0\n",
}
AGX_THOR = {
    "etc/nv_tegra_release": RELEASE.format(
        major=38, revision="2.0", gcid=41844464, date="Fri Aug 22 00:55:42 UTC 2025"
    ),
    "proc/device-tree/model": "NVIDIA Jetson AGX Thor Developer Kit\0",
    "sys/class/devfreq/gpu-gpc-0/min_freq": "1575000000\n",
    "sys/class/devfreq/gpu-gpc-0/max_freq": "1575000000\n",
    "sys/class/devfreq/gpu-nvd-0/min_freq": "54000000\n",
    "sys/class/devfreq/gpu-nvd-0/max_freq": "1692000000\n",
    "sys/class/thermal/cooling_device8/type": "gpu-throttle-alert\n",
    "sys/class/thermal/cooling_device8/cur_state": "1\n",
    "sys/class/thermal/thermal_zone0/temp": "99500\n",
    "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  580.00  Release Build\n",
}
AGX_ORIN_JETPACK_7 = {
    "etc/nv_tegra_release": RELEASE.format(
        major=39, revision="2.0", gcid=45755727, date="Mon Jun  1 09:28:48 PM UTC 2026"
    ),
    "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
    "var/lib/dpkg/status": JETPACK.format(status="deinstall ok config-files", version="7.2-b187"),
}
NANO = {  # of 2019
    "etc/nv_tegra_release": "# R32 (release), REVISION: 5.1, GCID: 26202423, BOARD: t210ref, EABI: aarch64, "
    "DATE: Fri Feb 19 16:45:52 UTC 2021\n",
    "proc/device-tree/model": "NVIDIA Jetson Nano Developer Kit\0",
}
BOARDS = {
    "orin nano super": ORIN_NANO_SUPER,
    "agx thor": AGX_THOR,
    "agx orin, jetpack 7": AGX_ORIN_JETPACK_7,
    "nano": NANO,
}

Files = dict[str, str]


@pytest.fixture
def write_tree(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes files, given by their paths, and returns the root that holds them."""

    def write(files: Files, **more: str) -> Path:
        for name, text in {**files, **more}.items():
            path = tmp_path / "machine" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return tmp_path / "machine"

    return write


@pytest.fixture
def board(write_tree: Callable[..., Path]) -> Callable[..., Path]:
    """Return a function that writes a root which looks like a board of ``BOARDS``, with some files changed."""
    return lambda name, changed=None: write_tree({**BOARDS[name], **(changed or {})})
