"""Tests of ``vidrisk build``: its output, the location of the engines, and its exit codes.

The tests build real engines, ahead of time.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from colour_bundle import write_colour_bundle

from vidrisk.cli.build_view import batches_from_text, capabilities_from_text
from vidrisk.runtimes.contract.bundle import Bundle, write_bundle
from vidrisk.runtimes.contract.errors import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_USAGE, SettingsError
from vidrisk.runtimes.tensorrt.api import find_installed_kinds
from vidrisk.runtimes.tensorrt.cache import Batches
from vidrisk.runtimes.tensorrt.engine_file import read_engine

ROOT = Path(__file__).parents[3]
needs_rtx = pytest.mark.skipif(
    "tensorrt-rtx" not in find_installed_kinds() and os.environ.get("VIDRISK_REQUIRE_TRT") != "1",
    reason="TensorRT for RTX is not installed: pip install 'vidrisk[tensorrt-rtx]'",
)
pytestmark = needs_rtx
AHEAD = ("--engine", "tensorrt-rtx", "--compute-capability", "8.6,8.9")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bundles") / "colours.bundle"
    write_colour_bundle(root)
    return root


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VIDRISK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "engines"


def words(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("│ \n").split("│")]


def test_a_table_of_engines_in_the_cache(cli: Callable[..., Any], bundle: Path, cache: Path) -> None:
    end = cli("build", bundle, *AHEAD)
    assert (end.code, [line for line in end.stderr.split("\n") if "building" not in line]) == (0, [""]), end
    rows = [words(line) for line in end.stdout.split("\n") if line.startswith("│")]
    assert [row[:3] for row in rows] == [["encoder", "fp32", "1, 8, 64"], ["head", "fp32", "1, 8, 64"]]
    assert all(re.fullmatch(r"\d+\.\d", row[3]) and re.fullmatch(r"\d+\.\d", row[4]) for row in rows)
    assert [row[5] for row in rows] == ["0 of 0", "0 of 0"]
    assert end.stdout.rstrip().endswith(f"→ {cache}")
    assert sorted(path.suffix for path in cache.iterdir()) == [".engine", ".engine", ".json", ".json"]
    again = cli("build", bundle, *AHEAD)
    assert again.code == 0 and again.stdout.count("there already") == 2


def test_json_into_a_folder_of_ones_own(cli: Callable[..., Any], bundle: Path, cache: Path, tmp_path: Path) -> None:
    end = cli(
        "build", bundle, *AHEAD, "-o", tmp_path / "for the device", "--variant", "fp32", "--batch", "1, 2,4", "--json"
    )
    assert end.code == 0, end
    reports = json.loads(end.stdout)
    assert [(one["stage"], one["variants"], one["batches"]) for one in reports] == [
        (graph, ["fp32"], {"min": 1, "opt": 2, "max": 4}) for graph in ("encoder", "head")
    ]
    for one in reports:
        path = Path(one["path"])
        engine = read_engine(path)
        engine.verify()
        assert path.parent == tmp_path / "for the device" and engine.bytes == one["bytes"] and one["seconds"] > 0
        assert engine.key.compute_capabilities == ("8.6", "8.9") and engine.key.gpu == engine.key.driver_major == ""
    assert not cache.exists()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--compute-capability", "8.7"), EXIT_USAGE, r"cannot build for compute capability 8\.7; allowed: .*8\.6"),
        (
            ("--compute-capability", "8.6", "--portable"),
            EXIT_USAGE,
            r"a portable engine and compute capabilities 8\.6 together",
        ),
        (("--compute-capability", "8.6", "--dla"), EXIT_USAGE, "this machine has no DLA"),
        (("--compute-capability", "8.6", "--variant", "int8"), EXIT_ERROR, "has no variant 'int8'; allowed: fp32"),
        (("--batch", "8,1,64"), EXIT_USAGE, "batches 8,1,64; allowed: 1 ≤ MIN ≤ OPT ≤ MAX"),
        (("--batch", "8"), EXIT_USAGE, "--batch 8; allowed: MIN,OPT,MAX"),
        (("--compute-capability", ","), EXIT_USAGE, r"--compute-capability ,; allowed: numbers such as 8\.6,8\.9"),
    ],
)
def test_what_cannot_be_is_one_line(
    cli: Callable[..., Any], bundle: Path, cache: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    end = cli("build", bundle, "--engine", "tensorrt-rtx", *arguments)
    assert (end.code, end.stdout, end.stderr.count("\n")) == (code, "", 1) and re.search(
        f"^error: .*{says}", end.stderr
    ), end
    assert not list(cache.glob("*"))


@pytest.fixture
def quantised(tmp_path: Path, bundle: Path) -> Path:
    """Return a copy of the bundle that also lists its graphs as an INT8 variant."""
    opened = Bundle.open(bundle)
    variants = {**opened.manifest.variants, "int8": opened.manifest.variants["fp32"]}
    files = {name: bundle / name for name in opened.manifest.files}
    return write_bundle(
        tmp_path / "quantised.bundle", opened.manifest.model_copy(update={"variants": variants}), files
    ).root


def test_known_trouble_is_told_before_the_build(cli: Callable[..., Any], quantised: Path, cache: Path) -> None:
    end = cli("build", quantised, *AHEAD, "--variant", "int8", "--batch", "1,4,8", "--json")
    assert end.code == 0 and json.loads(end.stdout), end
    (line,) = [line for line in end.stderr.splitlines() if line.startswith("known trouble: ")]
    assert line.startswith("known trouble: tensorrt-rtx 1.") and line.endswith(
        "vidrisk bench BUNDLE  # measures both here"
    )
    for quiet in (("--variant", "int8", "--batch", "1,16,32"), ("--variant", "fp32", "--batch", "1,4,8")):
        assert "known trouble" not in cli("build", quantised, *AHEAD, *quiet).stderr


def test_known_trouble_is_that_of_the_gpus_that_are_built_for(
    cli: Callable[..., Any], quantised: Path, cache: Path
) -> None:
    turing = ("--engine", "tensorrt-rtx", "--compute-capability", "7.5", "--variant", "int8", "--batch", "1,16,32")
    assert "does not support INT8 on Turing" in cli("build", quantised, *turing).stderr


def test_no_bundle(cli: Callable[..., Any], tmp_path: Path, cache: Path) -> None:
    end = cli("build", tmp_path, *AHEAD)
    assert end.code == EXIT_ERROR and "is not a bundle" in end.stderr


@pytest.mark.parametrize("text", ["", "1", "1,2", "1,2,3,4", "1,2,x", "1,-2,3", "1,,3", "①,2,3"])
def test_batches_that_are_none(text: str) -> None:
    with pytest.raises(SettingsError):
        batches_from_text(text)


def test_batches() -> None:
    assert batches_from_text("1,8,64") == Batches(1, 8, 64) and batches_from_text(" 2, 2 ,2 ") == Batches(2, 2, 2)


def test_the_same_gpus_in_any_order_are_the_same_engine() -> None:
    assert capabilities_from_text("12.0, 8.9,8.6,8.9") == ("8.6", "8.9", "12.0") and capabilities_from_text("") == ()
    for wrong in ("8.6,", "86", "sm_86", "8.6;8.9", "٨.6"):
        with pytest.raises(SettingsError):
            capabilities_from_text(wrong)


@pytest.mark.parametrize("presses", [1, 4])
def test_ctrl_c_is_one_line_and_keeps_what_was_finished(bundle: Path, cache: Path, presses: int) -> None:
    code = f"""
        import time
        from vidrisk.cli.app import main
        from vidrisk.runtimes.tensorrt.build import builder
        real = builder.new_monitor
        def new_monitor(api):  # the second build takes its time
            monitor = real(api)
            if list(__import__("pathlib").Path({str(cache)!r}).glob("*.engine")):
                complete = type(monitor).step_complete
                def slowly(self, phase, step):
                    print("second", flush=True) if step == 0 else None
                    time.sleep(0.5)
                    return complete(self, phase, step)
                type(monitor).step_complete = slowly
            return monitor
        builder.new_monitor = new_monitor
        main()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), "build", str(bundle), *AHEAD],
        text=True,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "VIDRISK_CACHE": str(cache.parent)},
    )
    assert process.stdout is not None and process.stdout.readline() == "second\n"
    for _ in range(presses):  # TensorRT cannot be left in the middle: the second one ends the process
        process.send_signal(signal.SIGINT)
        time.sleep(0.04)
    _, error = process.communicate(timeout=60)
    assert process.returncode == EXIT_INTERRUPTED
    assert "stopping: waiting for tensorrt-rtx to finish its current step" in error and "Traceback" not in error
    said = (
        r"stopped by Ctrl-C while building (encoder|head)\.fp32\.onnx for tensorrt-rtx"
        if presses == 1
        else ("stopped at once by a second Ctrl-C")
    )
    assert re.search(rf"^error: {said}$", error, re.MULTILINE)
    kept = sorted(path.suffix for path in cache.iterdir() if path.suffix != ".lock")  # a lock ends with its process
    assert kept == [".engine", ".json"]
