from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from colour import ACTION, colour_classifier

from vidrisk.bench.alone import Candidate, answer_of_process, footprint_of, peak_bytes, run_alone
from vidrisk.runtimes.contract.errors import RuntimeFailure
from vidrisk.runtimes.memory import available_bytes

PROGRAMS = {
    "answers": "print('the engine says hello'); print('{\"a\": [1]}')",
    "crashes": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
    "is_killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "fails": "import sys; print('a warning', file=sys.stderr); sys.exit('no such kernel')",
    "is_silent": "raise SystemExit(3)",
    "hangs": "import time; time.sleep(60)",
    "names_its_cache": "import json; from vidrisk.runtimes.folders import cache_folder; print(json.dumps(str(cache_folder())))",
    "tells_its_peak": "from vidrisk.bench.alone import peak_bytes; print(peak_bytes())",
}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Return environment variables with which the programs above can be run as modules."""
    for name, program in PROGRAMS.items():
        (tmp_path / f"{name}.py").write_text(program, encoding="utf-8")
    return {"PYTHONPATH": str(tmp_path)}


def test_the_last_line_is_the_answer(environment: dict[str, str]) -> None:
    assert answer_of_process("answers", [], environment) == {"a": [1]}


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("crashes", r"killed by signal 11 \(Segmentation fault\)$"),
        ("is_killed", r"killed by signal 9 \(Killed\), perhaps for lack of memory"),
        ("fails", "^no such kernel$"),
        ("is_silent", "exit code 3"),
    ],
)
def test_a_process_that_fails_says_why(environment: dict[str, str], module: str, said: str) -> None:
    with pytest.raises(RuntimeFailure, match=said):
        answer_of_process(module, [], environment)


def test_a_process_that_hangs(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidrisk.bench.alone.LIMIT_S", 0.5)
    with pytest.raises(RuntimeFailure, match="no answer within"):
        answer_of_process("hangs", [], environment)


def test_nothing_is_imported_from_the_folder_of_the_user(
    tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "json.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    monkeypatch.chdir(tmp_path / "here")
    assert answer_of_process("tells_its_peak", [], environment) > 0


def test_a_cache_that_is_named_relatively_is_the_same_there(
    tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIDRISK_CACHE", "cache")
    assert answer_of_process("names_its_cache", [], environment) == str(tmp_path / "cache")


def test_a_peak_is_that_of_the_process_alone(environment: dict[str, str]) -> None:
    before = peak_bytes()
    held = np.ones(500 << 20, np.uint8)
    assert peak_bytes() >= before and peak_bytes() > held.nbytes
    assert answer_of_process("tells_its_peak", [], environment) < held.nbytes


def test_available_memory_is_known_where_the_system_says() -> None:
    available = available_bytes()
    assert (available is not None) == Path("/proc/meminfo").exists()
    assert available is None or available > 1 << 20


def test_a_classifier_works_in_batches_as_in_a_run() -> None:
    sizes: list[int] = []
    with colour_classifier(ACTION, batch_sizes=sizes) as classifier:
        footprint = run_alone(classifier)
    assert sizes == [1, 32] and footprint.peak_bytes > 0 <= footprint.bytes_per_frame


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_footprint_of_a_real_candidate(tiny_bundle: Path, runtime: str) -> None:
    pytest.importorskip(runtime)
    footprint = footprint_of(tiny_bundle, Candidate(runtime, "fp32"), 1)
    assert 20e6 < footprint.peak_bytes < 2e9 and 0 <= footprint.bytes_per_frame < 20e6


def test_a_candidate_that_does_not_run(tiny_bundle: Path) -> None:
    with pytest.raises(RuntimeFailure, match="'none' cannot run a bundle"):
        footprint_of(tiny_bundle, Candidate("none", "fp32"), None)
