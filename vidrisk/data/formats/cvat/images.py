"""CVAT for images 1.1 (https://docs.cvat.ai): tags of images are classes; boxes may become photos of their own.

    annotations.xml                  <image name="a.jpg" subset="Train"><tag label="crack"><attribute name="level">…
    images/a.jpg, images/Train/a.jpg

An attribute with the name of a target (``columns``) is that target, others are columns. If such an attribute is the
class, the label of its tag is not used. For an image without tags, the labels of its boxes, polygons and so on are
used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree.ElementTree import Element

from vidrisk.data.formats.addressed_files import AddressedFiles
from vidrisk.data.formats.crops import upright_box
from vidrisk.data.formats.cvat.document import (
    LabelsUsed,
    attributes_text,
    document,
    quote_value,
    text_of,
    value_from_labels,
)
from vidrisk.data.formats.cvat.elements import (
    SHAPES,
    annotations_of,
    attribute_of,
    attributes_of,
    elements_of,
    is_exported,
    is_label,
    labels_and_fields,
    layout_of,
    number_of,
)
from vidrisk.data.formats.fields import fields_of_sample
from vidrisk.data.formats.format import Format, Listed, Reading, Writing, format_counts
from vidrisk.data.formats.statements import TARGETS_BY_NAME, Statement, crops_from_statements, samples_from_statements
from vidrisk.data.io import LABEL_COLUMNS, write_new_file
from vidrisk.data.table import Table, main_target
from vidrisk.decode.cuts import Box
from vidrisk.frames.media import kind_from_suffix

PLACES = ("images", "")
FRAME_SUFFIXES = (".PNG", ".png", ".jpg", ".jpeg", ".JPEG")  # of video frames, whose names have no suffix
LABEL_OF_ATTRIBUTES = "photo"  # label of a tag that only has attributes


def is_cvat_images(source: Path) -> bool:
    """Return whether a folder or file is an export of images."""
    return layout_of(source) == "images"


def read_cvat_images(source: Path, reading: Reading) -> Listed:
    """Read every image with its tags, or with ``reading.crops`` every box."""
    path = annotations_of(source)
    images = _Images(path, reading, AddressedFiles(path.parent, reading.media, PLACES))
    media = images.media
    if reading.crops:
        found = crops_from_statements(images.boxes(), TARGETS_BY_NAME, media.files, reading)
    else:
        found = samples_from_statements(images.statements(), TARGETS_BY_NAME, media.files, reading, ("image",))
    return Listed(
        found.root, found.samples, found.absent, media.looked_in, notes=(*found.notes, *format_counts(images.counts))
    )


@dataclass(eq=False)
class _Images:
    """Images of an export, and counts for notes."""

    path: Path
    reading: Reading
    media: AddressedFiles
    counts: Counter[str] = field(default_factory=Counter)
    exported: bool = False

    def elements(self) -> Iterator[tuple[str, Element, str, str]]:
        """Yield the place, the content, the file name and the subset of each image."""
        of_task = ""
        for where, element in elements_of(self.path, ("meta", "image")):
            if element.tag == "meta":
                self.exported = is_exported(element)
                of_task = next(
                    (
                        found.text or ""
                        for found in (element.find("task/subset"), element.find("job/subset"))
                        if found is not None
                    ),
                    "",
                )
                continue
            subset = element.get("subset") or of_task
            yield where, element, self._name(attribute_of(element, "name", where), subset), subset

    def statements(self) -> Iterator[Statement]:
        for where, element, name, subset in self.elements():
            tags = self._of_people(element.findall("tag"))
            shapes = [] if tags else self._of_people([shape for shape in element if shape.tag in SHAPES])
            if not tags and not shapes:
                self.counts["images without a label left out"] += 1
                continue
            if shapes:
                self.counts["images without a tag, whose labels are those of their boxes and other shapes"] += 1
            labels, fields = self._labels(tags or shapes, where, is_shape=bool(shapes))
            yield Statement(where, name, labels, fields, split=subset)

    def boxes(self) -> Iterator[tuple[Statement, Box]]:
        for where, element, name, subset in self.elements():
            boxes = element.findall("box")
            self.counts["images without a box left out"] += not boxes
            self.counts["shapes that are not boxes left out"] += sum(
                shape.tag in SHAPES or shape.tag == "tag" for shape in element
            ) - len(boxes)
            for number, box in enumerate(self._of_people(boxes), 1):
                place = f"{where}, box {number}"
                labels, fields = self._labels([box], place, is_shape=False)
                yield Statement(place, name, labels, fields, split=subset), edges_of_box(box, place)

    def _of_people(self, annotations: list[Element]) -> list[Element]:
        """Return the annotations without mere predictions."""
        return [one for one in annotations if is_label(one, self.counts, exported=self.exported)]

    def _name(self, written: str, subset: str) -> str:
        """Find an image, or return its name if it does not exist."""
        places = (subset, "") if subset and "/" not in subset and subset not in (".", "..") else ("",)
        if kind_from_suffix(written) is not None:
            return self.media.find(written, places=places) or self.media.absent_name(written)
        names = [written + suffix for suffix in FRAME_SUFFIXES]
        found = next((found for name in names if (found := self.media.find(name, places=places))), None)
        return found or self.media.absent_name(names[0])

    def _labels(
        self, elements: list[Element], where: str, *, is_shape: bool
    ) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
        """Merge the labels and the attributes of the annotations of one photo."""
        labels: dict[str, tuple[str, ...]] = {}
        fields: dict[str, str] = {}
        for element in elements:
            label, attributes = attribute_of(element, "label", where), attributes_of(element, where)
            of_element, others = labels_and_fields(label, attributes, self.reading)
            for target, values in of_element.items():
                labels[target] = (*labels.get(target, ()), *values)
            for name, value in others.items():
                if fields.setdefault(name, value) != value:
                    self.counts["attributes on which the annotations of an image differ (the first one is used)"] += 1
        if is_shape and len(set(labels.get("level", ()))) > 1:
            del labels["level"]
            self.counts["images left without a level because their shapes have several"] += 1
        return labels, fields


def edges_of_box(box: Element, where: str) -> Box:
    """Return left, top, width and height of a box; for a rotated box, those of the upright box around it.

    Boxes are rotated around their middle.
    """
    left, top, right, bottom = (number_of(box, name, where) for name in ("xtl", "ytl", "xbr", "ybr"))
    degrees = number_of(box, "rotation", where) if "rotation" in box.attrib else 0.0
    return upright_box((left, top, right - left, bottom - top), degrees, ((left + right) / 2, (top + bottom) / 2))


def write_cvat_images(table: Table, destination: Path, writing: Writing) -> None:
    """Write tags of a target, and everything else as attributes of the first tag."""
    main = main_target(table.task)
    source = "auto" if writing.model else "manual"
    images, used = [], LabelsUsed()
    for number, sample in enumerate(table.samples):
        attributes = {
            LABEL_COLUMNS[target]: value_from_labels(label) for target, label in sample.labels.items() if target != main
        }
        attributes |= fields_of_sample(sample, without=("split",)) | ({"model": writing.model} if writing.model else {})
        labels = sample.labels_of(main) or (LABEL_OF_ATTRIBUTES,)
        if not sample.labels_of(main):
            attributes = {LABEL_COLUMNS[main]: value_from_labels(sample.labels.get(main)), **attributes}
        tags = [
            f"<tag label={quote_value(label)} source={quote_value(source)}>"
            f"{'' if place else attributes_text(attributes)}</tag>"
            for place, label in enumerate(labels)
        ]
        subset = f" subset={quote_value(sample.split)}" if sample.split else ""
        images.append(f'<image id="{number}" name={quote_value(sample.name)}{subset}>{"".join(tags)}</image>')
        for place, label in enumerate(labels):
            used.add(label, {} if place else attributes)
    task = (
        f"<task><name>{text_of(table.root.name)}</name><size>{len(images)}</size><mode>annotation</mode>\n{used}</task>"
    )
    write_new_file(destination, document(task, images))


FORMAT = Format(
    "cvat-images",
    "CVAT for images 1.1",
    ("risk", "action", "action+risk"),
    "annotations.xml with <image>",
    is_cvat_images,
    read_cvat_images,
    options=frozenset({"crops"}),
    write=write_cvat_images,
    suffix=".xml",
    carries=frozenset({"photos", "multi-label", "no label", "several targets", "splits", "groups", "texts", "extra"}),
)
