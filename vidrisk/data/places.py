"""Resolves the paths in a manifest to files."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

from vidrisk.data.text import nfc, trim_text
from vidrisk.files.paths import path_from_written


class Places:
    """Finds files under a root folder by the paths in a manifest, however the disk encodes their names.

    A Mac may have written ``é`` into a file's name as one character or as two (NFC, NFD), and other systems keep the
    bytes that they are given. A name that exists as written is used, else the only one that is equal to it in NFC.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._listings: dict[Path, dict[str, list[str]]] = {}

    def name_of(self, written: str) -> str | None:
        """Return a path relative to the root in normal form, or None if it leaves the root.

        Links are followed only for this check.
        """
        if not written or "\0" in written or not _is_encodable(written):
            return None
        found = path_from_written(self.root, written)
        for meant in (trim_text(written), trim_text(written).replace("\\", "/")):  # typed in a cell; Windows path
            if meant != written and not os.path.lexists(found):
                written, found = meant, path_from_written(self.root, meant)
        path = Path(os.path.realpath(found) if Path(written).is_absolute() else os.path.normpath(found))
        if path == self.root or not path.is_relative_to(self.root):
            return None
        path = self._as_on_disk(path)
        inside = Path(os.path.realpath(path)).is_relative_to(self.root)
        return path.relative_to(self.root).as_posix() if inside else None

    def _as_on_disk(self, path: Path) -> Path:
        if str(path).isascii() or os.path.lexists(path):
            return path
        found = self.root
        for part in path.relative_to(self.root).parts:
            if not os.path.lexists(found / part):
                same = self._listing(found).get(nfc(part), [])
                if len(same) != 1:
                    return path
                part = same[0]
            found /= part
        return found

    def _listing(self, folder: Path) -> dict[str, list[str]]:
        """Return the names in a folder by their NFC form; empty if it cannot be listed."""
        if folder not in self._listings:
            names = self._listings[folder] = defaultdict(list)
            try:
                for entry in folder.iterdir():
                    names[nfc(entry.name)].append(entry.name)
            except OSError:
                names.clear()
        return self._listings[folder]


def _is_encodable(written: str) -> bool:
    try:
        written.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True
