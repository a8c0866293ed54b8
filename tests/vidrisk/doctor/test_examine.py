from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from vidrisk import doctor
from vidrisk.doctor import Check, Facts, checks_from_facts, examine
from vidrisk.doctor.asking import Probe
from vidrisk.doctor.facts import gather_facts


def test_this_machine_is_looked_at_once() -> None:
    checks = examine()
    names = [check.name for check in checks]
    assert len(set(names)) == len(names)
    assert {"vidrisk", "processor", "memory", "disk", "cache", "shared memory", "GPU", "onnxruntime", "PyAV"} <= set(
        names
    )
    assert all(check.found for check in checks)
    assert all(check.fix for check in checks if check.is_red or check.state == "warning")
    assert not any("stopped" in check.found for check in checks)


def test_a_machine_without_any_file_and_library(tmp_path: Path) -> None:
    facts = replace(gather_facts(), root=tmp_path, packages={}, gpu=None, jetson=None)
    gone = Probe(problem="ModuleNotFoundError: No module named 'numpy'")
    bare = replace(facts, probes={name: facts.probes[name] for name in ("workers", "cache", "GPU")} | {"numpy": gone})
    red = {check.name: check.fix for check in checks_from_facts(bare) if check.is_red}
    assert red == {
        "inference runtime": "pip install 'vidrisk[cpu]'",
        "numpy": "pip install numpy",
        "Pillow": "pip install pillow",
        "PyAV": "pip install av",
    }


def test_a_section_that_fails_costs_no_other_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(facts: Facts) -> Iterator[Check]:
        yield Check("x", "first", "ok", "seen before")
        raise ZeroDivisionError("what nobody has thought of")

    def goes_on(facts: Facts) -> Iterator[Check]:
        yield Check("y", "last", "ok", "seen after")

    monkeypatch.setattr(doctor, "SECTIONS", (fails, goes_on))
    checks = checks_from_facts(Facts())
    assert [check.name for check in checks] == ["first", "fails", "last"]
    assert checks[1].state == "warning" and "what nobody has thought of" in checks[1].found


@pytest.mark.gpu
def test_a_real_gpu_is_seen() -> None:
    checks = {check.name: check for check in examine()}
    assert checks["GPU"].state in ("ok", "warning") and "compute capability" in checks["GPU"].found
    assert checks["driver"].state == "ok" and "CUDA" in checks["driver"].found
