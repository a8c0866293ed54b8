"""Class folders in the layout of Ultralytics' classifiers (https://docs.ultralytics.com/datasets/classify/).

train/crack/a.jpg, val/crack/b.jpg, test/crack/c.jpg

They are the class folders that every command reads, so nothing is detected here: this module writes them. CVAT puts a
``labels.json`` beside them, which has no facts that the folders lack.
"""

from __future__ import annotations

from pathlib import Path

from vidrisk.data.class_folders import table_from_folder
from vidrisk.data.formats.copies import copy_into, new_folder
from vidrisk.data.formats.format import Format, Listed, Reading, Writing
from vidrisk.data.table import SPLIT_WORDS, Sample, Table, first_three
from vidrisk.files.system_files import is_hidden, is_system_folder
from vidrisk.runtimes.contract.errors import DataError

MAX_NAME_BYTES = 255


def is_yolo_classify(source: Path) -> bool:
    """Return False: plain class folders are read without a format."""
    return False


def read_yolo_classify(source: Path, reading: Reading) -> Listed:
    """Read class folders; every photo or clip has one label.

    Raises:
        DataError: another layout of folders, or a file.
    """
    if not source.is_dir():
        raise DataError(
            f"{source.name} is not a folder", allowed="a folder with train, val and test, or with class folders"
        )
    table = table_from_folder(source, reading.task)
    samples = (
        tuple(
            Sample(sample.path, sample.name, {reading.target: (label,)}, split=sample.split)
            for sample in table.samples
            for label in sample.labels.values()
            if isinstance(label, str)
        )
        if reading.multi_label
        else table.samples
    )
    return Listed(source, samples, (), ("",), {}, table.notes)


def write_yolo_classify(table: Table, destination: Path, writing: Writing) -> None:
    """Copy photos into train, val and test with class folders in each, or without splits into class folders.

    Raises:
        DataError: a label that cannot be the name of a folder, or samples with and without a split.
    """
    labels = sorted({label for sample in table.samples for label in sample.labels.values() if isinstance(label, str)})
    wrong = [label for label in labels if not _can_be_folder(label)]
    if wrong:
        raise DataError(
            f"labels that cannot be names of class folders ({len(wrong)}): {first_three(wrong)}",
            allowed="names without / that are not splits and not hidden",
            fix="rename these classes",
        )
    without = sum(sample.split is None for sample in table.samples)
    if 0 < without < len(table):
        raise DataError(
            f"samples without a split, although others have one: {without} of {len(table)}",
            fix="split the data first, or leave them out",
        )
    with new_folder(destination) as folder:
        for sample in table.samples:
            (label,) = sample.labels.values()
            copy_into(folder / (sample.split or "") / str(label), sample)


def _can_be_folder(label: str) -> bool:
    plain = label not in (".", "..") and not set(label) & {"/", "\\", "\0"} and len(label.encode()) <= MAX_NAME_BYTES
    return plain and label.casefold() not in SPLIT_WORDS and not is_hidden(label) and not is_system_folder(label)


FORMAT = Format(
    "yolo-classify",
    "YOLO classification folders",
    ("action", "risk"),
    "train/<class>/*.jpg, val/<class>/*.jpg",
    is_yolo_classify,
    read_yolo_classify,
    write=write_yolo_classify,
    carries=frozenset({"photos", "splits"}),
    copies=True,
)
