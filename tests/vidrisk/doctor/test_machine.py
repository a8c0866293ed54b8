from __future__ import annotations

import errno
import os
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest

from vidrisk.doctor import machine
from vidrisk.doctor.asking import Probe
from vidrisk.doctor.check import Check
from vidrisk.doctor.facts import Facts
from vidrisk.doctor.jetson import jetson_from_files
from vidrisk.doctor.machine import machine_checks, why_not_writable

Disk = namedtuple("Disk", "total used free")
MEMORY = "MemTotal:        7802992 kB\nMemFree:          100000 kB\nMemAvailable:    {available} kB\n"
XEON = "processor : 0\nmodel name : Intel(R) Xeon(R) CPU X5650\nflags : fpu sse sse2 ssse3 sse4_1 sse4_2 popcnt\n"
ORIN = "processor : 0\nFeatures : fp asimd aes atomics fphp asimdhp asimddp\nCPU implementer : 0x41\nCPU part : 0xd42\n"


@pytest.fixture
def examined(tmp_path: Path) -> Callable[..., dict[str, Check]]:
    """Return a function that returns the checks by name for a root and probes.

    The default probes are those of a machine without faults.
    """

    def examine(root: Path, *, cache: Probe | None = None, workers: Probe | None = None) -> dict[str, Check]:
        engines = tmp_path / "cache" / "engines"
        probes = {
            "numpy": Probe(),
            "cache": cache or Probe({"engines": str(engines), "limit_bytes": 8 << 30}),
            "workers": workers or Probe({"bytes": 4_816_896}),
        }
        return {
            check.name: check for check in machine_checks(Facts(root, probes=probes, jetson=jetson_from_files(root)))
        }

    return examine


def test_an_old_processor(examined: Callable[..., dict[str, Check]], write_tree: Callable[..., Path]) -> None:
    check = examined(write_tree({"proc/cpuinfo": XEON}))["processor"]
    assert check.state == "warning" and "X5650" in check.found and "no AVX2" in check.found and "-cpu host" in check.fix
    check = examined(write_tree({"proc/cpuinfo": ORIN}))["processor"]
    assert check.state == "ok" and check.found.endswith("cores; asimddp")


def test_memory(
    examined: Callable[..., dict[str, Check]], write_tree: Callable[..., Path], board: Callable[..., Path]
) -> None:
    root = write_tree({"proc/meminfo": MEMORY.format(available=6_000_000)})
    assert examined(root)["memory"] == Check("machine", "memory", "ok", "6.1 of 8.0 GB available")
    root = write_tree({"proc/meminfo": MEMORY.format(available=300_000)})
    low = examined(root)["memory"]
    assert (low.state, low.fix) == ("warning", "vidrisk infer … --workers 1 --max-memory 512")
    jetson = examined(board("orin nano super", {"proc/meminfo": MEMORY.format(available=300_000)}))["memory"]
    assert jetson.fix.startswith("sudo systemctl isolate")


def test_memory_of_a_container(examined: Callable[..., dict[str, Check]], write_tree: Callable[..., Path]) -> None:
    files = {"proc/meminfo": MEMORY.format(available=6_000_000), "sys/fs/cgroup/memory.current": f"{1 << 30}\n"}
    limited = examined(write_tree({**files, "sys/fs/cgroup/memory.max": f"{3 << 30}\n"}))["memory"]
    assert limited.found == "2.1 of 3.2 GB available"
    free = examined(write_tree({**files, "sys/fs/cgroup/memory.max": "max\n"}))["memory"]
    assert free.found == "6.1 of 8.0 GB available"


@pytest.mark.parametrize("text", ["", "MemAvailable: many kB\nMemTotal: 1 kB\n", "MemTotal:\nMemAvailable:\n"])
def test_memory_that_is_not_told(
    examined: Callable[..., dict[str, Check]], write_tree: Callable[..., Path], text: str
) -> None:
    assert "memory" not in examined(write_tree({"proc/meminfo": text}))


