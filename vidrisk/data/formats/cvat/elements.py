"""Reads CVAT's XML, version 1.1, element by element, in both of its layouts.

Only one image or track and what precedes it are in memory; entities and document types are refused.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Literal
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import iterparse

from vidrisk.data.formats.fields import find_target
from vidrisk.data.formats.format import Reading
from vidrisk.data.formats.lists import head_of
from vidrisk.runtimes.contract.errors import DataError

ANNOTATIONS = "annotations.xml"
UNDEFINED = "__undefined__"  # value that CVAT's manual recommends for "not chosen"
SNIFFED_BYTES, HEAD_BYTES = 2**20, 2**12
MAX_ITEM_BYTES = 32 * 2**20  # of an image or a track with all its boxes
MAX_DEPTH = 32
TAKEN = "labels with source auto that were not changed in CVAT, taken as they are"
PREDICTED = "labels with source auto left out, because CVAT has not exported this file: they were not reviewed"
SHAPES = ("box", "polygon", "polyline", "points", "ellipse", "cuboid", "mask", "skeleton")
_ROOT = re.compile(rb"<annotations[\s>]")
_ITEM = re.compile(rb"<(image|track)[\s>]")
_MODE = re.compile(rb"<mode>\s*interpolation\s*</mode>")
_META = re.compile(rb"<(?:task|job|project)[\s>]|<version>\s*1\.1\s*</version>")


def annotations_of(source: Path) -> Path:
    """Return the file of annotations: the source, or the one in its folder."""
    return source / ANNOTATIONS if source.is_dir() else source


def layout_of(source: Path) -> Literal["images", "video"] | None:
    """Return the CVAT layout of a folder or file, judging by its first megabyte, or None; never raises."""
    path = annotations_of(source)
    if path.suffix.lower() != ".xml" or not _ROOT.search(head_of(path, HEAD_BYTES)):
        return None
    head = head_of(path, SNIFFED_BYTES)
    item = _ITEM.search(head)
    if not _META.search(head[: item.start()] if item else head):
        return None
    if item is None:
        return "video" if _MODE.search(head) else "images"
    return "images" if item[1] == b"image" else "video"


def elements_of(path: Path, names: Container[str]) -> Iterator[tuple[str, Element]]:
    """Yield the place, for errors, and the content of the elements with these names directly below ``<annotations>``.

    Raises:
        DataError: a file that cannot be read, is not CVAT XML, declares entities, or has an element of more than 32 MB.
    """
    numbers: dict[str, int] = {}
    depth = 0
    root: Element | None = None
    try:
        with path.open("rb") as file:
            bounded = _Bounded(file, path.name)
            for event, element in iterparse(bounded, events=("start", "end"), forbid_dtd=True):
                depth += 1 if event == "start" else -1
                if depth > MAX_DEPTH:
                    raise DataError(
                        f"{path.name} has elements nested more than {MAX_DEPTH} levels deep",
                        allowed="an export of CVAT",
                    )
                if root is None:
                    root = element
                    if element.tag != "annotations":
                        raise DataError(
                            f"{path.name} begins with <{element.tag[:40]}>", allowed="<annotations> of CVAT 1.1"
                        )
                if event == "end" and depth == 1:
                    numbers[element.tag] = numbers.get(element.tag, 0) + 1
                    if element.tag in names:
                        yield f"{path.name}, {element.tag} {numbers[element.tag]}", element
                    root.clear()
                    bounded.begin_item()
    except DefusedXmlException as error:
        raise DataError(
            f"{path.name} declares a document type or entities",
            allowed="an export of CVAT, which has none",
            fix="export it again, without a document type",
        ) from error
    except ParseError as error:
        raise DataError(f"{path.name} is not XML: {error}", fix="get the file again: it may be cut off") from error
    except (LookupError, ValueError) as error:
        raise DataError(
            f"{path.name} is not readable XML: {' '.join(str(error).split())[:200]}", fix="export it again"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


class _Bounded:
    """A file that refuses items that are too long for memory."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._name, self._bytes = file, name, 0

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._bytes += len(data)
        if self._bytes > MAX_ITEM_BYTES:
            raise DataError(
                f"{self._name} has an element of more than {MAX_ITEM_BYTES // 2**20} MB",
                allowed="images and tracks of an export of CVAT",
                fix="split the task",
            )
        return data

    def begin_item(self) -> None:
        self._bytes = 0


def is_exported(meta: Element) -> bool:
    """Return whether CVAT has written a file: its exports say when, files of predictions to upload do not."""
    return meta.find("dumped") is not None


def is_label(annotation: Element, counts: Counter[str], *, exported: bool) -> bool:
    """Return whether an annotation is a label; count those that are automatic.

    CVAT changes the source ``auto`` when somebody changes the annotation. One that is still automatic has been accepted
    if CVAT exports it, and is a mere prediction in a file that CVAT has not exported.
    """
    if annotation.get("source", "").strip().casefold() != "auto":
        return True
    counts[TAKEN if exported else PREDICTED] += 1
    return exported


def attribute_of(element: Element, name: str, where: str) -> str:
    """Return a required attribute.

    Raises:
        DataError: it is missing or empty.
    """
    value = element.get(name, "")
    if not value.strip():
        raise DataError(f"{where}: <{element.tag[:40]}> has no {name}", allowed=f'<{element.tag[:40]} {name}="…">')
    return value


def number_of(element: Element, name: str, where: str) -> float:
    """Return a required attribute that is a finite number.

    Raises:
        DataError: it is missing or not a finite number.
    """
    text = attribute_of(element, name, where)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where}: {name} of <{element.tag[:40]}> is {text[:40]!r}", allowed="a number")
    return value


def whole_number_of(text: str, what: str) -> int:
    """Return a whole number from 0.

    Raises:
        DataError: the text is not one.
    """
    if not re.fullmatch(r"\s*[0-9]{1,9}\s*", text):
        raise DataError(f"{what} is {text[:40]!r}", allowed="a whole number from 0")
    return int(text)


def attributes_of(element: Element, where: str) -> dict[str, str]:
    """Return the values of the attributes of an annotation."""
    return {attribute_of(child, "name", where): child.text or "" for child in element.findall("attribute")}


def labels_and_fields(
    label: str, attributes: Mapping[str, str], reading: Reading
) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Return the labels of an annotation by target, and its other attributes by name.

    If an attribute is the target of the task, the label of the annotation is not used as a label.
    """
    targets = {name: target for name in attributes if (target := find_target(name, reading.task))}
    labels: dict[str, tuple[str, ...]] = {} if reading.target in targets.values() else {reading.target: (label,)}
    for name, target in targets.items():
        values = labels_from_value(attributes[name])
        if values is not None:
            labels[target] = (*labels.get(target, ()), *values)
    return labels, {name: value for name, value in attributes.items() if name not in targets}


def labels_from_value(value: str) -> tuple[str, ...] | None:
    """Parse the value of an attribute as labels: one, or a JSON list of them; None if none was chosen."""
    text = value.strip()
    if text in ("", UNDEFINED):
        return None
    if text.startswith("["):
        try:
            labels = json.loads(text)
        except (ValueError, RecursionError):
            return (value,)
        if isinstance(labels, list) and all(isinstance(label, str) for label in labels):
            return tuple(labels)
    return (value,)
