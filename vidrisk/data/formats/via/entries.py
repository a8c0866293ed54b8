"""Attributes and entries of VIA, common to all of its files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vidrisk.data.formats.json_lists import is_number
from vidrisk.decode.cuts import Box
from vidrisk.frames import Interval
from vidrisk.runtimes.contract.errors import DataError

CHOSEN_NOTHING = ("", "_DEFAULT")
RECTANGLE = 2  # shape number in VIA 3


@dataclass(frozen=True)
class Attribute:
    """An attribute and its options.

    Attributes:
        name: for people.
        options: names by key.
        is_text: whether its values are typed.
        is_several: whether a value names any number of options, separated by commas.
    """

    name: str
    options: Mapping[str, str]
    is_text: bool = False
    is_several: bool = False

    @property
    def suits(self) -> int:
        """Rank as a candidate for the target of the task, see ``targets_of_controls``."""
        return 2 if self.is_text else 1

    def names(self, value: Any) -> tuple[str, ...] | None:
        """Return the option names of a value, or None if none was chosen."""
        if isinstance(value, dict):
            return tuple(self.options.get(key, key) for key, is_chosen in value.items() if is_chosen is True)
        text = self.text(value)
        if self.is_several:
            return tuple(self.options.get(key, key) for key in map(str.strip, text.split(",")) if key)
        return None if text.strip() in CHOSEN_NOTHING else (self.options.get(text.strip(), text),)

    def text(self, value: Any) -> str:
        """Return a value as text."""
        return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True)
class Entry:
    """Annotation of a file, of a part of it, or of a region in it.

    Attributes:
        where: place in the file, for errors.
        addresses: possible addresses of the file, the likeliest first.
        values: by the key of their attribute.
        box: box of a region that is a rectangle.
    """

    where: str
    addresses: tuple[str, ...]
    values: Mapping[str, Any]
    interval: Interval | None = None
    is_region: bool = False
    box: Box | None = None


def box_of_shape(shape: Any) -> Box | None:
    """Return the box of a region of VIA 2, or None if it is not a rectangle."""
    return (
        _box([shape.get(name) for name in ("x", "y", "width", "height")])
        if (isinstance(shape, dict) and shape.get("name") == "rect")
        else None
    )


def box_of_place(place: Any) -> Box | None:
    """Return the box of spatial coordinates of VIA 3, or None if they are not a rectangle."""
    return _box(place[1:]) if isinstance(place, list) and place[:1] == [RECTANGLE] else None


def _box(numbers: list[Any]) -> Box | None:
    if len(numbers) != 4 or not all(map(is_number, numbers)):
        return None
    left, top, width, height = map(float, numbers)
    return left, top, width, height


def interval_of(times: Any, where: str) -> Interval | None:
    """Return the part of a video between two times in seconds, or None for no time or a single one.

    Raises:
        DataError: not a list of times, or an end that is not after its start.
    """
    if not isinstance(times, list) or not all(map(is_number, times)) or len(times) > 2:
        raise DataError(
            f"{where}: the temporal coordinates are {json.dumps(times)[:60]}", allowed="[], [1.5] or [1.5, 2.25]"
        )
    if len(times) < 2:
        return None
    start_s, end_s = times
    if not 0 <= start_s < end_s:
        raise DataError(f"{where} lasts from {start_s:g} to {end_s:g} s", allowed="an end after the start, from 0 on")
    return Interval(float(start_s), float(end_s))
