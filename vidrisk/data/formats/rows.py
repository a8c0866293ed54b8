"""Turns the rows of data sets into samples, and finds files that are missing or listed twice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from vidrisk.data.formats.format import format_counts
from vidrisk.data.formats.media_files import MediaFiles
from vidrisk.data.table import Label, Sample, SplitName, first_three
from vidrisk.data.text import label_from_text
from vidrisk.frames import Interval
from vidrisk.frames.content import Kind
from vidrisk.frames.left_out import shorten_path
from vidrisk.frames.media import IMAGE_SUFFIXES, VIDEO_SUFFIXES, kind_from_suffix
from vidrisk.runtimes.contract.errors import DataError

SUFFIXES: dict[Kind, Sequence[str]] = {"video": VIDEO_SUFFIXES, "image": IMAGE_SUFFIXES}
KIND_NAMES: dict[Kind, str] = {"video": "video", "image": "photo"}


@dataclass(frozen=True, slots=True)
class Row:
    """Data of one file, or of a part of it.

    See ``Sample`` for the attributes that are not listed here.

    Attributes:
        where: the file and the line or item, for errors.
        name: name of the clip or photo, relative to its folder.
        labels: by target; one name, or all names that apply. A missing target is not labelled.
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
    """Samples whose file exists, names of those whose file does not, and notes.

    ``root`` is the folder that names of samples are relative to.
    """

    root: Path
    samples: tuple[Sample, ...]
    absent: tuple[str, ...]
    notes: tuple[str, ...] = ()


def samples_from_rows(
    rows: Iterable[Row], files: MediaFiles, *, kinds: Sequence[Kind] = ("video",), multi_label: bool | None = False
) -> Found:
    """Turn rows into samples.

    Rows are repeated if they have the same file, by name or on disk, and the same part of it.

    Args:
        rows: the rows.
        files: finds the files of the rows.
        kinds: kinds of files that rows may name.
        multi_label: whether any number of labels may apply; None infers that they may if a row has not exactly one
            label of a target, or if rows of one file and part differ. With False, such rows are errors.

    Raises:
        DataError: a name without a suffix of these kinds, a photo with a time interval, one file in two splits; with
            several labels, if that is not allowed.
    """
    kept: dict[tuple[str | None, str, Interval | None], tuple[Row, dict[str, list[str]]]] = {}
    repeated = 0
    for row in rows:
        _check_row(row, kinds)
        labels = {target: [label] if isinstance(label, str) else list(label) for target, label in row.labels.items()}
        found = files.find(row.name)
        earlier, known = kept.setdefault((found, "" if found else row.name, row.interval), (row, labels))
        if earlier is not row:
            _check_repeated(earlier, row, found, is_single=multi_label is False)
            repeated += all(set(of_target) <= set(known.get(target, ())) for target, of_target in labels.items())
            for target, of_target in labels.items():
                known[target] = [*known.get(target, []), *of_target]
    of_files = {(found, part): value for (found, _, part), value in kept.items() if found is not None}
    multi, notes = _multi_targets([labels for _, labels in of_files.values()], multi_label)
    samples = []
    for (name, interval), (row, labels) in of_files.items():
        final: dict[str, Label] = {
            target: tuple(of_target) if target in multi else of_target[0] for target, of_target in labels.items()
        }
        texts = row.risk, row.advice, row.description
        samples.append(Sample(files.root / name, name, final, *texts, row.split, row.group, row.extra, interval))
    absent = dict.fromkeys(name for found, name, _ in kept if found is None)
    overlapping = count_overlapping(of_files)
    counts = {"parts of videos that overlap another one": overlapping, "repeated rows left out": repeated}
    return Found(files.root, tuple(samples), tuple(absent), (*notes, *format_counts(counts)))


def count_overlapping(parts: Iterable[tuple[str, Interval | None]]) -> int:
    """Count the parts of files that overlap another part of their file, in the same unit."""
    overlapping = set()
    last: tuple[str, Interval] | None = None  # the previous part that ends last
    timed = [(name, part) for name, part in parts if part]
    for name, part in sorted(timed, key=lambda timed: (timed[0], timed[1].unit, timed[1].start, timed[1].end)):
        is_beside = last is not None and last[0] == name and last[1].unit == part.unit
        if last and is_beside and part.start < last[1].end:
            overlapping |= {last, (name, part)}
        last = (name, part) if not last or not is_beside or part.end > last[1].end else last
    return len(overlapping)


def _check_row(row: Row, kinds: Sequence[Kind]) -> None:
    kind = kind_from_suffix(row.name)
    if kind not in kinds:
        meant = " or ".join(KIND_NAMES[kind] for kind in kinds)
        raise DataError(
            f"{row.where}: {shorten_path(row.name)!r} does not have the suffix of a {meant}",
            allowed=", ".join(suffix for kind in kinds for suffix in SUFFIXES[kind]),
            fix="correct the row, or remove it",
        )
    if kind == "image" and row.interval is not None:
        raise DataError(
            f"{row.where}: the photo {shorten_path(row.name)!r} has a time interval",
            fix="correct the row, or remove it",
        )


def _check_repeated(earlier: Row, row: Row, found: str | None, *, is_single: bool) -> None:
    """Refuse a file in two splits, or with two labels if only one is allowed."""
    differs = "splits" if earlier.split != row.split else "labels" if is_single and earlier.labels != row.labels else ""
    if differs:
        written = row.name if earlier.name == row.name else f"{found} (as {earlier.name} and as {row.name})"
        raise DataError(
            f"{written} is listed twice with different {differs}: {earlier.where} and {row.where}",
            allowed="every file in one list, with one label",
            fix="get the lists again, or remove one of the rows",
        )


def _multi_targets(
    labels: Sequence[Mapping[str, Sequence[str]]], multi_label: bool | None
) -> tuple[frozenset[str], tuple[str, ...]]:
    """Find the multi-label targets, and return notes on those that were inferred."""
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
        raise DataError(
            f"samples with several labels of {target}, or none: {several[target]} of {len(labels)}",
            allowed="one label per sample",
            fix="correct the labels, or read the data as multi-label"
            if target != "level"
            else "give each sample one level",
        )
    notes = tuple(
        f"{target} is multi-label: {count} of {len(labels)} samples have several labels, or none"
        for target, count in several.items()
    )
    return frozenset(several), notes


def name_missing(names: Sequence[str], total: int) -> str:
    """Describe the listed files that do not exist."""
    return f"listed files that do not exist: {len(names)} of {total} ({first_three(names)})"
