"""The output folder: which folders may be written to, and errors of the disk."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path

from vidrisk.runtimes.contract.errors import DataError, SettingsError, VidriskError
from vidrisk.runtimes.contract.outputs import refuse_below_file

LEDGER = "ledger.sqlite"
APPLICATION_ID = 0x76726B31  # "vrk1" at byte 68 of SQLite's header identifies our files

_OWN_FILES = {LEDGER, f"{LEDGER}-wal", f"{LEDGER}-shm", f"{LEDGER}-journal"}
_MEND = "make room or grant the permission, then run it again with resume"


def refuse_other_folders(out: Path, *, resume: bool) -> None:
    """Check that ``out`` is absent, empty, or with ``resume`` an earlier run. Nothing is written.

    Raises:
        SettingsError: it is something else.
    """
    refuse_below_file(out)
    try:
        names = {entry.name for entry in out.iterdir()} if os.path.lexists(out) else set()
    except OSError as error:
        raise SettingsError(
            f"{out} cannot be used as an output folder: {error.strerror}", fix="choose another folder"
        ) from error
    if is_ledger(out / LEDGER):
        if not resume:
            raise SettingsError(f"{out} holds a run already", fix="resume=True continues it, or choose another folder")
    elif names - _OWN_FILES or not _is_unborn(out / LEDGER):
        raise SettingsError(f"{out} is not empty and holds no run of vidrisk", fix="choose another folder")


def is_ledger(path: Path) -> bool:
    """Tell whether the file is a ledger of ours, without opening it as a database."""
    try:
        if not path.is_file():  # opening a pipe would wait
            return False
        with path.open("rb") as file:
            return int.from_bytes(file.read(72)[68:], "big") == APPLICATION_ID
    except OSError:
        return False


def _is_unborn(path: Path) -> bool:
    """Tell whether there is no database yet, or one whose first transaction was interrupted by a kill."""
    return not path.exists() or path.stat().st_size == 0 or path.with_name(f"{LEDGER}-journal").exists()


def refuse_other_runs(out: Path, meta: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """Check that the run in ``out`` was made with the settings in ``wanted``.

    Raises:
        SettingsError: it was not; says how it differs.
    """
    for name, value in wanted.items():
        if meta.get(name) != value:
            has, asked = _short_pair(meta.get(name, "unset"), value)
            raise SettingsError(
                f"the run in {out} has {name} {has}, this one {asked}",
                fix="resume with what it was started with, or choose another folder",
            )


def refuse_damaged_meta(out: Path, meta: Mapping[str, str], limits: Iterable[str]) -> None:
    """Check the ledger's meta values that are used in computations.

    ``refuse_other_runs`` compares the rest.

    Raises:
        VidriskError: a value is missing or not a number.
    """
    forms = {
        "length": r"\d{1,18}",
        "rewriting": "[01]",
        "started_at": ".+",
        **{f"limit {state}": r"\d{1,18}(\.\d{1,18})?" for state in limits if f"limit {state}" in meta},
    }
    for name, form in forms.items():
        if not re.fullmatch(form, meta.get(name, ""), re.ASCII):
            raise VidriskError(
                f"the ledger in {out} is damaged: its {name} is {meta.get(name)!r}", fix="choose another folder"
            )


def refuse_folders_without(path: Path) -> None:
    """Check that a run has written this file, before something is derived from it.

    Raises:
        DataError: it has not.
    """
    if not path.is_file():
        raise DataError(f"{path.parent} holds no {path.name} of a run", fix="vidrisk infer BUNDLE PATH… -o OUT")


def _short_pair(*values: str) -> tuple[str, ...]:
    """Shorten two different values to a few characters around the first difference."""
    differs = (len(set(pair)) > 1 for pair in zip_longest(*values))
    common = next(place for place, is_other in enumerate(differs) if is_other)
    begin = 0 if common < 12 or max(map(len, values)) <= 20 else common - 8
    return tuple(
        ("…" if begin else "") + (rest if len(rest := value[begin:]) <= 20 else f"{rest[:12]}…") for value in values
    )


@contextmanager
def explain_write_errors(out: Path) -> Iterator[None]:
    """Translate errors of the disk and of SQLite.

    Raises:
        SettingsError: another run is using the folder.
        VidriskError: it cannot be written, or its ledger is damaged.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise SettingsError(
                f"another run is writing to {out}", fix="wait for it, or choose another folder"
            ) from error
        raise VidriskError(f"cannot write to {out}: {error}", fix=_MEND) from error
    except sqlite3.DatabaseError as error:
        raise VidriskError(f"the ledger in {out} is damaged: {error}", fix="choose another folder") from error
    except OSError as error:
        raise VidriskError(f"cannot write to {out}: {error.strerror or error}", fix=_MEND) from error


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Write a file completely or not at all.

    Yields the path of a temporary file beside it, which replaces the file at the end. If the process is killed
    meanwhile, the temporary file is left for the next run to overwrite.

    Raises:
        VidriskError: as ``explain_write_errors``; the previous content of ``path`` stays.
    """
    new = path.with_name(f"{path.name}.new")
    with explain_write_errors(path.parent):
        try:
            yield new
            with new.open("rb+") as file:  # else a power cut may leave the name without the content
                os.fsync(file.fileno())
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)
