"""Removes from a table what a format cannot represent, and counts it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from vidrisk.data.formats.format import SCORE, Format
from vidrisk.data.table import Sample, Table, main_target
from vidrisk.frames import kind_of


def fit_table(table: Table, format: Format, *, model: str | None = None) -> tuple[Table, dict[str, int]]:
    """Remove from a table what a format cannot represent.

    Samples are left out completely if the format cannot represent their file, their part of it or their number of
    labels; other data that it cannot represent are removed from them. ``model`` is as in ``Writing``; the scores of its
    predictions are left to the format.

    Returns:
        The rest, and the number of samples that each kind of loss affects, by what was lost.
    """
    lost: Counter[str] = Counter()
    fitted = [_fit(sample, table, format, lost, is_predicted=model is not None) for sample in table.samples]
    kept = [sample for sample in fitted if sample is not None]
    used = {
        target: {label for sample in kept for label in sample.labels_of(target)}
        for target in dict.fromkeys(target for sample in kept for target in sample.labels)
    }
    order = {target: labels for target, labels in table.label_order.items() if target in used}
    if order and "label order" not in format.carries:
        whole, order = (
            order,
            {
                target: tuple(label for label in labels if label in used[target])
                for target, labels in order.items()
                if used[target] and "order of used labels" in format.carries
            },
        )
        if not order:
            lost["the order of labels"] = len(table)
        elif order != whole:
            lost["labels that no sample has"] = sum(map(len, whole.values())) - sum(map(len, order.values()))
    counted = {what: count for what, count in lost.items() if count}
    return replace(table, samples=tuple(kept), label_order=order, notes=()), counted


def _fit(sample: Sample, table: Table, format: Format, lost: Counter[str], *, is_predicted: bool) -> Sample | None:
    carries = format.carries
    is_clip = kind_of(sample.path) == "video"
    if ("clips" if is_clip else "photos") not in carries:
        lost["clips" if is_clip else "photos"] += 1
        return None
    if sample.interval and ("intervals" if sample.interval.unit == "s" else "frame intervals") not in carries:
        lost["parts of clips in seconds" if sample.interval.unit == "s" else "parts of clips in frames"] += 1
        return None
    labels = dict(sample.labels)
    if "several targets" not in carries:
        first = main_target(table.task)
        lost.update(f"labels of {target}" for target in labels if target != first)
        labels = {target: label for target, label in labels.items() if target == first}
        if not labels:
            lost[f"samples without a label of {first}"] += 1
            return None
    if "no label" not in carries and () in labels.values():
        lost["samples to which no label applies"] += 1
        return None
    if "multi-label" not in carries:
        several = [target for target, label in labels.items() if not isinstance(label, str) and len(label) != 1]
        if several:
            lost[f"samples with several labels of {several[0]}, or none"] += 1
            return None
        labels = {target: label if isinstance(label, str) else label[0] for target, label in labels.items()}
    changed: dict[str, object] = {"labels": labels}
    for part, values in _FIELDS.items():
        if part not in carries and any(getattr(sample, name) != empty for name, empty in values.items()):
            score = {SCORE: sample.extra[SCORE]} if part == "extra" and is_predicted and SCORE in sample.extra else {}
            lost[_LOST[part]] += part != "extra" or sample.extra != score
            changed |= {"extra": score} if score else values
    return replace(sample, **changed)  # type: ignore[arg-type]


_FIELDS: Mapping[str, Mapping[str, object]] = {
    "splits": {"split": None},
    "groups": {"group": None},
    "texts": {"risk": "", "advice": "", "description": ""},
    "extra": {"extra": {}},
}
_LOST = {"splits": "splits", "groups": "groups", "texts": "risk, advice and description", "extra": "further columns"}
