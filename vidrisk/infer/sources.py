"""Which files to look at: files, folders and globs on the command line become one list of inputs, each once.

Paths are absolute ``str`` everywhere in an inference run. A name that is no valid UTF-8 keeps its bytes as surrogates
(PEP 383): ``os.fsencode`` gives them back.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vidrisk.frames import is_image, is_video
from vidrisk.runtimes.errors import DataError

MAX_INT64 = 2**63 - 1


@dataclass(frozen=True, repr=False)
class Inputs:
    """What a run looks at.

    Attributes:
        paths: absolute, in the order of the arguments; inside a folder sorted by name, files before sub-folders.
        other_files: files in the folders that are neither clips nor photos.
    """

    paths: tuple[str, ...]
    other_files: int = 0

    def __repr__(self) -> str:
        return f"Inputs({len(self.paths)} paths, {self.other_files} other files)"


def stamp_of(info: os.stat_result) -> tuple[int, int]:
    """Size and time of change in ns, by which a continued run sees that a file is another one. The time is cut to what a
    ledger can hold: a camera may date its files into any century.
    """
    return info.st_size, info.st_mtime_ns & MAX_INT64


def is_media(path: str) -> bool:
    """Whether the suffix of ``path`` is one of a clip or a photo."""
    return is_image(path) or is_video(path)


def find_inputs(arguments: Sequence[str | os.PathLike[str]]) -> Inputs:
    """Expand files, folders (recursive) and globs (``'cam*/**/*.mp4'``).

    A file that is named becomes an input whatever it is, and so does a folder that cannot be listed: the ledger says
    what became of it. Inside folders and globs only clips and photos count, and hidden names do not. Folders are
    entered once each, so links that form a loop do no harm.

    Raises:
        DataError: nothing was found.
    """
    found: dict[str, None] = {}
    entered: set[tuple[int, int]] = set()
    other_files: set[str] = set()
    for argument in arguments:
        for path in _named(os.fspath(argument)):
            for file in _files_below(path, entered) if Path(path).is_dir() else (path,):
                if is_media(file) or file == path or Path(file).is_dir():
                    found[file] = None
                else:
                    other_files.add(file)
    if not any(map(os.path.lexists, found)):
        names = " ".join(repr(os.fspath(a)) for a in arguments)
        raise DataError(f"no clip or photo found in {names}", allowed="files, folders and quoted globs",
                        fix="check the path; hidden files are left out")
    return Inputs(tuple(found), len(other_files - found.keys()))


def _named(argument: str) -> list[str]:
    """Absolute paths that one argument names: itself, or the sorted matches of a glob. A literal name goes first."""
    if os.path.lexists(argument) or not glob.has_magic(argument):
        return [os.path.abspath(argument)]  # noqa: PTH100 (links stay as they are named, ".." goes)
    matches = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207 (Path.glob takes no absolute pattern)
    return [os.path.abspath(match) for match in matches if Path(match).is_dir() or is_media(match)]  # noqa: PTH100


def _files_below(folder: str, entered: set[tuple[int, int]]) -> Iterator[str]:
    """Visible files under ``folder``; a folder that cannot be listed is itself yielded."""
    try:
        info = Path(folder).stat()
        if (info.st_dev, info.st_ino) in entered:
            return
        entered.add((info.st_dev, info.st_ino))
        with os.scandir(folder) as entries:
            visible = sorted((e.is_dir(), e.path) for e in entries if not e.name.startswith("."))  # files first
    except OSError:
        yield folder
        return
    for is_folder, path in visible:
        if is_folder:
            yield from _files_below(path, entered)
        else:
            yield path
