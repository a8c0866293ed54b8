"""Settings of a watch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vidrisk.jobs.checks import check_instance, check_number

MOST = 1_000_000  # seconds, or dates


@dataclass(frozen=True)
class WatchSettings:
    """Settings of a watch.

    Attributes:
        settle_s: a file is complete if it has not changed for so long.
        poll_s: time between two passes; longer if listing the inbox itself takes long.
        report_every_s: shortest time between two reports of the current day; None writes no reports.
        retry_s: time after which a failed duty is tried again, for example after a full disk or a missing permission.
        keep_dates: number of dates whose results are kept; None keeps all.
        move_done: folder to which files are moved when their day is over; None leaves them.
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