def test_sealed_memory_that_is_forbidden(
    examined: Callable[..., dict[str, Check]], write_tree: Callable[..., Path]
) -> None:
    refused = Probe(problem="PermissionError: [Errno 13] Permission denied")
    check = examined(write_tree({"proc/sys/vm/memfd_noexec": "2\n"}), workers=refused)["shared memory"]
    assert (check.state, check.fix) == ("missing", "sudo sysctl vm.memfd_noexec=0") and check.is_red
    check = examined(write_tree({"proc/sys/vm/memfd_noexec": "0\n"}), workers=refused)["shared memory"]
    assert "seccomp" in check.fix


def test_without_numpy_nothing_is_said_that_needs_it(tmp_path: Path) -> None:
    probes = {
        "numpy": Probe(problem="crashes (Segmentation fault)"),
        "cache": Probe(problem="x"),
        "workers": Probe(problem="x"),
    }
    assert [check.name for check in machine_checks(Facts(tmp_path, probes=probes))] == ["vidrisk", "processor", "disk"]


def test_a_full_disk(
    examined: Callable[..., dict[str, Check]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vidrisk.doctor.machine.shutil.disk_usage", lambda path: Disk(1, 1, 1000))
    checks = examined(tmp_path)
    assert checks["disk"].state == "missing" and checks["disk"].fix
    assert checks["cache"].state == "warning" and checks["cache"].fix == f"rm -r {tmp_path}/cache"


def test_engines_that_are_kept(examined: Callable[..., dict[str, Check]], tmp_path: Path) -> None:
    assert examined(tmp_path)["cache"].found == f"{tmp_path}/cache: no engines yet"
    folder = tmp_path / "cache" / "engines"
    folder.mkdir(parents=True)
    with (folder / "a.engine").open("wb") as file:
        file.truncate(1_500_000_000)
    assert examined(tmp_path)["cache"] == Check("machine", "cache", "ok", f"{tmp_path}/cache: 1.5 of 8.6 GB of engines")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.engine", "cache", "engines"]


def test_a_cache_that_cannot_be_written(examined: Callable[..., dict[str, Check]], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    check = examined(tmp_path, cache=Probe({"engines": str(tmp_path / "file" / "a b" / "engines"), "limit_bytes": 1}))[
        "cache"
    ]
    assert (
        check.state == "warning"
        and "Not a directory" in check.found
        and check.fix == 'export VIDRISK_CACHE="$PWD/cache"'
    )
    check = examined(tmp_path, cache=Probe(problem="VIDRISK_ENGINE_CACHE_GB=x", fix="unset VIDRISK_ENGINE_CACHE_GB"))[
        "cache"
    ]
    assert (check.state, check.fix) == ("warning", "unset VIDRISK_ENGINE_CACHE_GB")
    check = examined(tmp_path, cache=Probe(problem="RuntimeError: Could not determine home directory."))["cache"]
    assert "VIDRISK_CACHE" in check.fix


def test_a_cache_of_somebody_else(
    examined: Callable[..., dict[str, Check]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "why_not_writable", lambda folder: errno.EACCES)
    folder = tmp_path / "their cache"
    cache = Probe({"engines": str(folder / "engines"), "limit_bytes": 1})
    assert examined(tmp_path, cache=cache)["cache"].fix == 'export VIDRISK_CACHE="$PWD/cache"'
    folder.mkdir()
    assert examined(tmp_path, cache=cache)["cache"].fix == f"sudo chown -R \"$USER\" '{folder}'"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_home_that_cannot_be_entered(tmp_path: Path) -> None:
    closed = tmp_path / "home"
    closed.mkdir(mode=0o700)
    os.seteuid(65534)
    try:
        assert why_not_writable(closed / ".cache" / "vidrisk") == errno.EACCES
    finally:
        os.seteuid(0)
