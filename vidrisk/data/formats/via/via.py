"""VGG Image Annotator (https://www.robots.ox.ac.uk/~vgg/software/via): JSON of VIA 2, CSV and projects of VIA 3.

    VIA 3 CSV     # ATTRIBUTE = {"1": {"aname": "action", "options": {"0": "fall"}}}
                  "1_a", "[""cam7.mp4""]", 0, "[1.5,2.25]", "[]", "{""1"":""0""}"
    VIA 2 JSON    {"a.jpg123": {"filename": "a.jpg", "file_attributes": {"class": "crack"}, "regions": […]}}

Values that are numbers of options are read as the options' names. An attribute with the name of a target (``columns``)
is that target; temporal coordinates are parts of a video in seconds. For a photo without values of its own, those of
its regions are used; with crops every rectangle is a photo of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vidrisk.data.formats.addressed_files import AddressedFiles, file_name_of
from vidrisk.data.formats.fields import find_field, find_target
from vidrisk.data.formats.format import Format, Listed, Reading, format_counts
from vidrisk.data.formats.lists import head_of
from vidrisk.data.formats.statements import (
    Statement,
    crops_from_statements,
    samples_from_statements,
    targets_of_controls,
)
from vidrisk.data.formats.via.csv_file import HEADER_MARK, attributes_in_csv, entries_in_csv
from vidrisk.data.formats.via.entries import Attribute, Entry
from vidrisk.data.formats.via.projects import read_via_json
from vidrisk.data.formats.via.via_writer import write_via
from vidrisk.decode.cuts import Box
from vidrisk.frames.media import kind_from_suffix

SNIFFED_BYTES = 2**15


def is_via(source: Path) -> bool:
    """Return whether a file belongs to VIA, judging by its beginning."""
    suffix = source.suffix.lower()
    if suffix not in (".csv", ".json"):
        return False
    head = head_of(source, SNIFFED_BYTES).decode("utf-8-sig", "ignore").lstrip()
    if suffix == ".csv":
        is_marked = "VGG Image Annotator" in head and ("metadata_id" in head or "# ATTRIBUTE" in head)
        return is_marked or HEADER_MARK in head or head.replace('"', "").startswith("metadata_id,file_list")
    is_second = '"_via_img_metadata"' in head or all(
        key in head for key in ('"filename"', '"regions"', '"file_attributes"')
    )
    is_third = '"project"' in head and '"pid"' in head and ('"vid_list"' in head or '"loc_prefix"' in head)
    return head.startswith("{") and (is_second or is_third)


def read_via(path: Path, reading: Reading) -> Listed:
    """Read a CSV of VIA 3, or a JSON of VIA 2 or 3."""
    counts: Counter[str] = Counter()
    if path.suffix.lower() == ".csv":
        attributes = attributes_in_csv(path)
        entries: Iterable[Entry] = entries_in_csv(path, counts)
    else:
        attributes, entries = read_via_json(path, counts)
    media = AddressedFiles(path.parent, reading.media)
    controls = {
        attribute.name: attribute.suits
        for attribute in attributes.values()
        if find_target(attribute.name, reading.task)
    }
    statements = list(_statements(entries, attributes, controls, media, counts))
    targets, taken = targets_of_controls(controls, reading, "the attributes")
    if reading.crops:
        found = crops_from_statements(_of_boxes(statements, counts), targets, media.files, reading)
    else:
        found = samples_from_statements(
            _of_files(statements, targets, counts), targets, media.files, reading, ("video", "image")
        )
    return Listed(
        found.root, found.samples, found.absent, media.looked_in, notes=(*found.notes, *taken, *format_counts(counts))
    )


def _of_boxes(statements: Sequence[tuple[Statement, Entry]], counts: Counter[str]) -> list[tuple[Statement, Box]]:
    """Return the statements on rectangles, each with its box; they inherit the texts and columns of their photos."""
    counts["regions that are not rectangles left out"] += sum(
        entry.is_region and entry.box is None for _, entry in statements
    )
    counts["labels of whole files left out"] += sum(
        bool(one.labels) for one, entry in statements if not entry.is_region
    )
    of_photos = {one.name: one.fields for one, entry in statements if not entry.is_region}
    return [
        (replace(one, fields={**of_photos.get(one.name, {}), **one.fields}), entry.box)
        for one, entry in statements
        if entry.box
    ]


def _of_files(
    statements: Sequence[tuple[Statement, Entry]], targets: Mapping[str, str], counts: Counter[str]
) -> list[Statement]:
    """Return the statements on whole files, and for photos without any those on their regions."""
    whole = {one.name for one, entry in statements if not entry.is_region and not one.labels.keys().isdisjoint(targets)}
    of_regions = {one.name for one, entry in statements if entry.is_region} - whole
    counts["photos without values of their own (the labels of their regions are used)"] += len(of_regions)
    counts["regions of photos that have values of their own left out"] += sum(
        entry.is_region and one.name in whole for one, entry in statements
    )
    return [one for one, entry in statements if not entry.is_region or one.name in of_regions]


def _statements(
    entries: Iterable[Entry],
    attributes: dict[str, Attribute],
    controls: dict[str, int],
    media: AddressedFiles,
    counts: Counter[str],
) -> Iterator[tuple[Statement, Entry]]:
    """Yield the statements of entries, each with its entry; add the attributes that have values to the controls."""
    for entry in entries:
        if entry.is_region and kind_from_suffix(file_name_of(entry.addresses[0])) == "video":
            counts["regions in frames of videos left out"] += 1
            continue
        name = next((found for address in entry.addresses if (found := media.find(address))), None)
        name = name or media.absent_name(entry.addresses[0])
        labels: dict[str, tuple[str, ...]] = {}
        fields: dict[str, str] = {}
        for key, value in entry.values.items():
            attribute = attributes.get(key) or Attribute(key, {})
            names = attribute.names(value)
            if find_field(attribute.name) or (names is None and attribute.is_text):
                fields[attribute.name] = attribute.text(value)
            elif names is not None:
                labels[attribute.name] = names
                controls.setdefault(attribute.name, attribute.suits)
        yield Statement(entry.where, name, labels, fields, entry.interval), entry


FORMAT = Format(
    "via",
    "VGG Image Annotator (VIA)",
    ("action", "risk", "action+risk"),
    "JSON of VIA 2, CSV or a project of VIA 3",
    is_via,
    read_via,
    options=frozenset({"crops"}),
    write=write_via,
    suffix=".csv",
    carries=frozenset(
        {
            "clips",
            "photos",
            "intervals",
            "multi-label",
            "no label",
            "several targets",
            "splits",
            "groups",
            "texts",
            "extra",
        }
    ),
)
