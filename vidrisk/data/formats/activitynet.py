"""ActivityNet (Caba Heilbron et al. 2015, http://activity-net.org): parts of untrimmed videos, in one JSON file.

    activity_net.v1-3.min.json    {"database": {"ABBQqwPOxw4": {"duration": 6.99, "subset": "validation", "annotations":
                                  [{"segment": [1.65, 6.94], "label": "Tennis serve with ball bouncing"}]}, …}, …}
    anet_anno_train.json          {"v_ABBQqwPOxw4": {"duration_second": 6.99, "annotations": […]}, …}, as in MMAction2
    v_ABBQqwPOxw4.mp4

Every part of a video is a sample; parts may overlap, and one part may have several labels. In a file that vidrisk
writes, ``path`` is the place of a video that has another name, and an annotation without a segment is about the whole
video.
"""

from __future__ import annotations

import json
import math
import posixpath
import re
from collections import Counter
from collections.abc import Iterator
from itertools import chain, count
from pathlib import Path
from typing import Any, TypeGuard

from vidrisk.data.formats.clips import head_has, home_of, lists_in, settle_splits, split_from_word
from vidrisk.data.formats.format import SCORE, SCORED, Format, Listed, Reading, Writing, format_counts
from vidrisk.data.formats.json_lists import is_number, members_of
from vidrisk.data.formats.media_files import Homes, MediaFiles, safe_name
from vidrisk.data.formats.rows import Row, samples_from_rows
from vidrisk.data.io import write_new_file
from vidrisk.data.table import SplitName, Table, first_three, split_from_name
from vidrisk.data.text import label_from_text
from vidrisk.frames import Interval
from vidrisk.frames.media import name_of
from vidrisk.runtimes.contract.errors import DataError

VIDEO_FOLDERS = (
    "",
    "videos",
    "v1-3/train_val",
    "v1-3/test",
    "v1-2/train",
    "v1-2/val",
    "v1-2/test",
    "train_val",
    "train",
    "val",
    "validation",
    "test",
    "testing",
)
SUBSETS: dict[SplitName, str] = {"train": "training", "val": "validation", "test": "testing"}
CUT, BEHIND, EMPTY = (
    "segments cut to the duration of their video",
    "segments after the end of their video left out",
    "segments without a length left out",
)
UNLABELLED = "videos without annotations left out"
_LIST = re.compile(r"(activity_?net|anet|thumos)[\w.-]*\.json", re.IGNORECASE)
MAX_S = 10**9
_SCORE = re.compile(r"[01](?:\.\d+)?(?:e-\d{1,3})?", re.IGNORECASE)
_ALLOWED = '{"segment": [start, end], "label": "…"}, in seconds'


def is_activitynet(source: Path) -> bool:
    """Return whether a file, or a file in a folder with a matching name, has videos with segments."""
    return any(map(_is_list, lists_in(source, _LIST)))


def read_activitynet(source: Path, reading: Reading) -> Listed:
    """Read one file, or the files of a folder that name their split."""
    named = lists_in(source, _LIST)
    paths = [path for path in named if _is_list(path)] if source.is_dir() else named
    whole = [path for path in paths if _is_whole(path)]
    if not paths or (len(paths) > 1 and whole):
        names = f"several lists ({first_three([path.name for path in paths])})" if paths else "no ActivityNet list"
        raise DataError(
            f"{name_of(source.name)} has {names}",
            allowed="one, such as activity_net.v1-3.min.json",
            fix="name the file to read",
        )
    counts: Counter[str] = Counter()
    homes = Homes.of(home_of(source), reading.media)
    files = homes.files(VIDEO_FOLDERS)
    rows = chain.from_iterable(rows_from_file(path, files, reading.target, counts) for path in paths)
    found = samples_from_rows(rows, MediaFiles(homes.root), multi_label=reading.multi_label)
    samples, unsplit = settle_splits(found.samples)
    notes = format_counts(counts)
    if len(paths) < len(named):
        notes.append(
            f"files without segments are not read: {first_three([path.name for path in named if path not in paths])}"
        )
    return Listed(
        homes.root, samples, found.absent, homes.places(VIDEO_FOLDERS[:2]), {}, (*notes, *found.notes, *unsplit)
    )


