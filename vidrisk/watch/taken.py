"""What was taken out of an inbox: every file, as it was, and the day that it belongs to.

The ledger of a day is the truth about its files; this is the memory across days. A file is noted here, undone, before
its day's run is told of it, and done when the ledger has its final row. So after a kill at any moment, what is undone
here is what has to be given to the run of its day again, which knows by itself what it has finished. A memory that was
lost is made again from the ledgers.
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
from vidrisk.jobs.folder import writing_to
from vidrisk.jobs.ledger import Row
from vidrisk.runtimes.contract.errors import VidriskError
from vidrisk.watch.inbox import Stamp
from vidrisk.watch.memory import TAKEN, is_sound, open_memory, refuse_other_folders

STATES = ("kept", "damaged", "deleted")  # of a day: it gets more files, it gets none, its folder has gone


class MemoryDamaged(VidriskError):
    """The memory of an output folder can no longer be used: ``Taken.mend`` makes it again."""


@dataclass(frozen=True)
class Day:
    """One folder of results. ``reported``: its page shows everything that it holds."""

    id: int
    folder: str
    date: str
    identity: str
    reported: bool


class Taken:
    """The open memory of an output folder, of which there is one at a time. For one thread."""

    def __init__(self, out: Path) -> None:
        """Raises:
        SettingsError: ``out`` is no folder for this, or somebody else watches into it.
        VidriskError: it cannot be written.
        """
        self._out = out
        refuse_other_folders(out)
        self._database = open_memory(out)

    def mend(self) -> None:
        """Set a memory that was damaged while it was open aside, and make it again from the ledgers.

        Raises:
            VidriskError: it cannot be written; the next call tries again.
        """
        self.close()
        self._database = open_memory(self._out)

    def has(self, path: str, stamp: Stamp) -> bool:
        """Whether the file was taken as it is."""
        return self._rows("SELECT bytes, mtime_ns FROM files WHERE path = ?", os.fsencode(path)) == [stamp]

    def day(self, date: str, identity: str) -> Day:
        """The folder of a date for results of this identity; a new one where there is none yet.

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
        """Those that may get more files, or those in any of ``states``: in the order in which they began."""
        wanted = states or ("kept",)
        return [
            Day(number, folder, date, identity, bool(reported))
            for number, folder, date, identity, reported, state in self._rows(
                "SELECT id, folder, date, identity, reported, state FROM days ORDER BY id"
            )
            if state in wanted
        ]

    def undone_days(self) -> list[Day]:
        """Those that have files which are not done."""
        undone = {number for (number,) in self._rows("SELECT DISTINCT day FROM files WHERE NOT done")}
        return [day for day in self.days() if day.id in undone]

    def take(self, files: Mapping[str, Stamp], day: Day) -> None:
        """Note complete files as undone ones of a day. Its page is no longer up to date then.

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
        """Note final rows of a day's ledger: files are done as they were when they were read, or forgotten, to be taken again.

        Raises:
            VidriskError: the memory cannot be written.
        """
        with self._writing():
            self._database.executemany(
                "UPDATE files SET done = 1, bytes = coalesce(?, bytes), mtime_ns = coalesce(?, mtime_ns) WHERE path = ?",
                ((row.bytes, row.mtime_ns, os.fsencode(row.path)) for row in rows),
            )
            self._database.executemany("DELETE FROM files WHERE path = ?", ((os.fsencode(path),) for path in forget))

    def hand_over(self, before: Day, after: Day) -> None:
        """Give what is undone of one day to another."""
        with self._writing():
            self._database.execute("UPDATE files SET day = ? WHERE day = ? AND NOT done", (after.id, before.id))
            self._database.execute("UPDATE days SET reported = 0 WHERE id = ?", (after.id,))

    def set_aside(self, day: Day, *, forgets_done: bool) -> None:
        """Give a day no more files: what is undone of it gets another folder of its date.

        Args:
            forgets_done: what is done is taken again where it still lies in the inbox.
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

    def done_before(self, date: str, paths: Iterable[str]) -> Iterator[tuple[str, Stamp, Day]]:
        """The done files among ``paths`` whose day is another than ``date`` and has its page."""
        days = {day.id: day for day in self.days(*STATES) if day.date != date and day.reported}
        for path in paths if days else ():
            for size, mtime_ns, day in self._rows(
                "SELECT bytes, mtime_ns, day FROM files WHERE path = ? AND done", os.fsencode(path)
            ):
                if day in days:
                    yield path, (size, mtime_ns), days[day]

    def outlived(self, keep_dates: int) -> list[Day]:
        """Finished days before the ``keep_dates`` that began last: a clock that jumps makes no day older."""
        days = self.days("kept", "damaged")
        last = list(dict.fromkeys(day.date for day in reversed(days)))[:keep_dates]
        return [day for day in days if day.date not in last and day.reported and not self.undone(day)]

    def drop(self, day: Day, present: Collection[str]) -> None:
        """Forget a day, and its files but those that are ``present`` in the inbox. An empty inbox may be one that is not
        mounted: then all are remembered.
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
        with writing_to(self._out):
            try:
                yield
            except sqlite3.Error as error:
                if is_sound(self._database, self._out):
                    raise
                raise MemoryDamaged(
                    f"{self._out / TAKEN} is damaged: {error}", fix="rename it: it is made again"
                ) from error
