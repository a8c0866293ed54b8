"""A data set becomes a table, and a table a data set: what is absent or lost is counted and said; val comes out of train."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from vidrisk.data.formats import FORMATS, Format, format_named, format_of
from vidrisk.data.formats.fit import fit_table
from vidrisk.data.formats.format import Reading, Writing
from vidrisk.data.formats.lists import places_text
from vidrisk.data.formats.rows import name_missing
from vidrisk.data.io import unicode_checked
from vidrisk.data.split import hold_out
from vidrisk.data.table import Table, first_three
from vidrisk.frames.media import name_of
from vidrisk.runtimes.contract.choices import LabelTask
from vidrisk.runtimes.contract.errors import DataError, SettingsError

log = logging.getLogger(__name__)

VAL_SHARE = 0.1


@dataclass(frozen=True)
class Imported:
    """A table, the format that it was read from, and the names of listed files that are not there."""

    table: Table
    format: Format
    absent: tuple[str, ...] = field(repr=False)

    @property
    def listed(self) -> int:
        return len(self.table) + len(self.absent)


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
        name: of the format; None recognises it.
        task: that is wanted; None takes what the format is mostly about.
        split: number of an official split; None takes the first.
        media, rate, labels, multi_label, crops, made: see ``Reading``.
        seed: of the choice of val, where the data set has none.
        strict: refuse a data set that lists files which are not there.

    Returns:
        A table whose every sample has a split, if the data set has splits.

    Raises:
        DataError: nothing there, none of the formats or several, a list that is missing or damaged, a label that does
            not exist, no file of those listed, with ``strict`` any that is missing; another task than the format's.
        SettingsError: an unknown format, a split or another option that the format does not have.
    """
    source = Path(source)
    chosen = format_named(name) if name is not None else None
    if not source.exists():
        raise DataError(f"{source} does not exist", allowed="a folder or file with a data set")
    source = source.resolve()
    chosen = chosen or format_of(source)
    if chosen is None:
        raise DataError(
            f"{name_of(source)} is of no known format",
            allowed="; ".join(f"{known.name}: {known.signs}" for known in FORMATS.values()),
            fix="name the format, to be told what is missing",
        )
    if task is not None and task not in chosen.tasks:
        tasks = " or ".join(chosen.tasks)
        raise DataError(
            f"{name_of(source)} is {chosen.title}, whose labels are of the task {tasks}, not {task}",
            fix=f"use the task {chosen.tasks[0]} where it is a choice, or data of the task {task}",
        )
    given = {"rate": rate is not None, "labels": labels is not None, "crops": crops}
    for option, is_given in given.items():
        if is_given and option not in chosen.options:
            takes = ", ".join(known.name for known in FORMATS.values() if option in known.options)
            raise SettingsError(f"{option} for {chosen.title}", allowed=f"only for {takes or 'no format'}")
    if media is not None and not media.is_dir():
        raise DataError(f"{media} is no folder", allowed="the folder with the files of the data set")
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
    return _imported(chosen, source, reading, seed, strict)


def _split_number(chosen: Format, split: int | None) -> int:
    if split is None:
        return chosen.splits[0] if chosen.splits else 0
    if split not in chosen.splits:
        allowed = ", ".join(map(str, chosen.splits)) or "none: it has one split alone"
        raise SettingsError(f"split {split} of {chosen.title}", allowed=allowed)
    return split


def _imported(chosen: Format, source: Path, reading: Reading, seed: int, strict: bool) -> Imported:
    listed = chosen.read(source, reading)
    total = len(listed.samples) + len(listed.absent)
    missing = name_missing(listed.absent, total)
    places = places_text(listed.root, listed.looked_in)
    if not listed.samples:
        raise DataError(
            f"{name_of(source)}: {missing}" if total else f"{name_of(source)} holds no labelled file",
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
    return Imported(table, chosen, listed.absent)


@dataclass(frozen=True)
class Written:
    """How many samples a data set holds that was written, and how many each kind of loss concerns."""

    samples: int
    lost: Mapping[str, int]


def write_data_set(table: Table, destination: str | Path, *, name: str, model: str | None = None) -> Written:
    """Write a table in a format.

    Formats that hold files have copies of them; others name them relative to the table's root.

    Args:
        destination: a file or a folder, as the format says, which does not exist.
        name: of the format.
        model: see ``Writing``.

    Raises:
        DataError: something is there already, nothing of the table can be carried, a name is not Unicode, or the disk
            is full.
        SettingsError: an unknown format, one that is only read, or a name with another suffix than the format's.
    """
    destination, chosen = Path(destination).resolve(), format_named(name)
    writable = ", ".join(known.name for known in FORMATS.values() if known.write)
    if chosen.write is None:
        raise SettingsError(f"writing {chosen.title}", allowed=writable)
    if chosen.suffix and destination.suffix.lower() != chosen.suffix:
        raise SettingsError(
            f"the name {destination.name} for {chosen.title}", allowed=f"a name that ends in {chosen.suffix}"
        )
    if destination.exists():
        raise DataError(f"{destination} exists already", fix="choose another name, or delete it first")
    fitted, lost = fit_table(table, chosen, model=model)
    for what, count in lost.items():
        log.warning("%s cannot carry %s: %d of %d samples", chosen.title, what, count, len(table))
    if not fitted.samples:
        raise DataError(
            f"{chosen.title} can carry no sample of {name_of(table.root)}", allowed=", ".join(sorted(chosen.carries))
        )
    with unicode_checked():
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
        log.warning("%s: the train list has too few clips to spare some as val", name_of(table.root))
