"""How to watch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vidrisk.runtimes.contract.errors import SettingsError


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
    """

    settle_s: float = 2.0
    poll_s: float = 2.0
    report_every_s: float | None = 300.0
    retry_s: float = 30.0
    keep_dates: int | None = None
    move_done: Path | None = None
    once: bool = False

    def __post_init__(self) -> None:
        for name, least in (("settle_s", 0.0), ("poll_s", 0.01), ("report_every_s", 0.0), ("retry_s", 0.0), ("keep_dates", 1)):
            value = getattr(self, name)
            if value is not None and not least <= value <= 1e6:
                raise SettingsError(f"{name} is {value}", allowed=f"{least} to 1000000")
