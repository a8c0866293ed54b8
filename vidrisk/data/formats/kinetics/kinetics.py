"""Kinetics (Kay et al. 2017, https://arxiv.org/abs/1705.06950): lists of clips of YouTube videos, as CSV or JSON.

    train.csv, validate.csv, test.csv     label,youtube_id,time_start,time_end,split
                                          air drumming,--nQbRBEz2s,104,114,train
    train.json                            {"--nQbRBEz2s": {"annotations": {"label": …, "segment": [104.0, 114.0]},
                                          "subset": …}, …}
    train/air drumming/--nQbRBEz2s_000104_000114.mp4

Clips lie in a folder per split, per class, both or neither. If a whole video exists, as ``--nQbRBEz2s.mp4``, the part
in the row is labelled. Many videos of the lists are no longer available: they are absent. Further columns of the CSV
are kept. In a list that vidrisk writes, ``youtube_id`` is the path with suffix of a file with another name; if it is
labelled as a whole, it has no times.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from vidrisk.data.formats.clips import (
    first_lines,
    head_has,
    home_of,
    is_manifest,
    lists_in,
    settle_splits,
    split_from_word,
)
from vidrisk.data.formats.format import Format, Listed, Reading, Writing, format_counts
from vidrisk.data.formats.json_lists import members_of
from vidrisk.data.formats.kinetics.clip_files import BASES, KineticsFiles, clip_name, video_and_part
from vidrisk.data.formats.lists import cells_of
from vidrisk.data.formats.media_files import Homes, MediaFiles, safe_name
from vidrisk.data.formats.rows import Row, samples_from_rows
from vidrisk.data.io import write_new_file
from vidrisk.data.table import Sample, Table, split_from_name
from vidrisk.data.text import label_from_text, trim_text
from vidrisk.frames import Interval
from vidrisk.frames.media import kind_from_suffix, name_of
from vidrisk.runtimes.contract.errors import DataError

LABEL, VIDEO, START, END, SPLIT = COLUMNS = ("label", "youtube_id", "time_start", "time_end", "split")
UNLABELLED, WHOLE = "rows without a label left out", "whole videos with a labelled part"
MAX_S = 10**6  # times have six digits in the names of clips
_LIST = re.compile(r"(kinetics[\w-]*[_-])?(train|val|validate|validation|test)\.(csv|json)", re.IGNORECASE)
_ALLOWED = ",".join(COLUMNS)


def is_kinetics(source: Path) -> bool:
    """Return whether a file is a list, or a folder has one, judging by its header or the names in its JSON."""
    return any(map(_is_list, lists_in(source, _LIST)))


def read_kinetics(source: Path, reading: Reading) -> Listed:
    """Read one list, or the lists of a folder; CSV if a list exists in both forms."""
    named = [path for path in lists_in(source, _LIST) if path == source or _is_list(path) or not is_manifest(path)]
    paths = {path.with_suffix(""): path for path in reversed(named)}  # a CSV goes before a JSON with the same stem
    if not paths:
        raise DataError(
            f"{name_of(source.name)} has no Kinetics list",
            allowed=f"train.csv, validate.csv, with {_ALLOWED}",
            fix="name the list, or unpack the annotations there",
        )
    files = KineticsFiles(Homes.of(home_of(source), reading.media))
    counts: Counter[str] = Counter()
    rows = chain.from_iterable(rows_from_list(path, files, reading.target, counts) for _, path in sorted(paths.items()))
    found = samples_from_rows(rows, MediaFiles(files.homes.root), multi_label=bool(reading.multi_label))
    samples, unsplit = settle_splits(found.samples)
    return Listed(
        files.homes.root,
        samples,
        found.absent,
        files.homes.places(BASES[:3]),
        {},
        (*format_counts(counts), *found.notes, *unsplit),
    )


def rows_from_list(path: Path, files: KineticsFiles, target: str, counts: Counter[str]) -> Iterator[Row]:
    """Read a list, and find its clips; count what is left out, and what has a part.

    Raises:
        DataError: an empty list, a missing column, an id that cannot be the name of a file, invalid times, an unknown
            split.
    """
    of_name = split_from_name(path.stem)
    where = ""
    for where, cells in _records_of_json(path) if path.suffix.lower() == ".json" else _records_of_csv(path):
        video, label = str(cells.pop(VIDEO, "")).strip(), label_from_text(str(cells.pop(LABEL, None) or ""))
        if safe_name(video) is None or video.endswith("/"):
            raise DataError(
                f"{where}: the {VIDEO} {video[:80]!r}", allowed="the id of a video, or a path below the clips' folder"
            )
        part = _part(where, cells.pop(START, ""), cells.pop(END, ""))
        split = split_from_word(where, cells.pop(SPLIT, "")) or of_name
        if not label:
            counts[UNLABELLED] += 1
            continue
        found = files.find(video, part, label, split)
        extra = {name: str(value) for name, value in cells.items() if name and value}
        if found is None:
            name = video if kind_from_suffix(video) == "video" else f"{clip_name(video, part) or video}.mp4"
            yield Row(where, name, {target: label}, split, interval=part if name == video else None)
            continue
        counts.update([WHOLE] if found.interval else [])
        yield Row(where, found.name, {target: label}, split, interval=found.interval, extra=extra)
    if not where:
        raise DataError(f"{path.name} lists no video", allowed=_ALLOWED, fix="get the file again")


def write_kinetics(table: Table, destination: Path, writing: Writing) -> None:
    """Write the CSV of a table; clips with Kinetics names are written by id and times."""
    files = KineticsFiles(Homes.of(table.root, None))
    extra = sorted({name for sample in table.samples for name in sample.extra})
    clash = next((name for name in extra if name in COLUMNS), None)
    if clash:
        raise DataError(f"the extra column {clash!r} has the name of a Kinetics column", fix="rename it")
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*COLUMNS, *extra))
    for sample in table.samples:
        (target,) = sample.labels
        label = sample.labels_of(target)[0]
        video, part = _name_clip(sample, label, files)
        times = ("", "") if part is None else (_number(part.start), _number(part.end))
        writer.writerow((label, video, *times, sample.split or "", *(sample.extra.get(name, "") for name in extra)))
    write_new_file(destination, text.getvalue().encode())


def _name_clip(sample: Sample, label: str, files: KineticsFiles) -> tuple[str, Interval | None]:
    """Return the id and the times by which a sample's file is found again, or its path if there are none."""
    video, part = video_and_part(sample.name) if sample.interval is None else (Path(sample.name).stem, sample.interval)
    if part is not None and files.find(video, part, label, sample.split) == (sample.name, sample.interval):
        return video, part
    return sample.name, sample.interval


