"""Listing of the files in an inbox, and detection of the complete ones.

The inbox is polled, because a network share sends no events. A file is complete if its size and modification time have
not changed for a while, or if the whole file was renamed or dated long after its last byte was written (it was given
the date of its original). Both times are the file system's own, so the clock of this machine does not matter.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from vidrisk.files.stamps import stamp_of
from vidrisk.files.system_files import is_hidden, is_unfinished
from vidrisk.files.walk import Entry, Omitted, walk
from vidrisk.frames import is_media
from vidrisk.frames.left_out import shorten_path
from vidrisk.frames.media import kind_from_suffix

Stamp = tuple[int, int]  # size in bytes, modification time in ns

log = logging.getLogger(__name__)


def is_ignored(name: str) -> bool:
    """Return whether a file or folder of this name is still being written.

    Such a name begins with a dot, or ends in ``.part``, ``.tmp`` or another suffix that programs use for unfinished
    files.
    """
    return is_hidden(name) or is_unfinished(name)


class LeftInInbox:
    """Remembers entries that stay in an inbox.

    They are reported once, and a file of an unknown suffix is opened only once while it does not change.
    """

    def __init__(self) -> None:
        self._said: set[str] = set()
        self._known: dict[str, tuple[Stamp, bool]] = {}
        self._seen: dict[str, tuple[Stamp, bool]] = {}

    def is_media(self, entry: Entry, info: os.stat_result) -> bool:
        """Return whether a file is a clip or a photo; report one that is not after two passes without a change."""
        if kind_from_suffix(entry):
            return True
        stamp, before = stamp_of(info), self._known.get(entry.path)
        is_same = before is not None and before[0] == stamp
        self._seen[entry.path] = answer = before if before and is_same else (stamp, is_media(entry))
        if is_same and not answer[1]:
            suffix = Path(entry.name).suffix.lower()
            self.say(
                entry.path,
                f"is neither a clip nor a photo{f' (further {suffix} files are not reported)' if suffix else ''}",
                key=f"*{suffix}",
            )
        return answer[1]

    def say(self, path: str, reason: str, *, key: str = "") -> None:
        """Log why an entry stays in the inbox, once per ``key``, which defaults to the path."""
        if (key or path) not in self._said:
            self._said.add(key or path)
            log.warning("left in the inbox: %s %s", shorten_path(path), reason)

    def end_pass(self) -> None:
        """Forget files that are gone."""
        self._known, self._seen = self._seen, {}


def files_in(inbox: Path, left: LeftInInbox | None = None) -> dict[str, os.stat_result]:
    """List every clip and photo below ``inbox`` as absolute path → status.

    Each folder is sorted by name, files before sub-folders. Only regular files are returned; other entries are left in
    the inbox and reported once. ``left`` remembers the entries left in earlier passes.

    Raises:
        OSError: the inbox itself cannot be listed.
    """
    left = LeftInInbox() if left is None else left
    found: dict[str, os.stat_result] = {}
    root = os.path.abspath(inbox)  # noqa: PTH100 (keeps links)
    for item in walk(root, is_ignored=is_ignored):
        if isinstance(item, Omitted):
            if item.error and item.path == root:
                raise item.error
            if item.error:
                left.say(item.path, f"cannot be accessed: {item.reason}")
            continue
        try:
            info = item.stat()
        except OSError as error:
            if item.is_symlink():  # otherwise it is gone again
                left.say(item.path, f"is a broken link: {error.strerror}")
            continue
        if not stat.S_ISREG(info.st_mode):
            left.say(item.path, "is not a file")
        elif left.is_media(item, info):
            found[item.path] = info
    left.end_pass()
    return found


class Settling:
    """Remembers since when every file has been unchanged.

    Args:
        settle_s: how long a file must be unchanged, in seconds.
    """

    def __init__(self, settle_s: float) -> None:
        self._settle_s = settle_s
        self._since: dict[str, tuple[Stamp, float]] = {}

    def complete(self, found: Mapping[str, os.stat_result], now_s: float) -> dict[str, Stamp]:
        """Return the complete files with their stamps, for files found at ``now_s`` of a monotonic clock."""
        since = {}
        for path, info in found.items():
            stamp = stamp_of(info)
            before = self._since.get(path)
            since[path] = before if before and before[0] == stamp else (stamp, now_s)
        self._since = since
        return {
            path: stamp
            for path, (stamp, since_s) in since.items()
            if now_s - since_s >= self._settle_s or self._was_handed_over(found[path])
        }

    def _was_handed_over(self, info: os.stat_result) -> bool:
        """Return whether the file was renamed or dated some time after its last byte was written."""
        return info.st_ctime_ns - info.st_mtime_ns >= max(self._settle_s, 1e-3) * 1e9


def is_still(path: str, stamp: Stamp) -> bool:
    """Return whether a file is unchanged since it was found.

    A network file system may answer from its cache for seconds; opening the file forces a request. Only a regular file
    is opened: opening a pipe would block, and opening a device may activate it. A file that cannot be opened counts as
    unchanged: the ledger will hold the reason.
    """
    try:
        info = Path(path).stat()
        if not stat.S_ISREG(info.st_mode):
            return stamp_of(info) == stamp
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)  # it may have been replaced by now
    except OSError:
        return True
    try:
        return stamp_of(os.fstat(descriptor)) == stamp
    finally:
        os.close(descriptor)
