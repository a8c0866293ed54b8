"""Turns statements of labelling tools into samples: selects controls that are targets and merges labels per file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from vidrisk.data.columns import TEXTS
from vidrisk.data.formats.crops import samples_from_boxes
from vidrisk.data.formats.fields import (
    fields_from_values,
    find_field,
    find_target,
    is_class_name,
    rename_extra,
    split_of,
    with_splits,
)
from vidrisk.data.formats.format import Reading, format_counts
from vidrisk.data.formats.media_files import MediaFiles
from vidrisk.data.formats.rows import Found, Row, samples_from_rows
from vidrisk.data.io import LABEL_COLUMNS
from vidrisk.data.table import TARGETS, Label, first_three
from vidrisk.decode.cuts import Box
from vidrisk.frames import Interval
from vidrisk.frames.content import Kind
from vidrisk.runtimes.contract.errors import DataError

TARGETS_BY_NAME = {target: target for target in TARGETS}  # for controls with the names of targets


@dataclass(frozen=True, slots=True)
class Statement:
    """Output of a labelling tool on a file, or on a part of it.

    Attributes:
        where: see ``Row``.
        name: see ``Row``.
        interval: see ``Row``.
        labels: by control; all labels that apply.
        fields: other values by name.
        split: the tool's name for it, or '' if there is none.
    """

    where: str
    name: str
    labels: Mapping[str, tuple[str, ...]]
    fields: Mapping[str, str] = field(default_factory=dict)
    interval: Interval | None = None
    split: str = ""


def targets_of_controls(controls: Mapping[str, int], reading: Reading, what: str) -> tuple[dict[str, str], list[str]]:
    """Find the target of each control, and note a target that is not evident from the name of its control.

    A control with the name of a target is that target; if only one control is left, it is the target of the task.

    Args:
        controls: names, each with a rank; among those whose name does not say it, one with the lowest rank is chosen.
        reading: the options for reading the data.
        what: the tool's word for controls, for messages.

    Raises:
        DataError: several could be the target of the task.
    """
    targets = {name: target for name in controls if (target := find_target(name, reading.task))}
    if reading.target in targets.values():
        return targets, []
    others = {
        name: (not is_class_name(name), rank)
        for name, rank in controls.items()
        if not find_target(name) and not find_field(name)
    }
    lowest = min(others.values(), default=None)
    best = [name for name, rank in others.items() if rank == lowest]
    if len(best) > 1:
        raise DataError(
            f"{what} {first_three(best)}: it is unclear which of them is the {reading.target}",
            allowed=f"one of them with the name {LABEL_COLUMNS[reading.target]}",
            fix="rename it in the labelling tool",
        )
    return targets | dict.fromkeys(best, reading.target), [
        f"{name[:80]!r} is taken as the {reading.target}" for name in best
    ]


def samples_from_statements(
    statements: Iterable[Statement],
    targets: Mapping[str, str],
    files: MediaFiles,
    reading: Reading,
    kinds: Sequence[Kind],
) -> Found:
    """Turn statements into samples; all statements on one part of a file in one split become one sample.

    ``targets`` are by control; labels of other controls become columns. See ``samples_from_rows`` for ``kinds``.

    Raises:
        DataError: as ``samples_from_rows``.
    """
    rows: dict[object, Row] = {}
    for statement in statements:
        row = _row(statement, targets)
        key = row.name, row.interval, row.split
        rows[key] = _merge(rows[key], row) if key in rows else row
    kept, taken = with_splits([row for row in rows.values() if row.labels])
    unlabelled = {"files, or parts of them, without a label left out": len(rows) - len(kept)}
    found = samples_from_rows(kept, files, kinds=kinds, multi_label=reading.multi_label)
    return found._replace(notes=(*found.notes, *format_counts(unlabelled | taken)))


def crops_from_statements(
    boxes: Iterable[tuple[Statement, Box]], targets: Mapping[str, str], files: MediaFiles, reading: Reading
) -> Found:
    """Turn statements on boxes on photos into samples that are cut out of the photos.

    See ``samples_from_statements`` for ``targets``.

    Raises:
        DataError, SettingsError: as ``samples_from_boxes``.
    """
    pairs = [(_row(statement, targets), box) for statement, box in boxes]
    labelled = [(row, box) for row, box in pairs if row.labels]
    kept, taken = with_splits([row for row, _ in labelled])
    found = samples_from_boxes(
        zip(kept, (box for _, box in labelled), strict=True), files, reading.made, multi_label=reading.multi_label
    )
    unlabelled = {"boxes without a label left out": len(pairs) - len(kept)}
    return found._replace(notes=(*found.notes, *format_counts(unlabelled | taken)))


def _row(statement: Statement, targets: Mapping[str, str]) -> Row:
    labels: dict[str, Label] = {}
    others: dict[str, str] = {}
    for control, values in statement.labels.items():
        if control in targets:
            labels[targets[control]] = (*labels.get(targets[control], ()), *values)
        else:
            others[rename_extra(control)] = values[0] if len(values) == 1 else json.dumps(values, ensure_ascii=False)
    split = split_of(statement.split)
    if statement.split and not split and statement.split.strip().casefold() != "default":
        others[rename_extra("subset")] = statement.split
    fields = fields_from_values(statement.fields)
    fields.setdefault("split", split)
    fields["extra"] = {**others, **fields.get("extra", {})}
    return Row(statement.where, statement.name, labels, interval=statement.interval, **fields)


def _merge(first: Row, second: Row) -> Row:
    """Merge the labels of two rows; if both have a text or a column, use that of the first."""
    labels: dict[str, Label] = dict(first.labels)
    for target, values in second.labels.items():
        labels[target] = tuple(dict.fromkeys([*labels.get(target, ()), *values]))
    texts = {name: getattr(first, name) or getattr(second, name) for name in (*TEXTS, "group")}
    return replace(first, labels=labels, extra={**second.extra, **first.extra}, **texts)
