"""Interface of a format: how it detects its own files, what it reads from them, and what it can represent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from vidrisk.data.table import Sample, Table, main_target
from vidrisk.runtimes.contract.choices import LabelTask

# Parts of a table beyond files with one label each. A format lists those that survive writing and reading.
# "label order": all labels of a target, including those that no sample has; "order of used labels": without those.
# "no label": samples of a multi-label target to which no label applies, as opposed to samples that are not labelled.
Part = Literal[
    "clips",
    "photos",
    "intervals",
    "frame intervals",
    "multi-label",
    "no label",
    "several targets",
    "splits",
    "groups",
    "label order",
    "order of used labels",
    "texts",
    "extra",
]
PARTS: tuple[Part, ...] = get_args(Part)
Option = Literal["split", "rate", "labels", "crops"]


@dataclass(frozen=True)
class Reading:
    """Options for reading a data set.

    Attributes:
        task: the task of its labels.
        split: number of an official split; 0 if there are none.
        media: folder in which its files are looked for, in addition to the usual places of the format.
        rate: frames per second in which a labelling tool counts, if its files do not specify it.
        labels: a file with the names of the classes, if the data set has only their numbers.
        multi_label: whether any number of labels may apply to a sample; None infers it from the data.
        crops: whether every box is a sample of its own, cut out of its photo.
        made: empty folder for photos that the data set stores inside its own files, or that are cut out; None if none
            may be written.
    """

    task: LabelTask
    split: int = 0
    media: Path | None = None
    rate: float | None = None
    labels: Path | None = None
    multi_label: bool | None = None
    crops: bool = False
    made: Path | None = None

    @property
    def target(self) -> str:
        """The target of labels that do not name one."""
        return main_target(self.task)


SCORE = "score"  # the column of a sample with a model's confidence in its labels
SCORED = "labels with the confidence of a model, taken as they are"  # for a note


@dataclass(frozen=True)
class Writing:
    """Options for writing a data set.

    Attributes:
        model: the model whose predictions are the labels, for correction by people; None for labels by people. With it,
            the column ``SCORE`` of a sample is the model's confidence, 0 to 1.
    """

    model: str | None = None


@dataclass(frozen=True, repr=False)
class Listed:
    """Content of a data set.

    Attributes:
        root: folder that names of samples are relative to.
        samples: those whose file exists; either all of them have a split or none.
        absent: names of those whose file does not exist.
        label_order: see ``Table``.
        looked_in: folders that were searched, relative to the root.
        notes: assumptions, and counts of what was left out.
    """

    root: Path
    samples: tuple[Sample, ...]
    absent: tuple[str, ...]
    looked_in: tuple[str, ...]
    label_order: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Listed({len(self.samples)} samples, {len(self.absent)} absent)"


def format_counts(notes: Mapping[str, int]) -> list[str]:
    """Format notes with their counts, without those that count 0."""
    return [f"{note}: {count}" for note, count in notes.items() if count]


@dataclass(frozen=True)
class Format:
    """One layout of labelled data.

    Attributes:
        name: for options.
        title: for messages.
        tasks: possible tasks of its labels, the default first.
        signs: the files by which it is detected, for errors.
        owns: returns whether a folder or a file is of this format, by a look at a few files; never raises.
        read: reads a folder or file, given as an absolute path.
        splits: numbers of the official splits, the default first; empty if there is only one split.
        options: options of ``Reading`` that it supports; others are refused before ``read`` is called.
        write: writes a table that contains only what the format can represent (and scores of predictions) to a file or
            folder that does not exist; None if the format can only be read. Files are named relative to the table's
            root.
        carries: the parts of a table that are the same after ``write`` and ``read``.
        copies: whether ``write`` copies the files into a folder of its own; otherwise it refers to them where they are.
        suffix: suffix of the file that ``write`` makes, or '' if it makes a folder.
    """

    name: str
    title: str
    tasks: tuple[LabelTask, ...]
    signs: str
    owns: Callable[[Path], bool]
    read: Callable[[Path, Reading], Listed]
    splits: tuple[int, ...] = ()
    options: frozenset[Option] = frozenset()
    write: Callable[[Table, Path, Writing], None] | None = None
    carries: frozenset[Part] = frozenset()
    copies: bool = False
    suffix: str = ""
