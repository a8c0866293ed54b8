"""Where things are kept that can be made again, how much of them, and which of them may be believed.

What lies in a cache is loaded: engines are code, and measurements decide. So a folder or a file counts only if nobody
else can have put it there: it is no link, belongs to this user or to root, and neither its group nor others may write
it. What vidrisk makes itself is for this user alone.
"""

from __future__ import annotations

import functools
import io
import logging
import math
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from vidrisk.runtimes.contract.errors import SettingsError

log = logging.getLogger(__name__)

ROOT_UID = 0
FOLDER_MODE, FILE_MODE = 0o700, 0o600


class UntrustedError(PermissionError):
    """A folder or a file that somebody else may have written; the message is a clause that says why."""


def cache_folder() -> Path:
    """``$VIDRISK_CACHE``, or ``vidrisk`` under ``$XDG_CACHE_HOME`` (``~/.cache``). A user without a home has one under the folder
    for temporary files, where somebody else may have planted a folder or a link of this name: ``check_private_folder``
    refuses it. A relative ``$XDG_CACHE_HOME`` does not count (XDG base directory specification).
    """
    own, shared = os.environ.get("VIDRISK_CACHE"), Path(os.environ.get("XDG_CACHE_HOME", ""))
    if own:
        return Path(own)
    if shared.is_absolute():
        return shared / "vidrisk"
    try:
        return Path.home() / ".cache" / "vidrisk"
    except RuntimeError:
        folder = Path(tempfile.gettempdir()) / f"vidrisk-{os.getuid()}"
        _warn_once(f"this user has no home folder: the cache is in {folder}; VIDRISK_CACHE names another one")
        return folder


def make_private_folder(folder: Path) -> None:
    """Make a folder of the cache, and those above it that are missing, for this user alone.

    Raises:
        UntrustedError: it is there, or one of the cache above it, and somebody else may write it: nothing is made below
            it.
        OSError: it cannot be made.
    """
    root, missing = cache_folder(), [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        if root in path.parents:
            check_private_folder(path.parent)
        path.mkdir(FOLDER_MODE, exist_ok=True)
    check_private_folder(folder)


def check_private_folder(folder: Path) -> None:
    """Refuse a folder, and those between it and the cache's own folder, that somebody else may write.

    The cache's own folder may be a link of this user's or root's.

    Raises:
        UntrustedError: why it is not believed.
        OSError: it is not there, or may not be seen.
    """
    root = cache_folder()
    above = [path for path in folder.parents if path == root or root in path.parents] if folder != root else []
    for path in (*reversed(above), folder):
        info = path.lstat()
        if stat.S_ISLNK(info.st_mode) and path == root:
            _check_owner(path, info)
            info = path.stat()
        if stat.S_ISLNK(info.st_mode):
            raise UntrustedError(f"{path} is a link")
        _check(path, info)


def is_private_folder(folder: Path) -> bool:
    """Whether what lies in a folder may be believed. A folder that may not is named, once, with the reason."""
    try:
        check_private_folder(folder)
    except UntrustedError as error:
        _warn_once(f"{error}: it is not used as a cache; chmod go-w, or set VIDRISK_CACHE to a folder of your own")
        return False
    except OSError:
        return False
    return True


def open_private(path: Path) -> io.BufferedReader:
    """Open a file of the cache to be read. Whoever calls this goes on with what it returns, and opens the path no second time.

    Raises:
        UntrustedError: somebody else may have written it.
        OSError: it cannot be opened.
    """
    if path.is_symlink():
        raise UntrustedError(f"{path} is a link")
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    try:
        info = os.fstat(file.fileno())
        if not stat.S_ISREG(info.st_mode):
            raise UntrustedError(f"{path} is no file")
        _check(path, info)
    except BaseException:
        file.close()
        raise
    return file


def create_private(path: Path, *, append: bool = False) -> BinaryIO:
    """Open a file of the cache to be written, for this user alone."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_APPEND if append else os.O_TRUNC)
    return os.fdopen(os.open(path, flags, FILE_MODE), "ab" if append else "wb")


@contextmanager
def write_private(path: Path) -> Iterator[BinaryIO]:
    """Write a file of the cache whole or not at all: it takes its place in one step, when all is written.

    Raises:
        OSError: it cannot be written; what was at ``path`` stays.
    """
    handle, partial = tempfile.mkstemp(prefix=f"{path.stem}.", suffix=".tmp", dir=path.parent)  # for this user alone
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        Path(partial).replace(path)
    finally:
        Path(partial).unlink(missing_ok=True)


def _check_owner(path: Path, info: os.stat_result) -> None:
    if info.st_uid not in (os.geteuid(), ROOT_UID):
        raise UntrustedError(f"{path} belongs to user {info.st_uid}, not to you or root")


def _check(path: Path, info: os.stat_result) -> None:
    _check_owner(path, info)
    if info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UntrustedError(f"{path} may be written by others (mode {stat.S_IMODE(info.st_mode):04o})")


@functools.cache
def _warn_once(message: str) -> None:
    log.warning("%s", message)


def bytes_from_variable(variable: str, default_gb: float, *, may_be_zero: bool = False) -> int:
    """The size in GiB that an environment variable holds, in bytes; ``default_gb`` where it is empty or not set.

    Raises:
        SettingsError: it holds no size.
    """
    text = os.environ.get(variable) or str(default_gb)
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = math.nan
    if not 0 <= gigabytes < math.inf or (gigabytes == 0 and not may_be_zero):
        allowed = f"a number of gigabytes {'from' if may_be_zero else 'above'} 0"
        raise SettingsError(f"{variable}={text}", allowed=allowed, fix=f"unset {variable}")
    return int(gigabytes * 2**30)
