"""Facts from a Jetson's files: board, Jetson Linux (L4T), JetPack, power mode, clocks, throttling.

Reading these files needs neither root nor NVIDIA's tools.

Sources of the file formats: Jetson Linux Developer Guide r36.4 (Platform Power and Performance: nvpmodel,
jetson_clocks, soctherm-oc-event, throttle-alert cooling devices); releases by github.com/rbonghi/jetson_stats,
``jetson_variables.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vidrisk.doctor.asking import number_of
from vidrisk.runtimes.gpu import text_of

# Jetson Linux → JetPack, for images without the package ``nvidia-jetpack``.
JETPACK = {
    "39.2.1": "7.2.1",
    "39.2": "7.2",
    "38.4": "7.1",
    "38.2": "7.0",
    "36.5": "6.2.2",
    "36.4.7": "6.2.1",
    "36.4.4": "6.2.1",
    "36.4.3": "6.2",
    "36.4": "6.1",
    "36.3": "6.0",
    "35": "5",
    "32": "4",
}
OLDEST_L4T = (36, 4)  # JetPack 6.1; 6.0 has TensorRT 8.6, and 5 has Python 3.8
DPKG_STATUS = "var/lib/dpkg/status"


@dataclass(frozen=True)
class Clock:
    """A clock's limits, in MHz; ``jetson_clocks`` makes them equal."""

    name: str
    low_mhz: int
    high_mhz: int

    @property
    def is_locked(self) -> bool:
        return self.low_mhz == self.high_mhz


@dataclass(frozen=True)
class Jetson:
    """One board; fields are empty if their file does not exist.

    Attributes:
        model: ``NVIDIA Jetson Orin NX Engineering Reference Developer Kit``.
        l4t: ``36.4.3``.
        jetpack: ``6.2``; the version of the package if it is installed.
        has_jetpack: whether that package, and with it CUDA and TensorRT, is installed.
        power_mode, power_modes: the current mode, and all modes by number.
        clocks: of GPU and processors.
        hot: alerts that hold the clocks down at this moment.
        overcurrents: throttling events since the start, by ``oc1``, ``oc2``, ``oc3``.
        hottest_c: temperature of the hottest zone.
    """

    model: str
    l4t: str
    jetpack: str
    has_jetpack: bool
    power_mode: str
    power_modes: dict[int, str]
    clocks: tuple[Clock, ...]
    hot: tuple[str, ...]
    overcurrents: dict[str, int]
    hottest_c: float | None

    @property
    def is_too_old(self) -> bool:
        """Whether it is too old for TensorRT 10.3, the oldest version that engines are built with."""
        return bool(self.l4t) and tuple(map(int, self.l4t.split(".")))[:2] < OLDEST_L4T

    @property
    def fastest_mode(self) -> tuple[int, str] | None:
        """The latest form of MAXN."""
        return max(
            ((number, name) for number, name in self.power_modes.items() if name.startswith("MAXN")),
            key=lambda mode: (len(mode[1]), mode[0]),
            default=None,
        )


def jetson_from_files(root: Path) -> Jetson | None:
    """Return the Jetson whose files are under ``root``, or None if it is another machine."""
    model = text_of(root / "proc/device-tree/model").strip("\0\n ")
    l4t = l4t_from_release(text_of(root / "etc/nv_tegra_release"))
    if not l4t and "Jetson" not in model:
        return None
    package = dpkg_version(text_of(root / DPKG_STATUS), "nvidia-jetpack")
    modes = modes_from_conf(text_of(root / "etc/nvpmodel.conf"))
    thermal = root / "sys/class/thermal"
    temperatures = [
        degrees / 1000 for path in thermal.glob("thermal_zone*/temp") if (degrees := number_of(path)) is not None
    ]
    return Jetson(
        model=model,
        l4t=l4t,
        jetpack=package.partition("+")[0].partition("-")[0] or jetpack_from_l4t(l4t),
        has_jetpack=bool(package),
        power_mode=_power_mode(text_of(root / "var/lib/nvpmodel/status"), modes),
        power_modes=modes,
        clocks=tuple(_clocks(root)),
        hot=tuple(_alerts(thermal)),
        overcurrents=_overcurrents(root),
        hottest_c=max(temperatures, default=None),
    )