def rows_from_file(path: Path, files: MediaFiles, target: str, counts: Counter[str]) -> Iterator[Row]:
    """Read the videos of a file; count the segments that are cut, overlap or are left out.

    Raises:
        DataError: a file without videos, a video without a list of annotations, an invalid segment or label, an unknown
            subset.
    """
    of_name = split_from_name(path.stem)
    where = ""
    for where, video, record in members_of(path, "database" if _is_whole(path) else None):
        annotations = record.get("annotations", []) if isinstance(record, dict) else None
        written = record.get("path", video) if isinstance(record, dict) else None
        name = safe_name(written) if isinstance(written, str) else None
        if not isinstance(annotations, list) or name is None:
            raise DataError(
                f"{where} is not a video with annotations",
                allowed=f'{{"annotations": [{_ALLOWED}], "subset": "training"}}',
            )
        split = split_from_word(where, record.get("subset")) or of_name
        duration_s = _duration_s(where, record.get("duration", record.get("duration_second")))
        file = str(name) if "path" in record else _find(str(name), files)
        counts.update([] if annotations else [UNLABELLED])
        for annotation in annotations:
            label, part = _label(where, annotation), None
            counts[SCORED] += is_number(annotation.get(SCORE))
            if "segment" in annotation:
                part = _part(where, annotation["segment"], duration_s, counts)
                if part is None:
                    continue
            yield Row(where, file, {target: label}, split, interval=part)
    if not where:
        raise DataError(f"{path.name} has no videos", allowed='{"database": {…}}', fix="get the file again")


def write_activitynet(table: Table, destination: Path, writing: Writing) -> None:
    """Write the JSON of a table: one entry per video, or several if its parts are in different splits."""
    database: dict[str, dict[str, Any]] = {}
    names: dict[tuple[str, SplitName | None], str] = {}
    files = MediaFiles(table.root, VIDEO_FOLDERS)
    for sample in table.samples:
        key = sample.name, sample.split
        if key not in names:
            video = Path(sample.name).stem.removeprefix("v_")
            names[key] = next(
                name
                for name in chain((video, sample.name), (f"{sample.name} {n}" for n in count(2)))
                if name not in database
            )
            entry = database[names[key]] = {"subset": SUBSETS[sample.split]} if sample.split else {}
            if _find(names[key], files) != sample.name:
                entry["path"] = sample.name
            entry["annotations"] = []
        (target,) = sample.labels
        segment = {"segment": [sample.interval.start, sample.interval.end]} if sample.interval else {}
        is_scored = writing.model and _SCORE.fullmatch(sample.extra.get(SCORE, ""))
        score = {"score": float(sample.extra[SCORE])} if is_scored else {}
        database[names[key]]["annotations"] += [
            segment | {"label": label} | score for label in sample.labels_of(target)
        ]
    content = {"version": "VERSION 1.3", "taxonomy": [], "database": database}
    write_new_file(destination, json.dumps(content, ensure_ascii=False, indent=1).encode())


def _find(video: str, files: MediaFiles) -> str:
    """Find the file of a video, relative to the root; if it does not exist, return its expected name."""
    folder, name = posixpath.split(video)
    return files.find(f"{video}.mp4") or files.find(posixpath.join(folder, f"v_{name}.mp4")) or f"v_{name}.mp4"


def _label(where: str, annotation: object) -> str:
    label = annotation.get("label") if isinstance(annotation, dict) else None
    if not isinstance(label, str) or not label_from_text(label):
        raise DataError(f"{where} has an annotation without a label", allowed=_ALLOWED)
    return label_from_text(label)


def _part(where: str, segment: object, duration_s: float, counts: Counter[str]) -> Interval | None:
    """Read the part of a video that a segment covers, or return None if it has no length or begins after the end."""
    start, end = segment if isinstance(segment, list) and len(segment) == 2 else ("", "")
    if not (_is_time(start) and _is_time(end)):
        raise DataError(f"{where} has the segment {str(segment)[:80]}", allowed=_ALLOWED)
    if start >= duration_s:
        counts[BEHIND] += 1
    elif end <= max(start, 0):
        counts[EMPTY] += 1
    else:
        counts[CUT] += start < 0 or end > duration_s
        return Interval(float(max(start, 0)), float(min(end, duration_s)))
    return None


def _duration_s(where: str, value: object) -> float:
    """Read the length of a video; infinite if it is not given."""
    if value is None:
        return math.inf
    if not _is_time(value) or value <= 0:
        raise DataError(f"{where} has the duration {str(value)[:80]}", allowed="seconds, more than 0")
    return float(value)


def _is_time(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= MAX_S


def _is_list(path: Path) -> bool:
    return path.suffix.lower() == ".json" and any(
        head_has(path, words) for words in (("database", "annotations"), ("duration_second", "annotations", "segment"))
    )


def _is_whole(path: Path) -> bool:
    return head_has(path, ("database",))


FORMAT = Format(
    "activitynet",
    "ActivityNet",
    ("action", "risk"),
    "activity_net.v1-3.min.json; JSON with a database of videos",
    is_activitynet,
    read_activitynet,
    write=write_activitynet,
    carries=frozenset({"clips", "intervals", "multi-label", "splits"}),
    suffix=".json",
)
