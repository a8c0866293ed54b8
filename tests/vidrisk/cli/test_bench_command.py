from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from vidrisk.bench.conditions import Peak
from vidrisk.cli.bench import bench
from vidrisk.runtimes.contract.bundle import VARIANTS
from vidrisk.runtimes.contract.errors import EXIT_ERROR, EXIT_OK, EXIT_SOME_FAILED, EXIT_USAGE
from vidrisk.runtimes.registry import BUNDLE_RUNTIMES

Cli = Callable[..., Any]
ONE = ("--runtime", "onnxruntime", "--variant", "int8", "--threads", "1")
WITHOUT_OPENVINO = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("openvino", "onnx", "torch", "matplotlib", "pyarrow"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hide())
"""


def literals(option: str) -> tuple[str, ...]:
    return tuple(value for part in get_args(get_type_hints(bench)[option]) for value in get_args(part))


def test_options_offer_every_runtime_and_variant() -> None:
    assert literals("runtime") == tuple(BUNDLE_RUNTIMES) and literals("variant") == VARIANTS


def test_tables_and_files(
    cli: Cli, tiny_bundle: Path, clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "vidrisk.bench.benchmark.measure_peaks", lambda threads: {"int8": Peak(100.0 * threads, "said so")}
    )
    monkeypatch.setattr("vidrisk.bench.data.BUDGET_S", 0.0)  # one round
    end = cli("bench", tiny_bundle, clip_folder, "-o", tmp_path / "b.json", "--limit", "6", *ONE)
    assert (end.code, end.stderr) == (EXIT_OK, "")
    assert "onnxruntime int8" in end.stdout and "openvino" not in end.stdout.partition("peak:")[0]
    for words in (
        "ms per",
        "clip of 2",
        "of both",
        "macro-F1",
        "6 of 24 files: 6 clips",
        "int8 peak: 100 GMAC/s (said so)",
        "fastest: onnxruntime int8",
    ):
        assert words in end.stdout, words
    assert json.loads((tmp_path / "b.json").read_text(encoding="utf-8"))["data"]["used"] == 6
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def device(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Yield the environment of a device that has only ONNX Runtime."""
    (tmp_path / "hide").mkdir()
    (tmp_path / "hide" / "sitecustomize.py").write_text(WITHOUT_OPENVINO, encoding="utf-8")
    path = f"{tmp_path / 'hide'}{os.pathsep}{Path(__file__).resolve().parents[3]}"
    yield {**os.environ, "PYTHONPATH": path, "VIDRISK_CACHE": str(tmp_path / "cache")}


def test_a_device_with_one_engine_says_what_it_could_not_measure(
    tiny_bundle: Path, clip_folder: Path, tmp_path: Path, device: dict[str, str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "good.mp4").write_bytes(next(iter(sorted((clip_folder / "red").iterdir()))).read_bytes())
    (data / "zero.mp4").touch()
    command = [
        sys.executable,
        "-m",
        "vidrisk",
        "bench",
        os.fspath(tiny_bundle),
        os.fspath(data),
        "-o",
        "b.json",
        "--threads",
        "1",
    ]
    end = subprocess.run(command, env=device, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
    assert (end.returncode, end.stderr) == (EXIT_SOME_FAILED, "")
    for line in (
        "openvino fp32 does not run here: openvino is not installed; fix: pip install 'vidrisk[cpu]'",
        "int8 peak: – GMAC/s (not measured: openvino is not installed",
        "2 of 2 files: 1 clips, 2 frames, 1 could not be read",
        "no accuracy: data has no sub-folder per class",
    ):
        assert line in end.stdout, end.stdout
    rows = json.loads((tmp_path / "b.json").read_text(encoding="utf-8"))["rows"]
    assert [(row["runtime"], bool(row["problem"])) for row in rows] == [("onnxruntime", False)] * 2 + [
        ("openvino", True)
    ] * 2
    assert rows[0]["of_peak"] > 0 and rows[1]["of_peak"] is None and rows[1]["gmac_per_s"] > 0
    assert not (tmp_path / "b.png").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("BUNDLE", "none"), EXIT_ERROR, "no clip or photo found"),
        (("none",), EXIT_ERROR, "is not a bundle"),
        (("RUN",), EXIT_ERROR, "vidrisk export RUN"),
        (("BUNDLE", "--variant", "mixed"), EXIT_ERROR, "no variant 'mixed'; allowed: fp32, int8"),
        (("BUNDLE", "-o", "."), EXIT_USAGE, "is a folder"),
    ],
)
def test_bad_input_is_one_line(
    cli: Cli,
    tiny_bundle: Path,
    tiny_run: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"BUNDLE": tiny_bundle, "RUN": tiny_run}
    end = cli("bench", *(places.get(argument, argument) for argument in arguments))
    assert (end.code, end.stdout) == (code, "") and end.stderr.startswith("error: ") and end.stderr.count("\n") == 1, (
        end
    )
    assert said in end.stderr and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "option", [("--runtime", "torch"), ("--threads", "0"), ("--limit", "0"), ("--variant", "int4")]
)
def test_wrong_usage(cli: Cli, tiny_bundle: Path, option: tuple[str, str]) -> None:
    assert cli("bench", tiny_bundle, *option).code == EXIT_USAGE
