"""Lists of MMAction2 (https://github.com/open-mmlab/mmaction2) and SlowFast: paths of videos and class numbers.

    kinetics400_train_list_videos.txt     some/path/000.mp4 1        for several classes:  some/path/000.mp4 1 3
    train.csv (SlowFast)                  some/path/000.mp4 1        or                    some/path/000.mp4,1
    label_map.txt                         abseiling                  the name of class 0, and so on: one per line

Names come from ``label_map.txt`` beside the lists, or from a labels file that the user names; without one, the numbers
are the labels. Lists of folders of frames (``some/folder 163 1``) are refused: vidrisk reads videos. The output is a
folder with a list per split.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from vidrisk.data.formats.class_names import ClassNames, orders_that_say_something, read_class_names
from vidrisk.data.formats.clips import first_lines, home_of, is_manifest, lists_in, settle_splits
from vidrisk.data.formats.copies import new_folder
from vidrisk.data.formats.format import Format, Listed, Reading, Writing, format_counts
from vidrisk.data.formats.lists import lines_of
from vidrisk.data.formats.media_files import Homes, MediaFiles, path_below
from vidrisk.data.formats.rows import Row, samples_from_rows
from vidrisk.data.table import SplitName, Table, first_three, split_from_name
from vidrisk.data.text import trim_text
from vidrisk.frames.media import kind_from_suffix, name_of
from vidrisk.runtimes.contract.errors import DataError

NAMES, UNSPLIT = "label_map.txt", "list_videos.txt"
VIDEO_FOLDERS: dict[SplitName | None, tuple[str, ...]] = {
    None: ("", "videos"),
    "train": ("", "videos", "videos_train", "train"),
    "val": ("", "videos", "videos_val", "val"),
    "test": ("", "videos", "videos_test", "test", "videos_val", "val"),
}
MAX_CLASSES = 100_000
UNLABELLED = "rows without a label left out"
_LIST = re.compile(
    r"(?:(?:.+_)?(?:train|val|valid|validation|test)(?:_list|_split_\d+)?(?:_videos)?|list_videos)\.(?:txt|csv)",
    re.IGNORECASE,
)
_OF_OTHERS = re.compile(
    r"(?:train|test)list\d\d\.txt|.+_test_split\d\.txt"
)  # UCF101 and HMDB51, whose numbers have another meaning
_NUMBERS_BACKWARDS = re.compile(r"(?:[0-9]{1,9}[ \t,]+)+(?=[^ \t,])")
_NUMBERED = re.compile(r"[0-9]{1,9}\s*[\s:,]\s*.+")
_ALLOWED = "some/path/000.mp4 1"


class Line(NamedTuple):
    """A line of a list: the path of a video as written, and the numbers after it."""

    where: str
    path: str
    numbers: tuple[int, ...]
    split: SplitName | None


def is_mmaction(source: Path) -> bool:
    """Return whether a file, or a file in a folder with a matching name, has paths of videos followed by numbers."""
    return any(map(_is_list, lists_in(source, _LIST)))


def read_mmaction(source: Path, reading: Reading) -> Listed:
    """Read one list, or the lists of a folder, one for every split."""
    paths = _lists_of(source)
    names = _class_names(paths[0].parent, reading)
    lines = [line for path in paths for line in lines_from_list(path)]
    homes = _homes_of(source, reading, lines)
    counts: Counter[str] = Counter()
    rows = rows_from_lines(lines, homes, names, reading, counts)
    found = samples_from_rows(rows, MediaFiles(homes.root), multi_label=reading.multi_label)
    samples, unsplit = settle_splits(found.samples)
    order = (
        names.order
        if names
        else tuple(map(str, range(1 + max((n for line in lines for n in line.numbers), default=0))))
    )
    notes = [*format_counts(counts), *found.notes, *unsplit]
    if not names:
        notes.append(f"no {NAMES}: labels are the numbers of the classes")
    return Listed(
        homes.root,
        samples,
        found.absent,
        homes.places(VIDEO_FOLDERS[lines[0].split]),
        orders_that_say_something({reading.target: order}, samples),
        tuple(notes),
    )


def lines_from_list(path: Path) -> Iterator[Line]:
    """Yield the lines of a list; the numbers are at the end of a line, so that a path may contain spaces and commas.

    Raises:
        DataError: an empty list, or a number that no class has.
    """
    where = ""
    split = split_from_name(path.stem)
    for where, text in lines_of(path):
        name, numbers = path_and_numbers(text)
        if any(number >= MAX_CLASSES for number in numbers):
            raise DataError(f"{where}: the class {max(numbers)}", allowed=f"0 to {MAX_CLASSES - 1}")
        yield Line(where, name, numbers, split)
    if not where:
        raise DataError(f"{path.name} lists no video", allowed=_ALLOWED, fix="get the file again")


def path_and_numbers(text: str) -> tuple[str, tuple[int, ...]]:
    """Split a line into the path and the numbers at its end; -1 means that a video has no class."""
    text = re.sub(r"[ \t,]-1$", "", text)
    match = _NUMBERS_BACKWARDS.match(text[::-1])
    if not match:
        return trim_text(text), ()
    numbers = re.split(r"[ \t,]+", match[0][::-1].strip(" \t,"))
    return trim_text(text[: len(text) - match.end()]), tuple(map(int, numbers))


def rows_from_lines(
    lines: Iterable[Line], homes: Homes, names: ClassNames | None, reading: Reading, counts: Counter[str]
) -> Iterator[Row]:
    """Find the videos of lines, and name their classes; count the videos without a class.

    Raises:
        DataError: a path that leaves its folder, a folder of frames, a number without a name.
    """
    files = {split: homes.files(folders) for split, folders in VIDEO_FOLDERS.items()}
    for line in lines:
        name = _name_below(line, homes)
        if kind_from_suffix(name) != "video":
            _refuse_frames(line, name, homes)  # any other file is refused later, as a row
        elif not line.numbers:
            counts[UNLABELLED] += 1
            continue
        labels = tuple(names.name_of(number, line.where) if names else str(number) for number in line.numbers)
        yield Row(line.where, files[line.split].find(name) or name, {reading.target: labels}, line.split)


def write_mmaction(table: Table, destination: Path, writing: Writing) -> None:
    """Write a list per split, and the names of the classes in the order of their numbers."""
    (target,) = table.target_names
    order = table.labels_of(target)
    odd = next(
        (text for text in chain(order, (sample.name for sample in table.samples)) if set("\r\n") & set(text)), None
    )
    if odd:
        raise DataError(f"{odd[:80]!r} has a line break, which lists cannot represent", fix="rename it")
    numbers = {label: number for number, label in enumerate(order)}
    lists: dict[str, list[str]] = {}
    for sample in table.samples:
        path = sample.name if sample.name == trim_text(sample.name) else f"./{sample.name}"
        classes = " ".join(str(numbers[label]) for label in sample.labels_of(target))
        lists.setdefault(f"{sample.split}_list_videos.txt" if sample.split else UNSPLIT, []).append(f"{path} {classes}")
    # If all names begin with numbers, they would be read as numbered names.
    lists[NAMES] = (
        [f"{number} {name}" for name, number in numbers.items()]
        if all(map(_NUMBERED.fullmatch, order))
        else list(order)
    )
    with new_folder(destination) as folder:
        for name, lines in lists.items():
            (folder / name).write_bytes("".join(f"{line}\n" for line in lines).encode())


def _lists_of(source: Path) -> list[Path]:
    paths = [path for path in lists_in(source, _LIST) if path == source or not is_manifest(path)]
    splits = Counter(split_from_name(path.stem) for path in paths)
    if not paths:
        raise DataError(
            f"{name_of(source.name)} has no MMAction2 list",
            allowed=f"train_list_videos.txt, with {_ALLOWED}",
            fix="name the list",
        )
    if max(splits.values()) > 1:
        raise DataError(
            f"{name_of(source.name)} has several lists of one split: {first_three([path.name for path in paths])}",
            allowed="one list for each split",
            fix="name the list to read, or move the others elsewhere",
        )
    return paths


def _class_names(folder: Path, reading: Reading) -> ClassNames | None:
    path = reading.labels or folder / NAMES
    return read_class_names(path) if reading.labels or path.is_file() else None


def _homes_of(source: Path, reading: Reading, lines: list[Line]) -> Homes:
    """Find the folder of the videos: that of the lists, or the one above it."""
    home = home_of(source)
    choices = [Homes.of(home, reading.media), *([] if reading.media else [Homes.of(home.parent, None)])]
    for homes in choices:
        files = {split: homes.files(folders) for split, folders in VIDEO_FOLDERS.items()}
        if any(files[line.split].find(_name_below(line, homes)) for line in lines):
            return homes
    return choices[0]


def _name_below(line: Line, homes: Homes) -> str:
    name = path_below(line.path, [homes.root / folder for folder in homes.folders])
    if name is None:
        raise DataError(
            f"{line.where}: the path {line.path[:200]!r} leads out of the folder with the clips",
            allowed=f"paths below {name_of(homes.root / homes.folders[0])}",
            fix="correct it, or give the folder with the clips as media",
        )
    return str(name)


def _refuse_frames(line: Line, name: str, homes: Homes) -> None:
    if len(line.numbers) > 1 or any(
        (homes.root / place / name).is_dir() for place in homes.places(VIDEO_FOLDERS[line.split])
    ):
        folder = shlex.quote(name if len(name) < 200 else "FOLDER")
        raise DataError(
            f"{line.where}: {name[:200]!r} is a folder of frames",
            allowed="lists of videos",
            fix=f"make a video of each: ffmpeg -framerate 25 -i {folder}/img_%05d.jpg -pix_fmt yuv420p {folder}.mp4; "
            f"then list it as {_ALLOWED}",
        )


def _is_list(path: Path) -> bool:
    if path.suffix.lower() not in (".txt", ".csv") or _OF_OTHERS.fullmatch(path.name):
        return False
    lines = [path_and_numbers(line) for line in first_lines(path)]
    return any(numbers for _, numbers in lines) and all(kind_from_suffix(name) == "video" for name, _ in lines)


FORMAT = Format(
    "mmaction",
    "MMAction2 and SlowFast",
    ("action", "risk"),
    f"train_list_videos.txt, train.csv, with {_ALLOWED}",
    is_mmaction,
    read_mmaction,
    options=frozenset({"labels"}),
    write=write_mmaction,
    carries=frozenset({"clips", "multi-label", "splits", "label order"}),
)
