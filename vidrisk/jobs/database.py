"""SQLite as the ledger and the memory of a watch use it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from vidrisk.files.paths import path_from_stored


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """All that is written inside, or nothing of it. The connection's ``isolation_level`` is None."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            database.execute("ROLLBACK")
        raise


def sql_from_path(path: str) -> str | bytes:
    """A path as a column's value: text where its bytes are UTF-8, in any locale, else the bytes themselves."""
    encoded = os.fsencode(path)
    try:
        return encoded.decode("utf-8")
    except UnicodeDecodeError:
        return encoded


def path_from_sql(value: str | bytes) -> str:
    return path_from_stored(value) if isinstance(value, str) else os.fsdecode(value)
