"""Label Studio's exports JSON and JSON-MIN (https://labelstud.io): choices of files, and labels of parts of videos.

    [{"id": 1, "data": {"video": "/data/local-files/?d=cam7.mp4"}, "annotations": [{"result": [
        {"id": "a", "from_name": "action", "to_name": "video", "type": "timelinelabels",
         "value": {"ranges": [{"start": 1, "end": 48}], "timelinelabels": ["fall"]}}]}]}]

Of several annotations of a task the last one counts that was not cancelled. A control with the name of a target (``columns``) is
that target. Data of a task, texts and numbers are columns; those of a region belong to its part of the video.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidrisk.data.columns import PATH
from vidrisk.data.formats.addressed_files import AddressedFiles, file_name_of
from vidrisk.data.formats.format import Format, Listed, Reading, counted
from vidrisk.data.formats.json_lists import is_number
from vidrisk.data.formats.label_studio.results import Result, Task, names_in, tasks_of
from vidrisk.data.formats.label_studio.tasks import write_label_studio
from vidrisk.data.formats.label_studio.times import MAX_SECONDS, RATE_NAMES, Clock, clock_of, frames_of_ranges, lifespans
from vidrisk.data.formats.lists import head_of
from vidrisk.data.formats.rows import samples_from_rows
from vidrisk.data.formats.tool_rows import Said, rows_from_said, targets_of_controls
from vidrisk.frames import Interval
from vidrisk.frames.media import kind_from_suffix

SNIFFED_BYTES = 2**16
VALUES = {"number": "number", "rating": "rating", "datetime": "datetime"}
OVERLAPS = "timeline labels that overlap others of their video"


def is_label_studio(source: Path) -> bool:
    """Tell whether a file is an export, by its first record."""
    if source.suffix.lower() != ".json":
        return False
    head = head_of(source, SNIFFED_BYTES).decode("utf-8-sig", "ignore")
    full = '"annotations"' in head and '"result"' in head and ('"from_name"' in head or '"data"' in head)
    flat = '"annotation_id"' in head and '"annotator"' in head
    return head.lstrip().startswith("[") and (full or flat)


def read_label_studio(path: Path, reading: Reading) -> Listed:
    """Read every task that somebody has labelled."""
    labelled = _Labelled(reading, AddressedFiles(path.parent, reading.media))
    said = [one for task in tasks_of(path, labelled.counts) for one in labelled.said(task)]
    targets, taken = targets_of_controls(labelled.controls, reading, "the controls")
    rows, notes = rows_from_said(said, targets)
    media = labelled.media
    found = samples_from_rows(rows, media.files, kinds=("video", "image"), multi_label=reading.multi_label)
    return Listed(media.root, found.samples, found.absent, media.looked_in,
                  notes=(*found.notes, *taken, *notes, *counted(labelled.counts)))


@dataclass(eq=False)
class _Part:
    """What is said of a file or of a part of it."""

    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)

    def add(self, control: str, names: tuple[str, ...] | None) -> None:
        if names is not None:
            self.labels[control] = (*self.labels.get(control, ()), *names)


@dataclass(eq=False)
class _Labelled:
    """Tasks as they are read, the controls that label them, and what there is to note of them."""

    reading: Reading
    media: AddressedFiles
    counts: Counter[str] = field(default_factory=Counter)
    controls: dict[str, int] = field(default_factory=dict)

    def said(self, task: Task) -> Iterator[Said]:
        key, written = self._media_of(task)
        if not written:
            self.counts["tasks without a clip or a photo left out"] += 1
            return
        found = self.media.find(written, is_renamed=True) or (task.upload and self.media.find(task.upload, is_renamed=True))
        name = found or file_name_of(written)
        data = {column: _text(value) for column, value in task.data.items()
                if column != key and column.casefold() not in RATE_NAMES}
        whole, parts = self._parts(task, is_photo=kind_from_suffix(name) == "image")
        if not whole.labels and not parts:
            self.counts["tasks without a label left out"] += 1
        if whole.labels:
            yield Said(task.where, name, whole.labels, {**data, **whole.fields})
        of_all = {} if whole.labels else whole.fields
        for interval, part in parts.items():
            yield Said(task.where, name, part.labels, {**data, **of_all, **part.fields}, interval)

    def _media_of(self, task: Task) -> tuple[str, str]:
        """The column and the address of the file that a task shows."""
        shown = {result.shown for result in task.results}
        names = {name: value for name, value in task.data.items()
                 if isinstance(value, str) and kind_from_suffix(file_name_of(value)) is not None}
        best = min(names, key=lambda name: (name not in shown, name.casefold() not in PATH), default="")
        return best, names.get(best, "")

    def _parts(self, task: Task, *, is_photo: bool) -> tuple[_Part, dict[Interval, _Part]]:
        clock = clock_of(task.where, task.data, [result.value for result in task.results], self.reading.rate)
        whole, shapes = _Part(), _Part()
        parts: dict[Interval, _Part] = {}
        of_region: dict[str, list[Interval]] = {}
        lines: dict[str, list[Interval]] = {}
        for result in task.results:
            where = f"{task.where}, control {result.control[:40]!r}"
            intervals = None if is_photo else self._intervals(result, where, clock)
            if intervals is None:
                continue
            names = self._names(result, where)
            if result.region:
                of_region.setdefault(result.region, []).extend(intervals)
            for interval in dict.fromkeys(intervals):
                parts.setdefault(interval, _Part()).add(result.control, names)
            if result.kind == "timelinelabels":
                lines.setdefault(result.control, []).extend(intervals)
        self.counts[OVERLAPS] += sum(map(_overlaps, lines.values()))
        for result in task.results:
            where = f"{task.where}, control {result.control[:40]!r}"
            belongs = [parts[interval] for interval in of_region.get(result.region, ())] if result.region else []
            self._add(result, where, belongs or [whole], shapes if is_photo else None)
        if shapes.labels and not whole.labels:
            self.counts["photos without a choice, whose labels are those of their shapes"] += 1
            whole.labels.update(shapes.labels)
        return whole, parts

    def _intervals(self, result: Result, where: str, clock: Clock) -> list[Interval] | None:
        """The parts of a video that a result labels; None where it labels none."""
        value = result.value
        frames: list[tuple[int, int]]
        if result.kind == "timelinelabels":
            frames = list(frames_of_ranges(value, where))
        elif result.kind == "videorectangle":
            frames = lifespans(value, where, clock.frames)
        elif result.kind.endswith("labels") and all(is_number(value.get(end)) for end in ("start", "end")):
            start_s, end_s = float(value["start"]), float(value["end"])
            found = clock.seconds(start_s, end_s, self.counts) if 0 <= start_s < end_s <= MAX_SECONDS else None
            return [found] if found else []
        else:
            return None
        return [found for first, last in frames if (found := clock.interval(first, last, self.counts))]

    def _names(self, result: Result, where: str) -> tuple[str, ...] | None:
        """The labels of a result; None where nobody has chosen one."""
        value = result.value.get(result.kind, result.value.get("labels"))
        if value is None:
            return None
        self.controls[result.control] = min(result.suits, self.controls.get(result.control, result.suits))
        return names_in(value, where)

    def _add(self, result: Result, where: str, parts: list[_Part], shapes: _Part | None) -> None:
        """Add what is no part of a video: choices, texts, numbers, and shapes on a photo."""
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
            shapes.add(result.control, self._names(result, where))
        elif result.kind == "labels" and result.region:
            for part in parts:
                part.add(result.control, self._names(result, where))
        elif result.kind not in ("timelinelabels", "videorectangle"):
            self.counts[f"results of the kind {result.kind[:40]} left out"] += 1


def _overlaps(intervals: list[Interval]) -> int:
    """How many of some intervals overlap one that begins before them, or with them and ends elsewhere."""
    count, end = 0, -1.0
    for interval in sorted(set(intervals), key=lambda interval: (interval.start, interval.end)):
        count += interval.start < end
        end = max(end, interval.end)
    return count


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False)


FORMAT = Format(
    "label-studio", "Label Studio", ("action", "risk", "action+risk"), "an export as JSON or JSON-MIN", is_label_studio,
    read_label_studio, options=frozenset({"rate"}), write=write_label_studio, suffix=".json",
    carries=frozenset({"clips", "photos", "intervals", "multi-label", "no label", "several targets", "splits", "groups", "texts",
                       "extra"}))
