"""What was taken out of an inbox: every file, as it was, and the day that it belongs to.

The ledger of a day is the truth about its files; this is the memory across days. A file is noted here, undone, before its day's run
is told of it, and done when the ledger has its final row. So after a kill at any moment, what is undone here is what has to be
given to the run of its day again, which knows by itself what it has finished. A memory that was lost is made again from the
ledgers.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from typing_extensions import Self

from vidrisk.infer.database import transaction
from vidrisk.infer.folder import LEDGER, is_ledger, writing_to
from vidrisk.infer.ledger import Row, read_ledger
from vidrisk.runtimes.errors import SettingsError
from vidrisk.watch.inbox import Stamp

TAKEN = "inbox.sqlite"
APPLICATION_ID = 0x76726931  # "vri1"
FOLDER_NAME = re.compile(r"(\d{4}-\d\d-\d\d)(?:\.\d+)?")

_SCHEMA = (
    f"PRAGMA application_id = {APPLICATION_ID}",
    """CREATE TABLE days (
        id INTEGER PRIMARY KEY, -- in the order in which they began, whatever the clock said
        folder TEXT NOT NULL UNIQUE,
        date TEXT NOT NULL,
        identity TEXT NOT NULL, -- of the bundle and the settings; '' where nobody knows
        reported INTEGER NOT NULL DEFAULT 1)""",
    """CREATE TABLE files (
        path BLOB PRIMARY KEY, -- absolute, as the system names it
        bytes INTEGER NOT NULL,
        mtime_ns INTEGER NOT NULL,
        day INTEGER NOT NULL REFERENCES days (id),
        done INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID""",
    "CREATE INDEX files_day ON files (day)",
    "CREATE INDEX files_undone ON files (day) WHERE NOT done",
)


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
        _refuse_other_folders(out)
        with writing_to(out):
            out.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(out / TAKEN, isolation_level=None, timeout=0.2)
        try:
            with writing_to(out):
                # Exclusive: the lock lasts as long as the connection, whoever is killed how.
                self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
                with transaction(self._database):
                    if not self._database.execute("SELECT 1 FROM sqlite_master WHERE name = 'files'").fetchone():
                        for statement in _SCHEMA:
                            self._database.execute(statement)
                        self._remember_ledgers()
        except BaseException:
            self._database.close()
            raise

    def _remember_ledgers(self) -> None:
        for path in sorted(self._out.iterdir()):
            name = FOLDER_NAME.fullmatch(path.name)
            if name and is_ledger(path / LEDGER):
                day = self._add_day(path.name, name[1], identity="", reported=True)
                self._database.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, 1)", (
                    (os.fsencode(row.path), row.bytes, row.mtime_ns, day)
                    for row in read_ledger(path) if row.bytes is not None and row.mtime_ns is not None))

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
        number = 1
        while (folder := date if number == 1 else f"{date}.{number}") in {d.folder for d in self.days()} or (
                os.path.lexists(self._out / folder)):
            number += 1
        with self._writing():
            self._add_day(folder, date, identity, reported=True)
        return self.days()[-1]

    def _add_day(self, folder: str, date: str, identity: str, *, reported: bool) -> int:
        added = self._database.execute("INSERT INTO days (folder, date, identity, reported) VALUES (?, ?, ?, ?)",
                                       (folder, date, identity, reported))
        return int(added.lastrowid or 0)

    def days(self) -> list[Day]:
        """All of them, in the order in which they began."""
        return [Day(number, folder, date, identity, bool(reported)) for number, folder, date, identity, reported in
                self._rows("SELECT id, folder, date, identity, reported FROM days ORDER BY id")]

    def undone_days(self) -> list[Day]:
        """Those that have files which are not done."""
        undone = {number for number, in self._rows("SELECT DISTINCT day FROM files WHERE NOT done")}
        return [day for day in self.days() if day.id in undone]

    def take(self, files: Mapping[str, Stamp], day: Day) -> None:
        """Note complete files as undone ones of a day. Its page is no longer up to date then.

        Raises:
            VidriskError: the memory cannot be written.
        """
        with self._writing():
            self._database.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, 0)",
                                       ((os.fsencode(path), *stamp, day.id) for path, stamp in files.items()))
            self._database.execute("UPDATE days SET reported = 0 WHERE id = ?", (day.id,))

    def undone(self, day: Day) -> list[str]:
        return [os.fsdecode(path) for path, in
                self._rows("SELECT path FROM files WHERE day = ? AND NOT done ORDER BY path", day.id)]

    def finish(self, rows: Iterable[Row], forget: Collection[str] = ()) -> None:
        """Note final rows of a day's ledger: files are done as they were when they were read, or forgotten, to be taken again.

        Raises:
            VidriskError: the memory cannot be written.
        """
        with self._writing():
            self._database.executemany(
                "UPDATE files SET done = 1, bytes = coalesce(?, bytes), mtime_ns = coalesce(?, mtime_ns) WHERE path = ?",
                ((row.bytes, row.mtime_ns, os.fsencode(row.path)) for row in rows))
            self._database.executemany("DELETE FROM files WHERE path = ?", ((os.fsencode(path),) for path in forget))

    def hand_over(self, before: Day, after: Day) -> None:
        """Give what is undone of one day to another."""
        with self._writing():
            self._database.execute("UPDATE files SET day = ? WHERE day = ? AND NOT done", (after.id, before.id))
            self._database.execute("UPDATE days SET reported = 0 WHERE id = ?", (after.id,))

    def set_reported(self, day: Day) -> None:
        with self._writing():
            self._database.execute("UPDATE days SET reported = 1 WHERE id = ?", (day.id,))

    def done_before(self, date: str, paths: Iterable[str]) -> Iterator[tuple[str, Stamp, Day]]:
        """The done files among ``paths`` whose day is another than ``date`` and has its page."""
        days = {day.id: day for day in self.days() if day.date != date and day.reported}
        for path in paths if days else ():
            for size, mtime_ns, day in self._rows("SELECT bytes, mtime_ns, day FROM files WHERE path = ? AND done",
                                                  os.fsencode(path)):
                if day in days:
                    yield path, (size, mtime_ns), days[day]

    def outlived(self, keep_dates: int) -> list[Day]:
        """Finished days before the ``keep_dates`` that began last: a clock that jumps makes no day older."""
        days = self.days()
        last = list(dict.fromkeys(day.date for day in reversed(days)))[:keep_dates]
        return [day for day in days if day.date not in last and day.reported and not self.undone(day)]

    def drop(self, day: Day, present: Collection[str]) -> None:
        """Forget a day, and its files but those that are ``present`` in the inbox. An empty inbox may be one that is not
        mounted: then all are remembered.
        """
        with self._writing():
            ((keeper,),) = self._rows("SELECT max(id) FROM days")
            gone = [path for path, in self._rows("SELECT path FROM files WHERE day = ?", day.id)
                    if present and os.fsdecode(path) not in present]
            self._database.executemany("DELETE FROM files WHERE path = ?", ((path,) for path in gone))
            self._database.execute("UPDATE files SET day = ? WHERE day = ?", (keeper, day.id))
            self._database.execute("DELETE FROM days WHERE id = ?", (day.id,))

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with writing_to(self._out):
            return self._database.execute(query, values).fetchall()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with writing_to(self._out), transaction(self._database):
            yield


def _refuse_other_folders(out: Path) -> None:
    """Raises:
    SettingsError: ``out`` holds what is not ours, and might be somebody's.
    """
    try:
        names = {entry.name for entry in out.iterdir()} if os.path.lexists(out) else set()
    except OSError as error:
        raise SettingsError(f"{out} is no folder to write into: {error.strerror}", fix="choose another folder") from error
    if _is_ours(out / TAKEN):
        return
    other = sorted(name for name in names - {TAKEN, f"{TAKEN}-journal", "lost+found"} if not FOLDER_NAME.fullmatch(name))
    if other:
        raise SettingsError(f"{out} holds {other[0]!r}, which is not from watching", allowed="an empty folder, or one of before",
                            fix="choose another folder")


def _is_ours(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return int.from_bytes(file.read(72)[68:], "big") == APPLICATION_ID
    except OSError:
        return False
