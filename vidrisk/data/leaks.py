"""Finds leaks that make the scores of a split look too good: copies across splits, and groups in several splits.

Two files are compared only if their splits or labels differ and they may be equal: by size, then by three short pieces,
then by SHA-256. Therefore 40,000 photos usually cost only a look at their sizes.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

from vidrisk.data.table import Sample, Table, first_three
from vidrisk.frames.media import name_of
from vidrisk.runtimes.contract.bundle import sha256_of
from vidrisk.runtimes.contract.errors import DataError

log = logging.getLogger(__name__)

PIECE_BYTES = 4096

_Key = Callable[[Sample], Hashable]


def check_leaks(table: Table, *, strict: bool = False) -> None:
    """Warn of the leaks of a table.

    Raises:
        DataError: with ``strict``, there is a leak.
    """
    leaks = leaks_from_table(table)
    if leaks and strict:
        raise DataError(
            "; ".join(leaks),
            allowed="every content and every group in one split, every content with one label",
            fix="remove the copies, or split anew with related samples in one group",
        )
    for leak in leaks:
        log.warning("%s: %s", name_of(table.root.name), leak)


def leaks_from_table(table: Table) -> list[str]:
    """Describe contents in two splits, contents with two labels, and groups in two splits, in one line each."""
    crossing, contradictory = [], []
    for copies in _copies(table.samples):
        crossing += _first_difference([sample for sample in copies if sample.split], _split_of)
        for same_part in _group_by_key(copies, _part_of).values():
            contradictory += _first_difference(same_part, _labels_of)
    straddling = [str(first.group) for first, _ in straddling_groups(table.samples)]
    lines = []
    if crossing:
        lines.append(f"contents that are in two splits ({len(crossing)}): {_pairs(crossing, _split_of)}")
    if contradictory:
        lines.append(f"contents that have two labels ({len(contradictory)}): {_pairs(contradictory, _labels_of)}")
    if straddling:
        lines.append(f"groups that are in two splits ({len(straddling)}): {first_three(straddling)}")
    return lines


def straddling_groups(samples: Iterable[Sample]) -> list[tuple[Sample, Sample]]:
    """Return, for each group in two splits, its first sample and the next one that is in another split."""
    in_groups = _group_by_key(
        [sample for sample in samples if sample.split and sample.group], lambda sample: sample.group
    )
    return [pair for group in in_groups.values() for pair in _first_difference(group, _split_of)]


def _copies(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    """Yield groups of samples with equal content that differ in split or label; unreadable files have no copies."""
    pieces, digest = cache(_pieces_of), cache(_digest_of)  # a file may have many samples
    for of_size in _group_by_key(samples, lambda sample: _size_of(sample.path)).values():
        for of_pieces in _group_by_key(of_size, lambda sample: pieces(sample.path)).values():
            if len({sample.path for sample in of_pieces}) == 1:
                yield of_pieces
            else:
                yield from _group_by_key(of_pieces, lambda sample: digest(sample.path)).values()


def _group_by_key(samples: Iterable[Sample], key: _Key) -> dict[Hashable, list[Sample]]:
    """Group samples by a key, without the key None; keep only groups whose samples differ in split or label."""
    groups: defaultdict[Hashable, list[Sample]] = defaultdict(list)
    for sample in samples:
        value = key(sample)
        if value is not None:
            groups[value].append(sample)
    return {
        value: group
        for value, group in groups.items()
        if _first_difference(group, _split_of) or _first_difference(group, _labels_of)
    }


def _first_difference(samples: Sequence[Sample], key: _Key) -> list[tuple[Sample, Sample]]:
    """Return the first sample and the next one that differs from it, or an empty list if none does."""
    for sample in samples:
        if key(sample) != key(samples[0]):
            return [(samples[0], sample)]
    return []


def _pairs(pairs: Iterable[tuple[Sample, Sample]], key: _Key) -> str:
    return first_three(
        [" = ".join(f"{name_of(sample.name)} ({key(sample)})" for sample in pair) for pair in pairs], most_chars=400
    )


def _split_of(sample: Sample) -> str | None:
    return sample.split


def _labels_of(sample: Sample) -> str:
    return ", ".join(map(sample.label_text, sample.labels))


def _part_of(sample: Sample) -> Hashable:
    """Return a key of the part of a file; parts of one file may have different labels."""
    return str(sample.interval)


def _size_of(path: Path) -> int | None:
    try:
        info = path.stat()
    except (OSError, ValueError):
        return None
    return info.st_size or None if stat.S_ISREG(info.st_mode) else None


def _pieces_of(path: Path) -> bytes | None:
    """Return a digest of the first, the middle and the last piece of a file."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            for offset in (0, size // 2, max(0, size - PIECE_BYTES)):
                file.seek(offset)
                digest.update(file.read(PIECE_BYTES))
    except OSError:
        return None
    return digest.digest()


def _digest_of(path: Path) -> str | None:
    try:
        return sha256_of(path)
    except OSError:
        return None
