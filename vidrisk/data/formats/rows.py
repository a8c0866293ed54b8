"""Rows of data sets, and the files that they name: which are there, which are not, which are named twice."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from errno import ENOENT, ENOTDIR
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from vidrisk.data.table import Label, Sample, SplitName, first_three
from vidrisk.data.text import label_from_text, nfc
from vidrisk.files.walk import list_folder
from vidrisk.frames import Interval
from vidrisk.frames.content import Kind
from vidrisk.frames.left_out import shortened
from vidrisk.frames.media import IMAGE_SUFFIXES, VIDEO_SUFFIXES, kind_from_suffix
from vidrisk.runtimes.contract.errors import DataError

MOST_PARTS_LEFT_OUT = 8  # from the beginning of a path
_DRIVE = re.compile(r"[A-Za-z]:")
SUFFIXES: dict[Kind, Sequence[str]] = {"video": VIDEO_SUFFIXES, "image": IMAGE_SUFFIXES}
KIND_NAMES: dict[Kind, str] = {"video": "video", "image": "photo"}


@dataclass(frozen=True, slots=True)
class Row:
    """What a data set says of one file, or of a part of it.

    Attributes:
        where: the file and the line or item, for errors.
        name: of the clip or photo, relative to its folder.
        labels: by target; each one name, or all names that hold. A target that is not there is not labelled.
        risk, advice, description, split, group, interval, extra: see ``Sample``.
    """

    where: str
    name: str
    labels: Mapping[str, Label]
    split: SplitName | None = None
    group: str | None = None
    interval: Interval | None = None
    risk: str = ""
    advice: str = ""
    description: str = ""
    extra: Mapping[str, str] = field(default_factory=dict)


class Found(NamedTuple):
    """Samples whose file is there, names of those whose is not, and how many rows repeat an earlier one."""

    samples: tuple[Sample, ...]
    absent: tuple[str, ...]
    repeated: int
    notes: tuple[str, ...] = ()


def safe_name(written: str) -> PurePosixPath | None:
    """Read a path of a list as one that stays below its folder; None where it does not."""
    name = PurePosixPath(written.replace("\\", "/"))
    outside = not name.parts or name.is_absolute() or ".." in name.parts or "\0" in written or _DRIVE.fullmatch(name.parts[0])
    return None if outside else name


class MediaFiles:
    """Finds listed clips and photos in the folders where a data set may keep them.

    Names are compared in composed form (NFC). A video that is not there as it is listed is taken in another container: data
    sets are often converted to MP4. A photo, and what is listed without the suffix of a video, is found under that very name alone.
    Links are followed.
    """

    def __init__(self, root: Path, folders: Sequence[str] = ("",)) -> None:
        self.root, self._folders = root, folders
        self._listings: dict[str, tuple[dict[str, str], dict[str, str]]] = {}

    def find(self, listed: str) -> str | None:
        """Return where a file such as ``Archery/v_Archery_g01_c01.avi`` is, relative to the root; None where it is not.

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

    def names_in(self, folder: str) -> list[str]:
        """Return the names of the files in a folder below the root; none where there is no such folder."""
        return list(self._listing(folder)[0].values())

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


def find_written(files: MediaFiles, written: str, folder: str = "") -> str | None:
    """Return where the file of a path is, relative to the root; where it is not there, how it may be listed as absent.

    Of a path that leads elsewhere, as that of another machine does, its last parts are looked for: nothing outside of the root is.

    Args:
        folder: below the root, in which relative paths begin.

    Returns:
        None for what is no path.
    """
    path = PurePosixPath(written.replace("\\", "/"))
    if path.is_absolute() and path.is_relative_to(files.root.as_posix()):
        folder, path = "", path.relative_to(files.root.as_posix())
    parts = [part for part in path.parts if part not in ("/", "..") and not _DRIVE.fullmatch(part)]
    names = [posixpath.join(folder, *parts[start:]) for start in range(min(len(parts), MOST_PARTS_LEFT_OUT))]
    if not names or safe_name(names[0]) is None:
        return None
    return next((found for name in names if (found := files.find(name))), names[0])


