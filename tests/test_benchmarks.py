"""Benchmarks run seldom: what they import must still be there when they do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"

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
