"""Tests of ``vidrisk export --trt``: its meaning for the target, and the files that it writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vidrisk.runtimes import Bundle
from vidrisk.runtimes.contract.errors import EXIT_OK, EXIT_USAGE

Cli = Callable[..., Any]


@pytest.mark.slow
def test_trt_makes_fp16_and_types_what_int8_leaves(cli: Cli, tiny_run: Path, tmp_path: Path) -> None:
    end = cli("export", tiny_run, "-o", tmp_path / "b", "--trt", "--int8", "--max-drop", "50", "--allow-drop", "--json")
    assert end.code == EXIT_OK, end
    report = json.loads(end.stdout)
    assert report["target"] == "gpu"
    bundle = Bundle.open(tmp_path / "b")
    assert bundle.passed[:2] == ("fp32", "fp16") and bundle.passed[2:] in (("int8",), ("mixed",))
    assert report["digest"] == bundle.digest
    assert report["half"]["cosine"] >= 0.999 and report["float32"]
    assert bundle.manifest.variants["fp16"].gate["agreement"] == 1
    names = {path.name for path in bundle.root.iterdir()}
    assert names >= {"encoder.fp32.onnx", "encoder.fp16.onnx", f"encoder.{bundle.passed[2]}.onnx", "head.fp32.onnx"}


def test_trt_for_a_processor_makes_no_sense(cli: Cli, tiny_run: Path, tmp_path: Path) -> None:
    end = cli("export", tiny_run, "-o", tmp_path / "b", "--trt", "--target", "cpu")
    assert end.code == EXIT_USAGE
    assert end.stderr.strip().splitlines() == [
        "error: --trt with --target cpu; allowed: gpu, jetson, any; fix: leave one of the two out"
    ]
    end = cli("export", tiny_run, "-o", tmp_path / "b", "--only", "fp16")
    assert (end.code, end.stderr.strip().splitlines()) == (
        EXIT_USAGE,
        ["error: only 'fp16' is to be shipped; allowed: fp32; fix: make it, too: fp16"],
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("coverage", ["0", "1", "1.5", "90", "nan", "-0.1"])
def test_a_coverage_out_of_range_is_one_line(cli: Cli, tiny_run: Path, tmp_path: Path, coverage: str) -> None:
    end = cli("export", tiny_run, "-o", tmp_path / "b", "--coverage", coverage)
    assert (end.code, end.stderr.strip().splitlines()) == (
        EXIT_USAGE,
        [f"error: a coverage of {float(coverage)}; allowed: above 0 and under 1, such as 0.9"],
    )
    assert not list(tmp_path.iterdir())
