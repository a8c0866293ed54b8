"""Measure a command from outside, including all processes that it starts: wall time, processor time and memory."""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
SAMPLE_S = 0.2


@dataclass(frozen=True)
class Spent:
    """The cost of a command.

    Attributes:
        wall_s: from its start to its end.
        cpu_s: user and system time of the process and all its descendants.
        output: its standard output.
    """

    wall_s: float
    cpu_s: float
    output: str


def adopt_orphans() -> None:
    """Become the parent of orphaned descendants, so that their processor time is counted."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def measure_costs(
    command: Sequence[str | Path],
    *,
    work: Path,
    environment: Mapping[str, str],
    watch: Callable[[], None] | None = None,
    every_s: float = SAMPLE_S,
) -> Spent:
    """Run a command until it and all its child processes have ended.

    Args:
        command: command line.
        work: working directory.
        environment: variables in addition to those of this process. Python may write bytecode, as for users.
        watch: function to call meanwhile.
        every_s: seconds between calls of ``watch``.

    Raises:
        RuntimeError: the exit code is not 0; the message ends with the last output on stderr.
    """
    variables = {**os.environ, **environment}
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as output,
        tempfile.TemporaryFile("w+", encoding="utf-8") as errors,
    ):
        begin = time.perf_counter()
        process = subprocess.Popen(
            [*map(str, command)], cwd=work, stdout=output, stderr=errors, stdin=subprocess.DEVNULL, env=variables
        )
        ended, status, usage = os.wait4(process.pid, os.WNOHANG if watch else 0)
        while watch and not ended:
            watch()
            time.sleep(every_s)
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        wall_s = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        cpu_s = usage.ru_utime + usage.ru_stime + _orphans_cpu_s()
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            last = "\n".join(errors.read().splitlines()[-20:])
            raise RuntimeError(f"exit code {process.returncode} of {' '.join(map(str, command))}:\n{last}")
        return Spent(wall_s, cpu_s, output.read())


def _orphans_cpu_s() -> float:
    """Wait for the processes that a command left behind, and return their processor time."""
    cpu_s = 0.0
    while True:
        try:
            _, _, usage = os.wait4(-1, 0)
        except ChildProcessError:
            return cpu_s
        cpu_s += usage.ru_utime + usage.ru_stime


@dataclass
class MemoryWatch:
    """Samples the memory of all descendants of this process.

    Attributes:
        pss_mb: highest sum of proportional set sizes at one moment: pages that processes share are counted once.
        processes: largest number of processes at one moment.
    """

    pss_mb: float = 0.0
    processes: int = 0
    _peaks_mb: dict[int, float] = field(default_factory=dict)

    @property
    def peaks_mb(self) -> float:
        """Return the sum of the resident peaks (VmHWM) of all observed processes, an upper bound of the peak."""
        return sum(self._peaks_mb.values())

    def __call__(self) -> None:
        alive = [*descendants(os.getpid())]
        self.processes = max(self.processes, len(alive))
        self.pss_mb = max(self.pss_mb, sum(_kib(pid, "smaps_rollup", "Pss:") for pid in alive) / 1024)
        for pid in alive:
            self._peaks_mb[pid] = max(self._peaks_mb.get(pid, 0.0), _kib(pid, "status", "VmHWM:") / 1024)


def descendants(root: int) -> Iterator[int]:
    """Yield the ids of all running processes that a process started, directly or through others."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        if fields := _stat(int(folder.name)):
            children.setdefault(int(fields[1]), []).append(int(folder.name))
    waiting = [*children.get(root, [])]
    while waiting:
        pid = waiting.pop()
        yield pid
        waiting += children.get(pid, [])


def running_cpu_s(pid: int) -> float:
    """Return the processor time of a process and of the child processes that it waited for; 0 if it has ended."""
    return sum(map(int, _stat(pid)[11:15])) / os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[str]:
    """Return the fields of ``/proc/PID/stat`` from the state on (proc(5), field 3); none if it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(") ")[2].split()
    except OSError:
        return []


def _kib(pid: int, file: str, key: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0  # it has ended meanwhile
    return next((int(line.split()[1]) for line in lines if line.startswith(key)), 0)
