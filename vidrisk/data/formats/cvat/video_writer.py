"""Writes a table as files of CVAT for video 1.1: one for each video, to be uploaded to its task."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from vidrisk.data.formats.copies import new_folder
from vidrisk.data.formats.cvat.document import (
    LabelsUsed,
    attributes_text,
    document,
    quote_value,
    text_of,
    value_from_labels,
)
from vidrisk.data.formats.fields import fields_of_sample
from vidrisk.data.formats.format import Writing
from vidrisk.data.io import LABEL_COLUMNS
from vidrisk.data.table import Sample, Table, main_target
from vidrisk.runtimes.contract.choices import LabelTask

WHOLE = "whole_video"
LABEL_OF_ATTRIBUTES = "video"  # label of a track that only has attributes
# in a corner, because the size of the video is unknown
BOX = 'occluded="0" keyframe="1" xtl="0" ytl="0" xbr="10" ybr="10" z_order="0"'


def write_cvat_video(table: Table, destination: Path, writing: Writing) -> None:
    """Write a folder with a file for each video; its tracks are boxes in a corner.

    Raises:
        DataError: a column with a reserved name, a character that XML cannot represent, or a disk that is full.
    """
    videos: dict[str, list[Sample]] = {}
    for sample in table.samples:
        videos.setdefault(sample.name, []).append(sample)
    with new_folder(destination) as folder:
        for name, file in zip(videos, _file_names(videos), strict=True):
            (folder / file).write_bytes(_task(name, videos[name], table.task, writing))


def _file_names(videos: Iterable[str]) -> list[str]:
    """Name the files after their videos; number those with the same name in several folders."""
    counts: dict[str, int] = {}
    names = []
    for video in videos:
        stem = video.rpartition("/")[2]
        counts[stem.casefold()] = number = counts.get(stem.casefold(), 0) + 1
        names.append(f"{stem}.xml" if number == 1 else f"{stem}.{number}.xml")
    return (
        names
        if len({name.casefold() for name in names}) == len(names)
        else [f"{n}.{name}" for n, name in enumerate(names)]
    )


def _task(video: str, samples: Sequence[Sample], task: LabelTask, writing: Writing) -> bytes:
    splits = {sample.split for sample in samples}
    used = LabelsUsed()
    tracks: list[str] = []
    for sample in samples:
        attributes = _attributes(sample, task, writing, has_split=len(splits) > 1)
        for label in sample.labels_of(main_target(task)) or (LABEL_OF_ATTRIBUTES,):
            used.add(label, attributes)
            tracks.append(_track(len(tracks), label, sample, attributes, "auto" if writing.model else "manual"))
    (split, *others) = splits
    subset = f"<subset>{split}</subset>" if split and not others else ""
    meta = (
        f"<task><name>{text_of(video)}</name><mode>interpolation</mode>{subset}\n{used}</task>"
        f"<source>{text_of(video)}</source>"
    )
    return document(meta, tracks)


def _attributes(sample: Sample, task: LabelTask, writing: Writing, *, has_split: bool) -> dict[str, str]:
    main = main_target(task)
    attributes = {
        LABEL_COLUMNS[target]: value_from_labels(label) for target, label in sample.labels.items() if target != main
    }
    if not sample.labels_of(main):
        attributes[LABEL_COLUMNS[main]] = value_from_labels(sample.labels.get(main))
    attributes |= fields_of_sample(sample, without=(WHOLE,) if has_split else (WHOLE, "split"))
    if sample.interval is None:
        attributes[WHOLE] = "true"
    return attributes | ({"model": writing.model} if writing.model else {})


def _track(number: int, label: str, sample: Sample, attributes: dict[str, str], source: str) -> str:
    values = attributes_text(attributes)
    start, end = (int(sample.interval.start), int(sample.interval.end)) if sample.interval else (0, None)
    boxes = f'<box frame="{start}" outside="0" {BOX}>{values}</box>'
    if end is not None:
        boxes += f'<box frame="{end}" outside="1" {BOX}>{values}</box>'
    return f'<track id="{number}" label={quote_value(label)} source="{source}">{boxes}</track>'
