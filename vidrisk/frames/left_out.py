"""One-line summary, for the terminal, of files and folders that were found but not used."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vidrisk.files.walk import HIDDEN, Omitted
from vidrisk.frames.media import name_of

MAX_NAMES, MAX_NAME_CHARS, MAX_PATH_CHARS = 3, 60, 240


@dataclass(frozen=True)
class LeftOut:
    """Files and folders that were not used.

    Attributes:
        files: files that are neither clips nor photos.
        omitted: paths that the folder walk skipped, with reasons.
    """

    files: Sequence[str] = ()
    omitted: Sequence[Omitted] = ()

    def __str__(self) -> str:
        """Return counts and names by reason, without hidden files; empty if there are none."""
        by_reason: defaultdict[str, list[str]] = defaultdict(list)
        for item in self.omitted:
            if item.reason != HIDDEN:
                by_reason[item.reason].append(item.path)
        parts = [f"{len(paths):,} {reason} ({_some_names(paths)})" for reason, paths in by_reason.items()]
        if self.files:
            what = (
                "files that are neither clips nor photos"
                if len(self.files) > 1
                else "file that is neither a clip nor a photo"
            )
            parts.insert(0, f"{len(self.files):,} {what} ({_some_names(self.files)})")
        return "; ".join(parts)


def shorten_path(path: str, most_chars: int = MAX_PATH_CHARS) -> str:
    """Return a printable path, with its middle elided if it is longer than ``most_chars``."""
    shown, half = name_of(path), most_chars // 2
    return shown if len(shown) <= most_chars else f"{shown[:half]}…{shown[1 - half :]}"


def _some_names(paths: Iterable[str]) -> str:
    """Return the first distinct names; a NAS has a folder of the same name in every other."""
    names = list(dict.fromkeys(Path(path).name for path in paths))
    shown = [shorten_path(name, MAX_NAME_CHARS) for name in names[:MAX_NAMES]]
    return ", ".join([*shown, "…"] if len(names) > MAX_NAMES else shown)
