"""Checks of the machine itself: Python, processor, memory, disk, the cache, and what decode workers need."""

from __future__ import annotations

import errno
import os
import platform
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vidrisk import __version__
from vidrisk.doctor.asking import number_of
from vidrisk.doctor.check import Check
from vidrisk.doctor.facts import Facts
from vidrisk.runtimes.gpu import text_of

CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "avx512_bf16", "asimddp", "i8mm")
LITTLE_BYTES = 1e9  # of memory or disk
ELSEWHERE = 'export VIDRISK_CACHE="$PWD/cache"'
SECTION = "machine"


def machine_checks(facts: Facts) -> Iterator[Check]:
    python = f"Python {platform.python_version()} on {sys.platform} {platform.machine()}"
    yield Check(SECTION, "vidrisk", "ok", f"{__version__}, {python}")
    yield _processor(facts.root)
    yield from _memory(facts)
    yield from _disk()
    if not facts.probes["numpy"].problem:  # these need numpy, which has a line of its own
        yield _workers(facts)
        yield from _sandbox(facts)
        yield from _cache(facts)


def _processor(root: Path) -> Check:
    lines = text_of(root / "proc/cpuinfo").splitlines()
    flags = {
        flag for line in lines if line.startswith(("flags", "Features")) for flag in line.partition(":")[2].split()
    }
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    known = ", ".join(flag for flag in CPU_FLAGS if flag in flags) or "no vector flags known"
    found = f"{model + ', ' if model else ''}{os.cpu_count()} cores; {known}"
    if "sse2" in flags and "avx2" not in flags:  # x86; OpenVINO and ONNX Runtime fall back to SSE
        return Check(
            SECTION,
            "processor",
            "warning",
            f"{found}; no AVX2, so no fast INT8",
            "qemu-system-x86_64 -cpu host …  # a virtual machine that hides it",
        )
    return Check(SECTION, "processor", "ok", found)


def _memory(facts: Facts) -> Iterator[Check]:
    fields = dict(line.partition(":")[::2] for line in text_of(facts.root / "proc/meminfo").splitlines())
    try:
        available, total = (int(fields[key].split()[0]) * 1024 for key in ("MemAvailable", "MemTotal"))
    except (KeyError, IndexError, ValueError):
        return
    group = facts.root / "sys/fs/cgroup"  # for containers with a limit
    limit, used = number_of(group / "memory.max"), number_of(group / "memory.current")
    if limit is not None and used is not None and limit < total:
        total, available = limit, min(available, limit - used)
    found = f"{available / 1e9:.1f} of {total / 1e9:.1f} GB available"
    if available >= LITTLE_BYTES:
        yield Check(SECTION, "memory", "ok", found)
    elif facts.jetson:
        yield Check(SECTION, "memory", "warning", found, "sudo systemctl isolate multi-user.target  # ends the desktop")
    else:
        yield Check(SECTION, "memory", "warning", found, "vidrisk infer … --workers 1 --max-memory 512")


def _workers(facts: Facts) -> Check:
    """Check sealed memory, through which decode workers pass frames; kernels and sandboxes can forbid it."""
    probe = facts.probes["workers"]
    if not probe.problem:
        return Check(
            SECTION, "shared memory", "ok", f"sealed memory for workers works ({probe.told['bytes'] / 1e6:.1f} MB each)"
        )
    forbidden = text_of(facts.root / "proc/sys/vm/memfd_noexec").strip() == "2"
    return Check(
        SECTION,
        "shared memory",
        "missing",
        probe.problem,
        "sudo sysctl vm.memfd_noexec=0" if forbidden else "docker run --security-opt seccomp=unconfined …",
    )


def _sandbox(facts: Facts) -> Iterator[Check]:
    """Check that a decoder compromised by a file is confined; vidrisk also works without."""
    probe = facts.probes.get("sandbox")
    if probe is None:
        return
    if probe.problem or probe.told["open"]:
        found = probe.problem or f"decode workers can still access {' and '.join(probe.told['open'])}"
        yield Check(SECTION, "sandbox", "optional", found, "use Linux 5.13 or later, booted with lsm=landlock,…")
    else:
        yield Check(
            SECTION, "sandbox", "ok", f"decode workers are confined (Landlock {probe.told['landlock']}, seccomp)"
        )


def _disk() -> Iterator[Check]:
    free = shutil.disk_usage(".").free
    plenty = free >= LITTLE_BYTES
    yield Check(
        SECTION,
        "disk",
        "ok" if plenty else "missing",
        f"{free / 1e9:.1f} GB free here",
        "" if plenty else "du -xh . | sort -h | tail  # shows what could go",
    )


def _cache(facts: Facts) -> Iterator[Check]:
    """Check the cache of engines, calibration and measured choices.

    Without it they are made anew at every start.
    """
    probe = facts.probes["cache"]
    if probe.problem:
        yield Check(SECTION, "cache", "warning", probe.problem, probe.fix or ELSEWHERE)
        return
    engines = Path(probe.told["engines"])
    folder, quoted = engines.parent, shlex.quote(str(engines.parent))
    why = why_not_writable(folder)
    if why:
        belongs_to_others = why == errno.EACCES and _existing(folder) == folder
        fix = f'sudo chown -R "$USER" {quoted}' if belongs_to_others else ELSEWHERE
        yield Check(SECTION, "cache", "warning", f"{folder} cannot be written: {os.strerror(why)}", fix)
        return
    files, held = _size(engines)
    limit = probe.told["limit_bytes"]
    found = f"{folder}: {f'{held / 1e9:.1f} of {limit / 1e9:.1f} GB of engines' if files else 'no engines yet'}"
    free = shutil.disk_usage(_existing(folder)).free
    if free < LITTLE_BYTES:
        yield Check(SECTION, "cache", "warning", f"{found}; {free / 1e9:.1f} GB free there", f"rm -r {quoted}")
    else:
        yield Check(SECTION, "cache", "ok", found)


def why_not_writable(folder: Path) -> int | None:
    """Return the error number of creating a file in ``folder``, or None if that works.

    If the folder does not exist, the nearest existing folder above it is tried. Nothing is left behind.
    """
    try:
        with tempfile.TemporaryFile(dir=_existing(folder)):
            return None
    except OSError as error:
        return error.errno or errno.EIO


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that is visible."""
    return next(path for path in (folder, *folder.parents) if os.access(path, os.F_OK))


def _size(folder: Path) -> tuple[int, int]:
    """Return the number of files under a folder, and their total size in bytes."""
    files = held = 0
    for top, _, names in os.walk(folder):
        for name in names:
            try:
                held += (Path(top) / name).lstat().st_size
            except OSError:  # removed by another process
                continue
            files += 1
    return files, held
