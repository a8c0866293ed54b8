"""Turns records of photos into rows and image files, with the feature names of TF-Slim, TFOD and TAO."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from vidrisk.data.formats.class_names import ClassNames
from vidrisk.data.formats.fields import fields_from_values, find_target
from vidrisk.data.formats.format import Reading
from vidrisk.data.formats.media_files import safe_name
from vidrisk.data.formats.rows import Row
from vidrisk.data.formats.tfrecord.examples import Features, Value, examples_of, values_of
from vidrisk.data.formats.tfrecord.tfrecord_writer import ENCODED
from vidrisk.data.table import Label, SplitName
from vidrisk.decode.cuts import Box
from vidrisk.frames.content import kind_from_content
from vidrisk.frames.media import IMAGE_SUFFIXES
from vidrisk.frames.photos import photo_size
from vidrisk.runtimes.contract.errors import DataError, UnreadableError

MAX_TEXT_BYTES = 4096  # of a feature that becomes a column
MAX_NAME_BYTES = 200
BOX = ("xmin", "ymin", "xmax", "ymax")
_IMAGES, _FILES = (ENCODED, "image"), ("image/filename", "image/source_id", "image/file_name", "file_name")
_MAGIC = {
    b"\xff\xd8": ".jpg",
    b"\x89P": ".png",
    b"GI": ".gif",
    b"BM": ".bmp",
    b"RI": ".webp",
    b"II": ".tif",
    b"MM": ".tif",
}


class RecordRows:
    """Turns records into rows, and writes their photos.

    Attributes:
        left_out: counts of what could not be used.
        pairs: names of classes and their numbers, from records with both.
        boxes: by the name of a photo, the class and the box of every object, in pixels; filled only for crops.
    """

    def __init__(self, reading: Reading, photos: Path, maps: Mapping[str, ClassNames]) -> None:
        self._reading, self._photos, self._maps = reading, photos, maps
        self._taken: set[str] = set()
        self.left_out: Counter[str] = Counter()
        self.pairs: list[tuple[str, str]] = []
        self.boxes: dict[str, list[tuple[str, Box]]] = {}

    def rows_of(self, path: Path, split: SplitName | None) -> Iterator[Row]:
        """Yield a row for every record of a file that has a photo and a label."""
        for number, (where, features) in enumerate(examples_of(path)):
            encoded = next((values for name in _IMAGES if (values := self._values(features, name, where))), [b""])[0]
            if not isinstance(encoded, bytes) or kind_from_content(encoded, len(encoded)) != "image":
                self.left_out["records without a photo left out"] += 1
                continue
            labels, used = self._labels(features, where)
            if not labels:
                self.left_out["records without a label left out"] += 1
                continue
            name = self._write_photo(encoded, self._texts(features, _FILES, where)[:1], f"{path.name}-{number}")
            if self._reading.crops and not self._add_boxes(features, name, where):
                self.left_out["records without a box left out"] += 1
                continue
            texts = {
                name: found
                for name in features
                if "/" not in name
                and name not in (*_IMAGES, *_FILES, *used)
                and (found := self._text(features[name], where))
            }
            fields = fields_from_values(texts)
            fields.setdefault("split", split)
            yield Row(where, name, labels, **fields)

    def _labels(self, features: Features, where: str) -> tuple[dict[str, Label], set[str]]:
        """Return the labels of a record, and the names of the features that contain them."""
        target = self._reading.target
        labels: dict[str, Label] = {}
        used: set[str] = set()
        for text, number in (
            ("image/class/text", "image/class/label"),
            ("image/object/class/text", "image/object/class/label"),
            ("label_text", "label"),
        ):
            if text in features or number in features:
                labels[target] = self._names(features, text, number, where)
                used |= {text, number}
                break
        for name in features:
            named = find_target(name, self._reading.task)
            if named and named not in labels:
                labels[named] = tuple(self._texts(features, (name,), where))
                used.add(name)
        return labels, used

    def _names(self, features: Features, text: str, number: str, where: str) -> tuple[str, ...]:
        """Return the classes by their texts, or else by their numbers, one for each object, with repeats."""
        names = [label for label in self._texts(features, (text,), where) if label]
        numbers = [value for value in self._values(features, number, where) if isinstance(value, int)]
        known = self._maps.get(self._reading.target)
        if names:
            self.pairs += zip(names, map(str, numbers), strict=False) if len(names) == len(numbers) else ()
            return tuple(known.aliases.get(name, name) if known else name for name in names)
        return tuple(known.name_of(value, where) if known else str(value) for value in numbers)

    def _add_boxes(self, features: Features, name: str, where: str) -> bool:
        sides = [
            [
                float(value)
                for value in self._values(features, f"image/object/bbox/{side}", where)
                if not isinstance(value, bytes)
            ]
            for side in BOX
        ]
        classes = self._names(features, "image/object/class/text", "image/object/class/label", where)
        if len({len(classes), *map(len, sides)}) != 1:
            raise DataError(
                f"{where} has {len(classes)} classes and {', '.join(str(len(side)) for side in sides)} sides of boxes",
                allowed="one of each for every object",
            )
        try:
            width, height = photo_size(self._photos / name)
        except UnreadableError:
            return False
        for label, left, top, right, bottom in zip(classes, *sides, strict=True):
            box = left * width, top * height, (right - left) * width, (bottom - top) * height
            self.boxes.setdefault(name, []).append((label, box))
        return bool(classes)

    def _write_photo(self, encoded: bytes, names: list[str], otherwise: str) -> str:
        """Write a photo, named as in the record, or after the place of the record, and return its name."""
        safe = safe_name(names[0]) if names and names[0] else None
        if safe is None or any(len(part.encode()) > MAX_NAME_BYTES or part.startswith(".") for part in safe.parts):
            safe = safe_name(otherwise)
            assert safe is not None
        stem, suffix = os.path.splitext(str(safe))  # noqa: PTH122 (a name, not a path)
        if suffix.lower() not in IMAGE_SUFFIXES:
            stem, suffix = str(safe), _MAGIC.get(encoded[:2], ".jxl" if encoded[:2] == b"\0\0" else ".jpg")
        name, more = f"{stem}{suffix}", 1
        while name.casefold() in self._taken:
            more += 1
            name = f"{stem}-{more}{suffix}"
        self._taken.add(name.casefold())
        path = self._photos / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded)
        except (OSError, ValueError) as error:
            raise DataError(
                f"{path} cannot be written: {getattr(error, 'strerror', None) or error}",
                fix="check free space and permissions",
            ) from error
        return name

    def _values(self, features: Features, name: str, where: str) -> list[Value]:
        return values_of(features[name], f"{where}, {name[:80]}") if name in features else []

    def _texts(self, features: Features, names: tuple[str, ...], where: str) -> list[str]:
        return [
            value.decode("utf-8", "replace")
            for name in names
            for value in self._values(features, name, where)
            if isinstance(value, bytes)
        ]

    def _text(self, feature: memoryview, where: str) -> str:
        """Return a feature with one value as text; count features that are long or have several values."""
        is_long = len(feature) > MAX_TEXT_BYTES
        values = [] if is_long else values_of(feature, where)
        if is_long or len(values) > 1:
            self.left_out["features that are long or have several values left out"] += 1
        if len(values) != 1:
            return ""
        return values[0].decode("utf-8", "replace") if isinstance(values[0], bytes) else str(values[0])
