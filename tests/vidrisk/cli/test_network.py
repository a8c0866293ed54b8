"""Tests that no command uses the network: attempts are refused and logged.

A ``sitecustomize``, which child processes inherit, guards Python's own sockets. Where strace is installed and
allowed to trace, it shows the calls that libraries make outside Python.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vidrisk.runtimes.telemetry import OPT_OUT_VARIABLES
from vidrisk.runtimes.tensorrt.api import find_installed_kinds

REPOSITORY = Path(__file__).resolve().parents[3]
GUARD = """
import ipaddress, os, socket, traceback

def written_down(what, host):
    host = host.decode() if isinstance(host, bytes) else host
    try:
        if host in (None, "", "localhost", socket.gethostname()) or ipaddress.ip_address(host).is_loopback:
            return
    except ValueError:
        pass
    with open({log!r}, "a") as log:
        log.write(f"{{what}} {{host}}\\n{{''.join(traceback.format_stack(limit=12))}}\\n")
    raise OSError(101, "the network is refused here")

def guarded(name, host_of):
    original = getattr(socket.socket, name)

    def call(self, *arguments):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            written_down(name, host_of(arguments))
        return original(self, *arguments)

    return call

class Guarded(socket.socket):
    connect = guarded("connect", lambda arguments: arguments[0][0])
    connect_ex = guarded("connect_ex", lambda arguments: arguments[0][0])
    sendto = guarded("sendto", lambda arguments: arguments[-1][0])

socket.socket = Guarded
for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
    def look_up(host, *arguments, _name=name, _original=getattr(socket, name), **options):
        written_down(_name, host)
        return _original(host, *arguments, **options)

    setattr(socket, name, look_up)
"""
CI_VARIABLES = ("CI", "TF_BUILD", "JENKINS_URL")  # where one is set, OpenVINO reports nothing by itself
TRACING = ("-f", "--seccomp-bpf", "-qq", "-e", "trace=connect,sendto,sendmmsg")
Guarded = Callable[..., "subprocess.CompletedProcess[str]"]


def strace_to(calls: Path) -> list[str]:
    """Return the command that writes a program's calls to a file.

    Return an empty list if strace is not installed, or if a container forbids tracing.
    """
    command = [shutil.which("strace") or "", *TRACING, "-o", str(calls)]
    works = command[0] and subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0
    return command if works else []


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Guarded:
    """Return a function that runs a program, checks that it tried to reach no host, and returns its result."""
    folder = tmp_path_factory.mktemp("guard")
    log, calls, home = folder / "attempts", folder / "calls", folder / "home"
    home.mkdir()
    numbers = home / "intel", home / ".cache" / "Microsoft"
    (folder / "sitecustomize.py").write_text(GUARD.format(log=str(log)), encoding="utf-8")
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HF_", "TRANSFORMERS_", "XDG_")) and name not in (*OPT_OUT_VARIABLES, *CI_VARIABLES)
    }
    environment |= {
        "PYTHONPATH": f"{folder}{os.pathsep}{REPOSITORY}",
        "HOME": str(home),
        "VIDRISK_CACHE": str(folder / "cache"),
    }
    strace = strace_to(calls)

    def run(
        *program: str | Path, end: int = 0, limit_s: float = 600, may_try: bool = False, traced: bool = True
    ) -> subprocess.CompletedProcess[str]:
        for path in (log, calls):
            path.unlink(missing_ok=True)
        for path in numbers:
            shutil.rmtree(path, ignore_errors=True)
        command = [*(strace if traced else []), sys.executable, *map(os.fspath, program)]
        result = subprocess.run(
            command, env=environment, cwd=folder, capture_output=True, text=True, timeout=limit_s, check=False
        )
        tried = log.read_text(encoding="utf-8") if log.exists() else ""
        reached = [
            line
            for line in (calls.read_text(errors="replace").splitlines() if calls.exists() else [])
            if "sa_family=AF_INET" in line and not any(own in line for own in ('"127.', '"::1"', '"0.0.0.0"'))
        ]
        if may_try:
            return subprocess.CompletedProcess(command, result.returncode, tried, result.stderr)
        assert result.returncode == end, result.stderr
        assert not tried and not reached, (tried, reached)
        assert not any(path.exists() for path in numbers), (
            "this user was given a number, to be reported with at another time"
        )
        return result

    return run


@pytest.mark.skipif(not importlib.util.find_spec("openvino"), reason="OpenVINO is not installed")
def test_the_guard_sees_what_openvino_does_by_itself(guarded: Guarded) -> None:
    tried = guarded("-c", "import openvino, time; time.sleep(2)", may_try=True).stdout
    assert "google-analytics" in tried


COMMANDS: dict[str, tuple[str, ...]] = {
    "train": ("train", "CLIPS", "-o", "NEW", "SETTINGS"),
    "export": ("export", "RUN", "-o", "NEW", "--openvino"),
    "eval of a run": ("eval", "RUN", "CLIPS"),
    "eval of a bundle": ("eval", "BUNDLE", "CLIPS"),
    "infer by ONNX Runtime": ("infer", "BUNDLE", "CLIPS", "-o", "NEW", "--runtime", "onnxruntime"),
    "infer by OpenVINO": ("infer", "BUNDLE", "CLIPS", "-o", "NEW", "--runtime", "openvino"),
    "infer by torch": ("infer", "RUN", "CLIPS", "-o", "NEW"),
    "bench": ("bench", "BUNDLE", "CLIPS", "-o", "NEW.json", "--limit", "3"),
    "doctor": ("doctor",),
    "data preview": ("data", "preview", "CLIPS", "-o", "NEW.png"),
    "data split": ("data", "split", "CLIPS", "-o", "CLIPS/network.csv"),
    "watch": ("watch", "CLIPS", "-o", "NEW", "--bundle", "BUNDLE", "--once", "--settle", "0"),
    "deploy": ("deploy", "BUNDLE", "--target", "cpu", "-o", "NEW"),
    "build": (
        "build",
        "BUNDLE",
        "--engine",
        "tensorrt-rtx",
        "--compute-capability",
        "8.9",
        "--variant",
        "fp32",
        "-o",
        "NEW",
    ),
}


@pytest.mark.slow(minutes=3)
@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_looks_at_the_network(
    name: str,
    guarded: Guarded,
    tiny_run: Path,
    tiny_bundle: Path,
    clip_folder: Path,
    settings: list[str],
    tmp_path: Path,
) -> None:
    if name == "build" and "tensorrt-rtx" not in find_installed_kinds():
        pytest.skip("TensorRT for RTX is not installed")
    new = {f"NEW{suffix}": [tmp_path / f"new{suffix}"] for suffix in ("", ".png", ".json")}
    places = {
        "RUN": [tiny_run],
        "BUNDLE": [tiny_bundle],
        "CLIPS": [clip_folder],
        "SETTINGS": settings,
        "CLIPS/network.csv": [clip_folder / "network.csv"],
        **new,
    }
    words = [place for word in COMMANDS[name] for place in places.get(word, [word])]
    try:
        guarded(
            "-m", "vidrisk", *words, traced=name not in ("train", "export")
        )  # what takes minutes takes many more under strace
    finally:
        (clip_folder / "network.csv").unlink(missing_ok=True)  # the folder is every test's
