"""Tests that a large model is not held in memory twice on its way into a bundle."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "sizes.py"


@pytest.mark.slow
def test_merge_export_and_bundle_take_less_than_twice_the_size(tmp_path: Path) -> None:
    """The memory of the process before loading is subtracted: at this size it is as much as the model."""
    command = [sys.executable, str(BENCHMARK), "--scale", "0.1", "--in", str(tmp_path)]
    found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1])
    assert found["size_mb"] > 500
    assert found["growth_times_size"] < found["limit"]
    assert found["bundle_mb"] == pytest.approx(found["size_mb"], rel=0.01)
    assert (tmp_path / "bundle" / "encoder.fp32.onnx.data").is_file()  # the way that large graphs go
