"""Maps names of columns, attributes, controls and features to their meaning, by one table for all formats.

``split``, ``group``, ``risk``, ``advice`` and ``description`` are fields of a sample; ``action``, ``defect_class`` and
``risk_level`` are targets. See ``columns`` for their aliases, in Chinese, too. All other names are extra columns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypedDict

from vidrisk.data.columns import ACTION_ALONE, CLASS, DEFECT_ALONE, DEFECT_OR_TEXT, GROUP, LEVEL, PATH, SPLIT, TEXTS
from vidrisk.data.formats.rows import Row
from vidrisk.data.intervals import END_FRAME, END_S, START_FRAME, START_S
from vidrisk.data.io import text_from_value
from vidrisk.data.label_ids import ID_COLUMNS
from vidrisk.data.table import SPLIT_WORDS, TARGETS_OF, Sample, SplitName
from vidrisk.data.text import nfc, trim_text
from vidrisk.runtimes.contract.choices import LabelTask
from vidrisk.runtimes.contract.errors import DataError

MAX_CHARS = 100_000  # of a cell; longer texts, which no manifest could contain, are cut off
_TARGETS = {
    **dict.fromkeys(ACTION_ALONE, "action"),
    **dict.fromkeys((*DEFECT_ALONE, *DEFECT_OR_TEXT), "defect"),
    **dict.fromkeys(LEVEL, "level"),
}
_FIELDS = {
    **{name: text for text, names in TEXTS.items() for name in names},
    **dict.fromkeys(SPLIT, "split"),
    **dict.fromkeys(GROUP, "group"),
}
_RESERVED = frozenset(
    {*PATH, *CLASS, *_TARGETS, *_FIELDS, *ID_COLUMNS.values(), START_S, END_S, START_FRAME, END_FRAME}
)


class Fields(TypedDict, total=False):
    """Arguments of ``Row`` other than its name and labels."""

    split: SplitName | None
    group: str | None
    risk: str
    advice: str
    description: str
    extra: dict[str, str]


def find_target(name: str, task: LabelTask = "action+risk") -> str | None:
    """Return the target of a task that a name means, or None for any other name."""
    target = _TARGETS.get(_plain(name))
    return target if target in TARGETS_OF[task] else None


def find_field(name: str) -> str | None:
    """Return the text field that a name means, ``split`` or ``group``, or None for any other name."""
    return _FIELDS.get(_plain(name))


def is_class_name(name: str) -> bool:
    """Return whether a name, such as ``label``, means the class of the current target."""
    return _plain(name) in CLASS


def rename_extra(name: str) -> str:
    """Return the name of an extra column, changed if it means something else in a manifest."""
    return f"{nfc(name)} (extra)" if _plain(name) in _RESERVED or not name.strip() else nfc(name)


def split_of(word: str) -> SplitName | None:
    """Return the split that a word means, or None for any other word."""
    return SPLIT_WORDS.get(trim_text(word).casefold())


def task_of_columns(header: Iterable[str], task: LabelTask) -> LabelTask:
    """Return the task that columns have labels for, if the task is both and only one has labels."""
    found = set(map(find_target, header))
    has_risk = bool(found & {"defect", "level"})
    if task != "action+risk" or ("action" in found) == has_risk:
        return task
    return "risk" if has_risk else "action"


def fields_of_sample(
    sample: Sample, *, without: Collection[str] = (), reserved: Collection[str] = ()
) -> dict[str, str]:
    """Return the values of a sample other than its labels by name; ``fields_from_values`` reads them back.

    Empty texts and the names in ``without`` are left out; ``reserved`` are names that the format uses itself.

    Raises:
        DataError: an extra column has a name with another meaning.
    """
    fields = {
        "split": sample.split or "",
        "group": sample.group or "",
        **{name: getattr(sample, name) for name in TEXTS},
    }
    for name, text in sample.extra.items():
        if name in without:
            continue
        if name in reserved or not name.strip() or find_field(name) or find_target(name):
            raise DataError(f"the extra column {name!r} of {sample.name} has a reserved name", fix="rename it")
        fields[name] = text
    return {name: text for name, text in fields.items() if text and name not in without}


def fields_from_values(values: Mapping[str, Any]) -> Fields:
    """Read values by their names.

    If a field has two values, the first one is used; the other, and a text that is not a split, become extra columns.
    """
    fields: Fields = {}
    extra: dict[str, str] = {}
    for name, value in values.items():
        text = text_from_value(value)[:MAX_CHARS]
        field = find_field(name)
        if not text:
            continue
        if field is None or field in fields or (field == "split" and split_of(text) is None):
            extra[rename_extra(name)] = text
        elif field == "split":
            fields["split"] = split_of(text)
        elif field == "group":
            fields["group"] = trim_text(text)
        else:
            fields[field] = text  # type: ignore[literal-required]
    return fields | ({"extra": extra} if extra else {})


def with_splits(rows: Sequence[Row]) -> tuple[list[Row], Counter[str]]:
    """Assign rows without a split to train if others have a split, and count them."""
    without = sum(row.split is None for row in rows)
    if not 0 < without < len(rows):
        return list(rows), Counter()
    return [row if row.split else replace(row, split="train") for row in rows], Counter(
        {"files without a split, taken as train": without}
    )


def _plain(name: str) -> str:
    return trim_text(nfc(name)).casefold().removeprefix("data_")
