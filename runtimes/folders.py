"""Cache folders: their location, their size limits, and the checks that make a cached file trustworthy.

Cached files are executed or acted on: engines are code, and measurements select runtimes. A folder or file is therefore
used only if nobody else can have put it there: it is not a symlink, belongs to this user or to root, and is not
writable by its group or by others. Files and folders that vidrisk creates are accessible to this user only.
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
    """Folder or file that somebody else may have written; the message is a clause that says why."""


def cache_folder() -> Path:
    """Return the cache folder.

    This is ``$VIDRISK_CACHE``, or ``vidrisk`` under ``$XDG_CACHE_HOME`` (default ``~/.cache``). A relative
    ``$XDG_CACHE_HOME`` is ignored (XDG base directory specification). For a user without a home folder it lies under
    the folder for temporary files; ``check_private_folder`` refuses a folder or link of that name planted by somebody
    else.
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
        _warn_once(f"this user has no home folder: the cache is in {folder}; set VIDRISK_CACHE to use another folder")
        return folder


def make_private_folder(folder: Path) -> None:
    """Create a cache folder and its missing parents, accessible to this user only.

    Raises:
        UntrustedError: the folder, or a cache folder above it, exists and is writable by somebody else; nothing is
            created below it.
        OSError: it cannot be created.
    """
    root, missing = cache_folder(), [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        if root in path.parents:
            check_private_folder(path.parent)
        path.mkdir(FOLDER_MODE, exist_ok=True)
    check_private_folder(folder)


def check_private_folder(folder: Path) -> None:
    """Refuse a folder if it, or a folder between it and the cache's root, is writable by somebody else.

    The cache's root may be a symlink owned by this user or by root.

    Raises:
        UntrustedError: it is not trusted; the message says why.
        OSError: it does not exist, or cannot be examined.
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
    """Tell whether the contents of a folder can be trusted; log the reason once if not."""
    try:
        check_private_folder(folder)
    except UntrustedError as error:
        _warn_once(f"{error}: it is not used as a cache; chmod go-w, or set VIDRISK_CACHE to a folder of your own")
        return False
    except OSError:
        return False
    return True


def open_private(path: Path) -> io.BufferedReader:
    """Open a cache file for reading.

    Callers must use the returned file and not open the path a second time, because the file may be replaced in between.

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
            raise UntrustedError(f"{path} is not a regular file")
        _check(path, info)
    except BaseException:
        file.close()
        raise
    return file


def create_private(path: Path, *, append: bool = False) -> BinaryIO:
    """Open a cache file for writing, accessible to this user only."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_APPEND if append else os.O_TRUNC)
    return os.fdopen(os.open(path, flags, FILE_MODE), "ab" if append else "wb")


@contextmanager
def write_private(path: Path) -> Iterator[BinaryIO]:
    """Write a cache file atomically: it replaces ``path`` once everything is written.

    Raises:
        OSError: it cannot be written; the previous file at ``path`` stays.
    """
    handle, partial = tempfile.mkstemp(prefix=f"{path.stem}.", suffix=".tmp", dir=path.parent)  # mode 0600
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
    """Return in bytes the size that an environment variable holds in GiB; ``default_gb`` if it is empty or not set.

    Raises:
        SettingsError: it does not hold a size.
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
