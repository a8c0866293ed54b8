"""Progress callbacks of long tasks: name of the task, steps done, total steps."""

from __future__ import annotations

from collections.abc import Callable

OnProgress = Callable[[str, int, int], None]


def ignore_progress(what: str, done: int, total: int) -> None:
    """Do nothing."""
