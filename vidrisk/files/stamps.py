"""Size and time of change, by which one sees that a file is another one than before."""

from __future__ import annotations

import os
from pathlib import Path

MAX_INT64 = 2**63 - 1


def stamp_of(info: os.stat_result) -> tuple[int, int]:
    """Return size and time of change in ns. The time is cut to what a ledger can hold: a camera may date its files into any
    century.
    """
    return info.st_size, info.st_mtime_ns & MAX_INT64


def stamp_of_file(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """Return the same of a file; None where there is none."""
    try:
        return stamp_of(Path(path).stat())
    except (OSError, ValueError):  # the latter for what can be no path
        return None
