"""Which files lie in an inbox, and which of them are complete.

Only looking helps: a network share sends no events. A file is complete when its size and time of change have stayed the same for
a while, or when something was done to the whole of it long after its last byte was written: it was renamed, or given the
date of its original. Both times are the file system's own, so the clock of this machine does not matter.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from vidrisk.infer.sources import is_media, stamp_of

Stamp = tuple[int, int]  # size in bytes, time of change in ns

UNFINISHED_SUFFIXES = (".part", ".tmp")


def is_ignored(name: str) -> bool:
    """Whether a file or folder of this name is still being made: it begins with a dot, or ends in ``.part`` or ``.tmp``."""
    return name.startswith(".") or name.lower().endswith(UNFINISHED_SUFFIXES)


def files_in(inbox: Path) -> dict[str, os.stat_result]:
    """Absolute path → status of every clip and photo below ``inbox``, sorted within a folder, folders entered once each.

    Raises:
        OSError: the inbox itself cannot be listed; sub-folders that cannot are left out.
    """
    os.scandir(inbox).close()  # os.walk keeps to itself what goes wrong
    found: dict[str, os.stat_result] = {}
    entered: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(os.path.abspath(inbox), followlinks=True):  # noqa: PTH100 (links stay as they are named)
        with suppress(OSError):
            info = Path(folder).stat()
            seen = (info.st_dev, info.st_ino) in entered
            entered.add((info.st_dev, info.st_ino))
            folders[:] = [] if seen else sorted(name for name in folders if not is_ignored(name))
            for name in [] if seen else sorted(names):
                path = os.path.join(folder, name)  # noqa: PTH118 (a Path would normalise it)
                if is_media(name) and not is_ignored(name):
                    with suppress(OSError):  # it has gone again
                        found[path] = Path(path).stat()
    return found


class Settling:
    """Remembers since when every file has been what it is.

    Args:
        settle_s: how long nothing may have happened to a file, in seconds.
    """

    def __init__(self, settle_s: float) -> None:
        self._settle_s = settle_s
        self._since: dict[str, tuple[Stamp, float]] = {}

    def complete(self, found: Mapping[str, os.stat_result], now_s: float) -> dict[str, Stamp]:
        """The complete ones of the files that were found at ``now_s`` of a clock that never jumps, with their stamps."""
        since = {}
        for path, info in found.items():
            stamp = stamp_of(info)
            before = self._since.get(path)
            since[path] = before if before and before[0] == stamp else (stamp, now_s)
        self._since = since
        return {path: stamp for path, (stamp, since_s) in since.items()
                if now_s - since_s >= self._settle_s or self._was_handed_over(found[path])}

    def _was_handed_over(self, info: os.stat_result) -> bool:
        """Whether it was renamed or dated when its last byte had been there for a while."""
        return info.st_ctime_ns - info.st_mtime_ns >= max(self._settle_s, 1e-3) * 1e9


def is_still(path: str, stamp: Stamp) -> bool:
    """Whether the file is what it was found to be. A network file system answers for seconds from what it remembers; opening
    the file makes it ask. One that cannot be opened is: the ledger will say why.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe must not hold us up
    except OSError:
        return True
    try:
        return stamp_of(os.fstat(descriptor)) == stamp
    finally:
        os.close(descriptor)
