"""The short form of ``benchmarks/fuzz.py``."""

from __future__ import annotations

from pathlib import Path

import fuzz_runs
import pytest


@pytest.mark.slow
def test_damaged_media_end_in_the_ledger(tmp_path: Path) -> None:
    fuzz_runs.write_mutants(tmp_path, count=240, seed=1)
    states, longest_s = fuzz_runs.run_over(tmp_path, tmp_path / "out")
    assert states.total() == 240 and "pending" not in states
    assert min(states["ok"], states["corrupt"], states["partial"]) >= 5, states  # else the mutants are too mild, or too wild
    assert longest_s < 4 * fuzz_runs.FILE_TIMEOUT_S
