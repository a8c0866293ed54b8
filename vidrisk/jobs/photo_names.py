"""Matching of photos by name, never by order and never by guessing between two candidates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from pathlib import PurePath
from typing import Generic, TypeVar

from vidrisk.data.text import nfc

Key = TypeVar("Key", bound=Hashable)


class PhotoNames(Generic[Key]):
    """Names of photos, each mapped to a key.

    A path matches a photo with the same absolute path, else the one photo whose name it ends with, or that ends with
    it, compared folder by folder: ``/data/house 2/1.jpg`` matches ``house 2/1.jpg`` and ``1.jpg``, but not ``house
    1/1.jpg``.

    Args:
        names: per photo its absolute path ('' if it has none), its name, and its key.
    """

    def __init__(self, names: Iterable[tuple[str, str, Key]]) -> None:
        self._by_path: defaultdict[str, dict[Key, None]] = defaultdict(dict)
        self._by_file: defaultdict[str, list[tuple[tuple[str, ...], Key]]] = defaultdict(list)
        for path, name, key in names:
            if path:
                self._by_path[path][key] = None
            parts = _parts(name)
            if parts:
                self._by_file[parts[0]].append((parts, key))

    def at(self, path: str) -> tuple[Key, ...]:
        """Return the keys of the photo at an absolute path."""
        return tuple(self._by_path.get(path, ()))

    def find(self, path: str) -> tuple[Key, ...]:
        """Return the keys of the photos that a path names.

        Of several, those whose names have most folders in common with it are taken.
        """
        parts = _parts(path)
        best, found = 0, dict[Key, None]()
        for other, key in self._by_file.get(parts[0], ()) if parts else ():
            shared = _count_shared(parts, other)
            if shared < min(len(parts), len(other)) or shared < best:
                continue
            if shared > best:
                best, found = shared, {}
            found[key] = None
        return tuple(found)


def _parts(name: str) -> tuple[str, ...]:
    """Return the file's name first, then its folders, innermost first."""
    return tuple(part for part in reversed(PurePath(nfc(name).replace("\\", "/")).parts) if part not in ("/", "."))


def _count_shared(a: Sequence[str], b: Sequence[str]) -> int:
    return next(
        (place for place, (one, other) in enumerate(zip(a, b, strict=False)) if one != other), min(len(a), len(b))
    )
