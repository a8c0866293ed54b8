"""Records of inputs as lines of JSON: how files of an output folder are written and read."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from vidrisk.files.paths import path_from_stored, stored_from_path
from vidrisk.runtimes.contract.errors import DataError
from vidrisk.runtimes.contract.versions import FileVersion

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

DIGITS = 6

Record = TypeVar("Record", bound="DataclassInstance")


def json_from_value(value: Any, *, indent: int | None = None) -> str:
    """Return JSON that UTF-8 can hold.

    Bytes of a path that are not UTF-8 (PEP 383) are written as JSON escapes (``\\udcff``).

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def line_from_record(record: DataclassInstance, version: FileVersion) -> bytes:
    """Return one line of UTF-8: floats rounded, the path independent of the locale, the version last."""
    values = _round_floats(asdict(record))
    return json_from_value(version.stamp({**values, "path": stored_from_path(values["path"])})).encode() + b"\n"


def record_from_line(kind: type[Record], line: str | bytes, version: FileVersion) -> Record:
    """Parse a line of ``line_from_record``, up to the rounding.

    Lines of other versions are read as ``contract.versions`` describes.

    Raises:
        DataError: ``line_from_record`` did not write this line.
    """
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"a line of {version.file} is not JSON: {error}") from error
    values = version.read_fields(data, kind)
    try:
        return kind(**{**values, "path": path_from_stored(values["path"])})
    except (AttributeError, ValueError) as error:
        raise DataError(f"a line of {version.file} names no path: {data['path']!r}") from error


def _round_floats(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, DIGITS)
    return {key: _round_floats(item) for key, item in value.items()} if isinstance(value, dict) else value
