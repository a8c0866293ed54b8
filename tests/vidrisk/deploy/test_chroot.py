"""Tests of ``sudo ./install.sh`` for the whole machine, run as root in a separate root folder.

The folder holds a copy of the system's programs, of Python and of its standard library, and nothing else.
systemd does not run there: the service is really enabled, but not started.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from vidrisk.deploy.deployment import write_deployment

SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
PROGRAMS = (
    "bash",
    "cat",
    "chmod",
    "chown",
    "cp",
    "df",
    "dirname",
    "env",
    "find",
    "getent",
    "head",
    "id",
    "install",
    "ln",
    "ls",
    "mkdir",
    "mktemp",
    "mv",
    "nologin",
    "readlink",
    "realpath",
    "rm",
    "rmdir",
    "runuser",
    "sed",
    "sh",
    "sha256sum",
    "sort",
    "stat",
    "systemctl",
    "tail",
    "test",
    "touch",
    "tr",
    "uname",
    "uniq",
    "useradd",
    "userdel",
    "usermod",
)
# What every wheel for Linux may take for granted, beside the C library, and what finds users and sessions.
LIBRARIES = (
    "libgcc_s.so.1",
    "libstdc++.so.6",
    "libm.so.6",
    "libmvec.so.1",
    "libdl.so.2",
    "librt.so.1",
    "libpthread.so.0",
    "libz.so.1",
    "libnss_files.so.2",
    "security/pam_permit.so",
)
FOLDERS = (
    "dev",
    "etc/default",
    "etc/pam.d",
    "etc/systemd/system",
    "opt",
    "proc",
    "root",
    "run/systemd/system",
    "tmp",
    "usr/bin",
    "usr/lib",
    "usr/lib64",
    "usr/local/bin",
    "usr/sbin",
    "usr/share",
    "var/lib",
    "var/mail",
)
CONFIGURATION = {
    "passwd": "root:x:0:0:root:/root:/bin/bash\n",
    "group": "root:x:0:\nvideo:x:44:\n",
    "shadow": "root:*:19000:0:99999:7:::\n",
    "gshadow": "root:*::\nvideo:!::\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\n",
    "default/useradd": "",
    "login.defs": "SYS_UID_MIN 100\nSYS_UID_MAX 999\nSYS_GID_MIN 100\nSYS_GID_MAX 999\nUMASK 022\n",
    "os-release": 'PRETTY_NAME="a root of its own"\n',
    **{
        f"pam.d/{name}": "".join(
            f"{kind} sufficient pam_permit.so\n" for kind in ("auth", "account", "password", "session")
        )
        for name in ("other", "runuser")
    },
}
LEFT_BY_USERADD = {
    "etc/.pwd.lock",
    "etc/passwd-",
    "etc/group-",
    "etc/shadow-",
    "etc/gshadow-",
    "etc/subuid-",
    "etc/subgid-",
}


@pytest.fixture(scope="module")
def new_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if os.geteuid():
        pytest.skip("only root may enter another root")
    if subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this root may not mount anything")
    programs = {name: shutil.which(name, path=SYSTEM_PATH) for name in PROGRAMS}
    missing = [name for name, path in programs.items() if not path]
    if missing:
        pytest.skip(f"this system has no {', '.join(missing)}")
    root = tmp_path_factory.mktemp("root")
    for folder in FOLDERS:
        (root / folder).mkdir(parents=True)
    root.chmod(0o755)
    (root / "tmp").chmod(0o1777)
    for link in ("bin", "sbin", "lib", "lib64"):
        (root / link).symlink_to(f"usr/{link}")
    for name, text in CONFIGURATION.items():
        (root / "etc" / name).write_text(text)
    for program in programs.values():
        copy_binary(Path(str(program)), root)
    for name in LIBRARIES:
        for library in Path("/usr/lib").glob(f"*-linux-gnu/{name}"):
            copy_binary(library, root)
    copy_python(root)
    for name, minor in (("null", 3), ("urandom", 9)):
        subprocess.run(["mknod", "-m", "666", str(root / "dev" / name), "c", "1", str(minor)], check=True)
    return root


def copy_python(root: Path) -> None:
    """Copy the interpreter and its standard library to the same paths in the new root.

    ``python3`` is a link to the interpreter.
    """
    interpreter = Path(os.path.realpath(sys.executable))
    copy_binary(interpreter, root)
    (root / "usr/bin/python3").unlink(missing_ok=True)
    (root / "usr/bin/python3").symlink_to(interpreter)
    without = shutil.ignore_patterns("*-packages", "test", "tests", "__pycache__", "idlelib", "tkinter", "config-*")
    for folder in (
        Path(sysconfig.get_path("stdlib")),
        Path("/usr/share/python-wheels"),
    ):  # Debian's pip is in the latter
        if folder.is_dir():
            shutil.copytree(folder, below(root, folder), symlinks=True, ignore=without)
    for extension in Path(sysconfig.get_path("stdlib")).glob("lib-dynload/*.so"):
        copy_libraries(extension, root)


def copy_binary(path: Path, root: Path) -> None:
    """Copy a program or a library, and the libraries that it needs, into the new root.

    A link is replaced by the file that it leads to, under the name of the link.
    """
    if not below(root, path).exists():
        below(root, path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, below(root, path))
    copy_libraries(path, root)


def copy_libraries(path: Path, root: Path) -> None:
    said = subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=False).stdout
    for library in map(Path, re.findall(r"(/\S+) \(0x", said)):
        if not below(root, library).exists():
            below(root, library).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(library, below(root, library))


def below(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")


def inside(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the new root, without the current environment.

    Processes that the command leaves behind end with it.
    """
    alone = [
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        f"--mount-proc={root / 'proc'}",
        "chroot",
        str(root),
    ]
    environment = [
        "/usr/bin/env",
        "-i",
        "PATH=/usr/sbin:/usr/bin",
        "HOME=/root",
        "PIP_NO_COMPILE=1",
        "SYSTEMD_OFFLINE=1",
    ]
    return subprocess.run(
        [*alone, *environment, *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        stdin=subprocess.DEVNULL,
    )


def tree(root: Path) -> set[str]:
    """Return all paths below the root, without the code that Python has compiled."""
    return {str(path.relative_to(root)) for path in root.rglob("*") if "__pycache__" not in path.parts}


@pytest.mark.slow
def test_a_whole_machine(new_root: Path, deployed: Path, bundle: Path) -> None:
    shutil.copytree(deployed, new_root / "root" / "对 cpu")
    before, accounts = tree(new_root), (new_root / "etc/passwd").read_text()
    end = inside(new_root, "/root/对 cpu/install.sh")
    assert end.returncode == 0, end.stdout + end.stderr
    for said in ("a root of its own", "1 inputs: 1 ok", "running. Put clips and photos into"):
        assert said in end.stdout

    (user,) = (
        line.split(":") for line in (new_root / "etc/passwd").read_text().splitlines() if line.startswith("vidrisk:")
    )
    state = new_root / "var/lib/vidrisk"
    assert user[5:] == ["/var/lib/vidrisk", "/usr/sbin/nologin"]
    assert {path.name for path in state.iterdir()} == {"cache", "inbox", "out"}
    assert {(path.stat().st_uid, path.stat().st_gid) for path in state.rglob("*")} == {(int(user[2]), int(user[3]))}
    assert (state / "inbox").stat().st_mode & 0o7777 == 0o2770
    assert [(state / name).stat().st_mode & 0o777 for name in ("out", "cache")] == [0o750, 0o700]
    assert (state.stat().st_uid, state.stat().st_mode & 0o7777) == (0, 0o755)  # nobody else exchanges what lies in it
    units = new_root / "etc/systemd/system"
    assert (units / "multi-user.target.wants/vidrisk-watch.service").readlink() == Path(
        "/etc/systemd/system/vidrisk-watch.service"
    )
    assert inside(new_root, "/usr/local/bin/vidrisk", "--version").stdout.startswith("vidrisk ")

    shutil.copy(deployed / "smoke.mp4", state / "inbox" / "a.mp4")
    unit = dict(re.findall(r"^(\w+)=(.*)", (units / "vidrisk-watch.service").read_text(encoding="utf-8"), re.MULTILINE))
    command = [word.strip('"') for word in re.findall(r'"[^"]*"|\S+', unit["ExecStart"])]
    assert command[-1] == f"/opt/vidrisk/current/bundle/{bundle.name}"
    as_service = [
        "runuser",
        "-u",
        unit["User"],
        "--",
        "env",
        "TMPDIR=/var/lib/vidrisk/cache",
        *unit["Environment"].split(),
    ]
    end = inside(new_root, *as_service, *command, "--once")
    assert end.returncode == 0 and ": 1 files (1 ok)" in end.stdout, end.stdout + end.stderr

    end = inside(new_root, "/opt/vidrisk/uninstall.sh")
    assert end.returncode == 0 and "kept" in end.stdout and end.stdout.endswith("removed\n"), end.stdout + end.stderr
    assert {path.name for path in state.iterdir()} == {"inbox", "out"}
    shutil.rmtree(state)
    assert tree(new_root) - before <= LEFT_BY_USERADD | {"etc/systemd/system/multi-user.target.wants"}
    assert (new_root / "etc/passwd").read_text() == accounts


@pytest.mark.slow
def test_root_follows_no_link_that_the_service_has_planted(new_root: Path, deployed: Path) -> None:
    """Root refuses links in a state folder that belongs to the service, as an earlier installation left it.

    The service can replace the folders in its state folder by links.
    """
    folder, state, precious = new_root / "root" / "cpu", new_root / "var/lib/vidrisk", new_root / "etc/precious"
    shutil.copytree(deployed, folder)
    precious.mkdir(mode=0o700)
    (precious / "key").write_text("secret")
    for name in ("out", "cache", "inbox"):
        shutil.rmtree(state, ignore_errors=True)
        state.mkdir()
        os.chown(state, 12345, 12345)
        (state / name).symlink_to("/etc/precious")
        end = inside(new_root, "/root/cpu/install.sh")
        assert end.returncode == 1 and f"error: /var/lib/vidrisk/{name} is a link" in end.stderr, (
            end.stdout + end.stderr
        )
        assert (precious.stat().st_uid, precious.stat().st_mode & 0o777) == (0, 0o700)
        assert state.stat().st_uid == 0
        shutil.copy(folder / "uninstall.sh", new_root / "opt/vidrisk/uninstall.sh")
        end = inside(new_root, "/opt/vidrisk/uninstall.sh", "--purge")
        assert end.returncode == 1 and f"error: /var/lib/vidrisk/{name} is a link" in end.stderr, (
            end.stdout + end.stderr
        )
        assert (precious / "key").read_text() == "secret"
    shutil.rmtree(state)
    (new_root / "usr/local/bin/vidrisk").symlink_to("/somewhere/else")
    end = inside(new_root, "/root/cpu/install.sh")
    assert end.returncode == 0 and "/usr/local/bin/vidrisk belongs to another program and is kept" in end.stdout, (
        end.stdout + end.stderr
    )
    assert (new_root / "usr/local/bin/vidrisk").readlink() == Path("/somewhere/else")
    end = inside(new_root, "/opt/vidrisk/uninstall.sh", "--purge")
    assert end.returncode == 0 and not state.exists(), end.stdout + end.stderr
    assert (new_root / "usr/local/bin/vidrisk").is_symlink()


@pytest.mark.slow
def test_root_makes_no_inbox_where_others_may_plant_links(new_root: Path, bundle: Path, tmp_path: Path) -> None:
    made = write_deployment(bundle, "cpu", tmp_path / "made", inbox="/data/cam/in").folder
    shutil.copytree(made, new_root / "root" / "elsewhere")
    (new_root / "data/cam").mkdir(parents=True)
    os.chown(new_root / "data/cam", 12345, 12345)
    end = inside(new_root, "/root/elsewhere/install.sh")
    assert end.returncode == 1 and "error: users other than root may change /data/cam" in end.stderr, (
        end.stdout + end.stderr
    )
    assert "mkdir -p /data/cam/in" in end.stderr and list((new_root / "data/cam").iterdir()) == []


@pytest.mark.slow
def test_a_state_folder_on_another_disk_lies_where_only_root_changes_it(new_root: Path, deployed: Path) -> None:
    shutil.copytree(deployed, new_root / "root" / "disk")
    (new_root / "srv/theirs/vidrisk").mkdir(parents=True)
    os.chown(new_root / "srv/theirs", 12345, 12345)
    state = new_root / "var/lib/vidrisk"
    shutil.rmtree(state, ignore_errors=True)  # of an installation that was refused before
    state.symlink_to("/srv/theirs/vidrisk")
    end = inside(new_root, "/root/disk/install.sh")
    assert end.returncode == 1 and "error: users other than root may change /srv/theirs" in end.stderr, (
        end.stdout + end.stderr
    )
    assert list((new_root / "srv/theirs/vidrisk").iterdir()) == []
    os.chown(new_root / "srv/theirs", 0, 0)
    os.chown(state, 12345, 12345, follow_symlinks=False)
    end = inside(new_root, "/root/disk/install.sh")
    assert end.returncode == 1 and "error: /var/lib/vidrisk is a link" in end.stderr, end.stdout + end.stderr
    state.unlink()
