"""What a format is: how it knows its own files, what it reads out of them, and what it can carry when it is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from vidrisk.data.table import Sample, Table, main_target
from vidrisk.runtimes.contract.choices import LabelTask

# What a table may hold beside files with one label each. A format says which of it survives writing and reading.
# "label order": all labels of a target, those that no sample has, too; "order of used labels": without those.
# "no label": samples of a multi-label target for which none holds, which differ from those that nobody has labelled.
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
    """How to read a data set.

    Attributes:
        task: what its labels are about.
        split: number of an official split; 0 where there are none.
        media: folder in which its files are looked for, beside the places where the format keeps them.
        rate: frames per second in which a labelling tool counts, where its files do not say.
        labels: a file with the names of the classes, where the data set holds their numbers alone.
        multi_label: whether any number of labels may hold for a sample; None lets the data tell.
        crops: whether every box is a sample of its own, cut out of its photo.
        made: empty folder for photos that the data set holds inside its own files, or that are cut out; None where none
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
        """The target that labels without a name of their own belong to."""
        return main_target(self.task)


SCORE = "score"  # the column of a sample that says how sure a model is of its labels


@dataclass(frozen=True)
class Writing:
    """How to write a data set.

    Attributes:
        model: the model whose predictions the labels are, to be corrected by people; None for labels of people. With
            it, the column ``SCORE`` of a sample is how sure it is, 0 to 1.
    """

    model: str | None = None


@dataclass(frozen=True, repr=False)
class Listed:
    """What a data set names.

    Attributes:
        root: folder that names of samples are relative to.
        samples: those whose file is there; with a split each, or none of them with one.
        absent: names of those whose file is not there.
        label_order: see ``Table``.
        looked_in: folders where files were looked for, relative to the root.
        notes: what was taken for what, and what was left out, counted.
    """

    root: Path
    samples: tuple[Sample, ...]
    absent: tuple[str, ...]
    looked_in: tuple[str, ...]
    label_order: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Listed({len(self.samples)} samples, {len(self.absent)} absent)"


def counted(notes: Mapping[str, int]) -> list[str]:
    """Return notes with their counts, without those of nothing."""
    return [f"{note}: {count}" for note, count in notes.items() if count]


@dataclass(frozen=True)
class Format:
    """One layout of labelled data.

    Attributes:
        name: as it is asked for.
        title: for people.
        tasks: what its labels may be about, the default first.
        signs: the files by which it is recognised, for errors.
        owns: tells of a folder or a file whether it is of this format, by a look at a few files; never raises.
        read: reads a folder or file, absolute.
        splits: numbers of the official splits, the default first; empty where there is one split alone.
        options: of ``Reading`` that mean something to it; others are refused before it is asked.
        write: writes a table that holds nothing but what the format carries (and scores of predictions) to a file or
            folder that does not exist; None where the format is only read. Files are named relative to the table's
            root.
        carries: what is the same after ``write`` and ``read``.
        copies: whether ``write`` puts copies of the files into a folder of its own; else it names them where they are.
        suffix: of the file that ``write`` makes; '' where it makes a folder.
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
