"""List the files below a folder: one iterative walk for training data, inputs and inboxes.

An entry that cannot be read is omitted, with a reason; the walk goes on. Depth is limited by the length of a path that
the system accepts, not by Python's stack. Each folder is entered once, by device and inode, so loops of links are
harmless.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from vidrisk.files.system_files import is_hidden, is_system_file, is_system_folder

HIDDEN = "hidden"
SYSTEM = "made by a NAS, a desktop system or a camera"
ENTERED = "entered under another name"

Entry = os.DirEntry[str]
FolderId = tuple[int, int]  # device, inode


class Omitted(NamedTuple):
    """An entry that is not taken.

    Attributes:
        error: of the system, if the entry could not be examined, else None.
    """

    path: str
    reason: str
    error: OSError | None = None


class Listing(NamedTuple):
    """Content of one folder, each part sorted by name.

    Attributes:
        files: everything that is not a folder, including devices and broken links.
    """

    files: list[Entry]
    folders: list[Entry]
    omitted: list[Omitted]


def list_folder(folder: str | os.PathLike[str], is_ignored: Callable[[str], bool] = is_hidden) -> Listing:
    """List one folder.

    Whatever cannot be examined is omitted with the system's error message, including the folder itself.

    Args:
        folder: to list.
        is_ignored: tells whether a name is skipped like a hidden one.
    """
    listing = Listing([], [], [])
    path = os.fspath(folder)
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                _sort_in(entry, listing, is_ignored)
    except OSError as error:  # entries listed before the error are kept
        listing.omitted.append(_omit(path, error))
    for part in listing:
        part.sort(key=_path_of)
    return listing


def walk(
    root: str | os.PathLike[str], *, is_ignored: Callable[[str], bool] = is_hidden, entered: set[FolderId] | None = None
) -> Iterator[Entry | Omitted]:
    """Yield the files below ``root``, and omitted entries.

    The entries of a folder are sorted by name, files before sub-folders.

    Args:
        root: folder to start in.
        is_ignored: tells whether a name is skipped like a hidden one.
        entered: folders that are not entered again; folders that are entered are added.
    """
    entered = set() if entered is None else entered
    pending = [os.fspath(root)]
    while pending:
        folder = pending.pop()
        try:
            identity = folder_id(folder)
        except OSError as error:
            yield _omit(folder, error)
            continue
        if identity in entered:
            yield Omitted(folder, ENTERED)
            continue
        entered.add(identity)
        files, folders, omitted = list_folder(folder, is_ignored)
        items: list[Entry | Omitted] = [*files, *omitted]
        yield from sorted(items, key=_path_of) if omitted else files
        pending.extend(entry.path for entry in reversed(folders))


def folder_id(folder: str | os.PathLike[str]) -> FolderId:
    """Identify a folder, whatever its name.

    Raises:
        OSError: it no longer exists, or may not be examined.
    """
    info = Path(folder).stat()
    return info.st_dev, info.st_ino


def _sort_in(entry: Entry, listing: Listing, is_ignored: Callable[[str], bool]) -> None:
    name = entry.name
    if is_ignored(name):
        listing.omitted.append(Omitted(entry.path, HIDDEN))
        return
    try:
        is_folder = entry.is_dir()  # needs a system call only for links
    except OSError as error:  # a link to itself, or into a folder that may not be entered
        listing.omitted.append(_omit(entry.path, error))
        return
    if (is_system_folder if is_folder else is_system_file)(name):
        listing.omitted.append(Omitted(entry.path, SYSTEM))
    elif is_folder:
        listing.folders.append(entry)
    else:
        listing.files.append(entry)


def _omit(path: str, error: OSError) -> Omitted:
    return Omitted(path, error.strerror or str(error), error)


def _path_of(item: Entry | Omitted) -> str:
    return item.path
