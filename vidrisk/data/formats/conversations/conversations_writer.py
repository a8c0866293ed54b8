"""Writes a table as conversations: files for tuning vision-language models, one for each split.

    train.json, val.json, test.json     ``data.json`` if there are no splits
    labels.json                         names of the classes in the order of their numbers, if the table or the format
                                        has one

Every target that a sample is labelled for is a question of its own. Splits, groups, texts and extra columns are
``attributes`` of the record, which training ignores.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vidrisk.data.formats.conversations.questions import language_of, turns_of
from vidrisk.data.formats.copies import new_folder
from vidrisk.data.formats.fields import fields_of_sample
from vidrisk.data.formats.format import Part
from vidrisk.data.instruction_formats.dataset_info import INFO
from vidrisk.data.io import LABEL_COLUMNS
from vidrisk.data.table import SPLITS, Sample, Table, main_target
from vidrisk.frames import kind_of

LABELS = "labels.json"
ATTRIBUTES = "attributes"
NUMBERS = "_seq_cls"  # suffix of the stem of a file with class numbers only
CARRIES: frozenset[Part] = frozenset(
    {
        "clips",
        "photos",
        "multi-label",
        "no label",
        "several targets",
        "splits",
        "groups",
        "label order",
        "texts",
        "extra",
    }
)


class Asked(NamedTuple):
    """A sample, the questions and answers on it, and its other data."""

    sample: Sample
    turns: Sequence[tuple[str, str]]
    attributes: Mapping[str, str]

    @property
    def is_clip(self) -> bool:
        return kind_of(self.sample.path) == "video"

    def messages(self, role_key: str, text_key: str, roles: tuple[str, str], marker: str) -> list[dict[str, str]]:
        """Return the turns as messages; the first question begins with the marker."""
        texts = [(role, text) for turn in self.turns for role, text in zip(roles, turn, strict=True)]
        return [
            {role_key: role, text_key: text if number else marker + text} for number, (role, text) in enumerate(texts)
        ]

    def attributes_record(self) -> dict[str, Any]:
        return {ATTRIBUTES: dict(self.attributes)} if self.attributes else {}


def write_conversations(
    table: Table,
    destination: Path,
    record_of: Callable[[Asked], Mapping[str, Any]],
    *,
    suffix: str,
    numbers_of: Callable[[Asked], Mapping[str, Any] | None] | None = None,
    index: Callable[[Sequence[str]], Mapping[str, Any]] | None = None,
) -> None:
    """Write a folder of conversations.

    Args:
        table: the samples to write.
        destination: the folder, which must not exist.
        record_of: makes the record of a sample.
        suffix: ``.json`` for a list, ``.jsonl`` for lines.
        numbers_of: makes a record with the number of the class, or None, for additional files; then ``labels.json`` is
            written even if classes are in the order of their names.
        index: makes the content of ``dataset_info.json`` from the names of the files.
    """
    primary = main_target(table.task)
    language = language_of(
        label for sample in table.samples for target in sample.labels for label in sample.labels_of(target)
    )
    asked = [
        Asked(sample, turns_of(sample, language), fields_of_sample(sample, without=("split",)))
        for sample in table.samples
    ]
    written: list[str] = []
    with new_folder(destination) as folder:
        for target in table.target_names:
            labels = table.labels_of(target)
            if labels and target != "level" and (target in table.label_order or (numbers_of and target == primary)):
                name = LABELS if target == primary else f"{LABEL_COLUMNS[target]}_{LABELS}"
                (folder / name).write_text(json.dumps(labels, ensure_ascii=False, indent=1), encoding="utf-8")
        for split in (*SPLITS, None):
            part = [one for one in asked if one.sample.split == split]
            files = {
                "": [record_of(one) for one in part],
                NUMBERS: [record for one in part if (record := numbers_of(one)) is not None] if numbers_of else [],
            }
            for behind, records in files.items():
                if records:
                    (folder / f"{split or 'data'}{behind}{suffix}").write_text(_text(records, suffix), encoding="utf-8")
            written += [f"{split or 'data'}{suffix}"] if part else []
        if index is not None:
            (folder / INFO).write_text(json.dumps(index(written), ensure_ascii=False, indent=1), encoding="utf-8")


def _text(records: Sequence[Mapping[str, Any]], suffix: str) -> str:
    if suffix == ".jsonl":
        return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    return json.dumps(records, ensure_ascii=False, indent=1)
