"""Run the tests that are marked ``gpu`` as a step, and record each outcome at once."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from gpu_place import Part, Place, say

ROOT = Path(__file__).resolve().parent.parent
ENDED = re.compile(r"(\S+::.+?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL)\b")


class TestsFailedError(Exception):
    """The exit code of pytest was not 0."""


def tests(place: Place) -> Iterator[Part]:
    """Run ``pytest -m gpu`` on the files that contain such tests.

    Raises:
        TestsFailedError: a test failed, or pytest could not run.
    """
    marked = sorted(
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("test_*.py")
        if "mark.gpu" in path.read_text(encoding="utf-8")
    )
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-v", "--no-header", "-p", "no:cacheprovider", *marked]
    ended: dict[str, str] = {}
    last = ""
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            say(line.rstrip())
            last = line.strip() or last
            if match := ENDED.match(line):
                ended[match[1]] = match[2].lower()
                counts = ", ".join(f"{count} {how}" for how, count in sorted(Counter(ended.values()).items()))
                yield {"files": marked, "tests": ended, "headline": counts}
    if process.returncode:
        raise TestsFailedError(f"pytest ended with exit code {process.returncode}: {last}")
