"""Table of labelled clips or photos, the common input of all later stages, whatever the source of the labels."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol, TypeVar, get_args

from vidrisk.data.text import label_from_text
from vidrisk.frames import Interval
from vidrisk.runtimes.contract.choices import LabelTask
from vidrisk.runtimes.contract.errors import DataError, SettingsError

Label = str | tuple[str, ...]  # single-label target, multi-label target
SplitName = Literal["train", "val", "test"]
TARGETS = ("action", "defect", "level")
TARGETS_OF: dict[LabelTask, tuple[str, ...]] = {
    "action": ("action",),
    "risk": ("defect", "level"),
    "action+risk": TARGETS,
}
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
SPLIT_WORDS: dict[str, SplitName] = {
    "train": "train",
    "training": "train",
    "训练": "train",
    "训练集": "train",
    "val": "val",
    "valid": "val",
    "validate": "val",
    "validation": "val",
    "dev": "val",
    "验证": "val",
    "验证集": "val",
    "test": "test",
    "testing": "test",
    "测试": "test",
    "测试集": "test",
}


def split_from_name(name: str) -> SplitName | None:
    """Return the split in a file name such as ``instances_val2017.json``, or None if there is none or several."""
    words = re.findall(r"[a-z]+|[\u4e00-\u9fff]+", name.casefold())
    found = {SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS}
    return found.pop() if len(found) == 1 else None


def main_target(task: LabelTask) -> str:
    """Return the target of labels that do not name one."""
    return "defect" if task == "risk" else "action"


class InSplit(Protocol):
    """Anything that belongs to a split."""

    @property
    def split(self) -> SplitName | None: ...


Item = TypeVar("Item", bound=InSplit)


def items_of_split(items: Iterable[Item], name: str) -> tuple[Item, ...]:
    """Return the items of a split, in their order.

    Raises:
        SettingsError: no such split.
    """
    if name not in SPLITS:
        raise SettingsError(f"split {name!r}", allowed=", ".join(SPLITS))
    return tuple(item for item in items if item.split == name)


@dataclass(frozen=True)
class Sample:
    """One labelled clip or photo, or a labelled part of a clip.

    Attributes:
        path: the file, absolute.
        name: its path relative to the table's root, with ``/`` between folders.
        labels: label by target name; ``action`` for clips of actions, ``defect`` and/or ``level`` for risks. A missing
            target is not labelled. A tuple contains all labels of a multi-label target, sorted, each once; an empty one
            means that no label applies. Labels are converted to composed form (NFC) without white space around them.
        risk: text on the risk from the data, '' if absent.
        advice: text with advice from the data, '' if absent.
        description: description from the data, '' if absent.
        split: ``train``, ``val`` or ``test``; None before the split.
        group: samples of one group stay in one split.
        extra: every other column, by its name in the manifest.
        interval: the part of the file that the labels are about; None for all of it. A file may be in a table once for
            each of its intervals.
    """

    path: Path
    name: str
    labels: Mapping[str, Label]
    risk: str = ""
    advice: str = ""
    description: str = ""
    split: SplitName | None = None
    group: str | None = None
    extra: Mapping[str, str] = field(default_factory=dict)
    interval: Interval | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", {target: _canonical(label) for target, label in self.labels.items()})

    def __repr__(self) -> str:
        labels = ", ".join(f"{target}={self.label_text(target)}" for target in self.labels)
        return f"Sample({self.title}: {labels}{f', {self.split}' if self.split else ''})"

    def labels_of(self, target: str) -> tuple[str, ...]:
        """Return all labels of one target; empty if it is not labelled or no label applies."""
        label = self.labels.get(target, ())
        return (label,) if isinstance(label, str) else label

    def label_text(self, target: str) -> str:
        """Return the labels of one target as readable text."""
        return " + ".join(self.labels_of(target)) or ("none" if target in self.labels else "not labelled")

    @property
    def title(self) -> str:
        """Name and interval, for messages."""
        return f"{self.name} {self.interval}" if self.interval else self.name

    @property
    def identity(self) -> dict[str, str]:
        """Name and interval, for files that other commands read."""
        return {"path": self.name} | ({"interval": str(self.interval)} if self.interval else {})

    @property
    def order(self) -> tuple[str, str, float, float]:
        """Sort key: name, then time."""
        part = (self.interval.start, self.interval.end) if self.interval else (0.0, 0.0)
        return self.name, str(self.path), *part


@dataclass(frozen=True, repr=False)
class Table:
    """Samples of one task under one root folder; every sample is labelled for at least one target.

    Attributes:
        notes: assumptions made when it was read, such as a detected encoding.
        label_order: labels by target in the order of the model's outputs, if the data specify one; it may name labels
            that no sample has. Labels of other targets are sorted by name.

    Raises:
        DataError: an order that lacks a label of a sample, or has one twice; a target that is single-label in one
            sample and multi-label in another.
    """

    root: Path
    task: LabelTask
    samples: tuple[Sample, ...]
    notes: tuple[str, ...] = field(default=(), compare=False)
    label_order: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        orders = {target: tuple(map(label_from_text, order)) for target, order in self.label_order.items()}
        object.__setattr__(self, "label_order", orders)
        for target, order in orders.items():
            lacking = sorted({label for sample in self.samples for label in sample.labels_of(target)} - set(order))
            if lacking or len(set(order)) < len(order):
                raise DataError(
                    f"the order of {target} labels of {self.root.name} lacks {first_three(lacking)}"
                    if lacking
                    else f"the order of {target} labels of {self.root.name} has a label twice",
                    allowed="every label once",
                )
        mixed = sorted(
            {target for sample in self.samples for target, label in sample.labels.items() if isinstance(label, str)}
            & self.multi_targets
        )
        if mixed:
            raise DataError(
                f"{mixed[0]} has one label in some samples of {self.root.name}, but any number in others",
                fix="read them all as multi-label",
            )

    def __len__(self) -> int:
        return len(self.samples)

    def __repr__(self) -> str:
        splits = Counter(sample.split or "no split" for sample in self.samples)
        parts = ", ".join(f"{n} {name}" for name, n in splits.items())
        return f"Table({self.root.name}, {self.task}: {parts or 'empty'})"

    @cached_property
    def target_names(self) -> tuple[str, ...]:
        """Targets that any sample is labelled for: out of ``action``, ``defect`` and ``level``, in this order."""
        found = dict.fromkeys(target for sample in self.samples for target in sample.labels)
        return tuple(sorted(found, key=lambda target: TARGETS.index(target) if target in TARGETS else len(TARGETS)))

    @cached_property
    def multi_targets(self) -> frozenset[str]:
        """Multi-label targets."""
        return frozenset(
            target for sample in self.samples for target, label in sample.labels.items() if not isinstance(label, str)
        )

    def is_labelled_for_all(self) -> bool:
        """Return whether every sample is labelled for every target."""
        return all(len(sample.labels) == len(self.target_names) for sample in self.samples)

    def of_split(self, name: str) -> Table:
        """Return the samples of one split, which may be empty.

        Raises:
            SettingsError: no such split.
        """
        return self.with_samples(items_of_split(self.samples, name))

    def with_samples(self, samples: Iterable[Sample]) -> Table:
        return replace(self, samples=tuple(samples))

    def label_counts(self, target: str) -> dict[str, int]:
        """Count the samples per label of one target, in the order of ``labels_of``, without labels that no sample has.

        Raises:
            SettingsError: the table has no such target.
        """
        if target not in self.target_names:
            raise SettingsError(f"target {target!r}", allowed=", ".join(self.target_names) or "none in an empty table")
        counts = Counter(label for sample in self.samples for label in sample.labels_of(target))
        return {label: counts[label] for label in self.label_order.get(target, sorted(counts)) if label in counts}

    def labels_of(self, target: str) -> tuple[str, ...]:
        """Return all labels of one target in the order of the model's outputs: that of the data, else sorted by name.

        Raises:
            SettingsError: the table has no such target.
        """
        counts = self.label_counts(target)
        return self.label_order.get(target, tuple(counts))


def as_multi_label(table: Table, targets: Collection[str]) -> Table:
    """Return a table in which some targets are multi-label: single labels become tuples of one; levels stay single."""

    def several(label: Label, target: str) -> Label:
        return (label,) if isinstance(label, str) and target in targets and target != "level" else label

    return table.with_samples(
        replace(sample, labels={target: several(label, target) for target, label in sample.labels.items()})
        for sample in table.samples
    )


def _canonical(label: Label) -> Label:
    if isinstance(label, str):
        return label_from_text(label)
    return tuple(sorted({label_from_text(one) for one in label}))


def first_three(items: Sequence[str], most_chars: int = 80) -> str:
    """Join the first three of some names, for an error message of one line."""
    shown = ", ".join(item if len(item) <= most_chars else item[: most_chars - 3] + "..." for item in items[:3])
    return shown if len(items) <= 3 else f"{shown} and {len(items) - 3} more"
