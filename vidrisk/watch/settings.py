"""How to watch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vidrisk.jobs.checks import check_instance, check_number

MOST = 1_000_000  # seconds, or dates


@dataclass(frozen=True)
class WatchSettings:
    """How to watch.

    Attributes:
        settle_s: a file is complete when nothing has happened to it for so long.
        poll_s: between two looks; more where looking itself takes long.
        report_every_s: the page of the day is written again at most so often; None writes none.
        retry_s: after which what failed is tried again: a full disk, a file that may not be read.
        keep_dates: the dates with results that are kept; None keeps all.
        move_done: where files go when their day is over; None leaves them.
        once: make one pass and return.

    Raises:
        SettingsError: a value that is not allowed.
    """

    settle_s: float = 2.0
    poll_s: float = 2.0
    report_every_s: float | None = 300.0
    retry_s: float = 30.0
    keep_dates: int | None = None
    move_done: Path | None = None
    once: bool = False

    def __post_init__(self) -> None:
        for name, least in (("settle_s", 0), ("poll_s", 0.01), ("retry_s", 0)):
            check_number(self, name, least, MOST)
        if self.report_every_s is not None:
            check_number(self, "report_every_s", 0, MOST)
        if self.keep_dates is not None:
            check_number(self, "keep_dates", 1, MOST, kind=int)
        check_instance(self, "move_done", Path | None, "a Path, None")
        check_instance(self, "once", bool, "True, False")
