"""Tests of the ``gpu`` mark: without a GPU, marked tests skip, or fail if a GPU is required."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vidrisk.runtimes.gpu import visible_gpu

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.skipif(visible_gpu() is not None, reason="there is a GPU")
@pytest.mark.parametrize(("required", "code", "said"), [("", 0, "SKIPPED"), ("1", 1, "and VIDRISK_REQUIRE_GPU=1")])
def test_without_a_gpu(required: str, code: int, said: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", "tests/export/test_gpu.py"]
    end = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "VIDRISK_REQUIRE_GPU": required},
    )
    assert end.returncode == code and said in end.stdout and "no NVIDIA GPU is visible" in end.stdout, end.stdout
    assert not re.search(r"\d passed", end.stdout) and (" errors" in end.stdout) == bool(code)
