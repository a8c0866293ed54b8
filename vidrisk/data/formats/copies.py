"""Makes folders with copies of a table's files, completely or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vidrisk.data.formats.media_files import safe_name
from vidrisk.data.io import check_vacant
from vidrisk.data.table import Sample
from vidrisk.runtimes.contract.errors import DataError


@contextmanager
def new_folder(destination: Path) -> Iterator[Path]:
    """Yield an empty folder that gets its final name on success and is deleted on failure.

    Raises:
        DataError: the destination exists, or the system refuses (no space, no permission, a file that cannot be read).
    """
    check_vacant(destination)
    staging: Path | None = None
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{destination.name[:40]}.", dir=destination.parent))
        yield staging
        staging.chmod(0o755)
        staging.rename(destination)
    except OSError as error:
        of_file = f" ({error.filename})" if error.filename else ""
        raise DataError(
            f"{destination} cannot be written: {error.strerror or error}{of_file}",
            fix="check free space and permissions",
        ) from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)


def copy_into(folder: Path, sample: Sample) -> str:
    """Copy the file of a sample into a folder, once, under its name in the table.

    Returns:
        The path of the copy, relative to the folder.

    Raises:
        DataError: a name that leaves the folder, for example of a file outside its table's root.
        OSError: the system refuses.
    """
    name = safe_name(sample.name)
    if name is None:
        raise DataError(f"{sample.name} lies outside its table's folder", fix="move it there")
    path = folder / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(sample.path, path)
    return name.as_posix()


@contextmanager
def empty_folder(made: Path) -> Iterator[Path]:
    """Make a folder for photos that are extracted from a data set; empty it again on failure.

    Raises:
        DataError: it is not empty, or the system refuses.
    """
    try:
        made.mkdir(parents=True, exist_ok=True)
        if any(made.iterdir()):
            raise DataError(
                f"{made} has files in it",
                allowed="an empty folder for the photos of the data set",
                fix="choose another name, or delete it first",
            )
    except OSError as error:
        raise DataError(
            f"{made} cannot be written: {error.strerror}", fix="check free space and permissions"
        ) from error
    try:
        yield made
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
