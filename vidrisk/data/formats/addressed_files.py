"""Files behind the addresses that tools give them: paths of another machine, web addresses, names of uploads.

Nothing is fetched: of an address on another machine its path counts, and of a path that leads elsewhere its last parts.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from vidrisk.data.formats.media_files import DRIVE, Homes, MediaFiles, safe_name
from vidrisk.data.text import nfc

MAX_TAILS = 8  # of a path, of which the first and the last ones are tried
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_LOCAL_FILES = re.compile(r"/data/local-files/?\?(?:[^#]*&)?d=([^&#]*)")
_UPLOADED = re.compile(r"[0-9a-f]{6,10}-(?=.)")  # what Label Studio puts before the names of uploads
_NOT_KEPT = re.compile(r"[^-\w.]")


class AddressedFiles:
    """Finds the files of a data set beside it, or in the folder that a user names.

    Attributes:
        root: what names are relative to, see ``Homes``.
        looked_in: folders, relative to the root.
        files: finds names below the root.
    """

    def __init__(self, folder: Path, media: Path | None, places: Sequence[str] = ("",)) -> None:
        """
        Args:
            folder: in which the data set lies.
            media: see ``Reading``.
            places: folders in both, in which its tool keeps files.
        """
        homes = Homes.of(folder, media)
        self.root, self.looked_in = homes.root, homes.places(places)
        self.files = MediaFiles(homes.root)
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
        """Name a file that is not there, so that it stays below the root, whatever its address is; '' of what is no address."""
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


def files_near(written: Collection[str], folder: Path, media: Path | None) -> AddressedFiles:
    """Look for files beside a data set, and in the folder above it where some of them are there alone.

    Args:
        written: addresses of the files, or of some.
        folder, media: see ``AddressedFiles``; with ``media`` the folder above is not looked in.
    """
    beside = AddressedFiles(folder, media)
    lacking = [] if media else [one for one in written if beside.find(one) is None]
    above = AddressedFiles(folder.parent, None, (folder.name, "")) if lacking else beside
    return above if any(map(above.find, lacking)) else beside


def sanitized(name: str) -> str:
    """Return a name as upload forms change it: spaces become underscores, most signs are left out."""
    return _NOT_KEPT.sub("", nfc(name).strip().replace(" ", "_"))


def names_from_address(written: str, root: Path) -> list[str]:
    """Return the names that an address may have below a folder: with all its folders first, without any last.

    A relative path has one alone: two photos of one name in two folders are not the same.
    """
    names = dict.fromkeys(
        name for path, is_relative in _paths(written.strip()) for name in _tails(path, root, is_relative)
    )
    return sorted(names, key=lambda name: -name.count("/"))


def file_name_of(written: str) -> str:
    """Return the name of the file behind an address; '' where there is none."""
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
