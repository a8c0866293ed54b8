"""CVAT for video 1.1 (https://docs.cvat.ai): every track is an interval of frames with its label.

    annotations.xml    <source>cam7.mp4</source> …
                       <track label="fall"><box frame="10" …/><box frame="40" outside="1" …/></track>

Frames are those of the video itself, even if a task uses only every n-th of them: a track covers all frames up to the
next one that is used. It ends before the frame where it is ``outside``, or with its last one, and may begin again.
Tracks within the track of a skeleton are its joints. An attribute with the name of a target is that target, and splits
the track where it changes; if it is the class, the label of the track is not used.

The output is a folder with one file for each video, because CVAT has one task for each. A video without intervals has
one box with the attribute ``whole_video``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element

from vidrisk.data.formats.addressed_files import files_near
from vidrisk.data.formats.cvat.elements import (
    ANNOTATIONS,
    SHAPES,
    attribute_of,
    attributes_of,
    elements_of,
    is_exported,
    is_label,
    labels_and_fields,
    layout_of,
    whole_number_of,
)
from vidrisk.data.formats.cvat.video_writer import WHOLE, write_cvat_video
from vidrisk.data.formats.format import Format, Listed, Reading, format_counts
from vidrisk.data.formats.statements import TARGETS_BY_NAME, Statement, samples_from_statements
from vidrisk.files.walk import list_folder
from vidrisk.frames import Interval
from vidrisk.frames.media import kind_from_suffix, name_of
from vidrisk.runtimes.contract.errors import DataError

MAX_FILES_SNIFFED = 8


def is_cvat_video(source: Path) -> bool:
    """Return whether a file is an export of video, or a folder has one."""
    return any(layout_of(path) == "video" for path in _files_of(source)[:MAX_FILES_SNIFFED])


def read_cvat_video(source: Path, reading: Reading) -> Listed:
    """Read every track as an interval of its video."""
    files = [path for path in _files_of(source) if path == source or layout_of(path) == "video"]
    if not files:
        raise DataError(
            f"{name_of(source.name)} has no CVAT for video 1.1 file", allowed=f"{ANNOTATIONS}, or one for each task"
        )
    counts: Counter[str] = Counter()
    statements = [one for path in files for one in _Tracks(path, reading, counts).statements()]
    names = dict.fromkeys(one.name for one in statements)
    media = files_near(list(names), source if source.is_dir() else source.parent, reading.media)
    statements = [replace(one, name=media.find(one.name) or media.absent_name(one.name)) for one in statements]
    found = samples_from_statements(statements, TARGETS_BY_NAME, media.files, reading, ("video",))
    return Listed(
        media.root, found.samples, found.absent, media.looked_in, notes=(*found.notes, *format_counts(counts))
    )


def _files_of(source: Path) -> list[Path]:
    if not source.is_dir():
        return [source]
    whole = source / ANNOTATIONS
    if whole.is_file():
        return [whole]
    return [Path(entry.path) for entry in list_folder(source).files if entry.name.lower().endswith(".xml")]


class _Task(NamedTuple):
    """A video of an export: its name, its subset, and which of its frames are used."""

    video: str
    subset: str
    step: int
    last: int | None


class _Shape(NamedTuple):
    frame: int
    is_outside: bool
    attributes: dict[str, str]


@dataclass(eq=False)
class _Tracks:
    """Tracks of one file, and counts for notes."""

    path: Path
    reading: Reading
    counts: Counter[str]
    tasks: dict[str, _Task] = field(default_factory=dict)
    exported: bool = False

    def statements(self) -> Iterator[Statement]:
        for where, element in elements_of(self.path, ("meta", "track", "tag", "image")):
            if element.tag == "meta":
                self.tasks, self.exported = tasks_of_meta(element, where), is_exported(element)
            elif element.tag == "track":
                if is_label(element, self.counts, exported=self.exported):
                    yield from self._intervals(element, where)
            else:
                self.counts[f"<{element.tag}> of single frames left out"] += 1

    def _intervals(self, track: Element, where: str) -> Iterator[Statement]:
        label = attribute_of(track, "label", where)
        task = self._task_of(track, where)
        shapes = shapes_of(track, where)
        joints = len(track.findall("track"))
        self.counts["joints of skeletons left out"] += joints
        parts = list(self._parts(label, shapes, task))
        if not parts:
            self.counts["tracks that are never visible left out"] += 1
        for interval, labels, fields in parts:
            is_whole = fields.pop(WHOLE, "").strip().casefold() == "true"
            yield Statement(
                where, task.video, labels, fields, None if is_whole else interval, track.get("subset") or task.subset
            )

    def _parts(
        self, label: str, shapes: list[_Shape], task: _Task
    ) -> Iterator[tuple[Interval, dict[str, tuple[str, ...]], dict[str, str]]]:
        """Split a track where it is not visible, and where its labels change; it ends at ``stop_frame``."""
        end = None if task.last is None else task.last + 1
        behind = [shape for shape in shapes if end is not None and shape.frame >= end]
        self.counts["shapes behind stop_frame left out"] += sum(not shape.is_outside for shape in behind)
        shapes = shapes[: len(shapes) - len(behind)]  # they are sorted
        start = 0
        labels: dict[str, tuple[str, ...]] | None = None  # None while it is not visible
        fields: dict[str, str] = {}
        for shape in shapes:
            of_shape, more = labels_and_fields(label, shape.attributes, self.reading)
            now = None if shape.is_outside else of_shape
            if now == labels:
                if now is not None and more != fields:
                    self.counts["attributes that change within a track (the first one is used)"] += 1
                continue
            if labels is not None:
                yield Interval(start, shape.frame, "frame"), labels, fields
            start, labels, fields = shape.frame, now, more
        if labels is not None:
            until = shapes[-1].frame + task.step
            if end is not None:
                until = end if behind else min(until, end)
            yield Interval(start, until, "frame"), labels, fields

    def _task_of(self, track: Element, where: str) -> _Task:
        number = track.get("task_id", "")
        task = self.tasks.get(number) or (next(iter(self.tasks.values())) if len(self.tasks) == 1 else None)
        if task is None or not task.video:
            raise DataError(
                f"{where} does not belong to a video in {self.path.name}",
                allowed="<source> in <meta>, as in exports of single tasks",
                fix="export each task of the project",
            )
        return task


def tasks_of_meta(meta: Element, where: str) -> dict[str, _Task]:
    """Read the tasks of an export, by id.

    Raises:
        DataError: frames that are not numbers.
    """
    found: dict[str, _Task] = {}
    for task in (*meta.findall("task"), *meta.findall("job"), *meta.findall("project/tasks/task")):
        written = task.findtext("source") or meta.findtext("source") or ""
        if not written and (name := task.findtext("name") or ""):
            written = name if kind_from_suffix(name) else ""
        step = re.search(r"step\s*=\s*([0-9]+)", task.findtext("frame_filter") or "")
        last = (task.findtext("stop_frame") or "").strip()
        found[(task.findtext("id") or "").strip()] = _Task(
            written.strip(),
            (task.findtext("subset") or "").strip(),
            max(1, whole_number_of(step[1], f"{where}: the step of frames")) if step else 1,
            whole_number_of(last, f"{where}: stop_frame") if last else None,
        )
    if not found:
        found[""] = _Task((meta.findtext("source") or "").strip(), "", 1, None)
    return found


def shapes_of(track: Element, where: str) -> list[_Shape]:
    """Return the shapes of a track by frame, or those of its joints if it has no shapes of its own.

    Raises:
        DataError: a frame that is not a number.
    """

    def read(shape: Element) -> _Shape:
        frame = whole_number_of(attribute_of(shape, "frame", where), f"{where}: frame")
        return _Shape(frame, shape.get("outside", "0").strip().casefold() in ("1", "true"), attributes_of(shape, where))

    own = {shape.frame: shape for shape in map(read, (child for child in track if child.tag in SHAPES))}
    if not own:
        for joint in track.findall("track"):
            for shape in shapes_of(joint, where):
                known = own.get(shape.frame, shape)
                own[shape.frame] = _Shape(shape.frame, known.is_outside and shape.is_outside, {})
    return [own[frame] for frame in sorted(own)]


FORMAT = Format(
    "cvat-video",
    "CVAT for video 1.1",
    ("action", "risk", "action+risk"),
    "annotations.xml with <track>",
    is_cvat_video,
    read_cvat_video,
    write=write_cvat_video,
    carries=frozenset(
        {"clips", "frame intervals", "multi-label", "no label", "several targets", "splits", "groups", "texts", "extra"}
    ),
)
