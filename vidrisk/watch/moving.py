"""Moving of one file out of an inbox to which untrusted users may write.

Only regular files in the inbox itself are moved. No link is followed, neither in place of the file nor of a folder
above it, even if they are exchanged concurrently: folders are opened one by one, and files are accessed relative to
them.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath

from vidrisk.files.stamps import stamp_of
from vidrisk.watch.inbox import Stamp

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
KINDS = {
    stat.S_IFLNK: "it is a link",
    stat.S_IFIFO: "it is a pipe",
    stat.S_IFSOCK: "it is a socket",
    stat.S_IFCHR: "it is a device",
    stat.S_IFBLK: "it is a device",
    stat.S_IFDIR: "it is a folder",
}
FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
BLOCK_BYTES = 2**20
FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Stays(Exception):
    """Raised for a file that must not be moved; the message is the reason."""


def move_file(inbox: Path, inside: str, stamp: Stamp, target: Path) -> None:
    """Move a file, also to another file system.

    The file appears under its new name when it is complete, and only then leaves the inbox. Nothing is overwritten: if
    the name exists, a number is appended. A file that has changed since ``stamp`` silently stays. ``inside`` is its
    path relative to the inbox.

    Raises:
        Stays: it is not a regular file, or lies behind a link.
        FileNotFoundError: it is gone.
        OSError: it cannot be moved; nothing is left at the target.
    """
    with _folder_of(inbox, inside) as folder:
        name = PurePath(inside).name
        info = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if not stat.S_ISREG(info.st_mode):
            raise Stays(KINDS.get(stat.S_IFMT(info.st_mode), "it is not a regular file"))
        if stamp_of(info) != stamp:
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        free = _free_name(target)
        try:
            os.rename(name, free, src_dir_fd=folder)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _copy_and_remove(folder, name, info, free)


@contextmanager
def _folder_of(inbox: Path, inside: str) -> Iterator[int]:
    """Open the folder of a file without following a link below the inbox."""
    folder = os.open(inbox, FOLDER_FLAGS)
    try:
        for name in PurePath(inside).parts[:-1]:
            try:
                below = os.open(name, FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=folder)
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.ENOTDIR):
                    raise Stays("it lies behind a link") from None
                raise
            os.close(folder)
            folder = below
        yield folder
    finally:
        os.close(folder)


def _copy_and_remove(folder: int, name: str, info: os.stat_result, free: Path) -> None:
    if not os.access(".", os.W_OK, dir_fd=folder):  # otherwise it would be copied again at every attempt
        raise PermissionError(errno.EACCES, "files in its folder cannot be removed")
    part = free.with_name(f".{free.name}.part")
    try:
        _copy(folder, name, info, part)
        part.rename(free)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    with suppress(FileNotFoundError):  # removed by somebody else: the copy is all there is
        try:
            if stamp_of(os.stat(name, dir_fd=folder, follow_symlinks=False)) != stamp_of(info):
                raise OSError(errno.EAGAIN, "it changed while it was copied")
            os.unlink(name, dir_fd=folder)
        except FileNotFoundError:
            raise
        except OSError:
            free.unlink()  # the original stays, so remove the copy
            raise


def _copy(folder: int, name: str, info: os.stat_result, part: Path) -> None:
    """Copy as many bytes as the file had, so that copying a growing file ends."""
    with open(os.open(name, FILE_FLAGS, dir_fd=folder), "rb") as source, part.open("wb") as copy:  # noqa: PTH123 (a descriptor)
        if not os.path.samestat(os.fstat(source.fileno()), info):
            raise FileNotFoundError(errno.ENOENT, "another file has taken its place")
        rest = info.st_size
        while block := source.read(min(rest, BLOCK_BYTES)):
            copy.write(block)
            rest -= len(block)
        copy.flush()
        with suppress(OSError):  # a share may support neither
            os.fchmod(copy.fileno(), stat.S_IMODE(info.st_mode) & 0o777)
            os.utime(copy.fileno(), ns=(info.st_atime_ns, info.st_mtime_ns))
        os.fsync(copy.fileno())


def _free_name(target: Path) -> Path:
    free, number = target, 2
    while os.path.lexists(free):
        free, number = target.with_name(f"{target.stem}.{number}{target.suffix}"), number + 1
    return free
