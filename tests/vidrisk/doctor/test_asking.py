from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from vidrisk.doctor import asking
from vidrisk.doctor.asking import Probe, answer_of, number_of, one_line, run_probes
from vidrisk.doctor.probes import PROBES
from vidrisk.runtimes.gpu import text_of


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_command_that_ends_well() -> None:
    answer = answer_of(python("import sys; print('out'); print('err', file=sys.stderr)"))
    assert (answer.stdout, answer.stderr, answer.problem) == ("out\n", "err\n", "")


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("import sys; print('first', file=sys.stderr); sys.exit('last')", "last"),
        (
            "print('NVML: Driver/library version mismatch'); raise SystemExit(18)",
            "NVML: Driver/library version mismatch",
        ),
        ("raise SystemExit(3)", "exit code 3"),
        (f"import os; os.kill(os.getpid(), {signal.SIGSEGV})", "crashes (Segmentation fault)"),
        ("import sys; sys.stdout.buffer.write(bytes(range(128, 255))); sys.exit(9)", "�"),
    ],
)
def test_a_command_that_fails_says_why_in_a_line(code: str, problem: str) -> None:
    found = answer_of(python(code)).problem
    assert found.startswith(problem) and "\n" not in found


def test_a_command_that_is_not_there() -> None:
    assert (
        answer_of(["/nonexistent/nvidia-smi"]).problem
        == "/nonexistent/nvidia-smi does not start: No such file or directory"
    )


def test_a_command_that_hangs_and_its_children_are_ended(tmp_path: Path) -> None:
    script = tmp_path / "nvidia-smi"
    script.write_text(f"#!/bin/sh\nsleep 1000 &\necho $! > {tmp_path}/child\nwait\n", encoding="ascii")
    script.chmod(0o755)
    started_s = time.monotonic()
    answer = answer_of([str(script)], limit_s=0.5)
    assert answer.problem.startswith("no answer within") and time.monotonic() - started_s < 5
    child = int((tmp_path / "child").read_text(encoding="ascii"))
    deadline = time.monotonic() + 5
    while _lives(child):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return ") Z" not in text_of(Path(f"/proc/{pid}/stat"))


@pytest.mark.parametrize("name", ["numpy", "workers", "cache"])
def test_a_probe_tells_json(name: str) -> None:
    found = run_probes([name])
    assert list(found) == [name] and not found[name].problem and found[name].told


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("raise ImportError('libfoo.so.1: cannot open')", "ImportError: libfoo.so.1: cannot open"),
        ("import os; os.abort()", "crashes (Aborted)"),
        ("import os; print('a driver says hello'); os._exit(0)", "its process returned no result"),
        ("import os; os._exit(0)", "its process returned no result"),
        ("import time; time.sleep(1000)", "no answer within 1 s"),
    ],
)
def test_a_library_that_is_broken(code: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "decord.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(asking, "PROBE_LIMIT_S", 1.0 if "sleep" in code else 60.0)
    assert run_probes(["decord"])["decord"].problem == problem


def test_a_library_that_chatters_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "decord.py").write_text("print('welcome')\n__version__ = '9'", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert run_probes(["decord"]) == {"decord": Probe({"version": "9"})}


def test_the_folder_that_the_user_is_in_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "numpy.py").write_text("__version__ = 'fake'", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert run_probes(["numpy"])["numpy"].told["version"] != "fake"


def test_an_unknown_probe_is_a_problem() -> None:
    assert "KeyError" in run_probes(["no such probe"])["no such probe"].problem and "no such probe" not in PROBES


def test_texts(tmp_path: Path) -> None:
    file = tmp_path / "n"
    file.write_text("-12\n", encoding="ascii")
    assert (number_of(file), number_of(tmp_path), text_of(tmp_path / "none")) == (-12, None, "")
    file.write_text("[N/A]", encoding="ascii")
    assert number_of(file) is None
    assert one_line(" a\n\tb ") == "a b" and len(one_line("x" * 1000)) == asking.MAX_PROBLEM + 1
