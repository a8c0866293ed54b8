"""Records as lines of JSON: how the files of an output folder are written and read."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, TypeVar

from vidrisk.runtimes.errors import DataError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

DIGITS = 6

Record = TypeVar("Record", bound="DataclassInstance")


def line_from_record(record: DataclassInstance) -> bytes:
    """One line of UTF-8, floats rounded. Bytes of a path that are no UTF-8 are written as JSON escapes (``\\udcff``)."""
    text = json.dumps(_rounded(asdict(record)), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def record_from_line(kind: type[Record], line: str | bytes, file: str) -> Record:
    """The inverse, up to the rounding. ``file`` is named in errors.

    Raises:
        DataError: not a line that ``line_from_record`` wrote.
    """
    try:
        data = json.loads(line)
    except ValueError as error:
        raise DataError(f"a line of {file} is not JSON: {error}") from error
    names = [field.name for field in fields(kind)]
    if not isinstance(data, dict) or list(data) != names:
        raise DataError(f"a line of {file} has other keys than this version writes", allowed=", ".join(names))
    return kind(**data)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, DIGITS)
    return {key: _rounded(item) for key, item in value.items()} if isinstance(value, dict) else value
