"""The database ``inbox.sqlite``: opening, migration, and rebuilding from the ledgers if it is lost or damaged."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import stat
from contextlib import suppress
from pathlib import Path

from vidrisk.jobs.database import transaction
from vidrisk.jobs.folder import LEDGER, explain_write_errors, is_ledger
from vidrisk.jobs.ledger import read_ledger
from vidrisk.runtimes.contract import versions
from vidrisk.runtimes.contract.errors import SettingsError
from vidrisk.runtimes.contract.outputs import refuse_below_file
from vidrisk.watch.damage import damage_of, read_through

log = logging.getLogger(__name__)

TAKEN = "inbox.sqlite"
APPLICATION_ID = 0x76726931  # "vri1"
FOLDER_NAME = re.compile(r"(\d{4}-\d\d-\d\d)(?:\.\d+)?")
OWN_NAME = re.compile(rf"{FOLDER_NAME.pattern}|{re.escape(TAKEN)}(?:\.damaged-\d+)?(?:-journal)?|lost\+found")

_SCHEMA = (
    f"PRAGMA application_id = {APPLICATION_ID}",
    """CREATE TABLE days (
        id INTEGER PRIMARY KEY, -- in the order in which they began, whatever the clock said
        folder TEXT NOT NULL UNIQUE,
        date TEXT NOT NULL,
        identity TEXT NOT NULL, -- of the bundle and the settings; '' where nobody knows
        reported INTEGER NOT NULL DEFAULT 1,
        state TEXT NOT NULL DEFAULT 'kept')""",
    """CREATE TABLE files (
        path BLOB PRIMARY KEY, -- absolute, as the system names it
        bytes INTEGER NOT NULL,
        mtime_ns INTEGER NOT NULL,
        day INTEGER NOT NULL REFERENCES days (id),
        done INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID""",
    "CREATE INDEX files_day ON files (day)",
    "CREATE INDEX files_undone ON files (day) WHERE NOT done",
)


def open_memory(out: Path) -> sqlite3.Connection:
    """Open the memory of an output folder exclusively.

    An unusable one is renamed and rebuilt from the ledgers.

    Raises:
        SettingsError: another watch uses ``out``.
        DataError: another major version wrote it.
        VidriskError: it cannot be written.
    """
    path = out / TAKEN
    with explain_write_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
            _set_aside(path)
        database = _connect(path)
        try:
            if not _may_be_used(database, path):
                database.close()
                _set_aside(path)
                database = _connect(path)
            with transaction(database):
                _bring_up_to_date(database, out)
        except BaseException:
            database.close()
            raise
    return database


def is_sound(database: sqlite3.Connection, out: Path) -> bool:
    """Return whether an open memory is usable; a lock of another watch or a full disk does not make it unsound."""
    try:
        return _may_be_used(database, out / TAKEN)
    except sqlite3.OperationalError:
        return True


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None, timeout=0.2)
    # the lock lasts as long as the connection, even if a process is killed
    database.execute("PRAGMA locking_mode = EXCLUSIVE")
    return database


def _may_be_used(database: sqlite3.Connection, path: Path) -> bool:
    """Return whether the database is undamaged and ours.

    Raises:
        sqlite3.OperationalError: it is locked, or the disk does not let it be read.
        DataError: another major version wrote it.
    """
    try:
        with transaction(database):
            ((said,),) = database.execute("PRAGMA integrity_check(1)")
            names = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
            ((number,),) = database.execute("PRAGMA application_id")
            if said != "ok" or (names and number != APPLICATION_ID):
                return False
            if names:
                _is_newer(
                    database
                )  # refuses another major version, whose tables may differ, unless the file is damaged
                database.execute("SELECT path, bytes, mtime_ns, day, done FROM files LIMIT 1").fetchall()
                database.execute("SELECT id, folder, date, identity, reported FROM days").fetchall()
    except sqlite3.OperationalError as error:
        if "no such" in str(error) or "decode" in str(error):
            return False
        try:
            read_through(path)
        except OSError:  # the disk is the cause
            return False
        raise
    except sqlite3.DatabaseError:
        return False
    return True


def _set_aside(path: Path) -> None:
    number = 1
    while os.path.lexists(aside := path.with_name(f"{path.name}.damaged-{number}")):
        number += 1
    with suppress(FileNotFoundError):  # otherwise SQLite would apply it to the new database
        path.with_name(f"{path.name}-journal").rename(aside.with_name(f"{aside.name}-journal"))
    path.rename(aside)
    log.warning("%s is damaged: it is kept as %s and rebuilt from the ledgers", path, aside.name)


def _bring_up_to_date(database: sqlite3.Connection, out: Path) -> None:
    if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'files'").fetchone():
        for statement in _SCHEMA:
            database.execute(statement)
        _remember_ledgers(database, out)
    elif "state" not in {
        name for _, name, *_ in database.execute("PRAGMA table_info(days)")
    }:  # made by an earlier version
        database.execute("ALTER TABLE days ADD COLUMN state TEXT NOT NULL DEFAULT 'kept'")
    if not _is_newer(database):
        database.execute(f"PRAGMA user_version = {versions.INBOX.major << 16 | versions.INBOX.minor}")


def _is_newer(database: sqlite3.Connection) -> bool:
    """Return whether a newer minor version wrote the file.

    The version is its ``user_version``: major and minor, 16 bits each; 0 before 1.1.

    Raises:
        DataError: another major version.
    """
    ((number,),) = database.execute("PRAGMA user_version")
    return versions.INBOX.is_newer(f"{number >> 16}.{number & 0xFFFF}" if number else None)


def _remember_ledgers(database: sqlite3.Connection, out: Path) -> None:
    for path in sorted(out.iterdir()):
        name = FOLDER_NAME.fullmatch(path.name)
        if not name:
            continue
        damage = damage_of(path)
        if damage:
            log.warning(
                "%s is damaged: %s; it is left as it is, and its files are predicted into another folder",
                path,
                damage.why,
            )
        if damage or is_ledger(path / LEDGER):
            added = database.execute(
                "INSERT INTO days (folder, date, identity, state) VALUES (?, ?, '', ?)",
                (path.name, name[1], "damaged" if damage else "kept"),
            )
        if not damage and is_ledger(path / LEDGER):
            database.executemany(
                "INSERT OR REPLACE INTO files (path, bytes, mtime_ns, day, done) VALUES (?, ?, ?, ?, 1)",
                (
                    (os.fsencode(row.path), row.bytes, row.mtime_ns, added.lastrowid)
                    for row in read_ledger(path)
                    if row.bytes is not None and row.mtime_ns is not None
                ),
            )


def refuse_other_folders(out: Path) -> None:
    """Check that ``out`` is absent, empty or from watching, so that no other files are harmed.

    Raises:
        SettingsError: it holds other files, or lies below a file.
    """
    refuse_below_file(out)
    try:
        names = sorted(entry.name for entry in out.iterdir()) if os.path.lexists(out) else []
    except OSError as error:
        raise SettingsError(
            f"{out} cannot be used as an output folder: {error.strerror}", fix="choose another folder"
        ) from error
    other = [name for name in names if not OWN_NAME.fullmatch(name)]
    if other and not _is_ours(out, names):
        raise SettingsError(
            f"{out} holds {other[0]!r}, which is not from a watch",
            allowed="an empty folder, or one of an earlier watch",
            fix="choose another folder",
        )


def _is_ours(out: Path, names: list[str]) -> bool:
    return _has_application_id(out / TAKEN) or any(
        FOLDER_NAME.fullmatch(name) and is_ledger(out / name / LEDGER) for name in names
    )


def _has_application_id(path: Path) -> bool:
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return int.from_bytes(file.read(72)[68:], "big") == APPLICATION_ID
    except OSError:
        return False
