"""Loads a table from a folder with one sub-folder per class, a known data set, or a manifest of files and labels."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path
from typing import get_args

from vidrisk.data.class_folders import manifest_hint, table_from_folder
from vidrisk.data.data_sets import import_data
from vidrisk.data.formats import FORMATS, format_of
from vidrisk.data.io import SUFFIXES
from vidrisk.data.lookalikes import describe_lookalikes
from vidrisk.data.manifest import table_from_manifest
from vidrisk.data.table import Table, as_multi_label
from vidrisk.files.paths import is_unicode
from vidrisk.frames.media import name_of
from vidrisk.runtimes.contract.choices import LabelTask, Task
from vidrisk.runtimes.contract.errors import DataError, SettingsError

log = logging.getLogger(__name__)


def load_table(
    source: str | Path,
    task: Task,
    *,
    min_labels: int = 2,
    multi_label: bool | Collection[str] = False,
    encoding: str | None = None,
    sheet: str | None = None,
    strict: bool = False,
) -> Table:
    """Read labelled clips or photos.

    Args:
        source: a folder with one sub-folder per class (``train``, ``val`` and ``test`` may stand above or in them); a
            data set that ``formats`` detects by its list files, of which the first official split is read; or a
            ``.csv``, ``.xlsx``, ``.jsonl`` or ``.parquet`` manifest whose paths stay inside its own folder. See
            ``columns`` for the columns that are understood, in English and Chinese, and ``intervals`` for those that
            restrict a row to a part of a clip.
        task: ``action`` reads the target ``action``; ``risk`` reads ``defect`` (a folder has only that) and ``level``;
            ``action+risk`` reads both from a manifest.
        min_labels: least number of different labels per target; a model cannot learn from one label, but it may be
            scored on it.
        multi_label: any number of classes may apply to a sample: cells of a manifest contain a list, or labels
            separated by line breaks, semicolons, bars or commas. A column whose cells are all JSON lists is always read
            this way. A level is always single, and in a folder each sample has one label. A collection of target names,
            such as those of a model, restricts this to these targets.
        encoding: encoding of a CSV or JSONL manifest; None detects UTF-8, files with a byte order mark, and Chinese
            text in GB 18030.
        sheet: sheet of an Excel manifest; None selects the one with a table in it.
        strict: refuse a data set that lists files which do not exist, and rows without any label, which are otherwise
            left out and counted; also refuse labels that differ only in case or spaces, which otherwise cause a
            warning.

    Raises:
        DataError: a missing source, an empty folder, too few classes, a missing column, a missing file, a row with
            several labels (without ``multi_label``), a path that leaves the folder, one file with two labels, an
            invalid interval, an unknown suffix or encoding; a data set whose lists are missing or damaged.
        SettingsError: an unknown task, encoding or sheet, or an encoding or sheet for a source that has none.
        MissingExtra: a Parquet manifest without pyarrow, an Excel one without openpyxl.
    """
    source = Path(source)
    if task == "report" or task not in get_args(LabelTask):
        raise SettingsError(f"task {task!r}", allowed=", ".join(get_args(LabelTask)))
    if source.is_dir():
        for what, given in (("an encoding", encoding), ("a sheet", sheet)):
            if given is not None:
                raise SettingsError(f"{what} for the folder {source}", allowed="only for a manifest")
    if format_of(source):
        table = import_data(source, task=task, multi_label=True if multi_label is True else None, strict=strict).table
    elif source.is_dir():
        if task == "action+risk":
            raise DataError(
                f"{source} is a folder, whose classes belong to one target",
                allowed="a manifest with columns of both",
                fix="use the task action or risk",
            )
        table = table_from_folder(source.resolve(), task)
    elif source.is_file():
        table = table_from_manifest(
            source.resolve(), task, encoding=encoding, sheet=sheet, multi_label=multi_label, strict=strict
        )
    else:
        raise DataError(
            f"{source} does not exist",
            allowed=f"a folder with one sub-folder per class, a data set ({', '.join(FORMATS)}), "
            f"or a manifest ({', '.join(SUFFIXES)})",
        )
    if multi_label:
        table = as_multi_label(table, table.target_names if multi_label is True else multi_label)
    for line in describe_lookalikes(table):
        if strict:
            raise DataError(f"{source.name}: {line}", fix="write each class in one way")
        log.warning("%s: %s: write each class in one way, if they are the same", name_of(source.name), line)
    for target in table.target_names:
        counts = table.label_counts(target)
        if not is_unicode(counts):
            raise DataError(
                f"{source} has a {target} label that is not UTF-8: {next(x for x in counts if not is_unicode([x]))}",
                fix="rename the folder, or correct the manifest",
            )
        if len(counts) < min_labels:
            raise DataError(
                f"{source} has only one {target} label ({next(iter(counts))})",
                allowed="two or more",
                fix=manifest_hint(source) or "add examples of another class, such as normal ones",
            )
    return table
