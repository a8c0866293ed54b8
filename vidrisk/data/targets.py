"""Derives the targets of a model and the guidance texts of a report from the labels and texts of a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from vidrisk.data.table import Sample, Table
from vidrisk.data.text import label_from_text
from vidrisk.runtimes.contract.contract import Guidance, Target
from vidrisk.runtimes.contract.errors import DataError, SettingsError, name_some

MAX_LEVELS = 20
# Known scales of levels, least severe first; the names in one group mean the same step.
SCALES: tuple[tuple[tuple[str, ...], ...], ...] = (
    (("无", "正常", "无风险"), ("轻微", "轻度"), ("中等", "中度"), ("严重", "重度"), ("特别严重", "极其严重")),
    (("无", "正常", "无风险"), ("低", "低风险"), ("中", "中风险"), ("高", "高风险"), ("极高", "极高风险")),
    (("无", "正常", "无风险"), ("一般",), ("较大",), ("重大",), ("特别重大",)),
    (("none", "normal", "ok"), ("minor", "mild", "slight"), ("moderate",), ("severe", "major"), ("critical",)),
    (("none", "normal", "ok"), ("low",), ("medium",), ("high",), ("critical", "very high")),
)


def targets_from_table(table: Table, level_order: Sequence[str] | None = None) -> tuple[Target, ...]:
    """Return the targets of a head that is trained on this table.

    There is one target per label column. Classes are in the order of the table, else sorted by name; levels by
    severity, evenly spread over 0–100. ``level_order`` lists the levels from the least to the most severe; it is
    required if they are neither numbers nor a known scale, and may name levels that the table does not have.

    Raises:
        DataError: levels whose order is unknown or that ``level_order`` lacks, or more than 20 of them.
        SettingsError: ``level_order`` for a table without levels, or with a level twice.
        SpecError: a target with one label only.
    """
    if level_order is not None and "level" not in table.target_names:
        raise SettingsError(
            "a level order for a table without levels", allowed="targets: " + ", ".join(table.target_names)
        )
    return tuple(
        _level_target(table, level_order)
        if name == "level"
        else Target(name=name, labels=table.labels_of(name), multi_label=name in table.multi_targets)
        for name in table.target_names
    )


def _level_target(table: Table, level_order: Sequence[str] | None) -> Target:
    seen = tuple(table.label_counts("level"))
    if len(seen) > MAX_LEVELS:
        raise DataError(
            f"the level has {len(seen)} different values",
            allowed=f"up to {MAX_LEVELS}",
            fix="group them into a few levels",
        )
    labels = (
        order_levels(seen)
        if level_order is None
        else _check_order(seen, [label_from_text(name) for name in level_order])
    )
    steps = max(len(labels) - 1, 1)
    severity = tuple(round(100 * i / steps, 4) for i in range(len(labels)))
    return Target(name="level", labels=labels, ordered=True, severity=severity)


def _check_order(seen: Iterable[str], level_order: Sequence[str]) -> tuple[str, ...]:
    if len(set(level_order)) != len(level_order):
        raise SettingsError(f"level order {', '.join(level_order)}", allowed="every level once")
    missing = sorted(set(seen) - set(level_order))
    if missing:
        raise DataError(
            f"the level order {', '.join(level_order)} lacks {', '.join(missing)}",
            fix="name every level of the table, the least severe first",
        )
    return tuple(level_order)


def order_levels(levels: Sequence[str]) -> tuple[str, ...]:
    """Sort levels from the least to the most severe: numbers by value, words by a known scale.

    Raises:
        DataError: neither numbers nor a known scale, or two levels that mean the same.
    """
    ranks = _numbers(levels) or next(filter(None, (_ranks(levels, scale) for scale in SCALES)), None)
    if ranks is None:
        known = "; ".join(" < ".join(names[0] for names in scale) for scale in SCALES)
        raise DataError(
            f"the order of the levels {', '.join(levels)} is unknown",
            allowed=f"numbers, or {known}",
            fix="give the order, the least severe first: level_order of a run, order in a labels file",
        )
    same = [level for level in levels if list(ranks.values()).count(ranks[level]) > 1]
    if same:
        raise DataError(f"the levels {', '.join(same)} mean the same", fix="use one name for one level")
    return tuple(sorted(levels, key=ranks.__getitem__))


def _numbers(levels: Sequence[str]) -> dict[str, float] | None:
    try:
        return {level: float(level) for level in levels}
    except ValueError:
        return None


def _ranks(levels: Sequence[str], scale: Sequence[Sequence[str]]) -> dict[str, float] | None:
    steps = {name: float(i) for i, names in enumerate(scale) for name in names}
    folded = {level: level.strip().casefold() for level in levels}
    return {level: steps[name] for level, name in folded.items()} if set(folded.values()) <= set(steps) else None


def guidance_from_table(table: Table) -> tuple[Guidance, ...]:
    """Return every (defect, level) pair that has texts, with its most frequent ones, the first seen on a tie.

    Every level and every defect by itself follow, for pairs that the table does not have.
    """
    pairs: dict[tuple[str | None, str | None], list[Sample]] = {}
    for sample in table.samples if table.task != "action" else ():
        defects: tuple[str | None, ...] = sample.labels_of("defect") or (None,)
        level = next(iter(sample.labels_of("level")), None)
        for key in {pair: 0 for defect in defects for pair in ((defect, level), (None, level), (defect, None))}:
            if key != (None, None):
                pairs.setdefault(key, []).append(sample)
    found = (
        Guidance(
            defect=defect,
            level=level,
            risk=_most_frequent(s.risk for s in samples),
            advice=_most_frequent(s.advice for s in samples),
            description=_most_frequent(s.description for s in samples),
        )
        for (defect, level), samples in pairs.items()
    )
    return tuple(g for g in found if g.risk or g.advice or g.description)


def _most_frequent(texts: Iterable[str]) -> str:
    counts = Counter(text for text in texts if text)
    return max(counts, key=counts.__getitem__, default="")


NOT_LABELLED = -1


def truth_from_table(table: Table, targets: Sequence[Target]) -> dict[str, npt.NDArray[np.int64]]:
    """Return the label indices of samples, per target name.

    Labels are compared in normalized form, because models of earlier versions may contain decomposed labels (NFD), or
    labels with spaces around them.

    Returns:
        Label indices ``int64 (N,)``; for a multi-label target ``int64 (N, labels)``, 1 if a label applies and 0 if not.
        A sample that is not labelled for a target has ``NOT_LABELLED``.

    Raises:
        DataError: no sample is labelled for a target, or one has a label that the target lacks; several labels for a
            single-label target, or vice versa.
    """
    truth = {}
    for target in targets:
        index = {label_from_text(label): i for i, label in enumerate(target.labels)}
        index |= {label: i for i, label in enumerate(target.labels)}
        unknown = [s for s in table.samples if not index.keys() >= set(s.labels_of(target.name))]
        if unknown or (table.samples and target.name not in table.target_names):
            sample = (unknown or table.samples)[0]
            label = next((label for label in sample.labels_of(target.name) if label not in index), None)
            raise DataError(
                f"{sample.title} has {target.name} {label!r} ({len(unknown or table.samples)} such samples)",
                allowed=name_some(target.labels),
                fix="correct the labels, or train with them",
            )
        if table.samples and target.multi_label != (target.name in table.multi_targets):
            one, many = "one label per sample", "any number of labels per sample"
            raise DataError(
                f"{table.root.name} has {one if target.multi_label else many} of {target.name}",
                allowed=many if target.multi_label else one,
                fix="read the data as multi-label" if target.multi_label else "train with data of this kind",
            )
        truth[target.name] = np.array(
            [_numbers_of(sample, target, index) for sample in table.samples], dtype=np.int64
        ).reshape(len(table), *([len(target.labels)] if target.multi_label else []))
    return truth


def _numbers_of(sample: Sample, target: Target, index: Mapping[str, int]) -> int | list[int]:
    known = {index[label] for label in sample.labels_of(target.name)}
    if target.multi_label:
        return [
            int(number in known) if target.name in sample.labels else NOT_LABELLED
            for number in range(len(target.labels))
        ]
    return next(iter(known), NOT_LABELLED)
