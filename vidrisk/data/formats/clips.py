"""Lists of clips, as many data sets have them: where lists and clips lie, and which split a name says."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

from vidrisk.data.columns import looks_like_header
from vidrisk.data.formats.lists import lines_of
from vidrisk.data.formats.rows import MediaFiles, safe_name
from vidrisk.data.table import SPLIT_WORDS, Sample, SplitName
from vidrisk.data.text import nfc
from vidrisk.frames.media import name_of
from vidrisk.runtimes.contract.errors import DataError, VidriskError

LIST_FOLDERS = ("", "annotations", "labels", "lists")
MAX_ENTRIES = 10_000  # of a folder that lists are looked for in
SNIFFED_LINES = 5
SNIFFED_BYTES = 2**18
WORDS: dict[str, SplitName] = {**SPLIT_WORDS, "validate": "val"}
_WORD_IN_NAME = re.compile(rf"(?:^|[^a-z])({'|'.join(WORDS)})(?![a-z])", re.IGNORECASE)


def home_of(source: Path) -> Path:
    """Return the folder of a data set: that of its list, without a folder for lists alone."""
    if source.is_dir():
        return source
    return source.parent.parent if source.parent.name in LIST_FOLDERS[1:] else source.parent


@dataclass(frozen=True)
class Homes:
    """Where clips are looked for: below the folder that is given for them, then below the data set's own.

    Attributes:
        root: what names are relative to: the innermost folder with both of them in it.
        folders: both, relative to the root; '' where it is one of them.
    """

    root: Path
    folders: tuple[str, ...]

    @classmethod
    def of(cls, home: Path, media: Path | None) -> Homes:
        """Find the root of both.

        Args:
            home: of the data set.
            media: see ``Reading``.
        """
        root = home if media is None else Path(os.path.commonpath([home, media]))
        homes = [home] if media is None else [media, home]
        return cls(root, tuple(dict.fromkeys("" if folder == root else folder.relative_to(root).as_posix() for folder in homes)))

    def places(self, folders: Sequence[str]) -> tuple[str, ...]:
        """Return folders below each home, relative to the root."""
        return tuple(dict.fromkeys(posixpath.join(home, folder).rstrip("/") for home in self.folders for folder in folders))

    def files(self, folders: Sequence[str]) -> MediaFiles:
        """Find clips in folders below each home."""
        return MediaFiles(self.root, self.places(folders))


def lists_in(source: Path, pattern: re.Pattern[str], folders: Sequence[str] = LIST_FOLDERS) -> list[Path]:
    """Return a list that is a file itself, or the files in the first of some folders below it that match; never raises."""
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
    """Tell whether a CSV file is a manifest of vidrisk's own, as may lie beside the lists that it was made of."""
    return path.suffix.lower() == ".csv" and looks_like_header(next(iter(first_lines(path)), "").split(","))


def first_lines(path: Path) -> list[str]:
    """Return the first few lines of a text that are not blank; none of what cannot be read."""
    try:
        return [line for _, line in islice(lines_of(path), SNIFFED_LINES)]
    except (VidriskError, ValueError):
        return []


def head_has(path: Path, words: Iterable[str]) -> bool:
    """Tell whether all these words are JSON strings in the first part of a file; not of one that cannot be read."""
    try:
        with path.open("rb") as file:
            head = file.read(SNIFFED_BYTES)
    except (OSError, ValueError):
        return False
    return all(f'"{word}"'.encode() in head for word in words)


def split_from_name(name: str) -> SplitName | None:
    """Find the split in the name of a list, such as ``kinetics400_val_list_videos.txt``."""
    found = {WORDS[word.lower()] for word in _WORD_IN_NAME.findall(Path(name).stem)}
    return found.pop() if len(found) == 1 else None


def split_from_word(where: str, word: object) -> SplitName | None:
    """Read the split of a row; None where there is no word.

    Raises:
        DataError: another word.
    """
    text = str(word or "").strip().lower()
    if text and text not in WORDS:
        raise DataError(f"{where}: the split {text[:80]!r}", allowed=", ".join(word for word in WORDS if word.isascii()))
    return WORDS[text] if text else None


def check_splits(samples: Sequence[Sample], source: Path) -> None:
    """Refuse samples of which some have a split and others none.

    Raises:
        DataError: they are of these.
    """
    without = sum(sample.split is None for sample in samples)
    if 0 < without < len(samples):
        raise DataError(f"{name_of(source.name)}: samples without a split: {without} of {len(samples)}",
                        allowed="a split for every sample, or for none", fix="name one list alone, or fill the splits in")


def notes_of(counts: Mapping[str, int]) -> list[str]:
    """Say what was counted, in the order of the words."""
    return [f"{what}: {count}" for what, count in sorted(counts.items()) if count]


def path_below(written: str, folders: Iterable[Path]) -> PurePosixPath | None:
    """Read a path of a list as one below the folder of its clips; an absolute one counts where it lies in one of these folders."""
    name = PurePosixPath(written.replace("\\", "/"))
    for folder in folders:
        if name.is_absolute() and name.is_relative_to(folder.as_posix()):
            return safe_name(str(name.relative_to(folder.as_posix())))
    return safe_name(written)


def folded(name: str) -> str:
    """Return a name as copies of a data set differ in: ``air drumming``, ``air_drumming``, ``AirDrumming``."""
    return "".join(character for character in nfc(name).casefold() if character.isalnum())


def folders_by_label(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the names of the folders in a folder, each with its folded form; none where it cannot be listed."""
    with suppress(OSError, ValueError), os.scandir(folder) as entries:
        yield from ((folded(entry.name), entry.name) for entry in entries if entry.is_dir())
