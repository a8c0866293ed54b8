"""Asking the machine. Files that are not there read as empty. Whatever may crash, or never answer, is asked in a process of its
own, with a time limit.

A broken driver can end the interpreter that loads its library, and ``nvidia-smi`` can hang in the kernel, where not
even SIGKILL reaches it.
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
# The asker's own module path, instead of the folder that the user happens to be in.
START = "import sys; sys.path[:] = sys.argv[2:]; from vidrisk.doctor.probes import main; main(sys.argv[1])"


@dataclass(frozen=True)
class Answer:
    """What a command wrote, and in one line why it is of no use; empty when it ended well."""

    stdout: str
    stderr: str
    problem: str = ""


@dataclass(frozen=True)
class Probe:
    """What a probe of ``probes`` told; where it failed, the problem in one line, and the fix if it knew one."""

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
        with suppress(subprocess.TimeoutExpired):  # one that hangs in the kernel is not waited for
            process.communicate(timeout=1)
        return Answer("", "", f"no answer within {limit_s:.0f} s")
    if process.returncode < 0:
        return Answer(stdout, stderr, f"crashes ({signal.strsignal(-process.returncode)})")
    if process.returncode:
        lines = [line for line in (stderr.strip() or stdout).splitlines() if line.strip()]
        return Answer(stdout, stderr, one_line(lines[-1]) if lines else f"exit code {process.returncode}")
    return Answer(stdout, stderr)


def probed(names: Sequence[str]) -> dict[str, Probe]:
    """Run some of ``probes.PROBES``, several at once."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(names, pool.map(_probed, names), strict=True))


def _probed(name: str) -> Probe:
    answer = answer_of([sys.executable, "-c", START, name, *sys.path], PROBE_LIMIT_S)
    if answer.problem:
        return Probe(problem=answer.problem, stderr=answer.stderr)
    try:
        told = json.loads(answer.stdout.splitlines()[-1])
        problem, fix = told.pop("problem", ""), told.pop("fix", "")
    except (IndexError, ValueError, AttributeError):
        return Probe(problem="its process told nothing", stderr=answer.stderr)
    return Probe(told, one_line(problem), fix, answer.stderr)


def number_of(path: Path) -> int | None:
    """The whole number that a file of the kernel holds; None where there is none."""
    try:
        return int(text_of(path))
    except ValueError:
        return None


def one_line(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= MAX_PROBLEM else f"{words[:MAX_PROBLEM]}…"
