"""The ledger of an output folder: one row per input, and the authority on which predictions count.

    OUT/ledger.sqlite        rows (state, reason, …) and the committed length of the file below
    OUT/predictions.jsonl    the lines of finished inputs; anything beyond the committed length does not count

Exactly once: lines are written and synced first, then one transaction moves the rows to their final state and the
committed length to the end of their lines. A run that is killed between the two leaves uncommitted lines, which are
truncated on resume. Inputs that have changed since go back to ``pending`` in a transaction that also sets
``rewriting``; then the file is replaced by a copy without their lines, and a second transaction records its length. If
the run is killed in between, the copy is made again.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType

from typing_extensions import Self

from vidrisk.decode.messages import FINAL_STATES
from vidrisk.files.stamps import stamp_of_file
from vidrisk.inference.predictions import PREDICTIONS, prediction_from_json
from vidrisk.jobs.database import path_from_sql, sql_from_path, transaction
from vidrisk.jobs.folder import (
    APPLICATION_ID,
    LEDGER,
    explain_write_errors,
    is_ledger,
    refuse_damaged_meta,
    refuse_other_folders,
    refuse_other_runs,
)
from vidrisk.runtimes.contract import versions
from vidrisk.runtimes.contract.errors import SettingsError, VidriskError

STATES = ("pending", *FINAL_STATES)

COMMIT_ROWS = 64
COMMIT_INTERVAL_S = 0.5

_COLUMNS = "id, path, state, reason, bytes, mtime_ns, predictions, finished_at"
_SCHEMA = (
    f"PRAGMA application_id = {APPLICATION_ID}",
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    f"""CREATE TABLE inputs (
        id INTEGER PRIMARY KEY,
        path TEXT NOT NULL UNIQUE, -- absolute; a BLOB where the name is no valid UTF-8
        state TEXT NOT NULL DEFAULT 'pending' CHECK (state IN {STATES}),
        reason TEXT NOT NULL DEFAULT '',
        bytes INTEGER,
        mtime_ns INTEGER,
        predictions INTEGER NOT NULL DEFAULT 0,
        finished_at TEXT)""",
    "CREATE INDEX inputs_state ON inputs (state)",
)


@dataclass(frozen=True)
class Row:
    """One input.

    Attributes:
        bytes, mtime_ns: of the file when it was read.
        predictions: their number.
    """

    id: int
    path: str
    state: str = "pending"
    reason: str = ""
    bytes: int | None = None
    mtime_ns: int | None = None
    predictions: int = 0
    finished_at: str | None = None


class Ledger:
    """An open output folder. Leaving the ``with`` block commits what is finished. For one thread."""

    def __init__(
        self,
        out: Path,
        identity: Mapping[str, str],
        *,
        resume: bool,
        limits: Mapping[str, float] | None = None,
        older: Mapping[str, str] | None = None,
        only: Collection[str] | None = None,
        stamps: Mapping[str, tuple[int, int]] | None = None,
    ) -> None:
        """Start an output folder, or continue one.

        Args:
            out: a folder that is absent or empty; with ``resume`` also one that an earlier run left.
            identity: what must be the same in a run and its continuation (bundle, runtime, variant, windows, …).
            resume: continue an existing run. Inputs whose size or modification time differs are done again.
            older: values that an earlier version wrote for the same identity, if they were different.
            only: paths of this run, if it does not cover all inputs that the folder was ever given: other inputs keep
                their final rows even if their files have changed, and those without a final row are removed.
            stamps: current sizes and modification times of inputs that are not files, such as rows of tables.
            limits: state → the limit that puts an input into it. If a limit is higher than before, such inputs are done
                again.

        Raises:
            SettingsError: the folder holds something else, a run that was not to be resumed, a run of another identity,
                or one that is still running.
            DataError: its ledger has another major version.
            VidriskError: the folder cannot be written.
        """
        self.out = out
        self._finished: list[tuple[Row, bytes]] = []
        self._committed_at = time.monotonic()
        self._failed = False
        refuse_other_folders(out, resume=resume)
        with explain_write_errors(out):
            out.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(out / LEDGER, isolation_level=None, timeout=0.2)
        try:
            with explain_write_errors(out):
                self._prepare(identity, limits or {}, older or {}, only, stamps or {})
        except BaseException:
            self._database.close()
            raise

    def _prepare(
        self,
        identity: Mapping[str, str],
        limits: Mapping[str, float],
        older: Mapping[str, str],
        only: Collection[str] | None,
        stamps: Mapping[str, tuple[int, int]],
    ) -> None:
        wanted = {"schema_version": str(versions.LEDGER.major), **identity}
        # Exclusive: the lock lasts as long as the connection, so two runs cannot share a folder, even after a kill.
        self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
        with transaction(self._database):
            if not self._database.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
                for statement in _SCHEMA:
                    self._database.execute(statement)
                now = datetime.now(timezone.utc).isoformat(timespec="seconds")
                for key, value in {
                    **versions.LEDGER.stamp(wanted),
                    "started_at": now,
                    "length": "0",
                    "rewriting": "0",
                }.items():
                    self._set_meta(key, value)
        # After the first transaction, because the header (and with it the application id) is not in the WAL then.
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        versions.LEDGER.is_newer(self.meta.get(versions.VERSION))  # raises an error for another major version
        refuse_other_runs(
            self.out,
            self.meta,
            {name: value for name, value in wanted.items() if name not in older or self.meta.get(name) != older[name]},
        )
        refuse_damaged_meta(self.out, self.meta, limits)
        self._length = int(self.meta["length"])
        self._drop_uncommitted()
        if only is not None:
            self._drop_pending(only)
        self._reopen(limits, only, stamps)
        self._file = (self.out / PREDICTIONS).open("r+b", buffering=0)

    @property
    def meta(self) -> dict[str, str]:
        return {str(key): str(value) for key, value in self._database.execute("SELECT key, value FROM meta")}

    def add(self, paths: Iterable[str]) -> None:
        """Add a pending row for every path that has none yet."""
        with explain_write_errors(self.out), transaction(self._database):
            self._database.executemany(
                "INSERT OR IGNORE INTO inputs (path) VALUES (?)", ((sql_from_path(path),) for path in paths)
            )

    def rows(self) -> list[Row]:
        return _rows(self._database)

    def finish(self, row: Row, lines: bytes) -> None:
        """Record a finished input with its lines of ``predictions.jsonl``; commit from time to time.

        Raises:
            VidriskError: the folder cannot be written (a full disk); what was committed before stays.
        """
        self._finished.append((row, lines))
        if len(self._finished) >= COMMIT_ROWS or time.monotonic() - self._committed_at >= COMMIT_INTERVAL_S:
            self.commit()

    def commit(self) -> None:
        """Write and sync the lines of the finished inputs, then move their rows.

        It can be repeated after an interruption: it writes the same bytes at the same place.
        """
        self._committed_at = time.monotonic()
        if not self._finished:
            return
        data = b"".join(lines for _, lines in self._finished)
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        values = [
            (row.state, _valid_text(row.reason), row.bytes, row.mtime_ns, row.predictions, now, row.id)
            for row, _ in self._finished
        ]
        try:
            with explain_write_errors(self.out):
                self._write_at(self._length, data)
                with transaction(self._database):
                    self._database.executemany(
                        "UPDATE inputs SET state = ?, reason = ?, bytes = ?, mtime_ns = ?, "
                        "predictions = ?, finished_at = ? WHERE id = ?",
                        values,
                    )
                    self._set_meta("length", str(self._length + len(data)))
        except VidriskError:
            self._failed = True
            raise
        self._length, self._finished = self._length + len(data), []

    def _write_at(self, position: int, data: bytes) -> None:
        self._file.seek(position)
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()
        with suppress(sqlite3.Error):
            self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if not self._failed:  # it would only fail again
                self.commit()
        finally:
            self.close()

    def _drop_uncommitted(self) -> None:
        path = self.out / PREDICTIONS
        path.touch()
        if self.meta["rewriting"] == "1":
            self._rewrite()
        elif path.stat().st_size < self._length:
            raise self._shorter()
        os.truncate(path, self._length)

    def _shorter(self) -> SettingsError:
        return SettingsError(
            f"{self.out / PREDICTIONS} is shorter than the ledger says: another program changed it",
            fix="choose another folder",
        )

    def _drop_pending(self, kept: Collection[str]) -> None:
        """Remove the inputs that have no result yet, except those in ``kept``."""
        pending = self._database.execute("SELECT id, path FROM inputs WHERE state = 'pending'").fetchall()
        with transaction(self._database):
            self._database.executemany(
                "DELETE FROM inputs WHERE id = ?",
                ((number,) for number, path in pending if path_from_sql(path) not in kept),
            )

    def _reopen(
        self, limits: Mapping[str, float], only: Collection[str] | None, stamps: Mapping[str, tuple[int, int]]
    ) -> None:
        """Make inputs pending whose result may differ now.

        These are files that have changed, inputs excluded by a limit that has been raised, and skipped inputs (missing,
        not permitted), as fixing those leaves no trace in the file.
        """
        meta = self.meta
        again = {
            "skipped",
            *(state for state, limit in limits.items() if limit > float(meta.get(f"limit {state}", "inf"))),
        }
        rows = (row for row in self.rows() if only is None or row.path in only)
        changed = [
            row.id for row in rows if row.state in again or (row.state != "pending" and _has_changed(row, stamps))
        ]
        with transaction(self._database):
            for state, limit in limits.items():
                self._set_meta(f"limit {state}", str(limit))
        if changed:
            with transaction(self._database):
                self._database.executemany(
                    "UPDATE inputs SET state = 'pending', reason = '', bytes = NULL, mtime_ns = NULL, predictions = 0, "
                    "finished_at = NULL WHERE id = ?",
                    ((number,) for number in changed),
                )
                self._set_meta("rewriting", "1")
            self._rewrite()

    def _rewrite(self) -> None:
        """Replace the file by a copy that holds only the lines of finished rows.

        Raises:
            SettingsError: some of these lines are missing; the file is left unchanged.
        """
        lines_of = {row.path: row.predictions for row in self.rows() if row.state != "pending"}
        path, copy = self.out / PREDICTIONS, self.out / f"{PREDICTIONS}.new"
        with copy.open("wb") as new:
            kept = sum(bool(new.write(line)) for line in lines_of_files(path, lines_of))
            new.flush()
            os.fsync(new.fileno())
        if kept < sum(lines_of.values()):
            raise self._shorter()
        copy.replace(path)
        self._length = path.stat().st_size
        with transaction(self._database):
            self._set_meta("length", str(self._length))
            self._set_meta("rewriting", "0")

    def _set_meta(self, key: str, value: str) -> None:
        self._database.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (key, value))


def read_ledger(out: str | os.PathLike[str]) -> list[Row]:
    """Return the rows of an output folder that no run is currently writing to, in input order.

    Raises:
        VidriskError: no ledger there, or one that cannot be read.
    """
    path = Path(out) / LEDGER
    if not is_ledger(path):
        raise VidriskError(f"{out} holds no {LEDGER} of a run", fix="vidrisk infer BUNDLE PATH… -o OUT")
    try:
        with closing(sqlite3.connect(path, timeout=0.2)) as database:
            versions.LEDGER.is_newer(dict(database.execute("SELECT key, value FROM meta")).get(versions.VERSION))
            return _rows(database)
    except sqlite3.Error as error:
        raise VidriskError(f"{path} cannot be read: {error}", fix="wait for the run to end, or resume it") from error


def lines_of_files(predictions: Path, files: Container[str]) -> Iterator[bytes]:
    """Yield the lines of ``predictions.jsonl`` that belong to some input files.

    Raises:
        DataError: a line is invalid.
    """
    with predictions.open("rb") as file:
        yield from (line for line in file if prediction_from_json(line).path in files)


def resolve_choice(out: str | os.PathLike[str], runtime: str, variant: str) -> tuple[str, str]:
    """Return runtime and variant for continuing the run in ``out``.

    ``auto`` resolves to what it chose when the run began.
    """
    path = Path(out) / LEDGER
    if not is_ledger(path):
        return runtime, variant
    try:
        with closing(sqlite3.connect(path, timeout=0.2)) as database:
            meta = dict(database.execute("SELECT key, value FROM meta"))
    except sqlite3.Error:  # opening the run reports the error
        return runtime, variant
    return tuple(
        str(meta.get(name, asked)) if asked == "auto" else asked  # type: ignore[return-value]
        for name, asked in (("runtime", runtime), ("variant", variant))
    )


def _rows(database: sqlite3.Connection) -> list[Row]:
    rows = database.execute(f"SELECT {_COLUMNS} FROM inputs ORDER BY id")
    return [Row(number, path_from_sql(path), *rest) for number, path, *rest in rows]


def _has_changed(row: Row, stamps: Mapping[str, tuple[int, int]]) -> bool:
    """Tell whether the input exists and has changed since it was read; a missing one keeps its result."""
    stamp = stamps.get(row.path) or stamp_of_file(row.path)
    return stamp is not None and stamp != (row.bytes, row.mtime_ns)


def _valid_text(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
