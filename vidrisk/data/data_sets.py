"""Imports data sets of known formats as tables and exports tables to them, and reports what is absent or lost.

A data set with a train split and no val split gets a val split taken from train.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vidrisk.data.formats import FORMATS, Format, find_format, format_of
from vidrisk.data.formats.crops import photo_of_crop
from vidrisk.data.formats.fit import fit_table
from vidrisk.data.formats.format import Reading, Writing
from vidrisk.data.formats.lists import places_text
from vidrisk.data.formats.rows import name_missing
from vidrisk.data.io import check_unicode, check_vacant
from vidrisk.data.split import hold_out
from vidrisk.data.table import Table, first_three
from vidrisk.frames.media import name_of
from vidrisk.runtimes.contract.choices import LabelTask
from vidrisk.runtimes.contract.errors import DataError, SettingsError

log = logging.getLogger(__name__)

VAL_SHARE = 0.1


@dataclass(frozen=True)
class Imported:
    """A table, and what is known of the data set.

    Attributes:
        table: the samples.
        format: the format that it was read from.
        absent: names of listed files that do not exist.
        listed: number of listed files, those that do not exist included.
    """

    table: Table
    format: Format
    absent: tuple[str, ...] = field(repr=False)
    listed: int


def import_data(
    source: str | Path,
    *,
    name: str | None = None,
    task: LabelTask | None = None,
    split: int | None = None,
    media: Path | None = None,
    rate: float | None = None,
    labels: Path | None = None,
    multi_label: bool | None = None,
    crops: bool = False,
    made: Path | None = None,
    seed: int = 0,
    strict: bool = False,
) -> Imported:
    """Read a data set of a known format.

    Args:
        source: folder or file of the data set.
        name: name of the format; None detects it.
        task: the task to read; None selects the main task of the format.
        split: number of an official split; None selects the first.
        media: see ``Reading``.
        rate: see ``Reading``.
        labels: see ``Reading``.
        multi_label: see ``Reading``.
        crops: see ``Reading``.
        made: see ``Reading``.
        seed: seed for the choice of val, if the data set has none.
        strict: refuse a data set that lists files which do not exist.

    Returns:
        A table in which every sample has a split, if the data set has splits.

    Raises:
        DataError: the source does not exist, matches none of the formats or several, has a missing or damaged list, a
            label that does not exist, or none of the listed files; with ``strict``, any missing file; a task that the
            format does not have.
        SettingsError: an unknown format, a split or another option that the format does not have.
    """
    source = Path(source)
    chosen = find_format(name) if name is not None else None
    if not source.exists():
        raise DataError(f"{source} does not exist", allowed="a folder or file with a data set")
    source = source.resolve()
    chosen = chosen or format_of(source)
    if chosen is None:
        if source.is_file() and not source.stat().st_size:
            raise DataError(f"{name_of(source)} is empty (0 bytes)", fix="get the file again")
        raise DataError(
            f"{name_of(source)} matches no known format",
            allowed=", ".join(FORMATS),
            fix="name the format; the error then says what is missing",
        )
    if task is not None and task not in chosen.tasks:
        tasks = " or ".join(chosen.tasks)
        raise DataError(
            f"{name_of(source)} is {chosen.title}, whose labels are of the task {tasks}, not {task}",
            fix=f"use the task {chosen.tasks[0]} if you can choose, or data of the task {task}",
        )
    given = {"rate": rate is not None, "labels": labels is not None, "crops": crops}
    for option, is_given in given.items():
        if is_given and option not in chosen.options:
            takes = ", ".join(known.name for known in FORMATS.values() if option in known.options)
            raise SettingsError(f"{option} for {chosen.title}", allowed=f"only for {takes or 'no format'}")
    if media is not None and not media.is_dir():
        raise DataError(f"{media} is not a folder", allowed="the folder with the files of the data set")
    reading = Reading(
        task or chosen.tasks[0],
        _split_number(chosen, split),
        None if media is None else media.resolve(),
        rate,
        labels,
        multi_label,
        crops,
        None if made is None else made.resolve(),
    )
    return _import(chosen, source, reading, seed, strict)


def _split_number(chosen: Format, split: int | None) -> int:
    if split is None:
        return chosen.splits[0] if chosen.splits else 0
    if split not in chosen.splits:
        allowed = ", ".join(map(str, chosen.splits)) or "none: it has only one split"
        raise SettingsError(f"split {split} of {chosen.title}", allowed=allowed)
    return split


def _import(chosen: Format, source: Path, reading: Reading, seed: int, strict: bool) -> Imported:
    listed = chosen.read(source, reading)
    files = {photo_of_crop(sample.name) if reading.crops else sample.name for sample in listed.samples}
    total = len(files) + len(listed.absent)
    missing = name_missing(listed.absent, total)
    places = places_text(listed.root, listed.looked_in)
    if not listed.samples:
        why = f" ({'; '.join(listed.notes[:3])})" if listed.notes else ""
        raise DataError(
            f"{name_of(source)}: {missing}" if total else f"{name_of(source)} has no labelled file{why}",
            allowed=f"files in {places}" if total else f"{chosen.title}: {chosen.signs}",
            fix=f"unpack the files there; if class folders were meant, move the lists ({chosen.signs}) elsewhere"
            if total
            else None,
        )
    if listed.absent and strict:
        raise DataError(
            f"{name_of(source)}: {missing}",
            allowed=f"all of them in {places}",
            fix="get them, or read the data set without strict, which leaves them out",
        )
    table = Table(listed.root, reading.task, listed.samples, listed.notes, listed.label_order)
    train = table.of_split("train")
    if len(train) and not len(table.of_split("val")):
        table = hold_out(table, VAL_SHARE, seed=seed)
        table = replace(table, notes=(*table.notes, _val_note(table, len(train), seed)))
    if listed.absent:
        log.warning("%s: %s; they are left out", name_of(source), missing)
        table = replace(table, notes=(*table.notes, missing))
    for note in table.notes:
        log.info("%s: %s", name_of(source), note)
    _warn_of_gaps(table)
    return Imported(table, chosen, listed.absent, total)


@dataclass(frozen=True)
class Written:
    """Number of samples in a data set that was written, and the number of samples that each kind of loss affects."""

    samples: int
    lost: Mapping[str, int]


def check_destination(destination: Path, name: str, *, also: Sequence[str] = ()) -> Format:
    """Look up a format to write, and check that the destination suits it, before any data are read.

    Args:
        destination: see ``write_data_set``.
        name: see ``write_data_set``.
        also: further formats, which only the caller can write, for the error.

    Raises:
        DataError: the destination exists.
        SettingsError: an unknown format, one that can only be read, a name without the format's suffix, or one below a
            file.
    """
    chosen = FORMATS.get(name)
    if chosen is None or chosen.write is None:
        writable = (*also, *(known.name for known in FORMATS.values() if known.write))
        raise SettingsError(
            f"writing {chosen.title}" if chosen else f"format {name!r} to write", allowed=", ".join(writable)
        )
    if chosen.suffix and destination.suffix.lower() != chosen.suffix:
        raise SettingsError(
            f"the name {destination.name} for {chosen.title}", allowed=f"a name that ends in {chosen.suffix}"
        )
    check_vacant(destination)
    return chosen


def write_data_set(table: Table, destination: str | Path, *, name: str, model: str | None = None) -> Written:
    """Write a table in a format.

    Formats with media files of their own get copies; others name the files relative to the table's root.

    Args:
        table: the samples to write.
        destination: a file or a folder, as the format requires, which must not exist.
        name: name of the format.
        model: see ``Writing``.

    Raises:
        DataError: the destination exists, the format can represent no sample of the table, a name is not Unicode, or
            the disk is full.
        SettingsError: an unknown format, one that can only be read, or a name without the format's suffix.
    """
    destination, chosen = Path(destination).resolve(), check_destination(destination, name)
    assert chosen.write
    fitted, lost = fit_table(table, chosen, model=model)
    for what, count in lost.items():
        log.warning("%s cannot represent %s: %d of %d samples", chosen.title, what, count, len(table))
    if not fitted.samples:
        raise DataError(
            f"{chosen.title} can represent no sample of {name_of(table.root)}",
            allowed=", ".join(sorted(chosen.carries)),
        )
    with check_unicode():
        chosen.write(fitted, destination, Writing(model))
    return Written(len(fitted), lost)


def _val_note(table: Table, before: int, seed: int) -> str:
    val = table.of_split("val")
    by = "whole groups" if any(sample.group for sample in val.samples) else "stratified by class"
    return f"val is {len(val)} of {before} clips of the train list, {by}, seed {seed}"


def _warn_of_gaps(table: Table) -> None:
    train = table.of_split("train")
    if not len(train):
        return
    for target, order in table.label_order.items():
        learnt = train.label_counts(target)
        untaught = [label for label in order if label not in learnt]
        if untaught:
            log.warning(
                "%s: labels without a clip to learn from: %d of %d (%s)",
                name_of(table.root),
                len(untaught),
                len(order),
                first_three(untaught),
            )
    if not len(table.of_split("val")):
        log.warning("%s: the train list has too few clips to take a val split from it", name_of(table.root))
