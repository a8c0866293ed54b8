"""What people call the controls and attributes of labelling tools, and what vidrisk takes them for.

A control whose name is one of the names of ``columns`` is that target, text, split or group. One other control is the target of
the task, where no control is named so. All that is left are further columns.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from vidrisk.data.columns import ACTION_ALONE, CLASS, DEFECT_ALONE, DEFECT_OR_TEXT, GROUP, LEVEL, PATH, SPLIT, TEXTS
from vidrisk.data.formats.format import Reading
from vidrisk.data.formats.rows import Row
from vidrisk.data.intervals import END_FRAME, END_S, START_FRAME, START_S
from vidrisk.data.io import LABEL_COLUMNS
from vidrisk.data.label_ids import ID_COLUMNS
from vidrisk.data.table import SPLIT_WORDS, TARGETS, Label, Sample, first_three
from vidrisk.data.text import trimmed
from vidrisk.frames import Interval
from vidrisk.runtimes.contract.choices import LabelTask
from vidrisk.runtimes.contract.errors import DataError

TARGETS_OF: dict[LabelTask, tuple[str, ...]] = {
    "action": ("action",), "risk": ("defect", "level"), "action+risk": ("action", "defect", "level")}
NAMED = {target: target for target in TARGETS}  # of controls that are named as targets are
UNDEFINED = "__undefined__"  # what CVAT's manual recommends as a value for "nobody has chosen one"
_NAMES = {**dict.fromkeys(ACTION_ALONE, "action"), **dict.fromkeys((*DEFECT_ALONE, *DEFECT_OR_TEXT), "defect"),
          **dict.fromkeys(LEVEL, "level")}
_FIELDS = {**{name: text for text, names in TEXTS.items() for name in names}, **dict.fromkeys(SPLIT, "split"),
           **dict.fromkeys(GROUP, "group")}

RESERVED = frozenset({*PATH, *CLASS, *_NAMES, *_FIELDS, *ID_COLUMNS.values(), START_S, END_S, START_FRAME, END_FRAME})


@dataclass(frozen=True, slots=True)
class Said:
    """What a tool says of a file, or of a part of it.

    Attributes:
        where, name, interval: see ``Row``.
        labels: by control; of each all that hold.
        fields: other values by name.
        split: as the tool names it; '' where it names none.
    """

    where: str
    name: str
    labels: Mapping[str, tuple[str, ...]]
    fields: Mapping[str, str] = field(default_factory=dict)
    interval: Interval | None = None
    split: str = ""


def target_of(control: str, task: LabelTask) -> str | None:
    """Return the target that a control is named for; None for another one, and for a target of another task."""
    target = _NAMES.get(_plain(control))
    return target if target in TARGETS_OF[task] else None


def field_of(name: str) -> str | None:
    """Return the text that a name means, ``split`` or ``group``; None for a further column."""
    return _FIELDS.get(_plain(name))


def column_of(name: str) -> str:
    """Return the name of a further column: not one that a manifest has for something else."""
    return f"{name} (extra)" if _plain(name) in RESERVED or not name.strip() else name


def _plain(name: str) -> str:
    return trimmed(name).casefold().removeprefix("data_")


def targets_of_controls(controls: Mapping[str, int], reading: Reading, what: str) -> tuple[dict[str, str], list[str]]:
    """Find the target of each control: by its name, or because it alone is left to be the target of the task; and note the latter.

    Args:
        controls: names, each with how well it suits: of those without a name that says it, one of the lowest number is taken.
        what: they are called.

    Raises:
        DataError: several could be the target of the task.
    """
    targets = {name: target for name in controls if (target := target_of(name, reading.task))}
    if reading.target in targets.values():
        return targets, []
    others = {name: (0 if _plain(name) in CLASS else 1, rank) for name, rank in controls.items()
              if name not in targets and not field_of(name) and _plain(name) not in _NAMES}
    lowest = min(others.values(), default=None)
    best = [name for name, rank in others.items() if rank == lowest]
    if len(best) > 1:
        raise DataError(f"{what} {first_three(best)}: which of them is the {reading.target} cannot be told",
                        allowed=f"one of them with the name {LABEL_COLUMNS[reading.target]}", fix="rename it where it is labelled")
    return targets | dict.fromkeys(best, reading.target), [f"{name[:80]!r} is taken as the {reading.target}" for name in best]


def rows_from_said(said: Iterable[Said], reading: Reading, targets: Mapping[str, str], *,
                   is_merged: bool = True) -> tuple[list[Row], list[str]]:
    """Turn what a tool says into rows, and what there is to note of them.

    Args:
        targets: by control; labels of other controls become columns.
        is_merged: whether what is said of one part of a file in one split becomes one row.
    """
    rows: dict[object, Row] = {}
    for number, one in enumerate(said):
        row = _row(one, reading, targets)
        key = (row.name, row.interval, row.split) if is_merged else number
        rows[key] = _merged(rows[key], row) if key in rows else row
    found = [row for row in rows.values() if row.labels]
    notes = counted({"files, or parts of them, of which nobody has chosen a label, left out": len(rows) - len(found)})
    without = sum(row.split is None for row in found)
    if not 0 < without < len(found):
        return found, notes
    found = [row if row.split else replace(row, split="train") for row in found]
    return found, [*notes, f"files of no split, taken as train: {without}"]


def _row(said: Said, reading: Reading, targets: Mapping[str, str]) -> Row:
    labels: dict[str, Label] = {}
    extra: dict[str, str] = {}
    parts: dict[str, Any] = {"split": SPLIT_WORDS.get(_plain(said.split))}
    for control, values in said.labels.items():
        target = targets.get(control)
        if target is None:
            extra[column_of(control)] = values[0] if len(values) == 1 else json.dumps(values, ensure_ascii=False)
        else:
            labels[target] = (*labels.get(target, ()), *values)
    if said.split and not parts["split"] and _plain(said.split) != "default":
        extra["subset"] = said.split
    for name, value in said.fields.items():
        meaning = field_of(name)
        if meaning == "split" and _plain(value) in SPLIT_WORDS:
            parts["split"] = SPLIT_WORDS[_plain(value)]
        elif meaning and meaning != "split" and not parts.get(meaning):
            parts[meaning] = value or None if meaning == "group" else value
        elif meaning != "split" or value:
            extra[column_of(name)] = value
    return Row(said.where, said.name, labels, interval=said.interval, extra=extra, **parts)


def _merged(first: Row, second: Row) -> Row:
    labels: dict[str, Label] = dict(first.labels)
    for target, values in second.labels.items():
        known = labels.get(target, ())
        labels[target] = tuple(dict.fromkeys([*([known] if isinstance(known, str) else known),
                                              *([values] if isinstance(values, str) else values)]))
    texts = {name: getattr(first, name) or getattr(second, name) for name in (*TEXTS, "group")}
    return replace(first, labels=labels, extra={**second.extra, **first.extra}, **texts)


def fields_of_sample(sample: Sample, left_out: Iterable[str] = ()) -> dict[str, str]:
    """Return texts, group and further columns of a sample, without its split, as a tool may hold them by name.

    Raises:
        DataError: a column whose name means something else when it is read.
    """
    fields = {name: getattr(sample, name) for name in TEXTS if getattr(sample, name)}
    if sample.group is not None:
        fields["group"] = sample.group
    for name, value in sample.extra.items():
        if name in left_out:
            continue
        if field_of(name) or _plain(name) in _NAMES or not name:
            raise DataError(f"the extra column {name!r} of {sample.name} has a reserved name", fix="rename it")
        fields[name] = value
    return fields


def counted(notes: Mapping[str, int]) -> list[str]:
    """Return notes with their counts, without those of nothing."""
    return [f"{note}: {count}" for note, count in Counter(notes).items() if count]


def is_number(value: Any) -> bool:
    """Tell whether a value of JSON is a number that float64 can hold."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
