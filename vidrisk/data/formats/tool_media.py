"""The clips and photos behind the addresses that labelling tools give them, found again below the folders that a user names."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from vidrisk.data.formats.rows import MediaFiles, safe_name
from vidrisk.data.text import nfc

MAX_TAILS = 8  # of a path, of which the first and the last ones are tried
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_DRIVE = re.compile(r"[A-Za-z]:")
_LOCAL_FILES = re.compile(r"/data/local-files/?\?(?:[^#]*&)?d=([^&#]*)")
_UPLOADED = re.compile(r"[0-9a-f]{6,10}-(?=.)")  # what Label Studio puts before the names of uploads
_NOT_KEPT = re.compile(r"[^-\w.]")


class ToolMedia:
    """Finds the files of a data set beside it, or in the folder that a user names.

    Nothing is fetched: of an address on another machine its path counts, and of a path that leads elsewhere its last parts.

    Args:
        folder: in which the data set lies.
        media: see ``Reading``.
        places: below ``folder``, where its tool keeps files.

    Attributes:
        root: what names are relative to: the innermost folder with all of these in it.
    """

    def __init__(self, folder: Path, media: Path | None, places: Sequence[str] = ("",)) -> None:
        root = folder if media is None else Path(os.path.commonpath([folder, media]))
        inner = folder.relative_to(root).as_posix().removeprefix(".")
        self.root = root
        self.looked_in = tuple(dict.fromkeys([*([] if media is None else [media.relative_to(root).as_posix().removeprefix(".")]),
                                              *(posixpath.join(inner, place).rstrip("/") for place in places)]))
        self.files = MediaFiles(root)
        self._sanitized: dict[str, dict[str, str]] = {}

    def find(self, written: str, *, places: Sequence[str] = ("",), is_renamed: bool = False) -> str | None:
        """Return where the file of an address is, relative to the root; None where it is not.

        Args:
            places: folders within those that are looked in, tried first to last.
            is_renamed: whether the tool may have put something before its name, and left characters out of it.
        """
        names = [name for name in names_from_address(written, self.root) if len(name) < 4096]
        for name in names:
            for folder in self.looked_in:
                for place in places:
                    if found := self.files.find(posixpath.join(folder, place, name)):
                        return found
        if is_renamed and names:
            return self._find_renamed(posixpath.basename(names[-1]))
        return None

    def absent_name(self, written: str) -> str:
        """Return how a file that is not there may be listed: as a name that stays below the root, whatever its address is."""
        return next(iter(names_from_address(written, self.root)), "")

    def _find_renamed(self, name: str) -> str | None:
        original = _UPLOADED.sub("", name, count=1)
        for folder in self.looked_in:
            if original != name and (found := self.files.find(posixpath.join(folder, original))):
                return found
            if folder not in self._sanitized:
                self._sanitized[folder] = {sanitized(file): file for file in reversed(self.files.names_in(folder))}
            file = self._sanitized[folder].get(sanitized(original)) or self._sanitized[folder].get(sanitized(name))
            if file:
                return posixpath.join(folder, file)
        return None


def sanitized(name: str) -> str:
    """Return a name as upload forms change it: spaces become underscores, most signs are left out."""
    return _NOT_KEPT.sub("", nfc(name).strip().replace(" ", "_"))


def names_from_address(written: str, root: Path) -> list[str]:
    """Return the names that an address may have below a folder: with all its folders first, without any last.

    A relative path has one alone: two photos of one name in two folders are not the same.
    """
    names = dict.fromkeys(name for path, is_relative in _paths(written.strip()) for name in _tails(path, root, is_relative))
    return sorted(names, key=lambda name: -name.count("/"))


def file_name_of(written: str) -> str:
    """Return the name of the file behind an address; '' where there is none."""
    return next((path.replace("\\", "/").rstrip("/").rpartition("/")[2] for path, _ in reversed(list(_paths(written.strip())))), "")


def _paths(written: str) -> Iterator[tuple[str, bool]]:
    """The paths that an address may mean, and whether each is relative to the data set."""
    local = _LOCAL_FILES.search(written)
    if local:
        yield unquote(local[1]), False
        return
    scheme = _SCHEME.match(written)
    if scheme:
        path = re.split(r"[?#]", written[scheme.end():], maxsplit=1)[0]
        yield unquote(path.partition("/")[2]), False
        return
    is_relative = not written.startswith(("/", "\\")) and not _DRIVE.match(written)
    yield written, is_relative
    if "%" in written:
        yield unquote(written), is_relative


def _tails(path: str, root: Path, is_relative: bool) -> Iterator[str]:
    path = path.replace("\\", "/")
    if "\0" in path:
        return
    below = PurePosixPath(path)
    if below.is_absolute() and below.is_relative_to(root.as_posix()):
        path = below.relative_to(root.as_posix()).as_posix()
    parts = [part for part in path.split("/") if part not in ("", ".")]
    starts = [0] if is_relative and ".." not in parts else list(range(len(parts)))
    if len(starts) > MAX_TAILS:
        starts = starts[:MAX_TAILS // 2] + starts[-MAX_TAILS // 2:]
    for start in starts:
        name = safe_name("/".join(parts[start:]))
        if name:
            yield name.as_posix()
