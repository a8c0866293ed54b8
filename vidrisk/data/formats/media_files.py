"""Finds the clips and photos that a data set names in its folders, and never outside them."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from errno import ENOENT, ENOTDIR
from pathlib import Path, PurePosixPath

from vidrisk.data.text import nfc
from vidrisk.files.walk import list_folder
from vidrisk.frames.left_out import shorten_path
from vidrisk.frames.media import kind_from_suffix
from vidrisk.runtimes.contract.errors import DataError

DRIVE = re.compile(r"[A-Za-z]:")


def safe_name(written: str) -> PurePosixPath | None:
    """Return a path of a list as one that stays below its folder, or None if it leaves it."""
    name = PurePosixPath(written.replace("\\", "/"))
    outside = (
        not name.parts or name.is_absolute() or ".." in name.parts or "\0" in written or DRIVE.fullmatch(name.parts[0])
    )
    return None if outside else name


class MediaFiles:
    """Finds listed clips and photos in the folders where a data set may keep them.

    Names are compared in composed form (NFC). If a listed video does not exist, the same name in another container is
    used, because data sets are often converted to MP4. A photo, and a name without the suffix of a video, must match
    exactly. Links are followed.
    """

    def __init__(self, root: Path, folders: Sequence[str] = ("",)) -> None:
        self.root, self._folders = root, folders
        self._listings: dict[str, tuple[dict[str, str], dict[str, str]]] = {}

    def find(self, listed: str) -> str | None:
        """Return the path of a file such as ``Archery/v_Archery_g01_c01.avi``, relative to the root, or None.

        Raises:
            DataError: no permission to list a folder.
        """
        inner, file = posixpath.split(listed)
        file = nfc(file)
        for place in self._folders:
            folder = posixpath.join(place, inner)
            by_name, by_stem = self._listing(folder)
            found = by_name.get(file)
            if not found and kind_from_suffix(file) == "video":
                found = by_stem.get(posixpath.splitext(file)[0])
            if found:
                return posixpath.join(folder, found)
        return None

    def names_in(self, folder: str) -> list[str]:
        """Return the names of the files in a folder below the root; empty if there is no such folder."""
        return list(self._listing(folder)[0].values())

    def _listing(self, inner: str) -> tuple[dict[str, str], dict[str, str]]:
        """List the files of a folder by name, and the videos among them by stem; empty if there is no such folder."""
        if inner not in self._listings:
            folder = str(self.root / inner)
            listing = list_folder(folder)
            for item in listing.omitted:
                if item.error and item.path == folder and item.error.errno not in (ENOENT, ENOTDIR):
                    raise DataError(
                        f"{shorten_path(item.path)} cannot be listed: {item.reason}", fix="grant the permission"
                    )
            names = [entry.name for entry in listing.files if entry.is_file()]
            videos = [name for name in names if kind_from_suffix(name) == "video"]
            self._listings[inner] = (
                {nfc(name): name for name in names},
                {nfc(posixpath.splitext(name)[0]): name for name in reversed(videos)},
            )
        return self._listings[inner]


@dataclass(frozen=True)
class Homes:
    """Folders in which clips are looked for: the folder that is given for them, then the data set's own.

    Attributes:
        root: the folder that names are relative to: the innermost one that contains both.
        folders: both, relative to the root; '' for the root itself.
    """

    root: Path
    folders: tuple[str, ...]

    @classmethod
    def of(cls, home: Path, media: Path | None) -> Homes:
        """Find the common root of the folder of a data set and that of its media (see ``Reading``)."""
        root = home if media is None else Path(os.path.commonpath([home, media]))
        homes = [home] if media is None else [media, home]
        return cls(
            root,
            tuple(dict.fromkeys("" if folder == root else folder.relative_to(root).as_posix() for folder in homes)),
        )

    def places(self, folders: Sequence[str]) -> tuple[str, ...]:
        """Return folders below each home, relative to the root."""
        return tuple(
            dict.fromkeys(posixpath.join(home, folder).rstrip("/") for home in self.folders for folder in folders)
        )

    def files(self, folders: Sequence[str]) -> MediaFiles:
        """Return a finder of clips in folders below each home."""
        return MediaFiles(self.root, self.places(folders))


def path_below(written: str, folders: Iterable[Path]) -> PurePosixPath | None:
    """Return a path of a list below the folder of its clips, or None if it leaves it.

    An absolute path must lie in one of these folders.
    """
    name = PurePosixPath(written.replace("\\", "/"))
    for folder in folders:
        if name.is_absolute() and name.is_relative_to(folder.as_posix()):
            return safe_name(str(name.relative_to(folder.as_posix())))
    return safe_name(written)
