"""What was found in folders and not taken, in one line for the terminal."""

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
    """Files and folders that were not taken.

    Attributes:
        files: those that are neither clips nor photos.
        omitted: what a walk passed over, with its reasons.
    """

    files: Sequence[str] = ()
    omitted: Sequence[Omitted] = ()

    def __str__(self) -> str:
        """Counts and names by reason; hidden names are not worth a word. Empty where nothing is."""
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


def shortened(path: str, most_chars: int = MAX_PATH_CHARS) -> str:
    """Both ends of a path that is too long for a line, printable."""
    shown, half = name_of(path), most_chars // 2
    return shown if len(shown) <= most_chars else f"{shown[:half]}…{shown[1 - half :]}"


def _some_names(paths: Iterable[str]) -> str:
    """The first names, each once: a NAS has a folder of one name in every other."""
    names = list(dict.fromkeys(Path(path).name for path in paths))
    shown = [shortened(name, MAX_NAME_CHARS) for name in names[:MAX_NAMES]]
    return ", ".join([*shown, "…"] if len(names) > MAX_NAMES else shown)