def samples_from_rows(rows: Iterable[Row], files: MediaFiles, *, kinds: Sequence[Kind] = ("video",),
                      multi_label: bool | None = False) -> Found:
    """Turn rows into samples. Rows repeat where they are of one file, by name or as it is found, and of one part of it.

    Args:
        kinds: of files that rows may name.
        multi_label: whether any number of labels may hold; None where the rows tell: they do where a row has not exactly one
            label of a target, or where rows of one file and part differ. With False, such rows are errors.

    Raises:
        DataError: a name that is no file of these kinds by its suffix, a photo with an interval of time, one file in two splits;
            with several labels, where that is not allowed.
    """
    by_name: dict[tuple[str, Interval | None], Row] = {}
    found: dict[tuple[str, Interval | None], tuple[Row, dict[str, list[str]]]] = {}
    absent: dict[str, None] = {}
    repeated = 0
    for row in rows:
        _check_row(row, kinds)
        earlier = by_name.setdefault((row.name, row.interval), row)
        name = files.find(row.name) if row.name not in absent else None
        labels = {target: [label] if isinstance(label, str) else list(label) for target, label in row.labels.items()}
        if name is not None:
            earlier, known = found.setdefault((name, row.interval), (row, labels))
        if earlier is not row:
            _check_repeated(earlier, row, name, is_single=multi_label is False)
            repeated += 1
            if name is not None:
                for target, of_target in labels.items():
                    known[target] = [*known.get(target, []), *of_target]
        elif name is None:
            absent[row.name] = None
    multi, notes = _multi_targets([labels for _, labels in found.values()], multi_label)
    samples = []
    for (name, interval), (row, labels) in found.items():
        final: dict[str, Label] = {target: tuple(of_target) if target in multi else of_target[0]
                                   for target, of_target in labels.items()}
        texts = row.risk, row.advice, row.description
        samples.append(Sample(files.root / name, name, final, *texts, row.split, row.group, row.extra, interval))
    return Found(tuple(samples), tuple(absent), repeated, notes)


def _check_row(row: Row, kinds: Sequence[Kind]) -> None:
    kind = kind_from_suffix(row.name)
    if kind not in kinds:
        meant = " or ".join(KIND_NAMES[kind] for kind in kinds)
        raise DataError(f"{row.where}: {shortened(row.name)!r} is no {meant} by its suffix",
                        allowed=", ".join(suffix for kind in kinds for suffix in SUFFIXES[kind]),
                        fix="correct the row, or remove it")
    if kind == "image" and row.interval is not None:
        raise DataError(f"{row.where}: the photo {shortened(row.name)!r} has an interval of time",
                        fix="correct the row, or remove it")


def _check_repeated(earlier: Row, row: Row, found: str | None, *, is_single: bool) -> None:
    """Refuse a file in two splits, or with two labels where one is allowed."""
    differs = "splits" if earlier.split != row.split else "labels" if is_single and earlier.labels != row.labels else ""
    if differs:
        written = row.name if earlier.name == row.name else f"{found} (as {earlier.name} and as {row.name})"
        raise DataError(f"{written} is listed twice with different {differs}: {earlier.where} and {row.where}",
                        allowed="every file in one list, with one label", fix="get the lists again, or remove one of the rows")


def _multi_targets(labels: Sequence[Mapping[str, Sequence[str]]],
                   multi_label: bool | None) -> tuple[frozenset[str], tuple[str, ...]]:
    """Find the targets of which any number of labels may hold, and say of which that was found out."""
    targets = {target for of_sample in labels for target in of_sample}
    if multi_label:
        return frozenset(targets - {"level"}), ()
    several: dict[str, int] = {}
    for of_sample in labels:
        for target, of_target in of_sample.items():
            if len({label_from_text(label) for label in of_target}) != 1:
                several[target] = several.get(target, 0) + 1
    if "level" in several or (several and multi_label is False):
        target = "level" if "level" in several else next(iter(several))
        raise DataError(f"samples with several labels of {target}, or none: {several[target]} of {len(labels)}",
                        allowed="one label per sample", fix="correct the labels, or read the data as multi-label"
                        if target != "level" else "give each sample one level")
    notes = tuple(f"{target} is multi-label: {count} of {len(labels)} samples have several labels, or none"
                  for target, count in several.items())
    return frozenset(several), notes


def name_missing(names: Sequence[str], total: int) -> str:
    """Say which listed files are not there."""
    return f"listed files that are not there: {len(names)} of {total} ({first_three(names)})"
