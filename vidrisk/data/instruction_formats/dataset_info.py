"""Reads ``dataset_info.json``, LLaMA-Factory's list of data sets, for the entry of a file beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vidrisk.data.formats.json_lists import object_of

INFO = "dataset_info.json"


def entry_of(path: Path) -> Mapping[str, Any]:
    """Return the entry of a file, or an empty one if there is none.

    Raises:
        DataError: a ``dataset_info.json`` that is not JSON.
    """
    info = path.with_name(INFO)
    entries = object_of(info).values() if info.is_file() else ()
    return next((entry for entry in entries if isinstance(entry, dict) and entry.get("file_name") == path.name), {})


def read_named_format(path: Path) -> str:
    """Return the format that the entry of a file names, or '' if there is none.

    An entry that names roles is ShareGPT, too.

    Raises:
        DataError: a ``dataset_info.json`` that is not JSON.
    """
    entry = entry_of(path)
    said = entry.get("formatting")
    return said if isinstance(said, str) else "sharegpt" if entry.get("tags") else ""
