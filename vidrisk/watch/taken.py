"""Record of the files taken from an inbox, with their state and the day that they belong to.

The ledger of a day is authoritative for its files; this is the memory across days. A file is recorded here as undone
before its day's run receives it, and as done when the ledger has its final row. So after a kill at any moment, the
files that are undone here are passed again to the run of their day, which knows which of them it has finished. A lost
memory is rebuilt from the ledgers.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from typing_extensions import Self

from vidrisk.jobs.database import transaction
from vidrisk.jobs.folder import explain_write_errors
from vidrisk.jobs.ledger import Row
from vidrisk.runtimes.contract.errors import VidriskError
from vidrisk.watch.inbox import Stamp
from vidrisk.watch.memory import TAKEN, is_sound, open_memory, refuse_other_folders

STATES = ("kept", "damaged", "deleted")  # of a day: gets more files, gets no more files, folder deleted


class MemoryDamaged(VidriskError):
    """Raised if the memory of an output folder is unusable; ``Taken.mend`` rebuilds it."""


@dataclass(frozen=True)
class Day:
    """One folder of results. ``reported``: its report is up to date."""

    id: int
    folder: str
    date: str
    identity: str
    reported: bool


class Taken:
    """The open memory of an output folder, which can be opened only once at a time. For one thread."""

    def __init__(self, out: Path) -> None:
        """Open the memory of an output folder.

        Raises:
            SettingsError: ``out`` cannot be used for this, or another watch uses it.
            VidriskError: it cannot be written.
        """
        self._out = out
        refuse_other_folders(out)
        self._database = open_memory(out)

    def mend(self) -> None:
        """Set aside a memory that was damaged while it was open, and rebuild it from the ledgers.

        Raises:
            VidriskError: it cannot be written; the next call tries again.
        """
        self.close()
        self._database = open_memory(self._out)

    def has(self, path: str, stamp: Stamp) -> bool:
        """Return whether the file was taken in its present state."""
        return self._rows("SELECT bytes, mtime_ns FROM files WHERE path = ?", os.fsencode(path)) == [stamp]

    def day(self, date: str, identity: str) -> Day:
        """Return the folder of a date for results of this identity; create one if there is none.

        Raises:
            VidriskError: the memory cannot be written.
        """
        known = [day for day in self.days() if day.date == date and day.identity == identity]
        if known:
            return known[-1]
        with self._writing():
            self._add_day(date, identity)
        return self.days()[-1]

    def _add_day(self, date: str, identity: str) -> int:
        taken = {folder for (folder,) in self._database.execute("SELECT folder FROM days")}
        number, folder = 1, date
        while folder in taken or os.path.lexists(self._out / folder):
            number += 1
            folder = f"{date}.{number}"
        added = self._database.execute(
            "INSERT INTO days (folder, date, identity) VALUES (?, ?, ?)", (folder, date, identity)
        )
        return int(added.lastrowid or 0)

    def days(self, *states: str) -> list[Day]:
        """Return days in the order in which they began, by default those that may get more files.

        With ``states``, return the days in any of these.
        """
        wanted = states or ("kept",)
        return [
            Day(number, folder, date, identity, bool(reported))
            for number, folder, date, identity, reported, state in self._rows(
                "SELECT id, folder, date, identity, reported, state FROM days ORDER BY id"
            )
            if state in wanted
        ]

    def undone_days(self) -> list[Day]:
        """Return the days that have undone files."""
        undone = {number for (number,) in self._rows("SELECT DISTINCT day FROM files WHERE NOT done")}
        return [day for day in self.days() if day.id in undone]

    def take(self, files: Mapping[str, Stamp], day: Day) -> None:
        """Record complete files as undone files of a day, whose report is then out of date.

        Raises:
            VidriskError: the memory cannot be written.
        """
        with self._writing():
            self._database.executemany(
                "INSERT OR REPLACE INTO files (path, bytes, mtime_ns, day, done) VALUES (?, ?, ?, ?, 0)",
                ((os.fsencode(path), *stamp, day.id) for path, stamp in files.items()),
            )
            self._database.execute("UPDATE days SET reported = 0 WHERE id = ?", (day.id,))

    def undone(self, day: Day) -> list[str]:
        return [
            os.fsdecode(path)
            for (path,) in self._rows("SELECT path FROM files WHERE day = ? AND NOT done ORDER BY path", day.id)
        ]

    def finish(self, rows: Iterable[Row], forget: Collection[str] = ()) -> None:
        """Record final rows of a day's ledger: files are done in the state in which they were read.

        The files in ``forget`` are removed, to be taken again.

        Raises:
            VidriskError: the memory cannot be written.
        """
        with self._writing():
            self._database.executemany(
                "UPDATE files SET done = 1, bytes = coalesce(?, bytes), mtime_ns = coalesce(?, mtime_ns) "
                "WHERE path = ?",
                ((row.bytes, row.mtime_ns, os.fsencode(row.path)) for row in rows),
            )
            self._database.executemany("DELETE FROM files WHERE path = ?", ((os.fsencode(path),) for path in forget))

    def hand_over(self, before: Day, after: Day) -> None:
        """Move the undone files of one day to another."""
        with self._writing():
            self._database.execute("UPDATE files SET day = ? WHERE day = ? AND NOT done", (after.id, before.id))
            self._database.execute("UPDATE days SET reported = 0 WHERE id = ?", (after.id,))

    def set_aside(self, day: Day, *, forgets_done: bool) -> None:
        """Stop adding files to a day, and move its undone files to another folder of its date.

        With ``forgets_done``, its done files are taken again if they are still in the inbox.
        """
        with self._writing():
            self._database.execute("UPDATE days SET state = 'damaged', reported = 1 WHERE id = ?", (day.id,))
            if forgets_done:
                self._database.execute("DELETE FROM files WHERE day = ? AND done", (day.id,))
            if self._database.execute("SELECT 1 FROM files WHERE day = ? AND NOT done", (day.id,)).fetchone():
                self._database.execute(
                    "UPDATE files SET day = ? WHERE day = ? AND NOT done",
                    (self._add_day(day.date, day.identity), day.id),
                )

    def set_reported(self, day: Day) -> None:
        with self._writing():
            self._database.execute("UPDATE days SET reported = 1 WHERE id = ?", (day.id,))

    def find_done_before(self, date: str, paths: Iterable[str]) -> Iterator[tuple[str, Stamp, Day]]:
        """Yield the done files among ``paths`` whose day is not ``date`` and has its report."""
        days = {day.id: day for day in self.days(*STATES) if day.date != date and day.reported}
        for path in paths if days else ():
            for size, mtime_ns, day in self._rows(
                "SELECT bytes, mtime_ns, day FROM files WHERE path = ? AND done", os.fsencode(path)
            ):
                if day in days:
                    yield path, (size, mtime_ns), days[day]

    def find_outlived(self, keep_dates: int) -> list[Day]:
        """Return finished days older than the ``keep_dates`` dates that began last, independently of clock jumps."""
        days = self.days("kept", "damaged")
        last = list(dict.fromkeys(day.date for day in reversed(days)))[:keep_dates]
        return [day for day in days if day.date not in last and day.reported and not self.undone(day)]

    def drop(self, day: Day, present: Collection[str]) -> None:
        """Forget a day, and those of its files that are not ``present`` in the inbox.

        If the inbox is empty, it may be unmounted: then all files are remembered.
        """
        with self._writing():
            gone = [
                path
                for (path,) in self._database.execute("SELECT path FROM files WHERE day = ?", (day.id,))
                if present and os.fsdecode(path) not in present
            ]
            self._database.executemany("DELETE FROM files WHERE path = ?", ((path,) for path in gone))
            self._database.execute("UPDATE days SET state = 'deleted' WHERE id = ?", (day.id,))
            self._database.execute("DELETE FROM days WHERE state = 'deleted' AND id NOT IN (SELECT day FROM files)")

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._using():
            return self._database.execute(query, values).fetchall()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._using(), transaction(self._database):
            yield

    @contextmanager
    def _using(self) -> Iterator[None]:
        with explain_write_errors(self._out):
            try:
                yield
            except sqlite3.Error as error:
                if is_sound(self._database, self._out):
                    raise
                raise MemoryDamaged(
                    f"{self._out / TAKEN} is damaged: {error}", fix="rename it; it will be rebuilt"
                ) from error
