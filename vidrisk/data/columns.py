"""Maps the columns of a manifest to their meaning; case, outer spaces and a leading ``data_`` do not matter.

If several columns could mean the same, the first name listed below wins and the others are kept as extra columns.
The column ``defect`` has two meanings in practice: a class (``crack``) in some manifests, a sentence about the photo
in others. It is the class if no other column is, and its values look like names: at most 50 different ones, none
longer than 40 characters, and at least two rows for each on average. Otherwise it is the description. Name the column
``defect_class`` or ``description`` to leave no doubt.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vidrisk.data.intervals import IntervalColumns, interval_columns
from vidrisk.data.label_ids import ID_COLUMNS, find_odd_row, labels_beside_ids, labels_from_ids
from vidrisk.runtimes.contract.choices import LabelTask
from vidrisk.runtimes.contract.errors import DataError

log = logging.getLogger(__name__)

PATH = (
    "path",
    "image_path",
    "video_path",
    "clip_path",
    "file_path",
    "file",
    "filename",
    "image",
    "video",
    "clip",
    "图片路径",
    "图像路径",
    "视频路径",
    "文件路径",
    "路径",
    "文件",
    "文件名",
    "图片",
    "视频",
)
CLASS = ("label", "class", "class_name", "category", "标签", "类别")
ACTION_ALONE = ("action", "action_class", "动作", "动作类别", "行为")
DEFECT_ALONE = ("defect_class", "defect_type", "缺陷类别", "缺陷类型")
ACTION = ("action", "action_class", *CLASS, *ACTION_ALONE[2:])
DEFECT = ("defect_class", "defect_type", *CLASS, *DEFECT_ALONE[2:])
DEFECT_OR_TEXT = ("defect", "缺陷")
LEVEL = ("risk_level", "level", "risk_grade", "severity", "风险等级", "等级", "严重程度")
TEXTS = {
    "risk": ("risk", "风险", "风险描述"),
    "advice": ("advice", "recommendation", "纠正和预防建议", "建议", "整改建议"),
    "description": ("description", "defect_description", "缺陷描述", "描述"),
}
SPLIT = ("split", "subset", "划分")
GROUP = ("group", "group_id", "分组")
MAX_CLASSES, MAX_CLASS_CHARS, MIN_ROWS_PER_CLASS = 50, 40, 2


@dataclass(frozen=True)
class Columns:
    """The column for each field: ``labels`` by target name, ``texts`` by attribute of ``Sample``; see ``intervals``.

    ``label_order`` is the order given by columns of ids; see ``label_ids``.
    """

    path: str
    labels: Mapping[str, str]
    texts: Mapping[str, str]
    split: str | None
    group: str | None
    extra: tuple[str, ...]
    interval: IntervalColumns | None = None
    label_order: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def looks_like_header(cells: Sequence[str]) -> bool:
    """Return whether the cells name a column for the path and one for a label of any task."""
    return bool(_find(cells, PATH) and _find(cells, (*ACTION, *DEFECT, *DEFECT_OR_TEXT, *LEVEL)))


def columns_from_header(
    header: Sequence[str], rows: Sequence[Mapping[str, str]], where: Sequence[str], task: LabelTask, source: str
) -> Columns:
    """Find the columns of a manifest.

    ``where`` gives the place of every row, for warnings.

    Raises:
        DataError: no column for the path, none for a label of this task, or a column for only one end of an interval.
    """
    path = _find(header, PATH)
    if path is None:
        raise DataError(f"{source} has no column for the path; found: {', '.join(header)}", allowed=", ".join(PATH))
    texts = {name: column for name, names in TEXTS.items() if (column := _find(header, names))}
    labels = _labels(header, rows, task, source, texts)
    split, group = _find(header, SPLIT), _find(header, GROUP)
    interval = interval_columns(header, rows, source)
    ids = {
        target: column for target, name in ID_COLUMNS.items() if target in labels and (column := _find(header, (name,)))
    }
    numbered = {
        target: [
            (place, pair)
            for place, row in zip(where, rows, strict=True)
            for pair in labels_beside_ids(row[labels[target]], row[column])
        ]
        for target, column in ids.items()
    }
    by_id = {target: labels_from_ids(pair for _, pair in cells) for target, cells in numbered.items()}
    for target, found in by_id.items():
        odd = None if found else find_odd_row([pair for _, pair in numbered[target]])
        if odd is not None:
            place, (label, text) = numbered[target][odd]
            log.warning(
                "%s, %s: column %r has %r for the label %r, but most rows give every label its own id; labels are "
                "ordered by name until this is corrected",
                source,
                place,
                ids[target],
                text[:80],
                label[:80],
            )
        if found and max(found) >= len(found):
            log.warning(
                "%s: column %r has %d ids, from %d to %d: outputs of a model are numbered without the gaps",
                source,
                ids[target],
                len(found),
                min(found),
                max(found),
            )
    used = {path, *labels.values(), *texts.values(), split, group} | (
        {interval.start, interval.end} if interval else set()
    )
    used |= {column for target, column in ids.items() if by_id[target]}
    return Columns(
        path,
        labels,
        texts,
        split,
        group,
        tuple(column for column in header if column not in used),
        interval,
        {target: tuple(found.values()) for target, found in by_id.items() if found},
    )


def _labels(
    header: Sequence[str], rows: Sequence[Mapping[str, str]], task: LabelTask, source: str, texts: dict[str, str]
) -> dict[str, str]:
    """Return columns by target name; add to ``texts`` if ``defect`` turns out to be the description."""
    if task != "risk":
        action = _find(header, ACTION if task == "action" else ACTION_ALONE)
        if action is None:
            risky = _find(header, (*DEFECT_OR_TEXT, *DEFECT, *LEVEL))
            raise DataError(
                f"{source} has no column for the action; found: {', '.join(header)}",
                allowed=", ".join(ACTION),
                fix=f"use the task risk, as the column {risky} suggests" if risky else None,
            )
        if task == "action":
            return {"action": action}
        return {"action": action} | _risk_labels(header, rows, DEFECT_ALONE, source, texts)
    return _risk_labels(header, rows, DEFECT, source, texts)


def _risk_labels(
    header: Sequence[str], rows: Sequence[Mapping[str, str]], classes: Sequence[str], source: str, texts: dict[str, str]
) -> dict[str, str]:
    defect, level, doubtful = _find(header, classes), _find(header, LEVEL), _find(header, DEFECT_OR_TEXT)
    note = ""
    if doubtful and not defect:
        values = [row[doubtful] for row in rows if row[doubtful]]
        distinct = set(values)
        note = f"column {doubtful!r} ({len(distinct)} different values in {len(values)} rows)"
        if _look_like_classes(values, distinct):
            defect = doubtful
            log.info("%s: %s is taken as the class; name it 'description' if it is not", source, note)
        else:
            texts.setdefault("description", doubtful)
            log.info("%s: %s is taken as the description; name it 'defect_class' if it is not", source, note)
    elif doubtful:
        texts.setdefault("description", doubtful)
    labels = {"defect": defect, "level": level}
    found = {target: column for target, column in labels.items() if column}
    if not found:
        reads = f"; {note} reads as free text" if note else ""
        raise DataError(
            f"{source} has no column for a defect class or a risk level; found: {', '.join(header)}{reads}",
            allowed=f"class: {', '.join(classes)}; level: {', '.join(LEVEL)}",
        )
    return found


def _look_like_classes(values: Sequence[str], distinct: set[str]) -> bool:
    short = all(len(value) <= MAX_CLASS_CHARS for value in distinct)
    return 1 <= len(distinct) <= MAX_CLASSES and short and len(values) >= MIN_ROWS_PER_CLASS * len(distinct)


def _find(header: Sequence[str], names: Sequence[str]) -> str | None:
    """Find the column of the first name that is present; among its columns, prefer an exact spelling."""
    for name in names:
        matches = [column for column in header if column.strip().casefold().removeprefix("data_") == name]
        if matches:
            return name if name in matches else matches[0]
    return None
