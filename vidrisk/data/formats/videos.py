"""Rows of lists, and the videos that they name: which are there, which are not, which are named twice."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Sequence
from errno import ENOENT, ENOTDIR
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from vidrisk.data.table import Sample, SplitName
from vidrisk.data.text import nfc
from vidrisk.files.walk import list_folder
from vidrisk.frames.left_out import shortened
from vidrisk.frames.media import VIDEO_SUFFIXES, kind_from_suffix
from vidrisk.runtimes.contract.errors import DataError

_DRIVE = re.compile(r"[A-Za-z]:")


class Row(NamedTuple):
    """One row of a list. ``where``: the file and the line, for errors; ``name``: of the video, relative to its folder."""

    where: str
    name: str
    label: str
    split: SplitName
    group: str | None = None


class Found(NamedTuple):
    """Samples whose video is there, names of those whose is not, and how many rows repeat an earlier one."""

    samples: tuple[Sample, ...]
    absent: tuple[str, ...]
    repeated: int


def safe_name(written: str) -> PurePosixPath | None:
    """Read a path of a list as one that stays below its folder; None where it does not."""
    name = PurePosixPath(written.replace("\\", "/"))
    outside = not name.parts or name.is_absolute() or ".." in name.parts or "\0" in written or _DRIVE.fullmatch(name.parts[0])
    return None if outside else name


class Videos:
    """Finds listed videos in the folders where a data set may keep them.

    Names are compared in composed form (NFC). A video that is not there as it is listed is taken in another container: data
    sets are often converted to MP4. What is listed without the suffix of a video is found under that very name alone. Links are
    followed.
    """

    def __init__(self, root: Path, folders: Sequence[str]) -> None:
        self.root, self._folders = root, folders
        self._listings: dict[str, tuple[dict[str, str], dict[str, str]]] = {}

    def find(self, listed: str) -> str | None:
        """Return where a video such as ``Archery/v_Archery_g01_c01.avi`` is, relative to the root; None where it is not.

        Raises:
            DataError: a folder that may not be listed.
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

    def _listing(self, inner: str) -> tuple[dict[str, str], dict[str, str]]:
        """Files of a folder by name, and the videos among them by stem; none where there is no such folder."""
        if inner not in self._listings:
            folder = str(self.root / inner)
            listing = list_folder(folder)
            for item in listing.omitted:
                if item.error and item.path == folder and item.error.errno not in (ENOENT, ENOTDIR):
                    raise DataError(f"{shortened(item.path)} cannot be listed: {item.reason}", fix="grant the permission")
            names = [entry.name for entry in listing.files if entry.is_file()]
            videos = [name for name in names if kind_from_suffix(name) == "video"]
            self._listings[inner] = ({nfc(name): name for name in names},
                                     {nfc(posixpath.splitext(name)[0]): name for name in reversed(videos)})
        return self._listings[inner]


def find_samples(rows: Iterable[Row], videos: Videos) -> Found:
    """Turn rows into samples with the label ``action``. Rows repeat where they have one name, or where one file is found for both.

    Raises:
        DataError: a name that is no video's, one video with two labels, or in two splits.
    """
    by_name: dict[str, Row] = {}
    by_file: dict[str, Row] = {}
    samples, absent = [], []
    repeated = 0
    for row in rows:
        if kind_from_suffix(row.name) != "video":
            raise DataError(f"{row.where}: {shortened(row.name)!r} is no video by its suffix", allowed=", ".join(VIDEO_SUFFIXES),
                            fix="correct the row, or remove it")
        earlier = by_name.setdefault(row.name, row)
        name = videos.find(row.name) if earlier is row else None
        if name is not None:
            earlier = by_file.setdefault(name, row)
        if (earlier.label, earlier.split) != (row.label, row.split):
            what = "splits" if earlier.split != row.split else "labels"
            written = row.name if earlier.name == row.name else f"{name} (as {earlier.name} and as {row.name})"
            raise DataError(f"{written} is listed twice with different {what}: {earlier.where} and {row.where}",
                            allowed="every video in one list, with one label", fix="get the lists again, or remove one of the rows")
        if earlier is not row:
            repeated += 1
        elif name is None:
            absent.append(row.name)
        else:
            samples.append(Sample(videos.root / name, name, {"action": row.label}, split=row.split, group=row.group))
    return Found(tuple(samples), tuple(absent), repeated)
