"""Check whether the folder of a day can be continued, before a run is started in it.

Disks of small machines lose pages, and a power cut leaves files short or full of zeros. A folder that cannot be
continued must not affect others, so it is recognised here, and the watch continues in another one.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from vidrisk.inference.predictions import PREDICTIONS, prediction_from_json
from vidrisk.jobs.database import path_from_sql
from vidrisk.jobs.folder import LEDGER, is_ledger, refuse_other_folders
from vidrisk.jobs.ledger import lines_of_files
from vidrisk.jobs.segments import SEGMENTS
from vidrisk.jobs.summary import SUMMARY
from vidrisk.report.build import REPORT
from vidrisk.runtimes.contract.errors import DataError, SettingsError

DATABASE_FILES = (LEDGER, *(f"{LEDGER}-{suffix}" for suffix in ("wal", "shm", "journal")))
RUN_FILES = (*DATABASE_FILES, PREDICTIONS, SEGMENTS, SUMMARY, REPORT)
BLOCK_BYTES = 2**20


@dataclass(frozen=True)
class Damage:
    """Why a day cannot be continued. ``is_lost``: the predictions in it are no longer reliable."""

    why: str
    is_lost: bool = True


def damage_of(folder: Path, *, parses: bool = False) -> Damage | None:
    """Return what keeps a run from continuing in ``folder``; None if nothing does, or if it does not exist.

    A full disk, and a run that is currently writing there, do not count as damage.

    Args:
        folder: folder of the day.
        parses: also parse every prediction.

    Raises:
        OSError: the parent folder cannot be accessed.
    """
    try:
        mode = folder.lstat().st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(mode):
        return Damage("it is a link", is_lost=False)
    if not stat.S_ISDIR(mode):
        return Damage("it is not a folder")
    try:
        there = {entry.name: entry for entry in os.scandir(folder)}
        for name in RUN_FILES:
            if name in there and not there[name].is_file(follow_symlinks=False):
                return Damage(f"{name} is not a regular file")
        written = [
            there[name].path for name in (*DATABASE_FILES, PREDICTIONS) if name in there
        ]  # the others are replaced
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK) or not all(
            os.access(path, os.R_OK | os.W_OK) for path in written
        ):
            return Damage("it is not writable", is_lost=False)
        return _damage_of_files(folder, parses)
    except PermissionError:
        return Damage("it cannot be entered", is_lost=False)
    except OSError as error:
        return Damage(f"it cannot be read: {error.strerror or error}")


def _damage_of_files(folder: Path, parses: bool) -> Damage | None:
    ledger, predictions = folder / LEDGER, folder / PREDICTIONS
    is_empty = not predictions.exists() or not predictions.stat().st_size
    if not is_ledger(ledger):
        try:
            refuse_other_folders(folder, resume=True)
        except SettingsError:
            return Damage(f"{LEDGER} was not written by vidrisk")
        return None
    try:
        with closing(sqlite3.connect(ledger, timeout=0.2)) as database:
            database.execute("PRAGMA locking_mode = EXCLUSIVE")  # otherwise SQLite needs disk space for shared memory
            ((said,),) = database.execute("PRAGMA integrity_check(1)")
            if not database.execute("SELECT 1 FROM sqlite_master").fetchone():  # its first transaction was interrupted
                return None if is_empty else Damage(f"{LEDGER} is empty")
            meta = dict(database.execute("SELECT key, value FROM meta"))
            length, is_rewriting = int(meta["length"]), meta["rewriting"] == "1"
            for _ in database.execute(
                "SELECT path, state, reason, finished_at FROM inputs"
            ):  # the text may not be decodable
                pass
            lines_of = (
                {
                    path_from_sql(path): int(lines)
                    for path, lines in database.execute("SELECT path, predictions FROM inputs WHERE state != 'pending'")
                }
                if is_rewriting
                else {}
            )
    except sqlite3.OperationalError as error:
        if "no such" in str(error) or "decode" in str(error):
            return Damage(f"{LEDGER} is damaged: {error}")
        for name in DATABASE_FILES:
            read_through(folder / name)  # raises if the disk is the cause
        return None
    except (sqlite3.DatabaseError, KeyError, ValueError) as error:
        return Damage(f"{LEDGER} is damaged: {error}")
    if said != "ok":
        return Damage(f"{LEDGER} is damaged: {' '.join(said.split())}")
    if is_rewriting:
        return _damage_of_copy(predictions, lines_of)
    return _damage_of_lines(predictions, length, parses) if length else None


def _damage_of_copy(path: Path, lines_of: Mapping[str, int]) -> Damage | None:
    """Check a file that was being replaced by a copy without some lines.

    Whether it is the original or the copy, the remaining lines must be present.
    """
    try:
        found = sum(1 for _ in lines_of_files(path, lines_of)) if path.exists() else 0
    except DataError as error:
        return Damage(error.what)
    return Damage(f"{PREDICTIONS} is shorter than {LEDGER} says") if found < sum(lines_of.values()) else None


def _damage_of_lines(path: Path, length: int, parses: bool) -> Damage | None:
    if not path.exists() or path.stat().st_size < length:
        return Damage(f"{PREDICTIONS} is shorter than {LEDGER} says")
    with path.open("rb") as file:
        file.seek(length - 1)
        if file.read(1) != b"\n":
            return Damage(f"{PREDICTIONS} does not end where {LEDGER} says")
        file.seek(0)
        try:
            while parses and file.tell() < length:
                prediction_from_json(file.readline())
        except DataError as error:
            return Damage(error.what)
    return None


def read_through(path: Path) -> None:
    """Read a file to its end; it may be missing.

    Raises:
        OSError: it cannot be read from the disk.
    """
    if path.exists():
        with path.open("rb") as file:
            while file.read(BLOCK_BYTES):
                pass
