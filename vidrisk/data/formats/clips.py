"""Helpers for the list files of data sets: where they are, how they are detected, and the splits of their rows."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path

from vidrisk.data.columns import looks_like_header
from vidrisk.data.formats.lists import head_of, lines_of
from vidrisk.data.table import SPLIT_WORDS, Sample, SplitName
from vidrisk.data.text import nfc
from vidrisk.runtimes.contract.errors import DataError, VidriskError

LIST_FOLDERS = ("", "annotations", "labels", "lists")
MAX_ENTRIES = 10_000  # read from a folder when looking for lists
SNIFFED_LINES = 5
SNIFFED_BYTES = 2**18


def home_of(source: Path) -> Path:
    """Return the folder of a data set: that of its list, or the one above if that folder has only lists."""
    if source.is_dir():
        return source
    return source.parent.parent if source.parent.name in LIST_FOLDERS[1:] else source.parent


def lists_in(source: Path, pattern: re.Pattern[str], folders: Sequence[str] = LIST_FOLDERS) -> list[Path]:
    """Return the source if it is a file, or the matching files in the first of some folders below it that has any.

    Never raises.
    """
    try:
        if not source.is_dir():
            return [source] if source.is_file() else []
        for folder in folders:
            with suppress(OSError), os.scandir(source / folder) as entries:
                names = [entry.name for entry in islice(entries, MAX_ENTRIES) if pattern.fullmatch(entry.name)]
                if found := sorted(source / folder / name for name in names if (source / folder / name).is_file()):
                    return found
    except (OSError, ValueError):
        pass
    return []


def is_manifest(path: Path) -> bool:
    """Return whether a CSV file is a manifest of vidrisk, which may be next to the lists that it was made from."""
    return path.suffix.lower() == ".csv" and looks_like_header(next(iter(first_lines(path)), "").split(","))


def first_lines(path: Path) -> list[str]:
    """Return the first few non-blank lines of a text, or none if it cannot be read."""
    try:
        return [line for _, line in islice(lines_of(path), SNIFFED_LINES)]
    except (VidriskError, ValueError):
        return []


def head_has(path: Path, words: Iterable[str]) -> bool:
    """Return whether all these words are JSON strings in the first part of a file; False if it cannot be read."""
    head = head_of(path, SNIFFED_BYTES)
    return all(f'"{word}"'.encode() in head for word in words)


def split_from_word(where: str, word: object) -> SplitName | None:
    """Return the split that a word in a row names, or None if there is no word.

    Raises:
        DataError: an unknown word.
    """
    text = str(word or "").strip().lower()
    if text and text not in SPLIT_WORDS:
        raise DataError(
            f"{where}: the split {text[:80]!r}", allowed=", ".join(word for word in SPLIT_WORDS if word.isascii())
        )
    return SPLIT_WORDS[text] if text else None


def settle_splits(samples: Sequence[Sample]) -> tuple[tuple[Sample, ...], tuple[str, ...]]:
    """Assign samples without a split to train if others have a split, and return a note with their number."""
    without = sum(sample.split is None for sample in samples)
    if not 0 < without < len(samples):
        return tuple(samples), ()
    return tuple(replace(sample, split=sample.split or "train") for sample in samples), (
        f"samples of no split, taken as train: {without} of {len(samples)}",
    )


def fold_label(name: str) -> str:
    """Normalize spellings of a name in copies of a data set: ``air drumming``, ``air_drumming``, ``AirDrumming``."""
    return "".join(character for character in nfc(name).casefold() if character.isalnum())


def folders_by_label(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the names of the folders in a folder, each with its folded form; none if it cannot be listed."""
    with suppress(OSError, ValueError), os.scandir(folder) as entries:
        yield from ((fold_label(entry.name), entry.name) for entry in entries if entry.is_dir())
