"""Reading a table: a folder with one sub-folder per class, or a manifest that names files and labels."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

from vidrisk.data.columns import Columns, columns_from_header
from vidrisk.data.io import SUFFIXES, Row, rows_from_manifest
from vidrisk.data.table import Sample, SplitName, Table, first_three
from vidrisk.frames import MEDIA_SUFFIXES
from vidrisk.runtimes.contract import Task
from vidrisk.runtimes.errors import DataError, SettingsError

log = logging.getLogger(__name__)

SPLIT_WORDS: dict[str, SplitName] = {
    "train": "train", "training": "train", "训练": "train", "训练集": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val", "验证": "val", "验证集": "val",
    "test": "test", "testing": "test", "测试": "test", "测试集": "test",
}


def load_table(source: str | Path, task: Task) -> Table:
    """Read labelled clips or photos.

    Args:
        source: a folder with one sub-folder per class (``train``, ``val`` and ``test`` may stand above them), or a
            ``.csv``, ``.jsonl`` or ``.parquet`` manifest whose paths stay inside its own folder. ``columns`` says which
            columns are understood, in English and Chinese.
        task: ``action`` reads the target ``action``; ``risk`` reads ``defect`` (a folder has only that) and ``level``.

    Raises:
        DataError: nothing there, an empty folder, one class only, a missing column, a missing file, a row without a
            label, a path that leaves the folder, one file with two labels, an unknown suffix.
        SettingsError: an unknown task.
        MissingExtra: a Parquet manifest without pyarrow.
    """
    source = Path(source)
    if task not in get_args(Task):
        raise SettingsError(f"task {task!r}", allowed=", ".join(get_args(Task)))
    if source.is_dir():
        table = _table_from_folder(source.resolve(), task)
    elif source.is_file():
        table = _table_from_manifest(source.resolve(), task)
    else:
        raise DataError(f"{source} does not exist",
                        allowed=f"a folder with one sub-folder per class, or a manifest ({', '.join(SUFFIXES)})")
    for target in table.target_names:
        counts = table.label_counts(target)
        if len(counts) < 2:
            raise DataError(f"{source} has one {target} label only ({next(iter(counts))})", allowed="two or more",
                            fix=_hint(source) or "add examples of another class, such as normal ones")
    return table


def _hint(source: Path) -> str | None:
    """The manifest that lies in a folder, in case that was meant."""
    found = sorted(p.name for p in source.iterdir() if p.suffix.lower() in SUFFIXES) if source.is_dir() else []
    return f"name the manifest instead: {source / found[0]}" if found else None


def _table_from_folder(root: Path, task: Task) -> Table:
    target = "action" if task == "action" else "defect"
    folders = _class_folders(root)
    samples = []
    skipped = [path.name for path in root.iterdir() if path.is_file() and not path.name.startswith(".")]
    for split, folder in folders:
        for path in _files(folder):
            if path.suffix.lower() in MEDIA_SUFFIXES:
                name = path.relative_to(root).as_posix()
                samples.append(Sample(path, name, {target: folder.name}, split=split))
            else:
                skipped.append(path.relative_to(root).as_posix())
    if skipped:
        log.warning("%s: files outside class folders or without a media suffix are left out (%d): %s",
                    root.name, len(skipped), first_three(skipped))
    if not samples:
        raise DataError(f"{root} holds no clip or photo in a sub-folder",
                        allowed="one sub-folder per class with media files", fix=_hint(root))
    return Table(root, task, tuple(sorted(samples, key=lambda sample: sample.name)))


def _class_folders(root: Path) -> list[tuple[SplitName | None, Path]]:
    """Class folders with their split; every folder under the root must name a split for that layout to be assumed."""
    folders = _folders(root)
    if folders and all(folder.name.casefold() in SPLIT_WORDS for folder in folders):
        return [(SPLIT_WORDS[top.name.casefold()], folder) for top in folders for folder in _folders(top)]
    return [(None, folder) for folder in folders]


def _folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith((".", "__")))


def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder but hidden ones; a sub-folder that cannot be listed is an error, not a gap."""
    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename} cannot be listed: {error.strerror}") from error

    for top, below, names in os.walk(folder, onerror=refuse):
        below[:] = [name for name in below if not name.startswith(".")]
        yield from (Path(top, name) for name in names if not name.startswith("."))


