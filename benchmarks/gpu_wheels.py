"""Collect, split, join and install wheels for a machine without an index, using only the standard library.

    python benchmarks/gpu_wheels.py collect WHEELS [--python 3.12] [--part-mib 60]
    python benchmarks/gpu_wheels.py join WHEELS INTO
    python benchmarks/gpu_wheels.py install PYTHON FOLDER ... [--seconds N]

``collect`` runs where there is an index. ``join`` restores whole wheels from parts and verifies all of them.
``install`` uses the pip of PYTHON and only the folders. The packages are those that the extras in vidrisk's wheel list;
``gpu_parts.py`` describes the parts.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path

from gpu_parts import WheelsError, join, split

ROOT = Path(__file__).resolve().parent.parent
PLATFORMS = (
    "manylinux_2_28_x86_64",
    "manylinux_2_27_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
    "manylinux1_x86_64",
    "linux_x86_64",
)
SECONDS = 600.0
TESTED_WITH = ("pytest", "hypothesis")  # of the extra dev
NO_CONFIG = {
    "PIP_CONFIG_FILE": os.devnull
}  # with --isolated: folders of wheels that the machine has in mind do not count
WRITE_WHEEL = (
    "import sys, pathlib; from vidrisk.deploy.wheel import write_wheel; write_wheel(pathlib.Path(sys.argv[1]))"
)


class OutOfTimeError(WheelsError):
    """The installation exceeded its time limit."""


@dataclass(frozen=True)
class Group:
    """Packages that are installed together.

    Attributes:
        builds: packages that the index only has as sources; they are built where the wheels are collected.
    """

    name: str
    requirements: tuple[str, ...]
    is_needed: bool = False
    builds: bool = False


def groups(wheels: Path) -> list[Group]:
    """Return the groups, most important first; all but TensorRT come from extras of the wheel in ``wheels``."""
    own = _own_wheel(wheels)
    with zipfile.ZipFile(own) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        told = HeaderParser().parsestr(archive.read(name).decode("utf-8"))
    needs = told.get_all("Requires-Dist") or []
    tested = tuple(
        need.partition(";")[0].strip()
        for need in needs
        if 'extra == "dev"' in need and re.match(r"[\w.-]+", need)[0] in TESTED_WITH
    )  # type: ignore[index]

    def of_extras(extras: str) -> str:
        return f"{own}[{extras}]"  # the file: an index may have something else under that name

    return [
        Group("vidrisk", (of_extras("cpu,tensorrt"),), is_needed=True),
        Group("TensorRT", ("tensorrt-cu13>=10.13",), builds=True),
        Group("TensorRT for RTX", (of_extras("tensorrt-rtx"),)),
        Group("torch and the exporter", (of_extras("demo"), *_pin_requirements())),
        Group("ONNX Runtime on CUDA", (of_extras("gpu"),)),
        Group("pytest", tested),
    ]


def _own_wheel(wheels: Path) -> Path:
    found = sorted(wheels.glob("vidrisk-*.whl"))
    if not found:
        raise WheelsError(f"{wheels} has no wheel of vidrisk; fix: benchmarks/gpu_offline.sh --collect {wheels}")
    return found[-1]


def _pin_requirements() -> tuple[str, ...]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))


def collect(wheels: Path, python: str, part_bytes: int) -> list[str]:
    """Download and split the wheels for Python ``python`` on x86-64 Linux; return why groups are missing.

    Raises:
        WheelsError: vidrisk's own wheel cannot be found.
    """
    wheels.mkdir(parents=True, exist_ok=True)
    for old in wheels.glob("vidrisk-*.whl"):
        old.unlink()
    _run([sys.executable, "-c", WRITE_WHEEL, str(wheels)])
    digits = python.replace(".", "")
    of_target = [
        "--only-binary=:all:",
        "--python-version",
        python,
        "--implementation",
        "cp",
        *(word for abi in (f"cp{digits}", "abi3", "none") for word in ("--abi", abi)),
        *(word for platform in PLATFORMS for word in ("--platform", platform)),
    ]
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    missing = []
    for group in groups(wheels):
        if group.builds and here != python:
            missing.append(f"{group.name}: is built from sources, which takes Python {python}; this is {here}")
            continue
        how = ["wheel", "--wheel-dir"] if group.builds else ["download", *of_target, "--dest"]
        try:
            _run(
                [
                    sys.executable,
                    "-m",
                    "pip",
                    *how,
                    str(wheels),
                    "--quiet",
                    "--find-links",
                    str(wheels),
                    *group.requirements,
                ]
            )
        except WheelsError as error:
            if group.is_needed:
                raise
            missing.append(f"{group.name}: {error}")
    try:
        _run([sys.executable, "-m", "pip", "download", *of_target, "--dest", str(wheels), "--quiet", "pip"])
    except WheelsError as error:
        missing.append(f"pip, for a Python that has none: {error}")
    split(wheels, part_bytes)
    return missing


def install(python: Path, folders: Sequence[Path], seconds: float = SECONDS) -> list[str]:
    """Install group by group; return why groups were left out.

    Raises:
        WheelsError: vidrisk itself cannot be installed, or the time limit is reached.
    """
    end = time.monotonic() + seconds
    links = [word for folder in folders for word in ("--find-links", str(folder))]
    pip = [str(python), "-m", "pip", "--isolated", "--disable-pip-version-check", "--no-input"]
    how = ["install", "--quiet", "--no-index", "--no-compile", *links]
    new = [*pip, *how]

    def run(command: Sequence[str]) -> None:
        try:
            _run(command, end - time.monotonic(), **NO_CONFIG)
        except subprocess.TimeoutExpired as error:
            raise OutOfTimeError(
                f"not installed within {seconds:.0f} s; fix: give it more time (GPU_SECONDS)"
            ) from error

    if subprocess.run([str(python), "-m", "pip", "--version"], capture_output=True, check=False).returncode:
        run([str(python), f"{_pip_wheel(folders)}/pip", *how, "pip"])
    wheels = next((folder for folder in folders if [*folder.glob("vidrisk-*.whl")]), folders[0])
    missing = []
    for group in groups(wheels):
        try:
            run([*new, *group.requirements])
        except OutOfTimeError:
            raise
        except WheelsError as error:
            if group.is_needed:
                raise
            missing.append(f"{group.name}: {error}")
    if [path for folder in folders for path in folder.glob("onnxruntime_gpu-*.whl")]:
        # Another package with the same modules, which the last one that was installed has overwritten.
        run([*pip, "uninstall", "--quiet", "--yes", "onnxruntime"])
        run([*new, "--force-reinstall", "--no-deps", "onnxruntime-gpu"])
    return missing


def _pip_wheel(folders: Sequence[Path]) -> Path:
    found = sorted(path for folder in folders for path in folder.glob("pip-*.whl"))
    if not found:
        raise WheelsError("this Python has no pip, and the wheels have none either; fix: apt install python3-venv")
    return found[-1]


def _run(command: Sequence[str], timeout_s: float | None = None, **environment: str) -> None:
    end = subprocess.run(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        check=False,
        timeout=timeout_s,
    )
    if end.returncode:
        lines = [line.strip() for line in end.stdout.splitlines() if line.strip()]
        said = next(
            (line for line in lines if line.startswith("ERROR:")), lines[-1] if lines else f"exit code {end.returncode}"
        )
        raise WheelsError(said)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    of_collect, of_join, of_install = (commands.add_parser(name) for name in ("collect", "join", "install"))
    of_collect.add_argument("wheels", type=Path)
    of_collect.add_argument("--python", default="3.12")
    of_collect.add_argument("--part-mib", type=int, default=60)
    of_join.add_argument("wheels", type=Path)
    of_join.add_argument("into", type=Path)
    of_install.add_argument("python", type=Path)
    of_install.add_argument("folders", type=Path, nargs="+")
    of_install.add_argument("--seconds", type=float, default=SECONDS)
    arguments = parser.parse_args()
    try:
        if arguments.command == "collect":
            missing = collect(arguments.wheels.resolve(), arguments.python, arguments.part_mib << 20)
        elif arguments.command == "join":
            join(arguments.wheels, arguments.into)
            return 0
        else:
            missing = install(
                arguments.python.absolute(), [folder.resolve() for folder in arguments.folders], arguments.seconds
            )
    except (WheelsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    for line in missing:
        print(f"left out: {line}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
