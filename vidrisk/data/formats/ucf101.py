"""UCF101 (Soomro et al. 2012, https://arxiv.org/abs/1212.0402): class numbers, and lists of three official splits.

    classInd.txt                            1 ApplyEyeMakeup
    trainlist01.txt … trainlist03.txt       ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1
    testlist01.txt … testlist03.txt         ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi
    UCF-101/ApplyEyeMakeup/v_….avi

Class numbers begin at 1; the model's outputs are those less one. The class of a video is its folder, which must be the
class of its number. Clips of one group (``g08``) are cut from one recording: the official lists keep them in one
split, which is not checked for other lists; val is drawn by whole groups.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping
from itertools import chain, count
from pathlib import Path

from vidrisk.data.formats.clips import fold_label
from vidrisk.data.formats.format import Format, Listed, Reading
from vidrisk.data.formats.lists import find_list, lines_of, list_in
from vidrisk.data.formats.media_files import Homes, safe_name
from vidrisk.data.formats.rows import Row, samples_from_rows
from vidrisk.data.table import SplitName
from vidrisk.data.text import label_from_text
from vidrisk.runtimes.contract.errors import DataError

CLASSES = "classInd.txt"
SPLITS = (1, 2, 3)
LIST_FOLDERS = ("ucfTrainTestlist", "", "annotations")
VIDEO_FOLDERS = ("UCF-101", "", "videos")
_GROUP = re.compile(r"_g(\d+)_c\d+$")
_FIX = "unpack UCF101TrainTestSplits-RecognitionTask.zip there: it has classInd.txt and the lists of three splits"


def is_ucf101(source: Path) -> bool:
    """Return whether a folder has a list of UCF101; class folders have none."""
    names = [name for split in SPLITS for name in _list_names(split)]
    return list_in(source, names, LIST_FOLDERS) is not None


def read_ucf101(root: Path, reading: Reading) -> Listed:
    """Read one official split: its test list is the test split, its train list the train split."""
    split = reading.split
    paths = [find_list(root, [name], LIST_FOLDERS, fix=_FIX) for name in (CLASSES, *_list_names(split))]
    classes = class_numbers(paths[0])
    rows = chain(rows_from_list(paths[1], classes, "train"), rows_from_list(paths[2], classes, "test"))
    homes = Homes.of(root, reading.media)
    found = samples_from_rows(rows, homes.files(VIDEO_FOLDERS))
    notes = [f"UCF101, official split {split}: test is {paths[2].name}"]
    order = tuple(classes[number] for number in sorted(classes))
    return Listed(
        homes.root, found.samples, found.absent, homes.places(VIDEO_FOLDERS), {"action": order}, (*notes, *found.notes)
    )


def class_numbers(path: Path) -> dict[int, str]:
    """Read classInd.txt: names by number, from 1.

    Raises:
        DataError: a line that is not a number and a name, a repeated name or number, a gap in the numbers.
    """
    classes: dict[int, str] = {}
    names: set[str] = set()
    for where, line in lines_of(path):
        number, _, name = line.replace("\t", " ").partition(" ")
        name = label_from_text(name)
        if not _is_number(number) or not name:
            raise DataError(
                f"{where} is {line[:80]!r}", allowed="a number and the name of a class, such as 1 ApplyEyeMakeup"
            )
        if int(number) in classes or name in names:
            raise DataError(
                f"{where}: the class {line[:80]!r} has a number or a name that is taken", fix="keep one of the lines"
            )
        classes[int(number)] = name
        names.add(name)
    if not classes or max(classes) != len(classes) or min(classes) != 1:
        numbers = (
            f", with numbers from {min(classes)} to {max(classes)}, without {_first_missing(classes)}"
            if classes
            else ""
        )
        raise DataError(
            f"{path.name} has {len(classes)} classes{numbers}",
            allowed="numbers from 1 on, each once",
            fix="get the file again: it may be cut off",
        )
    return classes


def rows_from_list(path: Path, classes: Mapping[int, str], split: SplitName) -> Iterator[Row]:
    """Read one list; the number of the class is optional, because test lists have none.

    Raises:
        DataError: an empty list, a path that is not ``Class/video``, a folder that is not a class, a number that is
            unknown or belongs to another class.
    """
    row = None
    exact = {name: number for number, name in classes.items()}
    counts = Counter(map(fold_label, exact))
    alike = {fold_label(name): number for name, number in exact.items() if counts[fold_label(name)] == 1}
    for where, line in lines_of(path):
        row = _row_from_line(
            where, line, classes, lambda folder: exact.get(folder, alike.get(fold_label(folder))), split
        )
        yield row
    if row is None:
        raise DataError(f"{path.name} lists no video", allowed="one Class/video.avi per line", fix="get the file again")


def _row_from_line(
    where: str, line: str, classes: Mapping[int, str], number_of: Callable[[str], int | None], split: SplitName
) -> Row:
    written, _, last = line.replace("\t", " ").rpartition(" ")
    given = int(last) if written and _is_number(last.removeprefix("-")) else None
    name = safe_name(written.strip() if given is not None else line)
    parts = name.parts if name else ()
    if parts[:1] == VIDEO_FOLDERS[:1]:
        parts = parts[1:]
    if len(parts) != 2:
        raise DataError(
            f"{where} is {line[:80]!r}", allowed="Class/video.avi, and the number of the class in train lists"
        )
    folder, file = parts
    number = number_of(label_from_text(folder))
    if given is not None and given not in classes:
        raise DataError(
            f"{where}: the class {given} is outside {CLASSES}",
            allowed=f"1 to {len(classes)}",
            fix="take the lists and classInd.txt from one source",
        )
    if number is None:
        raise DataError(
            f"{where}: the folder {folder!r} is not a class of {CLASSES}",
            allowed="folders with the names of classes",
            fix="take the lists and classInd.txt from one source",
        )
    if given not in (None, number):
        raise DataError(
            f"{where}: class {given} is {classes[given]}, but the folder is that of class {number}, {classes[number]}",
            fix="take the lists and classInd.txt from one source",
        )
    group = _GROUP.search(Path(file).stem)
    label = classes[number]
    return Row(where, f"{folder}/{file}", {"action": label}, split, f"{label} g{group[1]}" if group else None)


def _list_names(split: int) -> tuple[str, str]:
    return f"trainlist{split:02d}.txt", f"testlist{split:02d}.txt"


def _first_missing(numbers: Container[int]) -> int:
    return next(number for number in count(1) if number not in numbers)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


FORMAT = Format(
    "ucf101",
    "UCF101",
    ("action",),
    "trainlist01.txt, testlist01.txt",
    is_ucf101,
    read_ucf101,
    SPLITS,
    options=frozenset({"split"}),
)
