"""What becomes of inputs and results when their day is over."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from vidrisk.infer.folder import writing_to
from vidrisk.infer.sources import stamp_of
from vidrisk.watch.taken import Taken

log = logging.getLogger(__name__)


def move_done(taken: Taken, today: str, inbox: Path, found: Mapping[str, os.stat_result], target: Path) -> None:
    """Move files whose day is over and has its page out of the inbox. Not before: the page takes its pictures from them.

    Raises:
        VidriskError: they cannot be moved to ``target``.
    """
    for path, stamp, day in taken.done_before(today, found):
        try:
            now = stamp_of(Path(path).stat())  # ``found`` was looked at before the batch, which may have taken long
        except OSError:  # it has gone
            continue
        if stamp != now:
            continue
        inside = os.path.relpath(path, os.path.abspath(inbox))  # noqa: PTH100 (as files_in names them)
        with writing_to(target):
            move_file(Path(path), target / day.folder / inside)


def move_file(source: Path, target: Path) -> None:
    """Move a file, to another file system as well: it appears under its name when it is whole, and only then leaves. Nothing is
    overwritten: the second of a name gets a number.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    free, number = target, 2
    while os.path.lexists(free):
        free, number = target.with_name(f"{target.stem}.{number}{target.suffix}"), number + 1
    try:
        source.rename(free)
    except OSError:  # another file system, or what copying will say
        if not os.access(source.parent, os.W_OK):  # else it would be copied again at every try
            raise PermissionError(errno.EACCES, f"nothing may be moved out of {source.parent}") from None
        part = free.with_name(f".{free.name}.part")
        shutil.copy2(source, part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.rename(free)
        try:
            source.unlink()
        except OSError:
            free.unlink()  # the original stays, so no copy may
            raise


def expire(taken: Taken, out: Path, keep_dates: int, found: Mapping[str, os.stat_result]) -> None:
    """Delete the results but those of the ``keep_dates`` that began last.

    Raises:
        VidriskError: they cannot be deleted.
    """
    for day in taken.outlived(keep_dates):
        log.info("%s is deleted: %d later dates have results", day.folder, keep_dates)
        with writing_to(out):
            if (out / day.folder).exists():
                shutil.rmtree(out / day.folder)
        taken.drop(day, found.keys())
