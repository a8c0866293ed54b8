"""Reads cells that name photos: one path, or several in a JSON or Python list, or between separators."""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Iterable

from vidrisk.data.cases import PhotoFile, PhotoSource
from vidrisk.data.connected import Key
from vidrisk.data.places import Places
from vidrisk.data.text import trim_text
from vidrisk.runtimes.contract.errors import DataError

MAX_CELL_CHARS = 1 << 16
MAX_PHOTOS = 64  # of a case
_BETWEEN = re.compile(r"[;；|\n]")


def paths_from_cells(one: str, several: str, where: str) -> tuple[str, ...]:
    """Return the paths that a row names, each once: that of the single column, then those of the list.

    If the list contains the single path, too, the order is that of the list.

    Raises:
        DataError: a list that cannot be read, or that contains anything but paths; too many photos.
    """
    listed = _paths_from_list(trim_text(several), where) if trim_text(several) else ()
    first = (one,) if trim_text(one) and one not in listed else ()
    paths = tuple(dict.fromkeys(path for path in (*first, *listed) if trim_text(path)))
    if len(paths) > MAX_PHOTOS:
        raise DataError(
            f"{where} names {len(paths)} photos",
            allowed=f"up to {MAX_PHOTOS}",
            fix="keep those that show the defect best",
        )
    return paths


def find_photos(
    named: Iterable[str], places: Places, where: str, what: str = "photos"
) -> tuple[list[PhotoFile], list[str]]:
    """Look up photos by the names in a record; return those that exist, and the names of the others.

    For messages, ``where`` names the record and ``what`` the kind of files.

    Raises:
        DataError: a path that leaves the folder.
    """
    found, missing = [], []
    for written in named:
        name = places.name_of(written)
        if name is None:
            raise DataError(
                f"{where}: the path {written[:80]!r} leaves the folder of the {what}",
                allowed=f"files under {places.root}",
            )
        if os.path.isfile(places.root / name):  # noqa: PTH113 (never raises)
            found.append(PhotoFile(places.root / name, name))
        else:
            missing.append(name)
    return found, missing


def _paths_from_list(text: str, where: str) -> tuple[str, ...]:
    if len(text) > MAX_CELL_CHARS:
        raise DataError(f"{where} has a list of photos of {len(text)} characters", allowed=f"up to {MAX_CELL_CHARS}")
    if not text.startswith(("[", "(", '"')):
        return tuple(part for part in map(trim_text, _BETWEEN.split(text)) if part)
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        items: Iterable[object] = (
            (value,) if isinstance(value, str) else value if isinstance(value, list | tuple) else ()
        )
        paths = tuple(items)
        if paths and all(isinstance(path, str) for path in paths):
            return tuple(str(path) for path in paths)
        if isinstance(value, list | tuple) and not paths:
            return ()
        break
    raise DataError(
        f"{where} has {text[:40]!r} as a list of photos", allowed='["a.jpg", "b.jpg"], or paths with ; between them'
    )


def keys_of_photos(photos: Iterable[PhotoSource]) -> list[Key]:
    """Return the keys that identify the files of photos; a photo in a row belongs to that row only and has no key."""
    return [("photo", str(photo.path.resolve())) for photo in photos if isinstance(photo, PhotoFile)]
