"""TFRecord files of photos (https://www.tensorflow.org/tutorials/load_data/tfrecord), as in TF-Slim, TFOD and TAO.

    train.tfrecord-00000-of-00010 …, validation-00000-of-00002, train.record, label_map.pbtxt
    image/encoded   the photo, with image/filename and image/format
    image/class/text, image/class/label                 its class: the name, and the number
    image/object/class/text, image/object/class/label   classes of objects on it, with image/object/bbox/xmin …, 0 to 1

Photos are written as files when a data set is imported. Names of files give the split, and ``label_map.pbtxt`` the
names of numbers. Features with the names of a manifest's columns (``risk_level``, ``group``, ``description`` …) have
the same meaning.
"""

from __future__ import annotations

import re
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path

from vidrisk.data.formats.class_names import orders_that_say_something, read_class_names
from vidrisk.data.formats.copies import empty_folder
from vidrisk.data.formats.crops import samples_from_boxes
from vidrisk.data.formats.fields import with_splits
from vidrisk.data.formats.format import Format, Listed, Reading, format_counts
from vidrisk.data.formats.media_files import MediaFiles
from vidrisk.data.formats.rows import samples_from_rows
from vidrisk.data.formats.tfrecord.examples import HEADER, is_framed
from vidrisk.data.formats.tfrecord.record_rows import RecordRows
from vidrisk.data.formats.tfrecord.tfrecord_writer import CARRIES, LABEL_MAP, write_tfrecord
from vidrisk.data.io import LABEL_COLUMNS
from vidrisk.data.label_ids import labels_from_ids
from vidrisk.data.table import TARGETS_OF, first_three, split_from_name
from vidrisk.frames.media import kind_from_suffix
from vidrisk.runtimes.contract.errors import DataError

MAX_FILES = 100_000
_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\.\w+)?", re.DOTALL)
_NAME = re.compile(r"tfrecord|\.record|-\d{5}-of-\d{5}", re.IGNORECASE)


def is_tfrecord(source: Path) -> bool:
    """Return whether a file, or a file in a folder with a matching name, begins with a record.

    TensorBoard's event files do not count.
    """
    return _begins_with_record(source) if source.is_file() else any(map(_begins_with_record, _files_in(source)[:3]))


def read_tfrecord(source: Path, reading: Reading) -> Listed:
    """Read every record of every file, and write its photo into ``reading.made``."""
    files = [source] if source.is_file() else _files_in(source)
    if not files:
        raise DataError(
            f"{source.name} has no TFRecord file", allowed="names such as train.tfrecord or train-00000-of-00010"
        )
    if reading.made is None:
        raise DataError(
            f"{source.name} stores its photos inside records", fix="extract them to files first: vidrisk data import"
        )
    folder = source.parent if source.is_file() else source
    given = {reading.target: reading.labels} if reading.labels else {}
    maps = {target: read_class_names(path) for target, path in (_label_maps(folder, reading) | given).items()}
    with empty_folder(reading.made) as made, ExitStack() as stack:
        photos = made
        if reading.crops:
            photos = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".photos.", dir=made.parent)))
        records = RecordRows(reading, photos, maps)
        rows, taken = with_splits([row for path in files for row in records.rows_of(path, split_from_name(path.name))])
        records.left_out.update(taken)
        if reading.crops:
            boxes = [
                (replace(row, labels={reading.target: name}), box)
                for row in rows
                for name, box in records.boxes[row.name]
            ]
            found = samples_from_boxes(boxes, MediaFiles(photos), made, multi_label=reading.multi_label)
        else:
            found = samples_from_rows(rows, MediaFiles(photos), kinds=("image",), multi_label=reading.multi_label)
    orders = {target: names.order for target, names in maps.items()}
    if reading.target not in orders:
        orders[reading.target] = tuple(labels_from_ids(records.pairs).values())
    return Listed(
        found.root,
        found.samples,
        (*found.absent, *_missing_shards(files)),
        ("",),
        orders_that_say_something({target: order for target, order in orders.items() if order}, found.samples),
        (*found.notes, *format_counts(records.left_out)),
    )


def _label_maps(folder: Path, reading: Reading) -> dict[str, Path]:
    """Find the label maps beside the records: ``label_map.pbtxt``, or the only .pbtxt, and those of other targets."""
    others = {
        target: folder / f"{LABEL_COLUMNS[target]}_{LABEL_MAP}"
        for target in TARGETS_OF[reading.task]
        if target != "level"
    }
    found = {target: path for target, path in others.items() if path.is_file()}
    maps = [path for path in sorted(folder.glob("*.pbtxt")) if path not in found.values()]
    named = [path for path in maps if path.name == LABEL_MAP] or maps
    if len(named) > 1 and not reading.labels:
        raise DataError(
            f"{folder.name} has several label maps: {first_three([path.name for path in named])}",
            fix="name one of them",
        )
    return found | ({reading.target: named[0]} if named else {})


def _missing_shards(files: list[Path]) -> tuple[str, ...]:
    """Return the names of missing shards, according to the shard counts in the names of the others."""
    shards: dict[tuple[str, str, str], set[int]] = {}
    for path in files:
        if match := _SHARD.fullmatch(path.name):
            shards.setdefault((match[1], match[3], match[4] or ""), set()).add(int(match[2]))
    if len(files) == 1:  # the user may have named a single file
        return ()
    missing = (
        f"{stem}-{number:05d}-of-{count}{suffix}"
        for (stem, count, suffix), found in shards.items()
        for number in range(int(count))
        if number not in found
    )
    return tuple(islice(missing, MAX_FILES))


def _files_in(folder: Path) -> list[Path]:
    try:
        names = sorted(
            path
            for path in folder.iterdir()
            if _NAME.search(path.name)
            and "tfevents" not in path.name
            and not path.name.startswith(".")
            and path.suffix.lower() not in (".json", ".txt", ".pbtxt")
            and not kind_from_suffix(path)
            and path.is_file()
        )
    except OSError:
        return []
    return names[:MAX_FILES]


def _begins_with_record(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return "tfevents" not in path.name and is_framed(file.read(HEADER.size))
    except OSError:
        return False


FORMAT = Format(
    "tfrecord",
    "TFRecord",
    ("risk", "action", "action+risk"),
    "train.tfrecord-00000-of-00010",
    is_tfrecord,
    read_tfrecord,
    options=frozenset({"labels", "crops"}),
    write=write_tfrecord,
    carries=CARRIES,
    copies=True,
)
