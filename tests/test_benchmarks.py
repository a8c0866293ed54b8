"""Tests of the benchmarks: their imports exist, and measurements that other programs disturbed are repeated."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
HALF_A_SECOND = "import time\nwhile time.process_time() < 0.5: pass"

IMPORT_ALL = """
import importlib, sys
from pathlib import Path

for path in sorted(Path(sys.path[0]).glob("*.py")):
    try:
        importlib.import_module(path.stem)
    except ModuleNotFoundError as error:
        if error.name not in ALLOWED:
            print(path.name, error)
    except Exception as error:
        print(path.name, repr(error))
"""
NOT_EVERYWHERE = {"nncf"}  # of the extra bench, which tests do without


def test_every_benchmark_can_be_imported(tmp_path: Path) -> None:
    ended = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r}); ALLOWED = {NOT_EVERYWHERE!r}" + IMPORT_ALL,
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert (ended.returncode, ended.stdout) == (0, ""), ended.stderr[-2000:]


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("quiet")
    monkeypatch.setattr(module, "RECORD", module.Record())
    monkeypatch.setattr(module, "CHECK_S", 0.0)
    yield module


def let_pass(quiet: ModuleType, monkeypatch: pytest.MonkeyPatch, *intervals: tuple[float, float, float]) -> None:
    """Make the given intervals pass between readings of the machine.

    An interval consists of the time of the clock, of all cores and of this process.
    """
    moments = [quiet.Moment(0.0, 0.0, 0.0)]
    for interval in intervals:
        last = moments[-1]
        moments.append(quiet.Moment(*(a + b for a, b in zip(vars(last).values(), interval, strict=True))))
    ahead = iter(moments)
    monkeypatch.setattr(quiet, "read_moment", lambda: next(ahead))


def test_own_work_disturbs_no_measurement(quiet: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    let_pass(quiet, monkeypatch, (10.0, 19.9, 19.5))
    assert quiet.measure_quietly(lambda: 7) == 7
    assert quiet.RECORD.to_json() == {
        "limit": 0.05,
        "most": 0.04,
        "accepted": 1,
        "rejected": 0,
        "too_short_to_judge": 0,
    }


def test_a_disturbed_measurement_is_repeated_once_the_machine_is_quiet(
    quiet: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle, busy = (1.0, 0.0, 0.0), (1.0, 0.5, 0.0)
    let_pass(quiet, monkeypatch, (10.0, 11.0, 10.0), idle, busy, idle, idle, idle, (10.0, 10.1, 10.0))
    results = iter(["disturbed", "clean"])
    assert quiet.measure_quietly(lambda: next(results)) == "clean"
    assert (quiet.RECORD.accepted, quiet.RECORD.rejected, quiet.RECORD.most) == (1, 1, pytest.approx(0.01))
    assert quiet.take_record()["rejected"] == 1 and quiet.take_record() == {}


def test_a_machine_that_is_never_quiet_ends_the_benchmark(quiet: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quiet, "PATIENCE_S", 0.05)
    clock = iter(range(10**6))
    monkeypatch.setattr(quiet, "read_moment", lambda: quiet.Moment(now := next(clock), 2.0 * now, 0.0))
    with pytest.raises(SystemExit, match="other programs took over 5% of a core for"):
        quiet.measure_quietly(lambda: None)


def test_work_of_child_processes_is_own_work(quiet: ModuleType) -> None:
    before = quiet.read_moment()
    subprocess.run([sys.executable, "-c", HALF_A_SECOND], check=True)
    after = quiet.read_moment()
    assert after.own_s - before.own_s >= 0.5 and after.busy_s - before.busy_s >= 0.4


def test_work_of_running_child_processes_is_own_work(quiet: ModuleType) -> None:
    """A decode worker is still running after a measurement; so is a child process of a child process."""
    burn = f"{HALF_A_SECOND}\nprint('done', flush=True); input()"
    nested = f"import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', {burn!r}]).returncode)"
    before = quiet.read_moment()
    with subprocess.Popen(
        [sys.executable, "-c", nested], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
        after = quiet.read_moment()
        process.communicate("\n")
    assert process.returncode == 0
    assert after.own_s - before.own_s >= 0.4


def test_the_quick_start_is_timed_with_its_own_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    page = (BENCHMARKS.parent / "docs" / "quick-start.md").read_text(encoding="utf-8")
    commands = importlib.import_module("first_report").quick_start_commands(page)
    assert [command[:2] for command in commands] == [
        ["pip", "install"],
        ["vidrisk", "train"],
        ["vidrisk", "export"],
        ["vidrisk", "infer"],
    ]
    assert commands[0][2] == ".[export]" and commands[-1][-1] == "first-report/"
