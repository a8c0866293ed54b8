"""AVA Actions (Gu et al. 2018, https://arxiv.org/abs/1705.08421): the actions of persons in films, once per second.

    ava_train_v2.2.csv, ava_val_v2.2.csv        1j20qq1JyX4,0902,0.002,0.118,0.714,0.977,12,1     (no header)
    ava_action_list_v2.2.pbtxt                  label { name: "stand" label_id: 12 label_type: PERSON_MOVEMENT }
    ava_train_excluded_timestamps_v2.2.csv      1j20qq1JyX4,0903
    trainval/1j20qq1JyX4.mkv

A row is the box of a person and one of its actions, for action detection. It is read for classification: the 3 s
around a timestamp are a clip whose labels are the actions of all persons in it. Timestamps count from the beginning of
the film; in ``videos_15min``, the pieces that MMAction2 cuts, the file begins at 900 s of the film.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain, groupby
from pathlib import Path
from typing import NamedTuple

from vidrisk.data.formats.class_names import read_class_names
from vidrisk.data.formats.clips import first_lines, home_of, lists_in, settle_splits
from vidrisk.data.formats.format import Format, Listed, Reading, format_counts
from vidrisk.data.formats.lists import cells_of
from vidrisk.data.formats.media_files import Homes, MediaFiles, safe_name
from vidrisk.data.formats.rows import Row, samples_from_rows
from vidrisk.data.table import split_from_name
from vidrisk.data.text import trim_text
from vidrisk.frames import Interval
from vidrisk.frames.media import name_of
from vidrisk.runtimes.contract.errors import DataError

AROUND_S = 1.5
CUT_FOLDER, CUT_FROM_S = "videos_15min", 900.0
VIDEO_FOLDERS = ("", "trainval", "videos", "train", "val", "test", CUT_FOLDER)
MAX_S = 10**6
EXCLUDED, UNLABELLED, UNKNOWN, BEFORE = (
    "rows of excluded timestamps left out",
    "rows without an action left out",
    "rows of actions outside the action list left out",
    f"rows before {CUT_FROM_S:.0f} s, which are not in {CUT_FOLDER}, left out",
)
_LIST = re.compile(r"ava_(train|val|test)_v[\d.]+\.csv", re.IGNORECASE)
_EXCLUDED = re.compile(r"ava_(train|val|test)_excluded_timestamps.*\.csv", re.IGNORECASE)
_ACTIONS = re.compile(r"ava_action_list.*\.pbtxt", re.IGNORECASE)
_NUMBER = r"\d+(?:\.\d+)?"
_ROW = re.compile(rf"[^,\s]+,{_NUMBER}(?:,(?:{_NUMBER})?){{4}},\d*(?:,-?\d*)?")
_ALLOWED = "video_id,timestamp,x1,y1,x2,y2,action_id,person_id"


class _Box(NamedTuple):
    """The action of one person at one time."""

    where: str
    video: str
    time_s: float
    action: str


def is_ava(source: Path) -> bool:
    """Return whether a file, or a file in a folder with a matching name, has rows of boxes and actions."""
    return any(map(_is_list, lists_in(source, _LIST)))


def read_ava(source: Path, reading: Reading) -> Listed:
    """Read one list, or the lists of a folder, with the names of the actions."""
    paths = lists_in(source, _LIST)
    if not paths:
        raise DataError(
            f"{name_of(source.name)} has no AVA list",
            allowed=f"ava_train_v2.2.csv, with {_ALLOWED}",
            fix="name the list, or unpack the annotations there",
        )
    folder = paths[0].parent
    excluded = {key for path in lists_in(folder, _EXCLUDED, [""]) for key in _timestamps(path)}
    actions, notes = _actions(folder, reading.labels)
    counts: Counter[str] = Counter()
    homes = Homes.of(home_of(source), reading.media)
    files = homes.files(VIDEO_FOLDERS)
    rows = chain.from_iterable(rows_from_list(path, files, actions, excluded, counts) for path in paths)
    found = samples_from_rows(rows, MediaFiles(homes.root), multi_label=reading.multi_label is not False)
    samples, unsplit = settle_splits(found.samples)
    seen = {label for sample in samples for label in sample.labels_of("action")}
    order = tuple(actions.values()) if actions else tuple(sorted(seen, key=int))
    notes += [
        "boxes of persons are not kept: the actions of all of them are the labels of a clip",
        *format_counts(counts),
    ]
    notes += [*found.notes, *unsplit]
    return Listed(homes.root, samples, found.absent, homes.places(VIDEO_FOLDERS), {"action": order}, tuple(notes))


def rows_from_list(
    path: Path, files: MediaFiles, actions: Mapping[str, str], excluded: set[tuple[str, float]], counts: Counter[str]
) -> Iterator[Row]:
    """Yield a row for every timestamp of a list; the boxes of one timestamp must follow one another.

    Raises:
        DataError: an empty list, a row of another form, no action that the action list has.
    """
    split = split_from_name(path.stem)
    boxes, used = 0, False
    for (video, time_s), group in groupby(_boxes_of(path), key=lambda box: (box.video, box.time_s)):
        of_time = list(group)
        boxes += len(of_time)
        known = [box for box in of_time if box.action and (not actions or box.action in actions)]
        labels = tuple(dict.fromkeys(actions.get(box.action, box.action) for box in known))
        found = files.find(f"{video}.mp4")
        from_s = CUT_FROM_S if found and posixpath.basename(posixpath.dirname(found)) == CUT_FOLDER else 0.0
        if (video, time_s) in excluded or time_s + AROUND_S <= from_s:
            counts[EXCLUDED if (video, time_s) in excluded else BEFORE] += len(of_time)
            continue
        unlabelled = sum(not box.action for box in of_time)
        counts.update({UNLABELLED: unlabelled, UNKNOWN: len(of_time) - len(known) - unlabelled})
        if labels:
            used = True
            part = Interval(max(time_s - AROUND_S - from_s, 0.0), time_s + AROUND_S - from_s)
            yield Row(of_time[0].where, found or f"{video}.mp4", {"action": labels}, split, interval=part)
    if not used and (not boxes or counts[UNKNOWN]):
        what = "has no action of the action list" if boxes else "has no rows"
        raise DataError(
            f"{path.name} {what}", allowed=_ALLOWED, fix="take the lists and the action list from one download"
        )


def _boxes_of(path: Path) -> Iterator[_Box]:
    for where, cells in cells_of(path):
        texts = [trim_text(cell) for cell in cells]
        name = safe_name(texts[0])
        if not _ROW.fullmatch(",".join(texts)) or name is None or float(texts[1]) >= MAX_S:
            raise DataError(
                f"{where} is {','.join(texts)[:80]!r}", allowed=_ALLOWED, fix="get the list again: it may be damaged"
            )
        yield _Box(where, str(name), float(texts[1]), str(int(texts[6])) if texts[6] else "")


def _timestamps(path: Path) -> Iterator[tuple[str, float]]:
    for where, cells in cells_of(path):
        if len(cells) != 2 or not re.fullmatch(_NUMBER, trim_text(cells[1])):
            raise DataError(f"{where} is {','.join(cells)[:80]!r}", allowed="video_id,timestamp")
        yield trim_text(cells[0]), float(trim_text(cells[1]))


def _actions(folder: Path, named: Path | None) -> tuple[dict[str, str], list[str]]:
    """Read the names of actions by number, in the order of numbers; without a list of them, return none and a note."""
    lists = [named] if named else lists_in(folder, _ACTIONS, [""])
    if len(lists) > 1:
        raise DataError(
            f"{name_of(folder.name)} has {len(lists)} action lists", allowed="one", fix="give a labels file"
        )
    if not lists:
        return {}, ["no action list: labels are the numbers of the actions"]
    return {str(number): name for number, name in sorted(read_class_names(lists[0]).by_number.items())}, []


def _is_list(path: Path) -> bool:
    lines = first_lines(path) if path.suffix.lower() == ".csv" else []
    return bool(lines) and all(_ROW.fullmatch("".join(line.split())) and line.count(",") >= 6 for line in lines)


FORMAT = Format(
    "ava",
    "AVA",
    ("action",),
    "ava_train_v2.2.csv; a CSV of boxes without a header",
    is_ava,
    read_ava,
    options=frozenset({"labels"}),
)