def _table_from_manifest(path: Path, task: Task) -> Table:
    header, rows = rows_from_manifest(path)
    if not rows:
        raise DataError(f"{path.name} has no rows", allowed="a header and one row per file")
    columns = columns_from_header(header, [row.cells for row in rows], task, path.name)
    for target, column in columns.labels.items():
        empty = [row.where for row in rows if not row.cells[column].strip()]
        if empty:
            raise DataError(f"{path.name} has rows with an empty {target} label ({len(empty)}): {first_three(empty)}",
                            fix=f"fill the column {column!r}, or remove these rows")
    samples = [_sample(path, row, columns) for row in rows]
    _check_files(path, samples)
    return Table(path.parent, task, _without_duplicates(path, rows, samples))


def _sample(manifest: Path, row: Row, columns: Columns) -> Sample:
    written = row.cells[columns.path]
    name = _name_inside(manifest.parent, written)
    if name is None:
        what = f"the path {written[:80]!r} leaves the manifest's folder" if written else "the path is empty"
        raise DataError(f"{manifest.name}, {row.where}: {what}", allowed=f"files under {manifest.parent}")
    split = row.cells[columns.split].strip() if columns.split else ""
    if split and split.casefold() not in SPLIT_WORDS:
        raise DataError(f"{manifest.name}, {row.where}: split {split!r}", allowed="train, val, test, or empty")
    return Sample(
        path=manifest.parent / name,
        name=name,
        labels={target: row.cells[column].strip() for target, column in columns.labels.items()},
        split=SPLIT_WORDS[split.casefold()] if split else None,
        group=(row.cells[columns.group].strip() or None) if columns.group else None,
        extra={column: row.cells[column] for column in columns.extra},
        **{field: row.cells[column].strip() for field, column in columns.texts.items()},
    )


def _name_inside(root: Path, written: str) -> str | None:
    """A path relative to ``root`` in normal form, links followed only to check; None when it leaves ``root``."""
    if not written or "\0" in written or not _is_encodable(written):
        return None
    if "\\" in written and not os.path.lexists(root / written):
        written = written.replace("\\", "/")  # written on Windows
    path = Path(os.path.realpath(written) if Path(written).is_absolute() else os.path.normpath(root / written))
    inside = path != root and path.is_relative_to(root) and Path(os.path.realpath(path)).is_relative_to(root)
    return path.relative_to(root).as_posix() if inside else None


def _is_encodable(written: str) -> bool:
    try:
        os.fsencode(written)
    except UnicodeEncodeError:
        return False
    return True


def _check_files(manifest: Path, samples: Sequence[Sample]) -> None:
    missing = [sample.name for sample in samples if not os.path.isfile(sample.path)]  # noqa: PTH113 (never raises)
    if missing:
        raise DataError(f"{manifest.name} names files that do not exist ({len(missing)}): {first_three(missing)}",
                        fix=f"copy them under {manifest.parent}, or remove these rows")
    foreign = [sample.name for sample in samples if sample.path.suffix.lower() not in MEDIA_SUFFIXES]
    if foreign:
        raise DataError(f"{manifest.name} names files with an unknown suffix ({len(foreign)}): {first_three(foreign)}",
                        allowed=", ".join(sorted(MEDIA_SUFFIXES)))


def _without_duplicates(manifest: Path, rows: Sequence[Row], samples: Sequence[Sample]) -> tuple[Sample, ...]:
    first: dict[str, tuple[Row, Sample]] = {}
    for row, sample in zip(rows, samples, strict=True):
        earlier_row, earlier = first.setdefault(sample.name, (row, sample))
        if (earlier.labels, earlier.split) != (sample.labels, sample.split):
            raise DataError(f"{manifest.name} names {sample.name} twice with different labels or splits: "
                            f"{earlier_row.where} and {row.where}", fix="keep one of the rows")
    if len(first) < len(samples):
        log.warning("%s: repeated rows left out: %d", manifest.name, len(samples) - len(first))
    return tuple(sample for _, sample in first.values())
