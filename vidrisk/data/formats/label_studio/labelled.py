"""Converts Label Studio's tasks to statements on files, on parts of videos, and on rectangles on photos."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from vidrisk.data.columns import PATH
from vidrisk.data.formats.addressed_files import AddressedFiles, file_name_of
from vidrisk.data.formats.format import Reading
from vidrisk.data.formats.json_lists import is_number
from vidrisk.data.formats.label_studio.results import Result, Task, box_of_value, names_in
from vidrisk.data.formats.label_studio.times import (
    MAX_SECONDS,
    RATE_NAMES,
    Clock,
    clock_of,
    frames_of_ranges,
    lifespans,
)
from vidrisk.data.formats.statements import Statement
from vidrisk.decode.cuts import Box
from vidrisk.frames import Interval
from vidrisk.frames.media import kind_from_suffix
from vidrisk.frames.photos import photo_size
from vidrisk.runtimes.contract.errors import UnreadableError

VALUES = {"number": "number", "rating": "rating", "datetime": "datetime"}
RECTANGLES = ("rectanglelabels", "rectangle", "labels")


@dataclass(eq=False)
class Part:
    """Labels and fields of a file or of a part of it."""

    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)

    def add(self, control: str, names: tuple[str, ...] | None) -> None:
        if names is not None:
            self.labels[control] = (*self.labels.get(control, ()), *names)


@dataclass(eq=False)
class LabelledTasks:
    """Converter of tasks, with the controls that label them and counts for notes."""

    reading: Reading
    media: AddressedFiles
    counts: Counter[str] = field(default_factory=Counter)
    controls: dict[str, int] = field(default_factory=dict)

    def statements(self, task: Task) -> Iterator[Statement]:
        """Yield the statements of a task on its file and on parts of it."""
        name, data = self._file_of(task)
        if not name:
            return
        whole, parts = self._parts(task, is_photo=kind_from_suffix(name) == "image")
        if not whole.labels and not parts:
            self.counts["tasks without a label left out"] += 1
        if whole.labels:
            yield Statement(task.where, name, whole.labels, {**data, **whole.fields})
        of_all = {} if whole.labels else whole.fields
        for interval, part in parts.items():
            yield Statement(task.where, name, part.labels, {**data, **of_all, **part.fields}, interval)

    def boxes(self, task: Task) -> Iterator[tuple[Statement, Box]]:
        """Yield the statements of a task on rectangles on its photo, each with its box in pixels."""
        name, data = self._file_of(task)
        size = self._size_of(name) if name else None
        if size is None:
            return
        regions: dict[str, list[Result]] = {}
        for number, result in enumerate(task.results):
            regions.setdefault(result.region or f"result {number}", []).append(result)
        for results in regions.values():
            box = next(
                (box for result in results if result.kind in RECTANGLES and (box := box_of_value(result.value, size))),
                None,
            )
            if box is None:
                self.counts["results without a rectangle left out"] += len(results)
                continue
            part = Part()
            for result in results:
                if result.kind != "rectangle":
                    self._add(result, f"{task.where}, control {result.control[:40]!r}", [part], part)
            yield Statement(task.where, name, part.labels, {**data, **part.fields}), box

    def _file_of(self, task: Task) -> tuple[str, dict[str, str]]:
        """Find the file of a task, and return it with the task's other data.

        For a file that does not exist, return a name for the list of absent files, or '' if the task has no file.
        """
        key, written = self._media_of(task)
        if not written:
            self.counts["tasks without a clip or a photo left out"] += 1
            return "", {}
        found = self.media.find(written, is_renamed=True) or (
            task.upload and self.media.find(task.upload, is_renamed=True)
        )
        return found or file_name_of(written), {
            column: _text(value)
            for column, value in task.data.items()
            if column != key and column.casefold() not in RATE_NAMES
        }

    def _size_of(self, name: str) -> tuple[int, int] | None:
        """Return width and height of a photo, 0 if it does not exist, or None for a file without boxes to cut out."""
        if kind_from_suffix(name) != "image":
            self.counts["tasks of videos left out, because boxes are cut only from photos"] += 1
            return None
        found = self.media.files.find(name)
        try:
            return photo_size(self.media.root / found) if found else (0, 0)
        except UnreadableError:
            self.counts["photos that cannot be read left out"] += 1
            return None

    def _media_of(self, task: Task) -> tuple[str, str]:
        """Find the column and the address of the file of a task."""
        shown = {result.shown for result in task.results}
        names = {
            name: value
            for name, value in task.data.items()
            if isinstance(value, str) and kind_from_suffix(file_name_of(value)) is not None
        }
        best = min(names, key=lambda name: (name not in shown, name.casefold() not in PATH), default="")
        return best, names.get(best, "")

    def _parts(self, task: Task, *, is_photo: bool) -> tuple[Part, dict[Interval, Part]]:
        clock = clock_of(task.where, task.data, [result.value for result in task.results], self.reading.rate)
        whole, shapes = Part(), Part()
        parts: dict[Interval, Part] = {}
        of_region: dict[str, list[Interval]] = {}
        for result in task.results:
            where = f"{task.where}, control {result.control[:40]!r}"
            intervals = None if is_photo else self._intervals(result, where, clock)
            if intervals is None:
                continue
            names = self._names(result, where)
            if result.region:
                of_region.setdefault(result.region, []).extend(intervals)
            for interval in dict.fromkeys(intervals):
                parts.setdefault(interval, Part()).add(result.control, names)
        for result in task.results:
            where = f"{task.where}, control {result.control[:40]!r}"
            belongs = [parts[interval] for interval in of_region.get(result.region, ())] if result.region else []
            self._add(result, where, belongs or [whole], shapes if is_photo else None)
        if shapes.labels and not whole.labels:
            self.counts["photos without a choice (the labels of their shapes are used)"] += 1
            whole.labels.update(shapes.labels)
        return whole, parts

    def _intervals(self, result: Result, where: str, clock: Clock) -> list[Interval] | None:
        """Return the parts of a video that a result labels, or None if it is not about parts."""
        value = result.value
        frames: list[tuple[int, int]]
        if result.kind == "timelinelabels":
            frames = list(frames_of_ranges(value, where, self.counts))
        elif result.kind == "videorectangle":
            frames = lifespans(value, where, clock.frames, self.counts)
        elif result.kind.endswith("labels") and all(is_number(value.get(end)) for end in ("start", "end")):
            start_s, end_s = float(value["start"]), float(value["end"])
            found = clock.seconds(start_s, end_s, self.counts) if 0 <= start_s < end_s <= MAX_SECONDS else None
            return [found] if found else []
        else:
            return None
        return [found for first, last in frames if (found := clock.interval(first, last, self.counts))]

    def _names(self, result: Result, where: str) -> tuple[str, ...] | None:
        """Return the labels of a result, or None if none was chosen."""
        value = result.value.get(result.kind, result.value.get("labels"))
        if value is None:
            return None
        self.controls[result.control] = min(result.suits, self.controls.get(result.control, result.suits))
        return names_in(value, where)

    def _add(self, result: Result, where: str, parts: list[Part], shapes: Part | None) -> None:
        """Add a result that is not a part of a video: choices, texts, numbers, and shapes on a photo."""
        value = result.value
        if result.kind == "choices":
            for part in parts:
                part.add(result.control, self._names(result, where))
        elif result.kind == "textarea":
            texts = value.get("text")
            text = "\n".join(map(str, texts)) if isinstance(texts, list) else str(texts or "")
            for part in parts:
                part.fields[result.control] = text
        elif result.kind in VALUES:
            for part in parts:
                part.fields[result.control] = _text(value.get(VALUES[result.kind]))
        elif result.kind.endswith("labels") and shapes is not None:
            shapes.add(result.control, self._names(result, where) or None)  # a shape may have no label yet
        elif result.kind == "labels" and result.region:
            for part in parts:
                part.add(result.control, self._names(result, where))
        elif result.kind not in ("timelinelabels", "videorectangle"):
            self.counts[f"results of the kind {result.kind[:40]} left out"] += 1


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False)
