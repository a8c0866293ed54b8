"""SQLite helpers for the ledger and the state of a watch."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from vidrisk.files.paths import path_from_stored


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """Commit everything that is written inside, or nothing of it.

    The connection's ``isolation_level`` must be None.
    """
    try:
        database.execute("BEGIN IMMEDIATE")  # inside: Ctrl-C may come when it has returned
        yield
        database.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            database.execute("ROLLBACK")
        raise


def sql_from_path(path: str) -> str | bytes:
    """Return a path as a column value: text if its bytes are UTF-8, in any locale, else the bytes."""
    encoded = os.fsencode(path)
    try:
        return encoded.decode("utf-8")
    except UnicodeDecodeError:
        return encoded


def path_from_sql(value: str | bytes) -> str:
    return path_from_stored(value) if isinstance(value, str) else os.fsdecode(value)
