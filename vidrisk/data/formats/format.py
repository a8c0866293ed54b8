"""What a format is: how it knows its own folders, and what it reads out of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vidrisk.data.table import Sample
from vidrisk.runtimes.contract.choices import LabelTask


@dataclass(frozen=True, repr=False)
class Listed:
    """What the lists of a data set name.

    Attributes:
        samples: those whose file is there; with a split each, or none of them with one.
        absent: names of those whose file is not there.
        label_order: see ``Table``.
        looked_in: folders where files were looked for, relative to the root.
        notes: what was taken for what.
    """

    samples: tuple[Sample, ...]
    absent: tuple[str, ...]
    looked_in: tuple[str, ...]
    label_order: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Listed({len(self.samples)} samples, {len(self.absent)} absent)"


@dataclass(frozen=True)
class Format:
    """One layout of labelled data.

    Attributes:
        name: as it is asked for.
        title: for people.
        task: what its labels are about.
        signs: the files by which a folder is recognised, for errors.
        owns: tells of a folder or a file whether it is of this format, by a look at a few files.
        read: reads a folder or file, absolute, by the number of a split (0 where there are none) into what its lists name.
        splits: numbers of the official splits, the default first; empty where there is one split alone.
    """

    name: str
    title: str
    task: LabelTask
    signs: str
    owns: Callable[[Path], bool]
    read: Callable[[Path, int], Listed]
    splits: tuple[int, ...] = ()
