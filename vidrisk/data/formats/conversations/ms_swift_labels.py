"""ms-swift's JSON lines (https://github.com/modelscope/ms-swift) as labels or class numbers of clips and photos.

    train.jsonl             {"messages": [{"role": "user", "content": "<video>Which …?"}, {"role": "assistant",
                             "content": "run"}], "videos": ["a.mp4"]}
    train_seq_cls.jsonl     {"messages": [{"role": "user", "content": "<video>Which …?"}], "videos": ["a.mp4"],
                             "label": 0}
    labels.json             ["run", …]

Numbers are for ``--task_type seq_cls --num_labels N``. They are in separate files, because an answer in the record
would give the label away to the model. A list of numbers means several labels; ``true`` and ``false`` are preferences,
not labels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vidrisk.data.formats.conversations.conversations import is_never_recognised, read_conversations
from vidrisk.data.formats.conversations.conversations_writer import CARRIES, Asked, write_conversations
from vidrisk.data.formats.format import Format, Listed, Reading, Writing
from vidrisk.data.instruction_formats.ms_swift import read_ms_swift
from vidrisk.data.table import Table, main_target


def read_ms_swift_labels(source: Path, reading: Reading) -> Listed:
    """Read lines with answers or with class numbers, whose names are in ``labels.json`` or in a given file."""
    return read_conversations(source, reading, read_ms_swift, (".jsonl",))


def write_ms_swift_labels(table: Table, destination: Path, writing: Writing) -> None:
    """Write lines for each split: with answers, and with numbers of the main target's classes."""
    primary = main_target(table.task)
    order = table.labels_of(primary) if primary in table.target_names else ()

    def numbers_of(asked: Asked) -> dict[str, Any] | None:
        label = asked.sample.labels.get(primary)
        if label is None:
            return None
        numbers = [order.index(one) for one in asked.sample.labels_of(primary)]
        question = list(asked.sample.labels).index(primary)
        alone = asked._replace(turns=asked.turns[question : question + 1])
        return {
            **_record(alone, alone.messages("role", "content", ("user", "assistant"), _marker(asked))[:1]),
            "label": numbers[0] if isinstance(label, str) else numbers,
        }

    write_conversations(
        table,
        destination,
        lambda asked: (
            _record(asked, asked.messages("role", "content", ("user", "assistant"), _marker(asked)))
            | asked.attributes_record()
        ),
        suffix=".jsonl",
        numbers_of=numbers_of,
    )


def _record(asked: Asked, messages: list[dict[str, str]]) -> dict[str, Any]:
    return {"messages": messages, "videos" if asked.is_clip else "images": [asked.sample.name]}


def _marker(asked: Asked) -> str:
    return "<video>" if asked.is_clip else "<image>"


FORMAT = Format(
    "ms-swift",
    "ms-swift, with labels as answers or numbers",
    ("action", "risk", "action+risk"),
    "only by name: train.jsonl",
    is_never_recognised,
    read_ms_swift_labels,
    options=frozenset({"labels"}),
    write=write_ms_swift_labels,
    carries=CARRIES,
)