def l4t_from_release(text: str) -> str:
    """Parse ``# R36 (release), REVISION: 4.3, …`` into ``36.4.3``."""
    match = re.match(r"# R(\d+) \(release\), REVISION: (\d+(?:\.\d+)*)", text)
    return f"{match[1]}.{match[2]}" if match else ""


def jetpack_from_l4t(l4t: str) -> str:
    """Return the JetPack of the longest entry of ``JETPACK`` that the release begins with."""
    parts = l4t.split(".")
    return next((JETPACK[key] for end in range(len(parts), 0, -1) if (key := ".".join(parts[:end])) in JETPACK), "")


def dpkg_version(status: str, package: str) -> str:
    """Return a package's version from the text of ``/var/lib/dpkg/status``, or '' if not installed."""
    stanza = re.search(rf"^Package: {re.escape(package)}\n((?:.+\n?)*)", status, re.M)
    if not stanza or not re.search(r"^Status: .* installed$", stanza[1], re.M):
        return ""
    version = re.search(r"^Version: (\S+)", stanza[1], re.M)
    return version[1] if version else ""


def modes_from_conf(text: str) -> dict[int, str]:
    """Parse ``< POWER_MODEL ID=2 NAME=MAXN_SUPER >`` of ``/etc/nvpmodel.conf`` into {2: MAXN_SUPER}."""
    return {
        int(number): name for number, name in re.findall(r"^\s*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", text, re.M)
    }


def mode_from_query(text: str) -> str:
    """Parse the power mode, such as MAXN, from ``nvpmodel -q``, which may print other warnings first."""
    match = re.search(r"NV Power Mode: (\S+)", text)
    return match[1] if match else ""


def _power_mode(status: str, modes: dict[int, str]) -> str:
    """Parse ``pmode:0002``, which ``nvpmodel`` stores for the next start, into MAXN_SUPER."""
    match = re.search(r"pmode:(\d+)", status)
    return modes.get(int(match[1]), f"mode {int(match[1])}") if match else ""


def _clocks(root: Path) -> Iterator[Clock]:
    """Yield the clocks of GPU (files in Hz) and processors (files in kHz).

    The GPU is ``17000000.gpu`` (JetPack 6) or ``17000000.ga10b`` (5) on Orin, and ``gpu-gpc-0`` on Thor.
    """
    for folder in sorted((root / "sys/class/devfreq").glob("*")):
        if re.search(r"\.(gpu|ga10b)$|^gpu-gpc-", folder.name):
            low, high = number_of(folder / "min_freq"), number_of(folder / "max_freq")
            if low is not None and high is not None:
                yield Clock("GPU", low // 10**6, high // 10**6)
                break
    for policy in sorted((root / "sys/devices/system/cpu/cpufreq").glob("policy*")):
        low, high = number_of(policy / "scaling_min_freq"), number_of(policy / "scaling_max_freq")
        if low is not None and high is not None:
            yield Clock(f"CPU {policy.name.removeprefix('policy')}", low // 1000, high // 1000)


def _alerts(thermal: Path) -> Iterator[str]:
    """Yield the active throttling alerts.

    ``cpu-throttle-alert``, ``hot-surface-alert`` and the like are cooling devices; one that is not in state 0 is
    active.
    """
    for folder in sorted(thermal.glob("cooling_device*")):
        kind = text_of(folder / "type").strip()
        if kind.endswith("-alert") and number_of(folder / "cur_state"):
            yield kind


def _overcurrents(root: Path) -> dict[str, int]:
    """Return the events counted since the start.

    oc1 is under-voltage, oc2 the average current, oc3 its peaks.
    """
    counters = sorted((root / "sys/devices/platform/soctherm-oc-event").glob("hwmon/hwmon*/oc*_event_cnt"))
    return {path.name.partition("_")[0]: count for path in counters if (count := number_of(path))}
