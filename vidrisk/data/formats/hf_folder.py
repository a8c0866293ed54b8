"""Hugging Face's imagefolder and videofolder (https://huggingface.co/docs/datasets/image_dataset).

    train/metadata.csv      file_name,action,group …
    train/a.jpg, test/metadata.jsonl, metadata.parquet, data/train/metadata.csv

Files lie beside their metadata. A folder of a split has its own ``metadata``; one in the top folder has no split, or
names it in a column. Columns are those of a manifest, by the same names and aliases, with ``file_name`` instead of
``path``. Folders without metadata are class folders.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vidrisk.data.columns import Columns, columns_from_header
from vidrisk.data.formats.copies import copy_into, new_folder
from vidrisk.data.formats.fields import rename_extra, split_of, task_of_columns, with_splits
from vidrisk.data.formats.format import Format, Listed, Part, Reading, Writing, format_counts
from vidrisk.data.formats.lists import head_of
from vidrisk.data.formats.media_files import Homes, safe_name
from vidrisk.data.formats.rows import Row, samples_from_rows
from vidrisk.data.io import Row as Line
from vidrisk.data.io import rows_from_manifest, write_table
from vidrisk.data.label_ids import ID_COLUMNS, labels_beside_ids, labels_from_ids
from vidrisk.data.labels import labels_from_cells
from vidrisk.data.table import SPLITS, Label, Table
from vidrisk.data.text import trim_text
from vidrisk.runtimes.contract.errors import DataError, SpecError

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
FILE_NAME = "file_name"
SPLIT_FOLDERS = ("train", "val", "valid", "validation", "dev", "test")
SNIFFED_BYTES = 2**16
_NO_NUMBERS = {(column, "[]") for column in ID_COLUMNS.values()}  # ids of a split in which no label applies
NAMES_OF_SPLITS = {"val": "validation"}  # in folders that are written
CARRIES: frozenset[Part] = frozenset(
    {
        "clips",
        "photos",
        "intervals",
        "frame intervals",
        "multi-label",
        "no label",
        "several targets",
        "splits",
        "groups",
        "order of used labels",
        "texts",
        "extra",
    }
)


def is_hf_folder(source: Path) -> bool:
    """Return whether a folder has metadata with a column ``file_name``."""
    return any(map(_names_files, _metadata_in(source).values()))


def read_hf_folder(root: Path, reading: Reading) -> Listed:
    """Read the metadata of every split, or that of the whole folder."""
    found = {inner: path for inner, path in _metadata_in(root).items() if _names_files(path)}
    if not found:
        raise DataError(
            f"{root.name} has no metadata with a column {FILE_NAME}",
            allowed=f"{', '.join(METADATA)}, also in {', '.join(SPLIT_FOLDERS)}",
            fix="read folders without metadata as class folders",
        )
    rows: list[Row] = []
    notes: list[str] = []
    numbers: dict[str, list[tuple[str, str]]] = {}  # labels and their ids, by target
    for inner, path in found.items():
        of_file, said = _rows_from(path, inner, reading, numbers)
        rows += of_file
        notes += said
    rows, taken = with_splits(rows)
    homes = Homes.of(root, reading.media)
    samples = samples_from_rows(rows, homes.files([""]), kinds=("video", "image"), multi_label=reading.multi_label)
    orders = {target: tuple(labels_from_ids(pairs).values()) for target, pairs in numbers.items()}
    return Listed(
        homes.root,
        samples.samples,
        samples.absent,
        homes.places(list(found)),
        {target: order for target, order in orders.items() if order},
        (*samples.notes, *notes, *format_counts(taken)),
    )


def write_hf_folder(table: Table, destination: Path, writing: Writing) -> None:
    """Copy files into a folder for each split, with a ``metadata.csv``, or ``metadata.jsonl`` if labels are lists."""
    name = "metadata.jsonl" if table.multi_targets else "metadata.csv"
    with new_folder(destination) as folder:
        for split in (*SPLITS, None):
            part = [sample for sample in table.samples if sample.split == split]
            inner = folder / NAMES_OF_SPLITS.get(split or "", split or "")
            copied = [replace(sample, path=inner / copy_into(inner, sample)) for sample in part]
            if copied:
                write_table(replace(table, root=inner, samples=tuple(copied)), inner / name, path_column=FILE_NAME)


def _rows_from(
    path: Path, inner: str, reading: Reading, numbers: dict[str, list[tuple[str, str]]]
) -> tuple[list[Row], list[str]]:
    manifest = rows_from_manifest(path)
    source = posixpath.join(inner, path.name)
    if not manifest.rows:
        return [], [f"{source} has no rows"]
    lines = [_with_path(line) for line in manifest.rows]
    header = list(lines[0].cells)
    columns = columns_from_header(
        header,
        [line.cells for line in lines],
        [line.where for line in lines],
        task_of_columns(header, reading.task),
        source,
    )
    labels: list[dict[str, Label]] = [{} for _ in lines]
    for target, column in columns.labels.items():
        cells = [(line.where, line.cells[column]) for line in lines]
        if not any(trim_text(text) for _, text in cells):
            continue
        for of_row, label in zip(
            labels,
            labels_from_cells(
                cells, f"{target} label", column, source, multi=bool(reading.multi_label) and target != "level"
            ),
            strict=True,
        ):
            of_row |= {} if label is None else {target: label}
        if ID_COLUMNS.get(target) in header:
            numbers.setdefault(target, []).extend(
                pair for line in lines for pair in labels_beside_ids(line.cells[column], line.cells[ID_COLUMNS[target]])
            )
    rows = [_row(line, of_row, columns, inner, source) for line, of_row in zip(lines, labels, strict=True) if of_row]
    without = len(lines) - len(rows)
    return rows, [*manifest.notes, *([f"rows without a label left out: {without}"] if without else [])]


def _row(line: Line, labels: Mapping[str, Label], columns: Columns, inner: str, source: str) -> Row:
    where = f"{source}, {line.where}"
    name = safe_name(line.cells[columns.path])
    if name is None:
        raise DataError(
            f"{where}: the {FILE_NAME} {line.cells[columns.path][:80]!r}", allowed="a path below the folder"
        )
    try:
        interval = columns.interval.interval_of(line.cells) if columns.interval else None
    except (DataError, SpecError) as error:
        raise DataError(f"{where}: {error.what}", allowed=error.allowed, fix=error.fix) from error
    texts: dict[str, Any] = {field: line.cells[column].strip() for field, column in columns.texts.items()}
    split = split_of(posixpath.basename(inner)) or split_of(line.cells[columns.split] if columns.split else "")
    extra = {
        column: text for column in columns.extra if (text := line.cells[column]) and (column, text) not in _NO_NUMBERS
    }
    group = line.cells[columns.group].strip() if columns.group else ""
    return Row(
        where, posixpath.join(inner, name.as_posix()), labels, split, group or None, interval, extra=extra, **texts
    )


def _with_path(line: Line) -> Line:
    """Rename the column of files to ``path``, as in manifests; another column of that name becomes an extra one."""
    names = [FILE_NAME] if FILE_NAME in line.cells else [name for name in line.cells if name.endswith(f"_{FILE_NAME}")]
    if not names:
        raise DataError(f"{line.where} has no {FILE_NAME}", allowed=f"a column {FILE_NAME} with paths below the folder")
    renamed = {
        rename_extra(name) if name == "path" else name: text for name, text in line.cells.items() if name != names[0]
    }
    return Line(line.where, {"path": line.cells[names[0]]} | renamed)


def _metadata_in(root: Path) -> dict[str, Path]:
    """Return the metadata files by their folders, relative to the root."""
    folders = ["", *(posixpath.join(top, split) for top in ("", "data") for split in SPLIT_FOLDERS)]
    found = {
        folder: next((path for name in METADATA if (path := root / folder / name).is_file()), None)
        for folder in folders
    }
    return {folder: path for folder, path in found.items() if path}


def _names_files(path: Path) -> bool:
    """Return whether the beginning of a text, or the end of a Parquet file, names the column."""
    return FILE_NAME.encode() in head_of(path, SNIFFED_BYTES, from_end=path.suffix == ".parquet")


FORMAT = Format(
    "hf-folder",
    "Hugging Face imagefolder or videofolder",
    ("action", "risk", "action+risk"),
    "metadata.csv, train/metadata.jsonl",
    is_hf_folder,
    read_hf_folder,
    write=write_hf_folder,
    carries=CARRIES,
    copies=True,
)
