"""Queries to the machine, with time limits: files, commands, and probes in processes of their own.

Files that do not exist read as empty. Whatever may crash or hang runs in a process of its own. A broken driver can end
the interpreter that loads its library, and ``nvidia-smi`` can hang in the kernel, where not even SIGKILL reaches it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidrisk.runtimes.gpu import text_of

COMMAND_LIMIT_S = 5.0
PROBE_LIMIT_S = 60.0  # the first import of an engine from a slow card takes many seconds
AT_ONCE = 4
MAX_PROBLEM = 200  # characters
# The module path of this process, instead of the user's current folder.
START = "import sys; sys.path[:] = sys.argv[2:]; from vidrisk.doctor.probes import main; main(sys.argv[1])"


@dataclass(frozen=True)
class Answer:
    """Output of a command.

    Attributes:
        problem: why the output is of no use, in one line; empty if the command succeeded.
    """

    stdout: str
    stderr: str
    problem: str = ""


@dataclass(frozen=True)
class Probe:
    """Result of a probe of ``probes``.

    Attributes:
        told: the result.
        problem: why the probe failed, in one line.
        fix: of the problem, if the probe knows one.
    """

    told: dict[str, Any] = field(default_factory=dict)
    problem: str = ""
    fix: str = ""
    stderr: str = ""


def answer_of(command: Sequence[str], limit_s: float = COMMAND_LIMIT_S) -> Answer:
    """Run a command that may hang."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
    except OSError as error:
        return Answer("", "", f"{command[0]} does not start: {error.strerror}")
    try:
        stdout, stderr = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):  # do not wait for a process that hangs in the kernel
            process.communicate(timeout=1)
        return Answer("", "", f"no answer within {limit_s:.0f} s")
    if process.returncode < 0:
        return Answer(stdout, stderr, f"crashes ({signal.strsignal(-process.returncode)})")
    if process.returncode:
        lines = [line for line in (stderr.strip() or stdout).splitlines() if line.strip()]
        return Answer(stdout, stderr, one_line(lines[-1]) if lines else f"exit code {process.returncode}")
    return Answer(stdout, stderr)


def run_probes(names: Sequence[str]) -> dict[str, Probe]:
    """Run some of ``probes.PROBES``, several at once."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(names, pool.map(_run_probe, names), strict=True))


def _run_probe(name: str) -> Probe:
    answer = answer_of([sys.executable, "-c", START, name, *sys.path], PROBE_LIMIT_S)
    if answer.problem:
        return Probe(problem=answer.problem, stderr=answer.stderr)
    try:
        told = json.loads(answer.stdout.splitlines()[-1])
        problem, fix = told.pop("problem", ""), told.pop("fix", "")
    except (IndexError, ValueError, AttributeError):
        return Probe(problem="its process returned no result", stderr=answer.stderr)
    return Probe(told, one_line(problem), fix, answer.stderr)


def number_of(path: Path) -> int | None:
    """Return the integer in a kernel file, or None if there is none."""
    try:
        return int(text_of(path))
    except ValueError:
        return None


def one_line(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= MAX_PROBLEM else f"{words[:MAX_PROBLEM]}…"
