"""LLaMA-Factory's conversations (https://github.com/hiyouga/LLaMA-Factory) as labels of clips and photos.

    dataset_info.json   {"train": {"file_name": "train.json", "formatting": "sharegpt", "columns": …, "tags": …}}
    train.json          [{"messages": [{"role": "user", "content": "<video>Which …?"}, {"role": "assistant", "content":
                         "run"}], "images": [], "videos": ["a.mp4"]}]

``dataset_dir`` is the folder, and ``media_dir`` the one that the paths are relative to.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vidrisk.data.formats.conversations.conversations import is_never_recognised, read_conversations
from vidrisk.data.formats.conversations.conversations_writer import CARRIES, Asked, write_conversations
from vidrisk.data.formats.format import Format, Listed, Reading, Writing
from vidrisk.data.instruction_formats.sharegpt import read_sharegpt
from vidrisk.data.table import Table


def read_llama_factory(source: Path, reading: Reading) -> Listed:
    """Read lists or lines of records; ``dataset_info.json`` may give other names to columns and roles."""
    return read_conversations(source, reading, read_sharegpt, (".json", ".jsonl"))


def write_llama_factory(table: Table, destination: Path, writing: Writing) -> None:
    """Write a JSON list for each split, and ``dataset_info.json`` with an entry for each."""
    write_conversations(table, destination, _record, suffix=".json", index=_index)


def _record(asked: Asked) -> dict[str, Any]:
    messages = asked.messages("role", "content", ("user", "assistant"), "<video>" if asked.is_clip else "<image>")
    name = asked.sample.name
    files = {"images": [] if asked.is_clip else [name], "videos": [name] if asked.is_clip else []}
    return {"messages": messages} | files | asked.attributes_record()


def _index(names: Sequence[str]) -> dict[str, Any]:
    about = {
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "images": "images", "videos": "videos"},
        "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
    }
    return {Path(name).stem: {"file_name": name, **about} for name in names}


FORMAT = Format(
    "llama-factory",
    "LLaMA-Factory, with labels as answers",
    ("action", "risk", "action+risk"),
    "only by name: dataset_info.json, train.json",
    is_never_recognised,
    read_llama_factory,
    write=write_llama_factory,
    carries=CARRIES,
)
