"""Reads JSON of VIA: annotations and projects of VIA 2, projects of VIA 3."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vidrisk.data.formats.json_lists import object_of
from vidrisk.data.formats.via.entries import Attribute, Entry, box_of_place, box_of_shape, interval_of
from vidrisk.runtimes.contract.errors import DataError

MAX_BYTES = 2**25
IMAGES, ATTRIBUTES = "_via_img_metadata", "_via_attributes"
SECOND = '{"a.jpg123": {"filename": "a.jpg", "regions": [], "file_attributes": {}}}'
THIRD = "a project of VIA 3, with attribute, file, view and metadata"
TEXT, CHECKBOX = 1, 2
KIND_OF_TEXT = "text"


def read_via_json(path: Path, counts: Counter[str]) -> tuple[dict[str, Attribute], list[Entry]]:
    """Read attributes and entries.

    Raises:
        DataError: a file that cannot be read, is larger than 32 MB, or is not JSON of VIA.
    """
    content = object_of(path, MAX_BYTES, allowed="a project of VIA, or its CSV")
    if "metadata" in content and "view" in content:
        attributes = attributes_of_project(content.get("attribute", {}), path.name)
        return attributes, list(_entries_of_third(content, path.name, counts))
    attributes = _attributes_of_second(content.get(ATTRIBUTES, {}), path.name) if IMAGES in content else {}
    return attributes, list(_entries_of_second(content.get(IMAGES, content), path.name))


def attributes_of_project(value: Any, where: str) -> dict[str, Attribute]:
    """Read the attributes of VIA 3, by their numbers.

    Raises:
        DataError: anything else.
    """
    found = {}
    for key, one in _objects(value, f"{where}, attributes", THIRD):
        name, kind = one.get("aname"), one.get("type")
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"{where}: the attribute {key[:40]!r} has no name", allowed='{"1": {"aname": "action"}}')
        found[key] = Attribute(name, _options(one), kind == TEXT, kind == CHECKBOX)
    return found


def _entries_of_third(content: Mapping[str, Any], where: str, counts: Counter[str]) -> Iterator[Entry]:
    files = dict(_objects(content.get("file", {}), f"{where}, file", THIRD))
    views = dict(_objects(content["view"], f"{where}, view", THIRD))
    for key, one in _objects(content["metadata"], f"{where}, metadata", THIRD):
        place = f"{where}, metadata {key[:40]!r}"
        numbers = views.get(str(one.get("vid")), {}).get("fid_list")
        if not isinstance(numbers, list) or not all(str(number) in files for number in numbers) or not numbers:
            raise DataError(
                f"{place} belongs to the view {str(one.get('vid'))[:40]!r}, which has no file", allowed=THIRD
            )
        if len(numbers) > 1:
            counts["entries of several files at once left out"] += 1
            continue
        file = files[str(numbers[0])]
        addresses = tuple(one for one in (file.get("src"), file.get("fname")) if isinstance(one, str) and one.strip())
        if not addresses:
            raise DataError(f"{place}: its file has no name", allowed=THIRD)
        values = one.get("av", {})
        if not isinstance(values, dict):
            raise DataError(f"{place}: its values are {json.dumps(values)[:40]}", allowed='{"1": "0"}')
        times, places = one.get("z", []), one.get("xy", [])
        interval = interval_of(times, place)
        if times and not interval and not places:
            counts["single frames of videos left out"] += 1
            continue
        yield Entry(
            place,
            addresses[::-1] if addresses[0].startswith(("blob:", "data:")) else addresses,
            values,
            interval,
            bool(places),
            box_of_place(places),
        )


def _attributes_of_second(value: Any, where: str) -> dict[str, Attribute]:
    """Read the attributes of VIA 2; those of files take precedence over those of regions."""
    found: dict[str, Attribute] = {}
    for kind, attributes in sorted(_objects(value, f"{where}, {ATTRIBUTES}", "attributes of VIA 2")):
        for name, one in _objects(attributes, f"{where}, attributes of {kind[:40]}", "attributes of VIA 2"):
            options = {key: option for key, option in _options(one).items() if key.isdigit() and option.strip()}
            found.setdefault(name, Attribute(name, options, one.get("type") == KIND_OF_TEXT))
    return found


def _entries_of_second(images: Any, where: str) -> Iterator[Entry]:
    for key, one in _objects(images, where, SECOND):
        place = f"{where}, {key[:60]!r}"
        name = one.get("filename")
        values, regions = one.get("file_attributes", {}), one.get("regions", [])
        regions = list(regions.values()) if isinstance(regions, dict) else regions
        if (
            not isinstance(name, str)
            or not name.strip()
            or not isinstance(values, dict)
            or not isinstance(regions, list)
        ):
            raise DataError(f"{place} is not a photo of VIA 2", allowed=SECOND)
        yield Entry(place, (name,), values)
        for region in regions:
            inner = region.get("region_attributes", {}) if isinstance(region, dict) else None
            if not isinstance(inner, dict):
                raise DataError(
                    f"{place} has an invalid region", allowed='{"shape_attributes": {…}, "region_attributes": {…}}'
                )
            yield Entry(place, (name,), inner, is_region=True, box=box_of_shape(region.get("shape_attributes")))


def _options(attribute: Mapping[str, Any]) -> dict[str, str]:
    options = attribute.get("options")
    return {key: name for key, name in options.items() if isinstance(name, str)} if isinstance(options, dict) else {}


def _objects(value: Any, where: str, allowed: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if not isinstance(value, dict):
        raise DataError(f"{where} is not a JSON object", allowed=allowed)
    for key, one in value.items():
        if not isinstance(one, dict):
            raise DataError(f"{where}: {key[:40]!r} is not a JSON object", allowed=allowed)
        yield key, one
