"""Tests of the sandbox: a decoder that a file has taken over can read that file and nothing else."""

from __future__ import annotations

import json
import os
import platform
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from colour import ACTION, RISK, colour_classifier
from small_media import RGB, write_photo, write_video
from tiny_media import tiny_media

from vidrisk.decode import sandbox, seccomp
from vidrisk.decode.messages import Input, InputEnd, ReadSettings
from vidrisk.decode.pool import DecodePool
from vidrisk.frames import Frame
from vidrisk.jobs.ledger import read_ledger
from vidrisk.jobs.run_folder import run_folder
from vidrisk.jobs.run_settings import InferSettings
from vidrisk.jobs.sources import find_inputs
from vidrisk.report import build_report
from vidrisk.runtimes.contract.contract import Contract

has_landlock = pytest.mark.skipif(not sandbox.landlock_version(), reason="this kernel has no Landlock, or forbids it")
has_seccomp = pytest.mark.skipif(platform.machine() not in seccomp.AUDIT_ARCH, reason="no filter for this processor")

PROGRAM = """
import ctypes, json, os, socket, subprocess, sys, threading
from pathlib import Path
from vidrisk.decode.sandbox import confine_process

given, other, cache, address = sys.argv[1:]
found = {}

def tried(name, act):
    try:
        act()
        found[name] = "done"
    except (OSError, subprocess.SubprocessError) as error:
        found[name] = "refused" if isinstance(error, PermissionError) else repr(error)

def connect():
    family, address_of = (socket.AF_INET, ("127.0.0.1", int(address)))
    socket.socket(family, socket.SOCK_STREAM).connect(address_of)

def lean(scope):
    tried(f"{scope}: read what is given", lambda: Path(given).read_bytes())
    tried(f"{scope}: read another file", lambda: Path(other).read_bytes())
    tried(f"{scope}: read /etc/passwd", lambda: Path("/etc/passwd").read_bytes())
    tried(f"{scope}: list a folder", lambda: os.listdir(Path(other).parent))
    tried(f"{scope}: write what is given", lambda: Path(given).open("r+b"))
    tried(f"{scope}: write another file", lambda: Path(other).write_bytes(b"evil"))
    tried(f"{scope}: make a file", lambda: Path(other).with_name("new").touch())
    tried(f"{scope}: make a folder", lambda: Path(other).with_name("folder").mkdir())
    tried(f"{scope}: remove a file", lambda: Path(given).unlink())
    tried(f"{scope}: rename a file", lambda: Path(given).rename(given + ".old"))
    tried(f"{scope}: make a link", lambda: os.symlink("/etc", Path(other).with_name("link")))
    tried(f"{scope}: change a mode", lambda: Path(given).chmod(0o777))
    tried(f"{scope}: cut a file", lambda: os.truncate(other, 0))
    tried(f"{scope}: change an owner", lambda: os.chown(given, os.getuid(), os.getgid()))
    tried(f"{scope}: write the cache", lambda: Path(cache, "entry").write_bytes(b"kept"))
    tried(f"{scope}: connect", connect)
    tried(f"{scope}: connect within the machine", lambda: socket.socket(socket.AF_UNIX).connect("\\0nobody"))
    tried(f"{scope}: look a name up", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    tried(f"{scope}: execute", lambda: os.execv("/bin/true", ["true"]))
    tried(f"{scope}: start a process", lambda: subprocess.run(["/bin/true"], check=True))
    tried(f"{scope}: fork", lambda: os.fork() or os._exit(0))
    tried(f"{scope}: end another process", lambda: os.kill(os.getppid(), 0))
    tried(f"{scope}: look into a process", lambda: Path(f"/proc/{os.getppid()}/mem").open("rb"))
    tried(f"{scope}: start a thread", lambda: threading.Thread(target=int).start())
    sys.modules.pop("colorsys", None)
    tried(f"{scope}: import", lambda: __import__("colorsys"))

sandbox = confine_process([Path(cache)])
sandbox.read_alone([given], lambda: lean("file"))
lean("process")
print(json.dumps({"landlock": sandbox.landlock, "seccomp": sandbox.seccomp, "found": found}), flush=True)
os._exit(0)
"""
CHANGES = {
    "write what is given",
    "write another file",
    "make a file",
    "make a folder",
    "remove a file",
    "rename a file",
    "make a link",
    "execute",
    "end another process",
    "look into a process",
}
BY_SECCOMP = {
    "change a mode",
    "cut a file",
    "change an owner",
    "connect",
    "connect within the machine",
    "look a name up",
    "start a process",
    "fork",
    "execute",
}
READS = {"read another file", "read /etc/passwd", "list a folder"}
ALLOWED = {"read what is given", "write the cache", "start a thread", "import"}