def _records_of_csv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    rows = cells_of(path)
    where, header = next(rows, (path.name, []))
    names = [trim_text(name) for name in header]
    lacking = [name for name in (VIDEO, START, END) if name not in names]
    if lacking or len(set(names)) < len(names):
        what = f"no column {lacking[0]}" if lacking else "a column twice"
        raise DataError(f"{where} has {what}", allowed=_ALLOWED, fix="get the list again, or name another format")
    for where, cells in rows:
        if len(cells) > len(names):
            raise DataError(
                f"{where} has {len(cells)} cells, but the header {len(names)}",
                allowed=_ALLOWED,
                fix="put labels with a comma into quotes",
            )
        yield where, dict(zip(names, cells, strict=False))


def _records_of_json(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for where, video, value in members_of(path):
        annotations = value.get("annotations", {}) if isinstance(value, dict) else None
        if not isinstance(annotations, dict) or not isinstance(annotations.get("label", ""), str):
            raise DataError(
                f"{where} has no Kinetics annotations",
                allowed='{"annotations": {"label": …, "segment": [0.0, 10.0]}, "subset": "train"}',
            )
        segment = annotations.get("segment", ["", ""])
        if not isinstance(segment, list) or len(segment) != 2:
            raise DataError(f"{where} has the segment {str(segment)[:80]}", allowed="[start, end] in seconds")
        yield (
            where,
            {
                VIDEO: video,
                LABEL: annotations.get("label"),
                START: segment[0],
                END: segment[1],
                SPLIT: value.get("subset"),
            },
        )


def _part(where: str, start: object, end: object) -> Interval | None:
    texts = [trim_text(str(value)) for value in (start, end)]
    if not any(texts):
        return None
    try:
        times = [float(text) for text in texts]
    except ValueError:
        times = [math.nan, math.nan]
    if not 0 <= times[0] < times[1] < MAX_S:
        raise DataError(
            f"{where}: the times {texts[0][:40]!r} and {texts[1][:40]!r}",
            allowed=f"seconds from 0 to {MAX_S}, the end later",
        )
    return Interval(times[0], times[1])


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _is_list(path: Path) -> bool:
    if path.suffix.lower() == ".json":
        return head_has(path, ("annotations", "segment", "label", "subset")) and not head_has(path, ("database",))
    header = next(iter(first_lines(path)), "") if path.suffix.lower() == ".csv" else ""
    return {VIDEO, START, END} <= {trim_text(name).strip('"') for name in header.split(",")}


FORMAT = Format(
    "kinetics",
    "Kinetics",
    ("action", "risk"),
    f"train.csv with {_ALLOWED}; train.json",
    is_kinetics,
    read_kinetics,
    write=write_kinetics,
    carries=frozenset({"clips", "intervals", "splits", "extra"}),
    suffix=".csv",
)
