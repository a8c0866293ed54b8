"""Tests of ``install.sh`` and ``uninstall.sh``, really run into a folder; ``test_chroot`` runs them as root.

A Jetson is represented only by fakes: files that state its release, an ``uname`` and a ``tensorrt`` module.
There the script checks, and prints what it would do.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from colour_bundle import seal_golden

from vidrisk.deploy.devices import HERE
from vidrisk.runtimes import Bundle
from vidrisk.runtimes.contract.bundle import sha256_of

Run = Callable[..., subprocess.CompletedProcess[str]]
RELEASE = "# R{}, REVISION: {}, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025\n"
NVRM = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}  Release Build  (dvs-builder@U22)\n"


@dataclass(frozen=True)
class Machine:
    """A machine described by files below ``root``, programs in ``bin`` and Python modules in ``modules``."""

    root: Path
    run: Run

    def says(self, path: str, text: str) -> Machine:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text, encoding="utf-8")
        return self

    def has(self, name: str, script: str) -> Machine:
        self.says(f"bin/{name}", f"#!/bin/sh\n{script}\n")
        (self.root / "bin" / name).chmod(0o755)
        return self

    def with_tensorrt(self, version: str) -> Machine:
        return self.says("modules/tensorrt/__init__.py", f"__version__ = {version!r}\n")

    def check(self, folder: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run(
            folder / "install.sh",
            "--prefix",
            self.root / "装 here",
            "--dry-run",
            *options,
            **{
                "VIDRISK_CHECK_ROOT": str(self.root),
                "PATH": f"{self.root / 'bin'}:{os.environ['PATH']}",
                "PYTHON": str(self.root / "bin" / "python-there"),
                **environment,
            },
        )


@pytest.fixture
def machine(tmp_path: Path, run: Run) -> Machine:
    # without its -I
    there = f'shift; PYTHONPATH={shlex.quote(str(tmp_path / "modules"))} exec {shlex.quote(sys.executable)} "$@"'
    described = Machine(tmp_path, run).says("etc/os-release", 'PRETTY_NAME="Ubuntu 22.04.5 LTS"\n')
    return described.has("uname", "echo x86_64").has("python-there", there)


@pytest.fixture
def jetson(machine: Machine) -> Machine:
    machine.says("etc/nv_tegra_release", RELEASE.format("36 (release)", "4.3")).has("uname", "echo aarch64")
    return machine.with_tensorrt("10.3.0")


def error_of(end: subprocess.CompletedProcess[str]) -> tuple[str, str]:
    """Return the error and its fix, and check that they are on one line and that nothing was done."""
    assert end.returncode == 1 and end.stderr.count("\n") == 1, end
    what, fix = re.fullmatch(r"error: (.*); fix: (.*)\n", end.stderr).groups()  # type: ignore[union-attr]
    assert "\n+ " not in end.stdout
    return what, fix


def steps_of(end: subprocess.CompletedProcess[str]) -> str:
    assert (end.returncode, end.stderr) == (0, ""), end
    assert end.stdout.endswith("nothing was done: --dry-run\n")
    return "\n".join(line for line in end.stdout.splitlines() if line.startswith("+ "))


def test_a_jetson_is_recognised_and_every_step_is_said(jetson: Machine, folders: dict[str, Path]) -> None:
    end = jetson.check(folders["jetson-orin"])
    steps = steps_of(end)
    for said in ("machine: aarch64, Ubuntu 22.04.5 LTS", "Jetson Linux: 36.4.3", "TensorRT: 10.3.0", f"Python: {HERE}"):
        assert said in end.stdout
    order = [
        "-m venv --system-site-packages",
        "-m pip install",
        "vidrisk.deploy.intact",
        "vidrisk build",
        "vidrisk verify",
        "vidrisk infer",
        "ln -sfn",
    ]
    assert sorted(order, key=steps.index) == order
    assert "--engine tensorrt" in steps and steps.count("--runtime tensorrt") == 2 and r"cpu\,tensorrt" in steps
    assert not (jetson.root / "装 here").exists()


@pytest.mark.parametrize(
    ("target", "release", "revision"),
    [
        ("jetson-orin", "36 (release)", "4.0"),
        ("jetson-orin", "36 (release)", "5.0"),
        ("jetson-orin", "39 (release)", "2.1"),
        ("jetson-thor", "38 (release)", "2.2"),
        ("jetson-thor", "38 (release)", "4.0"),
        ("jetson-thor", "39 (release)", "2.0"),
    ],
)
def test_releases_of_jetson_linux_that_do(
    jetson: Machine, folders: dict[str, Path], target: str, release: str, revision: str
) -> None:
    jetson.says("etc/nv_tegra_release", RELEASE.format(release, revision))
    steps_of(jetson.check(folders[target]))


def test_a_release_of_the_future_is_noted(jetson: Machine, folders: dict[str, Path]) -> None:
    end = jetson.says("etc/nv_tegra_release", RELEASE.format("41 (release)", "0.0")).check(folders["jetson-thor"])
    steps_of(end)
    assert "note: Jetson Linux 41 is newer" in end.stdout


@pytest.mark.parametrize(
    ("target", "text", "what", "fix"),
    [
        ("jetson-orin", RELEASE.format("36 (release)", "3.0"), "older than 10.3", "dist-upgrade"),
        (
            "jetson-orin",
            RELEASE.format("35 (release)", "6.0"),
            "Jetson Linux 35.6 is not for jetson-orin",
            "flash JetPack 6.2",
        ),
        (
            "jetson-orin",
            RELEASE.format("38 (release)", "2.0"),
            "Jetson Linux 38.2 is not for jetson-orin",
            "another --target",
        ),
        ("jetson-thor", RELEASE.format("36 (release)", "4.3"), "is not for jetson-thor", "another --target"),
        ("jetson-orin", "", "not a Jetson with JetPack", "--target cpu"),
        ("jetson-orin", "something else\n", "not a Jetson with JetPack", "--target cpu"),
    ],
)
def test_releases_that_do_not(
    jetson: Machine, folders: dict[str, Path], target: str, text: str, what: str, fix: str
) -> None:
    said = error_of(jetson.says("etc/nv_tegra_release", text).check(folders[target]))
    assert what in said[0] and fix in said[1]


def test_the_command_that_upgrades_jetson_linux_names_its_new_source(jetson: Machine, folders: dict[str, Path]) -> None:
    _, fix = error_of(
        jetson.says("etc/nv_tegra_release", RELEASE.format("36 (release)", "3.0")).check(folders["jetson-orin"])
    )
    script = re.search(r"sed -i '([^']+)'", fix)
    assert script
    source = "deb https://repo.download.nvidia.com/jetson/common r36.3 main\n"
    end = subprocess.run(["sed", script[1]], input=source, capture_output=True, text=True, check=True)
    assert end.stdout == source.replace("r36.3", "r36.4")


@pytest.mark.parametrize(
    ("version", "what", "fix"),
    [
        ("8.6.2.3", "TensorRT is 8.6.2.3", "nvidia-jetpack"),
        ("10.2.0", "TensorRT is 10.2.0", "nvidia-jetpack"),
        (None, "does not see TensorRT", "python3-libnvinfer"),
    ],
)
def test_a_tensorrt_that_is_old_or_not_there(
    jetson: Machine, folders: dict[str, Path], version: str | None, what: str, fix: str
) -> None:
    if version is None:
        shutil.rmtree(jetson.root / "modules" / "tensorrt")
        (
            jetson.root / "modules" / "tensorrt"
        ).mkdir()  # as stubs for type checkers leave it: it imports, and is nothing
    else:
        jetson.with_tensorrt(version)
    said = error_of(jetson.check(folders["jetson-orin"]))
    assert what in said[0] and fix in said[1]


@pytest.mark.parametrize("version", ["10.3.0", "10.13.3", "10.16.2.10", "11.1.0"])
def test_a_tensorrt_that_does(jetson: Machine, folders: dict[str, Path], version: str) -> None:
    assert f"TensorRT: {version}" in jetson.with_tensorrt(version).check(folders["jetson-orin"]).stdout


@pytest.mark.parametrize(
    ("target", "name", "fix"),
    [
        ("jetson-orin", "x86_64", "--target x86-gpu or --target cpu"),
        ("x86-gpu", "aarch64", "--target jetson-orin"),
        ("cpu", "riscv64", "--target"),
    ],
)
def test_another_kind_of_machine(machine: Machine, folders: dict[str, Path], target: str, name: str, fix: str) -> None:
    said = error_of(machine.has("uname", f"echo {name}").check(folders[target]))
    assert f"this machine is {name}" in said[0] and fix in said[1]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (None, "no NVIDIA driver"),
        (NVRM.format("550.163.01"), "the NVIDIA driver is 550"),
        (NVRM.format("580.82.07"), ""),
    ],
)
def test_the_driver_of_a_graphics_card(machine: Machine, folders: dict[str, Path], line: str | None, what: str) -> None:
    if line:
        machine.says("proc/driver/nvidia/version", line)
    end = machine.check(folders["x86-gpu"])
    if what:
        said = error_of(end)
        assert what in said[0] and "ubuntu-drivers install" in said[1]
    else:
        assert "--engine tensorrt-rtx" in steps_of(end) and "--system-site-packages" not in end.stdout


@pytest.mark.parametrize(
    ("python", "what", "fix"),
    [
        ("exit 127", "there is no", "apt-get install -y python3"),
        ("echo 3.8", "Python is 3.8", "python3.10-venv"),
        (
            'case "$3" in *ensurepip*) exit 1;; *) echo 3.11;; esac',
            "virtual environment",
            "apt-get install -y python3.11-venv",
        ),
    ],
)
def test_a_python_that_is_old_or_not_whole(
    machine: Machine, folders: dict[str, Path], python: str, what: str, fix: str
) -> None:
    machine.has("python9", python)
    said = error_of(machine.check(folders["cpu"], PYTHON="python9"))
    assert what in said[0] and fix in said[1]


def test_wheels_for_another_python(machine: Machine, folders: dict[str, Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folders["cpu"], copy)
    (copy / "wheels").mkdir()
    settings = (copy / "deploy.conf").read_text(encoding="utf-8")
    (copy / "deploy.conf").write_text(
        settings.replace("VIDRISK_WHEELS_PYTHON=''", "VIDRISK_WHEELS_PYTHON=3.11"), encoding="utf-8"
    )
    seal(copy)
    said = error_of(machine.has("python9", "echo 3.14").check(copy, PYTHON="python9"))
    assert "for Python 3.11, and this machine has 3.14" in said[0] and "--wheels --python 3.14" in said[1]


def test_a_full_disk(machine: Machine, folders: dict[str, Path]) -> None:
    said = error_of(machine.has("df", "echo Avail; echo 2048").check(folders["cpu"]))
    assert "2 MB free, but 1000 MB are needed" in said[0]


def test_a_folder_that_was_not_copied_whole(machine: Machine, folders: dict[str, Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folders["cpu"], copy)
    with (copy / "smoke.mp4").open("ab") as file:
        file.write(b"x")
    assert error_of(machine.check(copy)) == (
        f"{copy} is damaged: smoke.mp4: FAILED",
        "copy the whole folder again: scp -r",
    )
    shutil.copy(folders["cpu"] / "smoke.mp4", copy / "smoke.mp4")
    for odd in (copy / "wheels" / "shellingham-99.0-py3-none-any.whl", copy / "bundle" / "a b\n.so"):
        odd.parent.mkdir(exist_ok=True)
        odd.symlink_to("/dev/null") if odd.suffix == ".so" else odd.touch()
        what, fix = error_of(machine.check(copy))
        assert "which SHA256SUMS does not list" in what and odd.name[-3:] in what and "copy it again" in fix
        odd.unlink()
    (copy / "SHA256SUMS").unlink()
    assert "not complete" in error_of(machine.check(copy))[0]


def test_options_and_rights(machine: Machine, folders: dict[str, Path], tmp_path: Path) -> None:
    script = folders["cpu"] / "install.sh"
    assert "unknown option --bogus" in error_of(machine.check(folders["cpu"], "--bogus"))[0]
    assert "--prefix without a folder" in error_of(machine.run(script, "--prefix"))[0]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    assert "holds something else" in error_of(machine.run(script, "--prefix", tmp_path / "mine"))[0]
    machine.has("id", "echo 1000")
    environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "VIDRISK_CHECK_ROOT": str(tmp_path)}
    what, fix = error_of(machine.run(script, **environment))
    assert "needs root" in what and fix == f"sudo {script}, or {script} --prefix DIR"
    machine.has("id", "echo 0")
    assert error_of(machine.run(script, **environment)) == ("systemd does not run here", f"{script} --no-service")
    usage = machine.run(script, "--help")
    assert usage.returncode == 0 and "--no-service" in usage.stdout and "VIDRISK_CHECK_ROOT" in usage.stdout


@pytest.mark.parametrize("name", ["a$HOME", "a`id`", 'a"b', "a\\b", "a\nb"])
def test_a_prefix_that_a_launcher_would_expand(
    machine: Machine, folders: dict[str, Path], tmp_path: Path, name: str
) -> None:
    what, fix = error_of(machine.run(folders["cpu"] / "install.sh", "--prefix", tmp_path / name))
    assert "--prefix" in what and "in it" in what and "another name" in fix and not (tmp_path / name).exists()


def test_python_does_not_look_into_the_current_folder(
    machine: Machine, folders: dict[str, Path], tmp_path: Path
) -> None:
    for name in ("ensurepip", "venv", "tensorrt"):
        machine.says(f"here/{name}.py", f"open({str(tmp_path / 'ran')!r}, 'w')")
    command = [folders["cpu"] / "install.sh", "--prefix", tmp_path / "x", "--dry-run"]
    end = subprocess.run(
        command,
        cwd=tmp_path / "here",
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(tmp_path / "here")},
    )
    assert not (tmp_path / "ran").exists() and "-m venv" in end.stdout
    assert not re.search(r"python -m", (folders["cpu"] / "install.sh").read_text(encoding="utf-8"))


def test_with_a_service_every_step_is_said_too(machine: Machine, folders: dict[str, Path]) -> None:
    (machine.root / "run" / "systemd" / "system").mkdir(parents=True)
    machine.has("systemctl", "exit 1").has("getent", "exit 2")
    script = folders["cpu"] / "install.sh"
    end = machine.run(
        script,
        "--dry-run",
        PATH=f"{machine.root / 'bin'}:{os.environ['PATH']}",
        VIDRISK_CHECK_ROOT=str(machine.root),
        PYTHON=sys.executable,
    )
    steps = steps_of(end)
    order = [
        "useradd --system",
        "install -d",
        "-m venv",
        "runuser -u vidrisk",
        "vidrisk verify",
        "vidrisk infer",
        "ln -sfn",
        "/etc/systemd/system/vidrisk-watch",
        "systemctl daemon-reload",
        "systemctl enable",
        "systemctl restart",
    ]
    assert sorted(order, key=steps.index) == order
    assert "/opt/vidrisk" in steps and not Path("/opt/vidrisk").exists()


def test_an_image_needs_no_gpu(jetson: Machine, folders: dict[str, Path]) -> None:
    (jetson.root / "etc" / "nv_tegra_release").unlink()
    steps = steps_of(jetson.check(folders["jetson-orin"], "--image"))
    assert not any(f"vidrisk {command}" in steps for command in ("build", "verify", "infer")) and "ln -sfn" in steps
    shutil.rmtree(jetson.root / "modules")
    (jetson.root / "modules" / "tensorrt").mkdir(parents=True)
    assert "has no TensorRT" in error_of(jetson.check(folders["jetson-orin"], "--image"))[0]


def installed_files(prefix: Path) -> set[str]:
    return {path.name for path in prefix.iterdir()} if prefix.exists() else set()


def succeeded(end: subprocess.CompletedProcess[str]) -> str:
    assert end.returncode == 0, end.stdout + end.stderr
    return end.stdout


@pytest.mark.slow(minutes=3)
def test_a_life_in_a_folder(deployed: Path, bundle: Path, tmp_path: Path, run: Run) -> None:
    """All steps from a failed installation to the removal work without root and without network.

    The steps are: fail to install (other answers, a broken clip), install, predict, install again, fail to
    update, remove.
    """
    prefix = tmp_path / "装 here"
    inbox, out, model = (
        prefix / "state" / "inbox",
        prefix / "state" / "out",
        prefix / "current" / "bundle" / bundle.name,
    )
    environment = {"PYTHON": sys.executable, "PIP_NO_INDEX": "1", "PIP_NO_COMPILE": "1"}
    broken = tmp_path / "broken"
    shutil.copytree(deployed, broken)
    seal_golden(Bundle.open(broken / "bundle" / bundle.name), turned=True)
    seal(broken)
    end = run(broken / "install.sh", "--prefix", prefix, **environment)
    assert (
        end.returncode == 1
        and "error: answers differ from those of the export" in end.stderr
        and "differs" in end.stdout
    ), end
    assert "golden samples or more: the samples or the graphs belong to another model" in end.stdout
    assert installed_files(prefix) == {"installed.conf", "releases", "state", "uninstall.sh"}
    (broken / "bundle" / bundle.name / "golden.zip").unlink()
    manifest = json.loads((broken / "bundle" / bundle.name / "bundle.json").read_text(encoding="utf-8"))
    del manifest["files"]["golden.zip"]
    (broken / "bundle" / bundle.name / "bundle.json").write_text(json.dumps(manifest), encoding="utf-8")
    (broken / "smoke.mp4").write_bytes(b"no clip")
    seal(broken)
    end = run(broken / "install.sh", "--prefix", prefix, **environment)
    assert "it has no golden samples" in end.stdout and "note: not everything could be verified" in end.stdout
    assert end.returncode == 1 and "error: the smoke prediction failed" in end.stderr and "doctor" in end.stderr
    assert installed_files(prefix) == {"installed.conf", "releases", "state", "uninstall.sh"}

    said = succeeded(run(deployed / "install.sh", "--prefix", prefix, **environment))
    assert "bundle verified" in said and "3 golden samples" in said and "1 inputs: 1 ok" in said
    assert installed_files(prefix) == {"current", "installed.conf", "releases", "state", "uninstall.sh"}
    assert installed_files(prefix / "state") == {"cache", "inbox", "out"}
    release = (prefix / "current").resolve()
    assert installed_files(prefix / "releases") == {release.name}  # the broken one has gone

    shutil.copy(deployed / "smoke.mp4", inbox / "夜.mp4")
    vidrisk = prefix / "current" / "venv" / "bin" / "vidrisk"
    said = succeeded(
        run(
            vidrisk,
            "watch",
            inbox,
            "-o",
            out,
            "--bundle",
            model,
            "--once",
            PYTHONPATH="",
            VIDRISK_CACHE=str(tmp_path / "cache"),
        )
    )
    assert ": 1 files (1 ok)" in said
    (day,) = out.glob("20*")
    assert json.loads((day / "summary.json").read_text(encoding="utf-8"))["provenance"]["model"] == bundle.name

    again = succeeded(run(deployed / "install.sh", "--prefix", prefix, **environment))
    assert "installed already" in again and (prefix / "current").resolve() == release

    (module,) = release.glob("venv/lib/python*/site-packages/jinja2/runtime.py")
    module.write_text("# half of it", encoding="utf-8")
    said = succeeded(run(deployed / "install.sh", "--prefix", prefix, **environment))
    assert "is installed again" in said and "1 inputs: 1 ok" in said and len(module.read_text(encoding="utf-8")) > 1000
    assert succeeded(run(vidrisk, "--version")).startswith("vidrisk ")

    shutil.rmtree(broken / "wheels")
    seal(broken)
    end = run(broken / "install.sh", "--prefix", prefix, **environment)
    assert end.returncode == 1 and "error: pip cannot install the packages" in end.stderr and "--wheels" in end.stderr
    assert (prefix / "current").resolve() == release
    assert succeeded(run(vidrisk, "--version")).startswith("vidrisk ")

    assert "rm -rf" in succeeded(run(prefix / "uninstall.sh", "--dry-run")) and vidrisk.exists()
    assert "kept" in succeeded(run(prefix / "uninstall.sh"))
    assert installed_files(prefix) == {"state"} and installed_files(prefix / "state") == {"inbox", "out"}
    assert (day / "report.html").exists()
    steps_of(
        run(deployed / "install.sh", "--prefix", prefix, "--dry-run", **environment)
    )  # what was kept is no hindrance


def seal(folder: Path) -> None:
    """Rewrite SHA256SUMS for the files in the folder."""
    files = sorted(
        path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.name != "SHA256SUMS"
    )
    (folder / "SHA256SUMS").write_text(
        "".join(f"{sha256_of(folder / path)}  {path}\n" for path in files), encoding="utf-8"
    )


def test_an_uninstall_without_an_installation(tmp_path: Path, folders: dict[str, Path], run: Run) -> None:
    assert "holds no installation" in error_of(run(folders["cpu"] / "uninstall.sh"))[0]
    shutil.copy(folders["cpu"] / "uninstall.sh", tmp_path)
    assert "unknown option" in error_of(run(tmp_path / "uninstall.sh", "--all"))[0]
