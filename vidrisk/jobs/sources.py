"""Inputs of a run: files, folders and globs on the command line become one list without duplicates.

Paths are absolute ``str`` everywhere in an inference run. A name that is not valid UTF-8 keeps its bytes as surrogates
(PEP 383): ``os.fsencode`` restores them.
"""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from vidrisk.files.walk import Entry, FolderId, Omitted, walk
from vidrisk.frames import is_media
from vidrisk.frames.left_out import LeftOut
from vidrisk.jobs.globs import expand_glob
from vidrisk.runtimes.contract.errors import DataError
from vidrisk.runtimes.contract.printable import printable

_log = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class Inputs:
    """Inputs of a run.

    Attributes:
        paths: absolute, in the order of the arguments; inside a folder sorted by name, files before sub-folders.
        left_out: content of the folders that is skipped.
    """

    paths: tuple[str, ...]
    left_out: LeftOut = field(default_factory=LeftOut)

    @property
    def other_files(self) -> int:
        """Number of files in the folders that are neither clips nor photos."""
        return len(self.left_out.files)

    def __repr__(self) -> str:
        return f"Inputs({len(self.paths)} paths, {self.other_files} other files)"


def find_inputs(arguments: Sequence[str | os.PathLike[str]]) -> Inputs:
    """Expand files, folders (recursive) and globs (``'cam*/**/*.mp4'``).

    A file that is named becomes an input whatever it is, and so does an entry that cannot be examined: the ledger
    records what became of it. Inside folders and globs only clips and photos count; hidden and system names are
    skipped. Each folder is entered once, so loops of links are harmless. If one of several arguments is a glob that
    matches nothing, this is logged.

    Raises:
        DataError: nothing was found.
    """
    found: dict[str, None] = {}
    other: dict[str, None] = {}
    omitted: dict[str, Omitted] = {}
    entered: set[FolderId] = set()
    named = [os.fspath(argument) for argument in arguments]
    unmatched = dict.fromkeys(named)
    for argument in named:
        for path, is_named in _expand_argument(argument):
            unmatched.pop(argument, None)
            if isinstance(path, Omitted):
                items: Iterable[str | Entry | Omitted] = (path,)
            elif os.path.isdir(path):  # noqa: PTH112 (never raises)
                items = walk(path, entered=entered)
            elif is_named:
                found[path] = None
                continue
            else:
                items = (path,)
            for item in items:
                if not isinstance(item, Omitted):
                    (found if is_media(item) else other)[os.fspath(item)] = None
                elif item.error:
                    found[item.path] = None
                else:
                    omitted[item.path] = item
    left_out = LeftOut(
        [path for path in other if path not in found], [item for path, item in omitted.items() if path not in found]
    )
    if not any(map(os.path.lexists, found)):
        names = " ".join(map(repr, named))
        raise DataError(
            f"no clip or photo found in {names}" + (f"; left out: {left_out}" if str(left_out) else ""),
            allowed="files, folders and quoted globs",
            fix="check the path; hidden files are left out",
        )
    for argument in unmatched:
        _log.warning("%s matches nothing", printable(argument))
    return Inputs(tuple(found), left_out)


def _expand_argument(argument: str) -> Iterator[tuple[str | Omitted, bool]]:
    """Yield the absolute paths of one argument: itself, or the matches of a glob.

    A literal name takes precedence over a glob. The second value tells whether the path is the argument itself.
    """
    if os.path.lexists(argument) or not glob.has_magic(argument):
        yield os.path.abspath(argument), True  # noqa: PTH100 (links stay as they are named, ".." goes)
        return
    for match in expand_glob(argument):
        yield match, False
