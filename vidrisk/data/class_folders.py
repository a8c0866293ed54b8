"""Reads a folder with one sub-folder per class as a table, and tells class folders from split folders.

    crack/a.jpg               classes
    train/crack/a.jpg         splits, and classes in them
    crack/train/a.jpg         classes, and splits in them

A folder with another layout is refused, and the message names the folders that do not fit: if they were read as
classes, splits would become labels.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from errno import ELOOP, ENAMETOOLONG
from pathlib import Path

from vidrisk.data.io import SUFFIXES
from vidrisk.data.table import SPLIT_WORDS, Sample, SplitName, Table, first_three
from vidrisk.data.text import nfc
from vidrisk.files.walk import Entry, Listing, Omitted, folder_id, list_folder, walk
from vidrisk.frames import is_media
from vidrisk.frames.left_out import LeftOut, shorten_path
from vidrisk.frames.media import name_of
from vidrisk.runtimes.contract.choices import LabelTask
from vidrisk.runtimes.contract.errors import DataError

log = logging.getLogger(__name__)

# A link to itself, or a folder too deep for any program, cannot contain files. Any other folder that cannot be listed
# may contain samples.
_ERRORS_WITHOUT_SAMPLES = (ELOOP, ENAMETOOLONG)
# ``train_set``, ``val2017``, ``0_test``: these are splits only if two different ones stand together, because a class
# may be named test1, too.
_DECORATED = re.compile(
    r"[\W\d_]*(?P<word>.+?)[\W_]*"
    r"(?:set|data|split|images?|imgs?|photos?|videos?|clips?|集|图片|图像|视频|数据)?[\W\d_]*"
)
_LAYOUTS = (
    "class folders; train, val and test with class folders in each; or class folders with train, val and test in each"
)


@dataclass(frozen=True)
class _ClassFolder:
    folder: Entry
    label: str
    split: SplitName | None = None


@dataclass
class _Reading:
    """Lists the folders below a root, and records what is left out."""

    root: Path
    other: list[str] = field(default_factory=list)
    outside: list[Omitted] = field(default_factory=list)
    omitted: list[Omitted] = field(default_factory=list)

    def listing_of(self, folder: Path | Entry) -> Listing:
        """List a folder that holds folders, not samples."""
        listing = list_folder(folder)
        for item in listing.omitted:
            self.omit(item)
        self.outside += [Omitted(entry.path, "outside the class folders") for entry in listing.files]
        return listing

    def omit(self, item: Omitted) -> None:
        """Record an entry that is left out.

        Raises:
            DataError: the entry may contain samples.
        """
        if item.error and item.error.errno not in _ERRORS_WITHOUT_SAMPLES:
            raise DataError(
                f"{shorten_path(item.path)} cannot be listed: {item.reason}",
                fix="grant the permission, or move it elsewhere",
            )
        self.omitted.append(item)


def table_from_folder(root: Path, task: LabelTask) -> Table:
    """Read the samples below a folder.

    Links to folders are followed, but not from one class into another.

    Raises:
        DataError: no sample, a layout other than the three, or a folder that cannot be listed.
    """
    target = "action" if task == "action" else "defect"
    reading = _Reading(root)
    classes = _class_folders(reading)
    identities = {item.folder.path: folder_id(item.folder) for item in classes}
    samples = []
    for item in classes:
        identity = identities[item.folder.path]
        for entry in walk(item.folder, entered={folder_id(root), *identities.values()} - {identity}):
            if isinstance(entry, Omitted):
                reading.omit(entry)
            elif is_media(entry):
                path = Path(entry.path)
                samples.append(Sample(path, path.relative_to(root).as_posix(), {target: item.label}, split=item.split))
            else:
                reading.other.append(entry.path)
    left_out = str(LeftOut(reading.other, [*reading.outside, *reading.omitted]))
    if left_out:
        log.warning("%s: left out: %s", name_of(root.name), left_out)
    if not samples:
        raise DataError(
            f"{name_of(root)} has no clip or photo in a sub-folder",
            allowed="one sub-folder per class with media files",
            fix=manifest_hint(root),
        )
    table = Table(root, task, tuple(sorted(samples, key=lambda sample: sample.name)))
    _warn_of_missing_classes(table, target)
    return table


def manifest_hint(root: Path) -> str | None:
    """Return a hint that names the manifest in a folder, or None if there is none."""
    found = [entry.path for entry in list_folder(root).files if Path(entry.name).suffix.lower() in SUFFIXES]
    return f"name the manifest instead: {name_of(found[0])}" if found else None


def _class_folders(reading: _Reading) -> list[_ClassFolder]:
    folders = reading.listing_of(reading.root).folders
    split_of = _splits_among(folders)
    splits = [folder for folder in folders if folder.path in split_of]
    others = [folder for folder in folders if folder.path not in split_of]
    if not splits:
        return _classes_above_splits(reading, folders) or [_ClassFolder(folder, folder.name) for folder in folders]
    if not others:
        return _classes_below_splits(reading, splits, split_of)
    if len(set(split_of.values())) > 1 or any(list_folder(folder).folders for folder in splits):
        raise DataError(
            f"{name_of(reading.root)} has split folders ({_names(splits)}) and others beside them: {_names(others)}",
            allowed=_LAYOUTS,
            fix=f"move {_names(others)} elsewhere, or into the split folders",
        )
    return [_ClassFolder(folder, folder.name) for folder in folders]  # "train" may also be a class: clips of trains


def _classes_below_splits(
    reading: _Reading, splits: Sequence[Entry], split_of: Mapping[str, SplitName]
) -> list[_ClassFolder]:
    classes = []
    for split in splits:
        listing = reading.listing_of(split)
        if not listing.folders and any(map(is_media, listing.files)):
            raise DataError(
                f"{name_of(split.path)} contains files, and no class folders",
                allowed=_LAYOUTS,
                fix="sort the files into class folders, or list them in a manifest",
            )
        for folder in listing.folders:
            if _holds_splits(list_folder(folder)):
                raise DataError(
                    f"{name_of(folder.path)} lies in a split folder and contains split folders",
                    allowed=_LAYOUTS,
                    fix="keep only files in each class folder",
                )
            classes.append(_ClassFolder(folder, folder.name, split_of[split.path]))
    return classes


def _classes_above_splits(reading: _Reading, folders: Sequence[Entry]) -> list[_ClassFolder]:
    """Return the split folders in each class folder; empty if no class folder has any.

    Raises:
        DataError: only some class folders have split folders, or there are more folders in between.
    """
    listings = [(folder, list_folder(folder)) for folder in folders]
    with_splits = [folder for folder, listing in listings if _holds_splits(listing)]
    if not with_splits:
        return []
    misfits = [
        folder
        for folder, listing in listings
        if len(_splits_among(listing.folders)) < len(listing.folders) or any(map(is_media, listing.files))
    ]
    if misfits:
        raise DataError(
            f"{name_of(reading.root)} has class folders with split folders in them ({_names(with_splits)}) and others "
            f"without, or with files beside them ({_names(misfits)})",
            allowed=_LAYOUTS,
            fix="sort the files into train, val and test for every class, or for none",
        )
    classes = []
    for folder in folders:
        folders_in_class = reading.listing_of(folder).folders
        split_of = _splits_among(folders_in_class)
        for split in folders_in_class:
            listing = list_folder(split)
            if listing.folders and not any(map(is_media, listing.files)):
                raise DataError(
                    f"{name_of(split.path)} is a split folder in {name_of(folder.name)}, and contains folders "
                    f"({_names(listing.folders)})",
                    allowed=_LAYOUTS,
                    fix=f"name {name_of(folder.path)} if it is the data, or sort the files into {name_of(split.name)}",
                )
            classes.append(_ClassFolder(split, folder.name, split_of[split.path]))
    return classes


def _holds_splits(listing: Listing) -> bool:
    """Return whether a folder contains split folders only, or two different ones among others."""
    split_of = _splits_among(listing.folders)
    return bool(split_of) and (len(split_of) == len(listing.folders) or len(set(split_of.values())) > 1)


def _splits_among(folders: Iterable[Entry]) -> dict[str, SplitName]:
    """Return the splits that folders are named after, by path."""
    exact, decorated = {}, {}
    for folder in folders:
        name = nfc(folder.name).strip().casefold()
        if name in SPLIT_WORDS:
            exact[folder.path] = SPLIT_WORDS[name]
        match = _DECORATED.fullmatch(name)
        if match and match["word"] in SPLIT_WORDS:
            decorated[folder.path] = SPLIT_WORDS[match["word"]]
    return decorated if len(set(decorated.values())) > 1 else exact


def _names(folders: Iterable[Entry]) -> str:
    return first_three([name_of(folder.name) for folder in folders])


def _warn_of_missing_classes(table: Table, target: str) -> None:
    labels = set(table.label_counts(target))
    for split in sorted({sample.split for sample in table.samples if sample.split}):
        missing = sorted(labels - set(table.of_split(split).label_counts(target))) if len(table.of_split(split)) else []
        if missing:
            log.warning("%s: the %s split has no sample of %s", name_of(table.root.name), split, first_three(missing))
