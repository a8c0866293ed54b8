"""A data set becomes a table: what is absent is counted and said, and val comes out of train where the data set has none."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path

from vidrisk.data.formats import FORMATS, Format, format_named, format_of
from vidrisk.data.formats.format import Listed
from vidrisk.data.formats.lists import places_text
from vidrisk.data.split import hold_out
from vidrisk.data.table import Table, first_three
from vidrisk.frames.media import name_of
from vidrisk.runtimes.contract.choices import Task
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


def import_data(source: str | Path, *, name: str | None = None, task: Task | None = None, split: int | None = None,
                seed: int = 0, strict: bool = False) -> Imported:
    """Read a data set of a known format.

    Args:
        source: folder or file of the data set.
        name: of the format; None recognises it.
        task: that is wanted; None takes what the format is about.
        split: number of an official split; None takes the first.
        seed: of the choice of val, where the data set has none.
        strict: refuse a data set that lists files which are not there.

    Returns:
        A table whose every sample has a split, if the data set has splits.

    Raises:
        DataError: nothing there, none of the formats, a list that is missing or damaged, a label that does not exist, no file of
            those listed, with ``strict`` any that is missing; another task than the format's.
        SettingsError: an unknown format, a split that the format does not have.
    """
    source = Path(source)
    chosen = format_named(name) if name is not None else None
    if not source.exists():
        raise DataError(f"{source} does not exist", allowed="a folder with a data set")
    source = source.resolve()
    chosen = chosen or format_of(source)
    if chosen is None:
        raise DataError(f"{name_of(source)} is of no known format",
                        allowed="; ".join(f"{known.name}: {known.signs}" for known in FORMATS.values()),
                        fix="name the format, to be told what is missing")
    if task not in (None, chosen.task):
        raise DataError(f"{name_of(source)} is {chosen.title}, whose labels are of the task {chosen.task}, not {task}",
                        fix=f"use the task {chosen.task} where it is a choice, or data of the task {task}")
    return _imported(chosen, source, chosen.read(source, _split_number(chosen, split)), seed, strict)


def _split_number(chosen: Format, split: int | None) -> int:
    if split is None:
        return chosen.splits[0] if chosen.splits else 0
    if split not in chosen.splits:
        allowed = ", ".join(map(str, chosen.splits)) or "none: it has one split alone"
        raise SettingsError(f"split {split} of {chosen.title}", allowed=allowed)
    return split


def _imported(chosen: Format, source: Path, listed: Listed, seed: int, strict: bool) -> Imported:
    total = len(listed.samples) + len(listed.absent)
    missing = f"listed files that are not there: {len(listed.absent)} of {total} ({first_three(listed.absent)})"
    places = places_text(source, listed.looked_in)
    if not listed.samples:
        raise DataError(f"{name_of(source)}: {missing}", allowed=f"files in {places}",
                        fix=f"unpack the videos there; if class folders were meant, move the lists ({chosen.signs}) elsewhere")
    if listed.absent and strict:
        raise DataError(f"{name_of(source)}: {missing}", allowed=f"all of them in {places}",
                        fix="get them, or read the data set without strict, which leaves them out")
    table = Table(source, chosen.task, listed.samples, listed.notes, listed.label_order)
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
            log.warning("%s: labels without a clip to learn from: %d of %d (%s)", name_of(table.root), len(untaught), len(order),
                        first_three(untaught))
    if not len(table.of_split("val")):
        log.warning("%s: the train list has too few clips to spare some as val", name_of(table.root))
