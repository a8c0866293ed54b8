"""HMDB51 (Kuehne et al. 2011, https://doi.org/10.1109/ICCV.2011.6126543): a list per class and official split.

    testTrainMulti_7030_splits/brush_hair_test_split1.txt … wave_test_split3.txt
                                April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1
    hmdb51_org/brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi

The number is the use of a clip in this split: 1 train, 2 test, 0 unused. The class is in the name of the list. Classes
have no numbers: outputs are in the order of their names, as in other tools. Clips of one class that are cut from one
film begin with its name, which is their group: val is drawn by whole groups.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from vidrisk.data.formats.clips import lists_in
from vidrisk.data.formats.format import Format, Listed, Reading
from vidrisk.data.formats.lists import lines_of, places_text
from vidrisk.data.formats.media_files import Homes, safe_name
from vidrisk.data.formats.rows import Row, samples_from_rows
from vidrisk.data.table import SplitName, first_three
from vidrisk.data.text import label_from_text
from vidrisk.frames.media import name_of
from vidrisk.runtimes.contract.errors import DataError

SPLITS = (1, 2, 3)
LIST_FOLDERS = ("testTrainMulti_7030_splits", "test_train_splits", "splits", "", "annotations")
VIDEO_FOLDERS = ("hmdb51_org", "", "videos", "hmdb51")
USES: dict[str, SplitName | None] = {"0": None, "1": "train", "2": "test"}
_LIST = re.compile(r"(?P<name>.+)_test_split(?P<split>[123])\.txt")
# Film, class, visible body parts, camera motion, number of persons, viewpoint, quality, number of the clip.
_CLIP_END = r"_[a-z]+_[a-z]+_np\w+_[a-z]+_[a-z]+_\d+"


def is_hmdb51(source: Path) -> bool:
    """Return whether a folder has lists of HMDB51."""
    return source.is_dir() and bool(lists_in(source, _LIST, LIST_FOLDERS))


def read_hmdb51(root: Path, reading: Reading) -> Listed:
    """Read one official split of every class."""
    paths = _lists_of_split(root, reading.split)
    unused: list[str] = []
    homes = Homes.of(root, reading.media)
    rows = (row for label, path in paths.items() for row in rows_from_list(path, label, unused))
    found = samples_from_rows(rows, homes.files(VIDEO_FOLDERS))
    notes = [f"HMDB51, official split {reading.split}: {len(paths)} classes"]
    if unused:
        notes.append(f"clips that this split does not use: {len(unused)}")
    return Listed(
        homes.root,
        found.samples,
        found.absent,
        homes.places(VIDEO_FOLDERS),
        {"action": tuple(paths)},
        (*notes, *found.notes),
    )


def rows_from_list(path: Path, label: str, unused: list[str]) -> Iterator[Row]:
    """Read the list of one class; add the names of clips that the split does not use to ``unused``.

    Raises:
        DataError: an empty list, a line that is not the name of a file and a number, an unknown number.
    """
    where = ""
    folder = path.name.rpartition("_test_split")[0]
    clip = re.compile(rf"(?P<film>.+)_{re.escape(folder)}{_CLIP_END}")
    for where, line in lines_of(path):
        written, _, use = line.replace("\t", " ").rpartition(" ")
        name = safe_name(written.strip())
        if name is None or len(name.parts) != 1:
            raise DataError(
                f"{where} is {line[:80]!r}",
                allowed="the name of a clip and a number, such as a_wave_u_cm_np1_fr_med_0.avi 1",
            )
        if use not in USES:
            raise DataError(
                f"{where}: the number {use[:80]!r}", allowed="1 for train, 2 for test, 0 for a clip that is not used"
            )
        split = USES[use]
        if split is None:
            unused.append(str(name))
            continue
        film = clip.fullmatch(name.stem)
        yield Row(where, f"{folder}/{name}", {"action": label}, split, f"{label} {film['film']}" if film else None)
    if not where:
        raise DataError(
            f"{path.name} lists no video", allowed="one clip.avi and a number per line", fix="get the file again"
        )


def _lists_of_split(root: Path, split: int) -> dict[str, Path]:
    """Return the lists of a split by label, in the order of labels.

    Raises:
        DataError: there are none, or a class has only lists of other splits.
    """
    lists = [(match, path) for path in lists_in(root, _LIST, LIST_FOLDERS) if (match := _LIST.fullmatch(path.name))]
    of_split = {label_from_text(match["name"]): path for match, path in lists if match["split"] == str(split)}
    lacking = sorted({label_from_text(match["name"]) for match, _ in lists} - set(of_split))
    if not root.is_dir() or not lists or lacking:
        what = (
            f"no list of split {split} for {first_three(lacking)}" if lacking else f"no <class>_test_split{split}.txt"
        )
        raise DataError(
            f"{name_of(root.name)} has {what}; looked in {places_text(root, LIST_FOLDERS)}",
            fix="unpack test_train_splits.rar there: it has the lists of three splits for every class",
        )
    return dict(sorted(of_split.items()))


FORMAT = Format(
    "hmdb51",
    "HMDB51",
    ("action",),
    "brush_hair_test_split1.txt",
    is_hmdb51,
    read_hmdb51,
    SPLITS,
    options=frozenset({"split"}),
)
