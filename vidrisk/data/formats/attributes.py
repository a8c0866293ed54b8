"""What is known of a sample beside its labels, as named texts: formats with attributes or columns of their own carry it so.

Names are those of a manifest: ``split``, ``group``, ``risk``, ``advice``, ``description``, and ``action``, ``defect_class`` and
``risk_level`` for targets; ``columns`` has their aliases, Chinese ones too. All other names are further columns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypedDict

from vidrisk.data.columns import ACTION_ALONE, DEFECT_ALONE, DEFECT_OR_TEXT, GROUP, LEVEL, SPLIT, TEXTS
from vidrisk.data.formats.rows import Row
from vidrisk.data.io import LABEL_COLUMNS, text_from_value
from vidrisk.data.table import SPLIT_WORDS, Sample, SplitName
from vidrisk.data.text import nfc, trimmed
from vidrisk.runtimes.contract.choices import LabelTask
from vidrisk.runtimes.contract.errors import DataError

TARGETS_OF: dict[LabelTask, tuple[str, ...]] = {
    "action": ("action",), "risk": ("defect", "level"), "action+risk": ("action", "defect", "level")}
NAMES_OF_TARGETS: dict[str, tuple[str, ...]] = {
    "action": ACTION_ALONE, "defect": (*DEFECT_ALONE, *DEFECT_OR_TEXT), "level": LEVEL}
MAX_CHARS = 100_000  # of an attribute


class Fields(TypedDict, total=False):
    """Arguments of ``Row`` beside its name and labels."""

    split: SplitName | None
    group: str | None
    risk: str
    advice: str
    description: str
    extra: dict[str, str]


def target_named(name: str) -> str | None:
    """Return the target that a control, a field or a column of this name is about; None for none."""
    plain = trimmed(nfc(name)).casefold()
    return next((target for target, names in NAMES_OF_TARGETS.items() if plain in names), None)


def name_of_target(target: str) -> str:
    """Return the name that ``target_named`` knows a target by."""
    return LABEL_COLUMNS[target]


def task_of_columns(header: Iterable[str], task: LabelTask) -> LabelTask:
    """Return the task that columns have labels for, where both were asked for and only those of one are there."""
    found = {target_named(column) for column in header}
    has_risk = bool(found & {"defect", "level"})
    if task != "action+risk" or ("action" in found) == has_risk:
        return task
    return "risk" if has_risk else "action"


def attributes_of(sample: Sample, reserved: Collection[str] = ()) -> dict[str, str]:
    """Name what is known of a sample beside its labels; what is empty is left out.

    Args:
        reserved: names that the format uses itself.

    Raises:
        DataError: a further column has the name of something else.
    """
    found = {"split": sample.split or "", "group": sample.group or "", "risk": sample.risk, "advice": sample.advice,
             "description": sample.description}
    for name in sample.extra:
        if name in reserved or name in found or "extra" not in fields_from_attributes({name: "train"}):
            raise DataError(f"the extra column {name!r} of {sample.name} has a reserved name", fix="rename it")
    return {name: text for name, text in (found | dict(sample.extra)).items() if text}


def fields_from_attributes(attributes: Mapping[str, Any]) -> Fields:
    """Read attributes. Of two names for one field the first counts; what is no split stays a further column."""
    fields: Fields = {}
    extra: dict[str, str] = {}
    for written, value in attributes.items():
        text = text_from_value(value)[:MAX_CHARS]
        plain = trimmed(nfc(written)).casefold()
        if not text or target_named(plain):
            continue
        field = next((field for field, names in TEXTS.items() if plain in names), None)
        if plain in SPLIT and "split" not in fields and trimmed(text).casefold() in SPLIT_WORDS:
            fields["split"] = SPLIT_WORDS[trimmed(text).casefold()]
        elif plain in GROUP and "group" not in fields:
            fields["group"] = trimmed(text)
        elif field is not None and field not in fields:
            fields[field] = text  # type: ignore[literal-required]
        else:
            extra[nfc(written)] = text
    return fields | ({"extra": extra} if extra else {})


def with_splits(rows: Sequence[Row]) -> tuple[list[Row], Counter[str]]:
    """Take rows without a split as train where others have one; how many is said."""
    without = sum(row.split is None for row in rows)
    if not 0 < without < len(rows):
        return list(rows), Counter()
    return [row if row.split else replace(row, split="train") for row in rows], Counter(
        {"files of no split, taken as train": without})
