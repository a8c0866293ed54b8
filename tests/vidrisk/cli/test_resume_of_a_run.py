"""Tests of ``vidrisk infer RUN --resume``: a run can be resumed like a bundle.

A run has only torch and fp32, and its ledger records these.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_media import write_photo

from vidrisk.runtimes.contract.errors import EXIT_OK, EXIT_USAGE

Cli = Callable[..., Any]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for colour in ("red", "green"):
        write_photo(tmp_path / "photos" / f"{colour}.png", colour)
    return tmp_path / "photos"


@pytest.mark.parametrize("begun", [(), ("--runtime", "torch")])
def test_a_run_is_resumed_with_and_without_its_runtime(
    cli: Cli, tiny_run: Path, photos: Path, tmp_path: Path, begun: tuple[str, ...]
) -> None:
    arguments = ("infer", tiny_run, photos, "-o", tmp_path / "out", "--no-report", "--json")
    assert cli(*arguments, *begun).code == EXIT_OK
    before = (tmp_path / "out" / "predictions.jsonl").read_bytes()
    for more in ((), ("--runtime", "torch"), ("--variant", "fp32"), ("--runtime", "torch", "--variant", "fp32")):
        end = cli(*arguments, "--resume", *more)
        assert (end.code, end.stderr, json.loads(end.stdout)["states"]) == (EXIT_OK, "", {"ok": 2}), end
    assert (tmp_path / "out" / "predictions.jsonl").read_bytes() == before
    write_photo(photos / "blue.png", "blue")
    end = cli(*arguments, "--resume")
    assert end.code == EXIT_OK and json.loads(end.stdout)["states"] == {"ok": 3}
    assert (tmp_path / "out" / "predictions.jsonl").read_bytes().startswith(before)


@pytest.mark.parametrize("option", [("--variant", "int8"), ("--runtime", "onnxruntime")])
def test_what_a_run_has_not_is_refused(
    cli: Cli, tiny_run: Path, photos: Path, tmp_path: Path, option: tuple[str, str]
) -> None:
    end = cli("infer", tiny_run, photos, "-o", tmp_path / "out", *option)
    assert end.code == EXIT_USAGE and end.stderr.count("\n") == 1 and "torch alone can read" in end.stderr
    assert not (tmp_path / "out").exists()
