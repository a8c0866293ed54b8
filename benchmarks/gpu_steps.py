"""Run the steps of ``gpu_offline.sh`` in order, each in its own process with a time limit.

    python benchmarks/gpu_steps.py OUT [--seconds N] [--work DIR] [--families A,B] [--dry-run]

The most important step is the first. OUT/STEP.json contains the results of a step, even if it was stopped; OUT/STEP.log
its output; OUT/summary.json one line per step. A step that fails, crashes or hangs does not affect the others. Exit
code 0 if all succeed, 4 if some do not, 130 after Ctrl-C. Uses only the standard library.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

HERE = Path(__file__).resolve().parent
SECONDS = 600
LEAST_S = 5.0  # a step with less time left is not begun
GRACE_S = 3.0  # between asking a process to end and ending it
EXIT_OK, EXIT_SOME_FAILED, EXIT_INTERRUPTED = 0, 4, 130


@dataclass(frozen=True)
class Step:
    """One step of ``gpu.py``. A step that does not need the GPU runs with the GPU hidden."""

    name: str
    limit_s: float
    sees_gpu: bool = True


STEPS = (
    Step("bundles", 100, sees_gpu=False),
    Step("first", 120),
    Step("families", 150),
    Step("runner", 60),
    Step("models", 120, sees_gpu=False),
    Step("throughput", 180),
    Step("second_start", 60),
    Step("tests", 180),
    Step("vlm", 540),
    Step("server", 420),
)


def run_steps(steps: Sequence[Step], out: Path, command: Sequence[str], seconds: float) -> list[dict[str, Any]]:
    """Run the steps within ``seconds`` in total; write each result and state to its file and to ``summary.json``."""
    out.mkdir(parents=True, exist_ok=True)
    end, told = time.monotonic() + seconds, []
    for step in steps:
        left = end - time.monotonic()
        file = out / f"{step.name}.json"
        file.unlink(missing_ok=True)  # of an earlier run
        if left < LEAST_S:
            one: dict[str, Any] = {
                "step": step.name,
                "state": "left out",
                "error": f"no time was left of {seconds:.0f} s",
            }
            _write(file, one)
        else:
            one = _run(step, file, [*command, "--step", step.name, "--out", str(file)], min(step.limit_s, left))
        told.append(one)
        print(_line(one), flush=True)
        keys = ("step", "state", "headline", "error", "seconds", "fake")
        _write(
            out / "summary.json",
            {
                "seconds": round(seconds - end + time.monotonic(), 1),
                "steps": [{key: each[key] for key in keys if key in each} for each in told],
            },
        )
    return told


def _run(step: Step, file: Path, command: Sequence[str], limit_s: float) -> dict[str, Any]:
    begin = time.monotonic()
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **({} if step.sees_gpu else {"CUDA_VISIBLE_DEVICES": ""})}
    with file.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=environment,
        )
        try:
            code: int | None = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
    try:
        told: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        told = {"step": step.name}
    if code is None:
        told |= {"state": "timed out", "error": f"not at its end after {limit_s:.0f} s"}
    elif code < 0:
        told |= {"state": "crashed", "error": f"ended by signal {-code} ({signal.strsignal(-code)})"}
    elif told.get("state") not in ("ok", "failed") or (code == 0) != (told["state"] == "ok"):
        told |= {"state": "crashed", "error": f"exit code {code}: {_last_line(file.with_suffix('.log'))}"}
    told["seconds"] = round(time.monotonic() - begin, 1)
    _write(file, told)
    return told


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all its child processes."""
    for how, wait_s in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, GRACE_S)):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, how)
        if process.poll() is not None and how is signal.SIGKILL:
            return
        with suppress(subprocess.TimeoutExpired):
            process.wait(wait_s)


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing"


def _write(file: Path, content: dict[str, Any]) -> None:
    partial = file.with_suffix(".tmp")
    partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    partial.replace(file)


def _line(told: dict[str, Any]) -> str:
    words = "; ".join(word for word in (told.get("headline", ""), told.get("error", "")) if word)
    return f"{told['step']:12}  {told['state']:9}  {told.get('seconds', 0):6.1f} s  {words}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--families", default="")
    parser.add_argument("--dry-run", action="store_true")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    command = [
        sys.executable,
        str(HERE / "gpu.py"),
        "--work",
        str((arguments.work or out / "work").resolve()),
        *(["--families", arguments.families] if arguments.families else []),
        *(["--trial", "--fake"] if arguments.dry_run else []),
    ]

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    if (
        signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    ):  # nohup; else a lost connection would leave a step alone with the GPU
        signal.signal(signal.SIGHUP, stop)
    try:
        told = run_steps(STEPS, out, command, arguments.seconds)
    except KeyboardInterrupt:
        print(f"stopped; what was found is in {out}", file=sys.stderr)
        return EXIT_INTERRUPTED
    print(f"→ {out / 'summary.json'}" + (" (a dry run: no figure in it is one of a GPU)" if arguments.dry_run else ""))
    return EXIT_OK if all(each["state"] == "ok" for each in told) else EXIT_SOME_FAILED


if __name__ == "__main__":
    sys.exit(main())
