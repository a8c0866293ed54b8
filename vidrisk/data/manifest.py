"""Turns a manifest, which lists files and labels, into a table; an error names the line that cannot be used."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from vidrisk.data.columns import Columns, columns_from_header
from vidrisk.data.io import Row, rows_from_manifest
from vidrisk.data.labels import labels_from_cells
from vidrisk.data.notes import notes_of_left_out
from vidrisk.data.places import Places
from vidrisk.data.table import SPLIT_WORDS, Label, Sample, Table, first_three
from vidrisk.data.text import trim_text
from vidrisk.frames import MEDIA_SUFFIXES, Interval, is_media, kind_of
from vidrisk.runtimes.contract.choices import LabelTask
from vidrisk.runtimes.contract.errors import DataError, SpecError

log = logging.getLogger(__name__)


def table_from_manifest(
    path: Path,
    task: LabelTask,
    *,
    encoding: str | None = None,
    sheet: str | None = None,
    multi_label: bool | Collection[str] = False,
    strict: bool = False,
) -> Table:
    """Read a manifest; see ``load_table`` for the other arguments and errors.

    ``path`` is absolute, with links resolved.
    """
    manifest = rows_from_manifest(path, encoding=encoding, sheet=sheet)
    rows = manifest.rows
    if not rows:
        raise DataError(f"{path.name} has no rows", allowed="a header and one row per file")
    columns = columns_from_header(
        manifest.header, [row.cells for row in rows], [row.where for row in rows], task, path.name
    )
    labels: list[dict[str, Label]] = [{} for _ in rows]
    for target, column in columns.labels.items():
        cells = [(row.where, row.cells[column]) for row in rows]
        several = multi_label if isinstance(multi_label, bool) else target in multi_label
        found = labels_from_cells(cells, f"{target} label", column, path.name, multi=several and target != "level")
        for of_row, label in zip(labels, found, strict=True):
            of_row.update({} if label is None else {target: label})
    unlabelled = [row.where for row, of_row in zip(rows, labels, strict=True) if not of_row]
    notes = notes_of_left_out(path.name, {"rows without a label": unlabelled}, strict=strict)
    rows, labels = [row for row, known in zip(rows, labels, strict=True) if known], [known for known in labels if known]
    places = Places(path.parent)
    samples = [_sample(path, row, columns, places, known) for row, known in zip(rows, labels, strict=True)]
    _check_files(path, rows, samples)
    if columns.interval:
        _check_intervals(path, rows, samples)
    return Table(
        path.parent, task, _without_duplicates(path, rows, samples), (*manifest.notes, *notes), columns.label_order
    )


def _sample(manifest: Path, row: Row, columns: Columns, places: Places, labels: dict[str, Label]) -> Sample:
    written = row.cells[columns.path]
    name = places.name_of(written)
    if name is None:
        what = f"the path {written[:80]!r} leaves the manifest's folder" if trim_text(written) else "the path is empty"
        raise DataError(f"{manifest.name}, {row.where}: {what}", allowed=f"files under {manifest.parent}")
    split = trim_text(row.cells[columns.split]) if columns.split else ""
    if split and split.casefold() not in SPLIT_WORDS:
        raise DataError(f"{manifest.name}, {row.where}: split {split!r}", allowed="train, val, test, or empty")
    return Sample(
        path=manifest.parent / name,
        name=name,
        labels=labels,
        split=SPLIT_WORDS[split.casefold()] if split else None,
        group=(row.cells[columns.group].strip() or None) if columns.group else None,
        extra={column: row.cells[column] for column in columns.extra},
        interval=_interval(manifest, row, columns),
        **{field: row.cells[column].strip() for field, column in columns.texts.items()},
    )


def _interval(manifest: Path, row: Row, columns: Columns) -> Interval | None:
    try:
        return columns.interval.interval_of(row.cells) if columns.interval else None
    except (DataError, SpecError) as error:
        raise DataError(f"{manifest.name}, {row.where}: {error.what}", allowed=error.allowed, fix=error.fix) from error


def _check_files(manifest: Path, rows: Sequence[Row], samples: Sequence[Sample]) -> None:
    named = [(sample, f"{sample.name} ({row.where})") for sample, row in zip(samples, rows, strict=True)]
    missing = [place for sample, place in named if not os.path.isfile(sample.path)]  # noqa: PTH113 (never raises)
    if missing:
        raise DataError(
            f"{manifest.name} names files that do not exist ({len(missing)}): {first_three(missing)}",
            fix=f"copy them under {manifest.parent}, or remove these rows",
        )
    foreign = [place for sample, place in named if not is_media(sample.path)]
    if foreign:
        raise DataError(
            f"{manifest.name} names files that are neither clips nor photos ({len(foreign)}): {first_three(foreign)}",
            allowed=", ".join(sorted(MEDIA_SUFFIXES)),
        )


def _check_intervals(manifest: Path, rows: Sequence[Row], samples: Sequence[Sample]) -> None:
    photos = [
        f"{sample.name} ({row.where})"
        for sample, row in zip(samples, rows, strict=True)
        if sample.interval and kind_of(sample.path) == "image"
    ]
    if photos:
        raise DataError(
            f"{manifest.name} gives photos a time interval ({len(photos)}): {first_three(photos)}",
            fix="leave start and end of photos empty, or rename these columns if they are something else",
        )
    whole = sum(sample.interval is None for sample in samples)
    if 0 < whole < len(samples):
        log.warning("%s: rows without start and end are whole files: %d of %d", manifest.name, whole, len(samples))


def _without_duplicates(manifest: Path, rows: Sequence[Row], samples: Sequence[Sample]) -> tuple[Sample, ...]:
    first: dict[tuple[str, Interval | None], tuple[Row, Sample]] = {}
    for row, sample in zip(rows, samples, strict=True):
        earlier_row, earlier = first.setdefault((sample.name, sample.interval), (row, sample))
        if (earlier.labels, earlier.split) != (sample.labels, sample.split):
            raise DataError(
                f"{manifest.name} names {sample.title} twice with different labels or splits: "
                f"{earlier_row.where} and {row.where}",
                fix="keep one of the rows: a sample has one label",
            )
    if len(first) < len(samples):
        log.warning("%s: repeated rows left out: %d", manifest.name, len(samples) - len(first))
    return tuple(sample for _, sample in first.values())
