"""Moving of inputs and deletion of results after their day is over."""

from __future__ import annotations

import logging
import os
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path

from vidrisk.jobs.folder import explain_write_errors
from vidrisk.runtimes.contract.errors import VidriskError
from vidrisk.watch.moving import FULL, Stays, move_file
from vidrisk.watch.taken import Taken

log = logging.getLogger(__name__)


def move_done(
    taken: Taken, today: str, inbox: Path, found: Mapping[str, os.stat_result], target: Path, said: set[str]
) -> None:
    """Move files out of the inbox whose day is over and has its report.

    They are not moved earlier, because the report reads its pictures from them.

    Args:
        taken: the memory of the output folder.
        today: the current date.
        inbox: the inbox.
        found: files in the inbox, with their status.
        target: folder to which files are moved.
        said: files that stay and have been reported; updated.

    Raises:
        VidriskError: some cannot be moved to ``target``; the others are moved.
    """
    first: tuple[str, OSError] | None = None
    for path, stamp, day in taken.find_done_before(today, found):
        inside = os.path.relpath(path, os.path.abspath(inbox))  # noqa: PTH100 (as files_in names them)
        try:
            move_file(inbox, inside, stamp, target / day.folder / inside)
        except FileNotFoundError:  # it has gone
            continue
        except Stays as reason:
            if path not in said:
                log.warning("%r stays in the inbox: %s", inside, reason)
            said.add(path)
        except OSError as error:
            first = first or (inside, error)
            if error.errno in FULL:
                break
    if first:
        raise VidriskError(
            f"{first[0]!r} cannot be moved to {target}: {first[1].strerror or first[1]}",
            fix="make room or grant the permission",
        )


def expire(taken: Taken, out: Path, keep_dates: int, found: Mapping[str, os.stat_result]) -> None:
    """Delete all results except those of the ``keep_dates`` dates that began last.

    Anything that is in place of a folder is left alone.

    Raises:
        VidriskError: some cannot be deleted; the others are deleted.
    """
    first: VidriskError | None = None
    for day in taken.find_outlived(keep_dates):
        folder = out / day.folder
        try:
            with explain_write_errors(out):
                if os.path.lexists(folder) and not stat.S_ISDIR(folder.lstat().st_mode):
                    log.warning("%s is not a folder and is not deleted", folder)
                elif os.path.lexists(folder):
                    log.info("%s is deleted: %d later dates have results", day.folder, keep_dates)
                    shutil.rmtree(folder)
        except VidriskError as error:
            first = first or error
            continue
        taken.drop(day, found.keys())
    if first:
        raise first
