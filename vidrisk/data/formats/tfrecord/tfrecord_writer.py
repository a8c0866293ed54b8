"""Writes a table of photos as TFRecord files: shards of every split, and label maps beside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from vidrisk.data.formats.class_names import label_map_text
from vidrisk.data.formats.copies import new_folder
from vidrisk.data.formats.fields import fields_of_sample
from vidrisk.data.formats.format import Part, Writing
from vidrisk.data.formats.tfrecord.examples import Value, record_from_features
from vidrisk.data.io import LABEL_COLUMNS
from vidrisk.data.table import SPLITS, Sample, Table, main_target
from vidrisk.frames.media import MAX_PHOTO_BYTES

ENCODED = "image/encoded"
LABEL_MAP = "label_map.pbtxt"
SHARD_BYTES = 200 * 10**6
CARRIES: frozenset[Part] = frozenset(
    {"photos", "multi-label", "no label", "several targets", "splits", "groups", "label order", "texts", "extra"}
)
_FORMATS = {"jpg": "jpeg", "jpe": "jpeg", "jfif": "jpeg"}


def write_tfrecord(table: Table, destination: Path, writing: Writing) -> None:
    """Write shards of about 200 MB, with the photos unchanged.

    Classes of the main target are ``image/class/text`` and ``image/class/label``, numbered from 1; those of others are
    features with the names of a manifest's columns.
    """
    primary = main_target(table.task)
    orders = {target: table.labels_of(target) for target in table.target_names}
    splits = [
        (name or "data", [sample for sample in table.samples if sample.split == name]) for name in (*SPLITS, None)
    ]
    with new_folder(destination) as folder:
        for target, order in orders.items():
            if order and (target == primary or (target in table.label_order and target != "level")):
                name = LABEL_MAP if target == primary else f"{LABEL_COLUMNS[target]}_{LABEL_MAP}"
                (folder / name).write_text(label_map_text(order), encoding="utf-8")
        for name, samples in splits:
            shards = list(_shards(samples))
            for number, shard in enumerate(shards):
                with (folder / f"{name}.tfrecord-{number:05d}-of-{len(shards):05d}").open("wb") as file:
                    for sample in shard:
                        file.write(record_from_features(_features(sample, primary, orders.get(primary, ()))))


def _shards(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    shard: list[Sample] = []
    size = 0
    for sample in samples:
        shard.append(sample)
        size += min(sample.path.stat().st_size, MAX_PHOTO_BYTES)
        if size >= SHARD_BYTES:
            yield shard
            shard, size = [], 0
    if shard:
        yield shard


def _features(sample: Sample, primary: str, order: Sequence[str]) -> dict[str, Sequence[Value]]:
    suffix = sample.path.suffix.lower().removeprefix(".")
    features: dict[str, Sequence[Value]] = {
        ENCODED: [sample.path.read_bytes()],
        "image/format": [_FORMATS.get(suffix, suffix).encode()],
        "image/filename": [sample.name.encode()],
    }
    for target in sample.labels:
        labels = sample.labels_of(target)
        name = "image/class/text" if target == primary else LABEL_COLUMNS[target]
        features[name] = [label.encode() for label in labels]
        if target == primary:
            features["image/class/label"] = [order.index(label) + 1 for label in labels]
    fields = fields_of_sample(sample, reserved=("image", "label", "label_text", "file_name"))
    return features | {name: [text.encode()] for name, text in fields.items()}
