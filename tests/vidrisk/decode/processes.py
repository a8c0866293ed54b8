"""Child processes that tests start indirectly, found in /proc."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def children(parent: int | None = None) -> set[int]:
    """Return the pids of all child processes of a process, by default of this one.

    The child processes of all its threads are included.
    """
    parent, found = parent or os.getpid(), set[int]()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            if int((folder / "stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[1]) == parent:
                found.add(int(folder.name))
    return found
