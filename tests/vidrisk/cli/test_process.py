"""Tests of the command line in a separate process: help, version, Ctrl-C, and missing packages."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vidrisk import __version__
from vidrisk.runtimes.contract.errors import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_OK, EXIT_SOME_FAILED

REPOSITORY = Path(__file__).resolve().parents[3]
COMMANDS = (
    "train",
    "eval",
    "export",
    "infer",
    "ask",
    "compare",
    "bench",
    "build",
    "deploy",
    "watch",
    "data",
    "doctor",
    "demo",
    "verify",
)
# What a device does not have: everything but the base dependencies and the extra cpu.
WORKSTATION = (
    "torch",
    "transformers",
    "onnx",
    "onnxscript",
    "peft",
    "accelerate",
    "pyarrow",
    "matplotlib",
    "safetensors",
    "yaml",
    "pandas",
    "sklearn",
    "decord",
    "efficientnet_lite_pytorch",
    "elpv_dataset",
    "tensorboard",
)
HIDE = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {hidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hide())
"""

Vidrisk = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def environment(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Return a function that creates an environment in which the named packages cannot be imported."""

    def make(*hidden: str) -> dict[str, str]:
        folder = tmp_path / "hide"
        folder.mkdir(exist_ok=True)
        (folder / "sitecustomize.py").write_text(HIDE.format(hidden=set(hidden)), encoding="utf-8")
        return {
            **os.environ,
            "PYTHONPATH": f"{folder}{os.pathsep}{REPOSITORY}",
            "HF_HUB_OFFLINE": "1",
            "VIDRISK_CACHE": str(tmp_path / "cache"),
        }

    return make


@pytest.fixture
def vidrisk(environment: Callable[..., dict[str, str]], tmp_path: Path) -> Vidrisk:
    def run(*arguments: str | Path, hidden: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "vidrisk", *(os.fspath(argument) for argument in arguments)],
            env=environment(*hidden),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


def test_help_and_version(vidrisk: Vidrisk) -> None:
    told = vidrisk("--help")
    assert told.returncode == EXIT_OK and told.stderr == ""
    listed = told.stdout.partition("Commands:")[2]
    assert sorted(re.findall(r"^  (\w+)  ", listed, re.MULTILINE)) == sorted(COMMANDS)
    assert vidrisk("--version").stdout == f"vidrisk {__version__}\n"


@pytest.mark.parametrize("command", [*((name,) for name in COMMANDS), ("data", "split"), ("data", "preview")])
def test_help_of_every_command_offers_nothing_that_does_not_exist(
    cli: Callable[..., object], command: tuple[str, ...]
) -> None:
    end = cli(*command, "--help")
    text = end.stdout  # type: ignore[attr-defined]
    assert end.code == EXIT_OK and "Usage:" in text  # type: ignore[attr-defined]
    for word in ("cvat", "label studio"):
        assert word not in text.casefold()


def test_train_without_torch_says_what_to_install(vidrisk: Vidrisk, clip_folder: Path) -> None:
    end = vidrisk("train", clip_folder, "-o", "run", hidden=("torch",))
    assert (end.returncode, end.stdout) == (EXIT_ERROR, "")
    assert end.stderr == "error: torch is not installed; fix: pip install 'vidrisk[train]'\n"


@pytest.mark.parametrize(
    ("arguments", "hidden", "said"),
    [
        (("export", "RUN", "-o", "b"), "torch", "pip install 'vidrisk[export]'"),
        (("export", "RUN", "-o", "b"), "onnx", "pip install 'vidrisk[export]'"),
        (("infer", "RUN", "CLIPS", "-o", "out"), "torch", "pip install 'vidrisk[train]'"),
        (("demo",), "elpv_dataset", "pip install 'vidrisk[demo]'"),
        (("eval", "RUN", "CLIPS"), "torch", "pip install 'vidrisk[train]'"),
    ],
)
def test_a_missing_extra_is_one_line(
    vidrisk: Vidrisk, tiny_run: Path, clip_folder: Path, arguments: tuple[str, ...], hidden: str, said: str
) -> None:
    places = {"RUN": tiny_run, "CLIPS": clip_folder}
    end = vidrisk(*(places.get(argument, argument) for argument in arguments), hidden=(hidden,))
    assert end.returncode == EXIT_ERROR and end.stderr.count("\n") == 1
    assert end.stderr.startswith(f"error: {hidden} is not installed") and said in end.stderr


def test_a_device_infers_with_base_dependencies_and_one_engine(
    vidrisk: Vidrisk, tiny_bundle: Path, clip_folder: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "zero.mp4").touch()
    end = vidrisk(
        "infer", tiny_bundle, clip_folder / "red", data, "-o", "out", "--json", hidden=(*WORKSTATION, "openvino")
    )
    assert (end.returncode, end.stderr) == (EXIT_SOME_FAILED, "")
    summary = json.loads(end.stdout)
    assert summary["states"] == {"ok": 8, "corrupt": 1} and summary["runtime"] == "onnxruntime"
    assert (tmp_path / "out" / "report.html").is_file()
    scored = vidrisk("eval", tiny_bundle, clip_folder, "-o", "eval.json", "--json", hidden=WORKSTATION)
    assert scored.returncode == EXIT_OK and json.loads(scored.stdout)["metrics"]["action"]["n"] == 24
    assert (tmp_path / "eval.json").is_file() and not list(tmp_path.glob("*.png"))


def test_doctor_on_a_device_and_without_an_engine(vidrisk: Vidrisk) -> None:
    device = vidrisk("doctor", "--json", hidden=WORKSTATION)
    checks = {check["name"]: check for check in json.loads(device.stdout)}
    assert (device.returncode, device.stderr) == (EXIT_OK, "")
    assert (checks["torch"]["state"], checks["torch"]["fix"]) == ("optional", "pip install 'vidrisk[train]'")
    bare = vidrisk("doctor", "--json", hidden=("onnxruntime", "openvino"))
    assert bare.returncode == EXIT_ERROR
    missing = [check for check in json.loads(bare.stdout) if check["state"] == "missing"]
    assert [(check["name"], check["fix"]) for check in missing] == [("inference runtime", "pip install 'vidrisk[cpu]'")]
    table = vidrisk("doctor", hidden=("onnxruntime", "openvino"))
    assert table.returncode == EXIT_ERROR and "vidrisk[cpu]" in table.stdout


@pytest.mark.slow
def test_ctrl_c_stops_training_cleanly_and_resume_goes_on(
    environment: Callable[..., dict[str, str]], vidrisk: Vidrisk, clip_folder: Path, settings: list[str], tmp_path: Path
) -> None:
    command = (
        "train",
        str(clip_folder),
        "-o",
        "run",
        *settings,
        "--set",
        "optim.epochs=60",
        "--set",
        "optim.patience=60",
    )
    with subprocess.Popen(
        [sys.executable, "-m", "vidrisk", *command], env=environment(), cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as running:
        deadline = time.monotonic() + 200
        while not (tmp_path / "run" / "checkpoints" / "state.json").is_file():
            assert running.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        _, stderr = running.communicate(timeout=60)
    assert running.returncode == EXIT_INTERRUPTED
    *progress, error = stderr.splitlines()  # a slow machine prints progress
    assert error.startswith("error: stopped by Ctrl-C; fix: the same command with --resume")
    assert not any("error" in line or "Traceback" in line for line in progress)
    assert not (tmp_path / "run" / "metrics.json").exists()
    end = vidrisk(*command, "--resume", "--json")
    assert end.returncode == EXIT_OK and json.loads(end.stdout)["epochs"][0]["epoch"] == 1
