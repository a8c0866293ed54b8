"""Reads the CSV of VIA 3: attributes in comments, then a line for each file or part of it."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vidrisk.data.formats.lists import long_lines_of
from vidrisk.data.formats.via.entries import Attribute, Entry, box_of_place, interval_of
from vidrisk.data.formats.via.projects import attributes_of_project
from vidrisk.runtimes.contract.errors import DataError

HEADER_MARK = "# CSV_HEADER"
COLUMNS = ("metadata_id", "file_list", "flags", "temporal_coordinates", "spatial_coordinates", "metadata")
STARTS, ENDS = "temporal_segment_start", "temporal_segment_end"  # columns of the first versions of VIA 3
ALLOWED = f"the CSV of VIA 3, with a line {HEADER_MARK} = {','.join(COLUMNS)}"


def attributes_in_csv(path: Path) -> dict[str, Attribute]:
    """Read the attributes in the comments of a CSV, by their keys in the metadata.

    Raises:
        DataError: a file that cannot be read, or attributes that are not JSON.
    """
    for where, line in long_lines_of(path, ALLOWED):
        name, _, text = _comment(line).partition("=")
        if name.strip() in ("# ATTRIBUTE", "# ATTRIBUTES"):
            return attributes_of_project(_json(text, where), where)
    return {}


def entries_in_csv(path: Path, counts: Counter[str]) -> Iterator[Entry]:
    """Yield the lines of a CSV, and count those that cannot be used.

    Raises:
        DataError: no header, or a line that does not fit it.
    """
    header: list[str] = []
    for where, line in long_lines_of(path, ALLOWED):
        comment = _comment(line)
        if comment.startswith(HEADER_MARK):
            header = [cell.strip() for cell in comment.partition("=")[2].split(",")]
        if not line.strip() or comment.startswith("#"):
            continue
        cells = _cells(line, where)
        if cells[0] == COLUMNS[0]:
            header = cells
            continue
        while header and not header[-1]:
            header.pop()
        if "file_list" not in header or "metadata" not in header:
            raise DataError(f"{path.name} has no header before its first line", allowed=ALLOWED)
        if len(cells) < len(header) or any(cells[len(header) :]):
            raise DataError(f"{where} has {len(cells)} cells, but the header {len(header)}", allowed=ALLOWED)
        entry = _entry(dict(zip(header, cells, strict=False)), where, counts)
        if entry:
            yield entry


def _entry(row: Mapping[str, str], where: str, counts: Counter[str]) -> Entry | None:
    files = _json(row["file_list"], where)
    files = [files] if isinstance(files, str) else files
    if not isinstance(files, list) or not files or not all(isinstance(file, str) and file.strip() for file in files):
        raise DataError(f"{where}: the list of files is {row['file_list'][:60]!r}", allowed='["cam7.mp4"]')
    if len(files) > 1:
        counts["lines of several files at once left out"] += 1
        return None
    if STARTS in row:
        times = [_json(row[name], where) for name in (STARTS, ENDS) if row.get(name)]
    else:
        times = _json(row.get("temporal_coordinates") or "[]", where)
    places = _json(row.get("spatial_coordinates") or "[]", where)
    values = _json(row["metadata"] or "{}", where)
    if not isinstance(values, dict):
        raise DataError(f"{where}: the metadata are {row['metadata'][:60]!r}", allowed='{"1": "0"}')
    interval = interval_of(times, where)
    if times and not interval and not places:
        counts["single frames of videos left out"] += 1
        return None
    return Entry(where, (files[0],), values, interval, bool(places), box_of_place(places))


def _comment(line: str) -> str:
    """Return a comment as VIA writes it; spreadsheets put it between quotes, or add commas."""
    text = line.strip().removeprefix("\ufeff")
    if text.startswith('"#'):
        try:
            text = ",".join(next(csv.reader([text]), []))
        except csv.Error:
            return text
    return text.rstrip(",") if text.startswith("#") else text


def _cells(line: str, where: str) -> list[str]:
    try:
        (cells,) = csv.reader([line.strip().removeprefix("\ufeff")], skipinitialspace=True, strict=True)
    except (csv.Error, ValueError) as error:
        raise DataError(f"{where} is not a line of CSV: {error}", allowed=ALLOWED) from error
    return cells


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: {text.strip()[:60]!r} is not JSON", allowed=ALLOWED) from error
