from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_media import write_photo

from vidrisk.files.stamps import stamp_of
from vidrisk.watch.moving import Stays, move_file


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    (tmp_path / "in" / "cam 1").mkdir(parents=True)
    return tmp_path / "in"


@pytest.fixture
def far(inbox: Path) -> Iterator[Path]:
    """Yield a folder on another file system."""
    folder = Path("/dev/shm") / f"vidrisk-{os.getpid()}"
    if not folder.parent.is_dir() or folder.parent.stat().st_dev == inbox.stat().st_dev:
        pytest.skip("there is no second file system")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def move(inbox: Path, inside: str, target: Path) -> None:
    move_file(inbox, inside, stamp_of((inbox / inside).lstat()), target / inside)


@pytest.mark.parametrize("kind", ["link to a file", "link to a device", "link to a folder", "pipe", "socket", "folder"])
def test_only_regular_files_leave(inbox: Path, tmp_path: Path, kind: str) -> None:
    (tmp_path / "arch").mkdir()
    precious = Path(write_photo(tmp_path / "arch" / "a.png", "red"))
    path, line = inbox / "a.png", socket.socket(socket.AF_UNIX)
    with line:
        {
            "link to a file": lambda: path.symlink_to(precious),
            "link to a device": lambda: path.symlink_to("/dev/zero"),
            "link to a folder": lambda: (inbox / "sub").symlink_to(tmp_path / "arch"),
            "pipe": lambda: os.mkfifo(path),
            "socket": lambda: line.bind(str(path)),
            "folder": path.mkdir,
        }[kind]()
        inside = "sub/a.png" if kind == "link to a folder" else "a.png"
        with pytest.raises(Stays, match=kind.split()[0]):
            move(inbox, inside, tmp_path / "done")
    assert os.path.lexists(inbox / inside) and precious.exists() and not (tmp_path / "done").exists()


def test_a_file_goes_to_another_file_system_whole_and_with_its_date(inbox: Path, far: Path) -> None:
    path = Path(write_photo(inbox / "cam 1" / "夜.png", "red"))
    os.utime(path, (1e9, 1e9))
    path.chmod(0o640)
    content, before = path.read_bytes(), path.stat()
    move(inbox, "cam 1/夜.png", far)
    after = (far / "cam 1" / "夜.png").stat()
    assert (far / "cam 1" / "夜.png").read_bytes() == content and not path.exists()
    assert (after.st_mtime_ns, after.st_mode) == (before.st_mtime_ns, before.st_mode)


def test_a_folder_that_is_exchanged_for_a_link_on_the_way_changes_nothing_elsewhere(
    inbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "arch").mkdir()
    write_photo(tmp_path / "arch" / "a.png", "red")
    write_photo(inbox / "cam 1" / "a.png", "blue")
    opened = os.open

    def exchange(path: str, flags: int, *arguments: int, dir_fd: int | None = None) -> int:
        descriptor = opened(path, flags, *arguments, dir_fd=dir_fd)
        if path == "cam 1":
            (inbox / "cam 1").rename(inbox / "cam 2")
            (inbox / "cam 1").symlink_to(tmp_path / "arch")
        return descriptor

    monkeypatch.setattr(os, "open", exchange)
    move_file(inbox, "cam 1/a.png", stamp_of((inbox / "cam 1" / "a.png").stat()), tmp_path / "done" / "a.png")
    assert (tmp_path / "arch" / "a.png").exists() and not (inbox / "cam 2" / "a.png").exists()


def test_nothing_half_is_left_where_there_is_no_room(inbox: Path, far: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_photo(inbox / "a.png", "red")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        move(inbox, "a.png", far)
    assert (inbox / "a.png").exists() and list(far.iterdir()) == []


def test_a_file_that_cannot_leave_is_not_copied_again_and_again(
    inbox: Path, far: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = os.unlink

    def refused(name: str, *, dir_fd: int | None = None) -> None:
        if dir_fd is not None:
            raise PermissionError(errno.EACCES, "not here")
        unlink(name)

    write_photo(inbox / "a.png", "red")
    monkeypatch.setattr(os, "unlink", refused)
    for _ in range(3):
        with pytest.raises(PermissionError):
            move(inbox, "a.png", far)
    assert (inbox / "a.png").exists() and list(far.iterdir()) == []


def test_a_file_that_changes_while_it_is_copied_stays(inbox: Path, far: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_photo(inbox / "a.png", "red")
    fsync = os.fsync

    def change(descriptor: int) -> None:
        fsync(descriptor)
        (inbox / "a.png").write_bytes(b"another")

    monkeypatch.setattr(os, "fsync", change)
    with pytest.raises(OSError, match="changed while it was copied"):
        move(inbox, "a.png", far)
    assert (inbox / "a.png").read_bytes() == b"another" and list(far.iterdir()) == []


def test_a_file_that_changed_since_it_was_looked_at_stays(inbox: Path, tmp_path: Path) -> None:
    write_photo(inbox / "a.png", "red")
    move_file(inbox, "a.png", (1, 1), tmp_path / "done" / "a.png")
    assert (inbox / "a.png").exists() and not (tmp_path / "done").exists()