def leaned(tmp_path: Path, prelude: str = "") -> dict[str, Any]:
    for name in ("given", "other", "cache"):
        (tmp_path / name).mkdir()
    for name in ("given", "other"):
        (tmp_path / name / "file").write_text(name)
    with socket.create_server(("127.0.0.1", 0)) as server:
        places = [str(tmp_path / place) for place in ("given/file", "other/file", "cache")]
        end = subprocess.run(
            [sys.executable, "-c", prelude + PROGRAM, *places, str(server.getsockname()[1])],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert end.returncode == 0, end.stderr
    told: dict[str, Any] = json.loads(end.stdout)
    return told


@has_landlock
@has_seccomp
def test_a_confined_reader_reads_its_file_and_changes_nothing(tmp_path: Path) -> None:
    told = leaned(tmp_path)
    found = told["found"]
    signals = {} if told["landlock"] >= sandbox.SCOPES_VERSION else {"end another process"}
    wrong = {
        name: said
        for name, said in found.items()
        if said
        != (
            "done"
            if (what := name.partition(": ")[2]) in ALLOWED
            or what in signals
            or (name.startswith("process") and what in READS)
            else "refused"
        )
    }
    assert not wrong and {name.partition(": ")[2] for name in found} == CHANGES | BY_SECCOMP | READS | ALLOWED
    assert (tmp_path / "given" / "file").read_text() == "given" and (tmp_path / "other" / "file").read_text() == "other"
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["file"]
    assert (tmp_path / "cache" / "entry").read_bytes() == b"kept"


@has_seccomp
def test_a_kernel_without_landlock_still_refuses_calls(tmp_path: Path) -> None:
    told = leaned(tmp_path, "import vidrisk.decode.sandbox as box\nbox.CREATE_RULESET = 99_999\n")
    found = told["found"]
    assert told["landlock"] == 0 and told["seccomp"]
    assert {name for name, said in found.items() if said == "refused"} == {
        f"{scope}: {what}" for scope in ("file", "process") for what in BY_SECCOMP
    }


@has_landlock
def test_a_processor_without_a_filter_is_confined_by_landlock(tmp_path: Path) -> None:
    told = leaned(tmp_path, "import platform\nplatform.machine = lambda: 'riscv64'\n")
    found = told["found"]
    assert told["landlock"] and not told["seccomp"]
    assert {found[f"file: {what}"] for what in (READS | CHANGES) - {"end another process"}} == {"refused"}
    if told["landlock"] >= sandbox.TCP_VERSION:
        assert found["process: connect"] == "refused"


def test_the_filter_allows_what_it_does_not_name() -> None:
    """Every system call on both processor types gets its intended answer when the filter is executed.

    The test executes the filter's program as the kernel would.
    """
    for machine, place in (("x86_64", 0), ("aarch64", 1)):
        refused = {numbers[place] for numbers in seccomp.REFUSED.values()} - {None}
        for number in range(600):
            answer = answer_of(seccomp.filter_of(machine), seccomp.AUDIT_ARCH[machine], number, 0)
            expected = (
                seccomp.ABSENT
                if number == seccomp.CLONE3
                else seccomp.REFUSE
                if number in refused or number == seccomp.CLONE[machine]
                else seccomp.ALLOW
            )
            assert answer == expected, (machine, number)
        thread = answer_of(
            seccomp.filter_of(machine), seccomp.AUDIT_ARCH[machine], seccomp.CLONE[machine], seccomp.CLONE_THREAD
        )
        assert thread == seccomp.ALLOW
        assert answer_of(seccomp.filter_of(machine), 0x40000003, 1, 0) == seccomp.KILL
    assert (
        answer_of(seccomp.filter_of("x86_64"), seccomp.AUDIT_ARCH["x86_64"], seccomp.X32_BIT | 1, 0) == seccomp.REFUSE
    )


def answer_of(program: list[bytes], architecture: int, number: int, argument: int) -> int:
    data = {seccomp.NUMBER: number, seccomp.ARCHITECTURE: architecture, seccomp.FIRST_ARGUMENT: argument}
    at = loaded = 0
    while True:
        code, if_true, if_false, value = struct.unpack("=HBBI", program[at])
        at += 1
        if code == seccomp.LOAD:
            loaded = data[value]
        elif code == seccomp.RETURN:
            return value
        else:
            holds = {
                seccomp.IF_EQUAL: loaded == value,
                seccomp.IF_AT_LEAST: loaded >= value,
                seccomp.IF_ANY_BIT: bool(loaded & value),
            }[code]
            at += if_true if holds else if_false


@pytest.mark.parametrize("contract", [ACTION, RISK])
@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_every_kind_of_file_is_read_in_the_sandbox(contract: Contract, decoder: str, tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    names = tiny_media(tmp_path / "media")
    (tmp_path / "media" / "a link.png").symlink_to(names["plain.png"])
    settings = InferSettings(workers=2, decoder=decoder, feature_cache=True, window_s=1.0)
    run_folder(colour_classifier(contract), find_inputs([tmp_path / "media"]), tmp_path / "out", settings)
    rows = read_ledger(tmp_path / "out")
    assert {Path(row.path).name for row in rows} == {*names, "a link.png"}
    assert {(row.state, row.reason) for row in rows} == {("ok", "")}


def test_a_file_that_takes_the_place_of_a_waiting_one_is_read(tmp_path: Path) -> None:
    """A file that replaces a waiting file is read with its new content.

    A worker gets access to the next files in advance. By the time it reads one of them, another program may have
    rewritten that file.
    """
    first = write_video(tmp_path / "first.mp4", ("red",))
    waiting, late = write_photo(tmp_path / "waiting.png", "red"), os.fspath(tmp_path / "late.png")
    colours: dict[int, list[int]] = {}
    ends: dict[int, tuple[str, str]] = {}
    inputs = [Input(number, path) for number, path in enumerate((first, waiting, late))]
    with DecodePool(1) as pool:
        for read in pool.read(inputs, ReadSettings(ACTION.pixel, ACTION.time, slots=1)):
            if isinstance(read.item, Frame):
                colours[read.id] = read.item.pixels[16, 16].tolist()
                if read.id == 0:  # with one slot, it cannot be further than the next frame
                    for path in (waiting, late):
                        Path(write_photo(tmp_path / "new", "blue")).rename(path)
            elif isinstance(read.item, InputEnd):
                ends[read.id] = read.item.state, read.item.reason
    assert ends == dict.fromkeys(range(3), ("ok", "")) and colours[1] == colours[2] == list(RGB["blue"])


def test_libraries_beside_python_may_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sandbox permits reading the library folder of the Python installation.

    A conda environment needs this, because its modules load the environment's libraries when they are first
    needed.
    """
    (tmp_path / "lib").mkdir()
    monkeypatch.setattr(sys, "base_prefix", os.fspath(tmp_path))
    assert os.path.realpath(tmp_path / "lib") in sandbox.code_folders()


NOSY = """
import os, pathlib, sys

if "vidrisk.decode.worker" in pathlib.Path("/proc/self/cmdline").read_text():
    import PIL.Image

    opened = PIL.Image.open

    def nosy(path, *arguments, **options):
        for secret in ("/etc/passwd", str(path) + ".secret"):
            try:
                open(secret).close()
            except PermissionError:
                continue
            os._exit(77)
        try:
            open(str(path) + ".loot", "w").close()
        except PermissionError:
            return opened(path, *arguments, **options)
        os._exit(78)

    PIL.Image.open = nosy
"""


@has_landlock
def test_the_workers_of_a_run_and_of_its_report_are_confined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(NOSY)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.fspath(tmp_path), *sys.path]))
    (tmp_path / "media").mkdir()
    for colour in ("red", "green"):
        path = write_photo(tmp_path / "media" / f"{colour}.png", colour)
        Path(path + ".secret").write_text("of somebody else", encoding="utf-8")
    write_video(tmp_path / "media" / "clip.mp4", ("blue",))
    run_folder(colour_classifier(ACTION), find_inputs([tmp_path / "media"]), tmp_path / "out")
    assert [row.state for row in read_ledger(tmp_path / "out")] == ["ok"] * 3
    assert build_report(tmp_path / "out").read_text(encoding="utf-8").count('<img src="data:image/webp') >= 3
    assert sorted(path.suffix for path in (tmp_path / "media").iterdir()) == [
        ".mp4",
        ".png",
        ".png",
        ".secret",
        ".secret",
    ]
