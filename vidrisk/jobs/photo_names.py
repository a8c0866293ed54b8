"""Which of two sides' photos are the same one, by their names: never by their order, and never by a guess between two."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from pathlib import PurePath
from typing import Generic, TypeVar

from vidrisk.data.text import nfc

Key = TypeVar("Key", bound=Hashable)


class PhotoNames(Generic[Key]):
    """Names of photos, each with what it stands for.

    A path means a photo of the same absolute path, else the one photo whose name it ends with, or that ends with it,
    folder by
    folder: ``/data/house 2/1.jpg`` is ``house 2/1.jpg`` and ``1.jpg``, and is not ``house 1/1.jpg``.

    Args:
        names: per photo its absolute path ('' where it has none), its name, and what it stands for.
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
        """Return what the photo at an absolute path stands for."""
        return tuple(self._by_path.get(path, ()))

    def named(self, path: str) -> tuple[Key, ...]:
        """Return what the photos stand for that a path names; of several those whose names have most folders in common with it."""
        parts = _parts(path)
        best, found = 0, dict[Key, None]()
        for other, key in self._by_file.get(parts[0], ()) if parts else ():
            shared = _shared(parts, other)
            if shared < min(len(parts), len(other)) or shared < best:
                continue
            if shared > best:
                best, found = shared, {}
            found[key] = None
        return tuple(found)


def _parts(name: str) -> tuple[str, ...]:
    """The file's name first, then its folders, the innermost first."""
    return tuple(part for part in reversed(PurePath(nfc(name).replace("\\", "/")).parts) if part not in ("/", "."))


def _shared(a: Sequence[str], b: Sequence[str]) -> int:
    return next(
        (place for place, (one, other) in enumerate(zip(a, b, strict=False)) if one != other), min(len(a), len(b))
    )
