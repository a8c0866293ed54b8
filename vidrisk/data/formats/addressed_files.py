"""Finds files by the addresses in data of labelling tools: paths of another machine, web addresses, names of uploads.

Nothing is downloaded: only the path of a web address is used, and only the last parts of a path that leads elsewhere.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from vidrisk.data.formats.media_files import DRIVE, Homes, MediaFiles, safe_name
from vidrisk.data.text import nfc
from vidrisk.frames.left_out import shorten_path
from vidrisk.runtimes.contract.errors import DataError

MAX_TAILS = 8  # of a path with more tails, the first and the last ones are tried
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_LOCAL_FILES = re.compile(r"/data/local-files/?\?(?:[^#]*&)?d=([^&#]*)")
_UPLOADED = re.compile(r"[0-9a-f]{6,10}-(?=.)")  # prefix that Label Studio adds to the names of uploads
_NOT_KEPT = re.compile(r"[^-\w.]")


class AddressedFiles:
    """Finds the files of a data set beside it, or in the folder that a user names.

    Attributes:
        root: the folder that names are relative to, see ``Homes``.
        looked_in: folders, relative to the root.
        files: finds names below the root.
    """

    def __init__(self, folder: Path, media: Path | None, places: Sequence[str] = ("",)) -> None:
        """Set the folders to search.

        Args:
            folder: the folder of the data set.
            media: see ``Reading``.
            places: folders in both, in which the labelling tool keeps files.
        """
        homes = Homes.of(folder, media)
        self.root, self.looked_in = homes.root, homes.places(places)
        self.files = MediaFiles(homes.root)
        self._sanitized: dict[str, dict[str, list[str]]] = {}

    def find(self, written: str, *, places: Sequence[str] = ("",), is_renamed: bool = False) -> str | None:
        """Return the path of the file of an address, relative to the root, or None if it does not exist.

        The folders ``places``, within the folders that are searched, are tried first to last. With ``is_renamed``, the
        tool may have added a prefix to the name and removed characters from it.

        Raises:
            DataError: with ``is_renamed``, several files may be the one that the tool renamed.
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
        """Return a name below the root for a missing file, whatever its address, or '' if it is not an address."""
        return next(iter(names_from_address(written, self.root)), "")

    def _find_renamed(self, name: str) -> str | None:
        original = _UPLOADED.sub("", name, count=1)
        for folder in self.looked_in:
            if original != name and (found := self.files.find(posixpath.join(folder, original))):
                return found
            if folder not in self._sanitized:
                self._sanitized[folder] = {}
                for file in self.files.names_in(folder):
                    self._sanitized[folder].setdefault(sanitize_name(file), []).append(file)
            files = self._sanitized[folder].get(sanitize_name(original)) or self._sanitized[folder].get(
                sanitize_name(name), []
            )
            if len(files) > 1:
                raise DataError(
                    f"the upload {shorten_path(name)!r} may be {files[0]!r} or {files[1]!r}",
                    fix="rename one of them, or give the path of the file in the data set",
                )
            if files:
                return posixpath.join(folder, files[0])
        return None


def files_near(written: Collection[str], folder: Path, media: Path | None) -> AddressedFiles:
    """Look for files beside a data set, and in the folder above it if some of them are only there.

    ``written`` are the addresses of all files or of some. See ``AddressedFiles`` for ``folder`` and ``media``; with
    ``media``, the folder above is not searched.
    """
    beside = AddressedFiles(folder, media)
    lacking = [] if media else [one for one in written if beside.find(one) is None]
    above = AddressedFiles(folder.parent, None, (folder.name, "")) if lacking else beside
    return above if any(map(above.find, lacking)) else beside


def sanitize_name(name: str) -> str:
    """Return a name as upload forms change it: spaces become underscores, most punctuation is removed."""
    return _NOT_KEPT.sub("", nfc(name).strip().replace(" ", "_"))


def names_from_address(written: str, root: Path) -> list[str]:
    """Return the names that an address may have below a folder, from that with all its folders to that without any.

    A relative path has only one name: two photos with the same name in two folders are not the same.
    """
    names = dict.fromkeys(
        name for path, is_relative in _paths(written.strip()) for name in _tails(path, root, is_relative)
    )
    return sorted(names, key=lambda name: -name.count("/"))


def file_name_of(written: str) -> str:
    """Return the name of the file of an address, or '' if there is none."""
    return next(
        (path.replace("\\", "/").rstrip("/").rpartition("/")[2] for path, _ in reversed(list(_paths(written.strip())))),
        "",
    )


def _paths(written: str) -> Iterator[tuple[str, bool]]:
    """Yield the paths that an address may mean, and whether each is relative to the data set."""
    local = _LOCAL_FILES.search(written)
    if local:
        yield unquote(local[1]), False
        return
    scheme = _SCHEME.match(written)
    if scheme:
        path = re.split(r"[?#]", written[scheme.end() :], maxsplit=1)[0]
        yield unquote(path.partition("/")[2]), False
        return
    is_relative = not written.startswith(("/", "\\")) and not DRIVE.match(written)
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
        starts = starts[: MAX_TAILS // 2] + starts[-MAX_TAILS // 2 :]
    for start in starts:
        name = safe_name("/".join(parts[start:]))
        if name:
            yield name.as_posix()
