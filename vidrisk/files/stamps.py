"""Size and modification time of a file, which show whether the file has been replaced or changed."""

from __future__ import annotations

import os
from pathlib import Path

MAX_INT64 = 2**63 - 1


def stamp_of(info: os.stat_result) -> tuple[int, int]:
    """Return size and modification time in ns.

    The time is truncated to what a ledger can hold: a camera may date its files into any century.
    """
    return info.st_size, info.st_mtime_ns & MAX_INT64


def stamp_of_file(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """Return the stamp of a file, or None if it does not exist."""
    try:
        return stamp_of(Path(path).stat())
    except (OSError, ValueError):  # ValueError: not a valid path
        return None
