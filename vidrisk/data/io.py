"""Manifest files: CSV, JSONL and Parquet to rows of text, and a table back to each of them."""

from __future__ import annotations

import csv
import io
import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidrisk.data.table import Sample, Table
from vidrisk.runtimes.errors import DataError, require

ENCODINGS = ("utf-8-sig", "gb18030")
DELIMITERS = (",", ";", "\t")
MISSING = frozenset({"", "nan", "null", "n/a", "#n/a", "<na>"})
SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
LABEL_COLUMNS = {"action": "action", "defect": "defect_class", "level": "risk_level"}


@dataclass(frozen=True)
class Row:
    """Cells by column, all as text, '' where a value is missing; ``where`` names the row in errors."""

    where: str
    cells: Mapping[str, str]


def rows_from_manifest(path: Path) -> tuple[list[str], list[Row]]:
    """Header and rows of a manifest. CSV and JSONL are UTF-8 (with or without a mark) or GB 18030; CSV cells are
    separated by ``,``, ``;`` or tabs.

    Raises:
        DataError: unknown suffix, unknown encoding, a row that does not fit the header, broken JSON or Parquet.
        MissingExtra: Parquet without pyarrow.
    """
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        records = list(_csv_records(path))
    elif suffix in (".jsonl", ".ndjson"):
        records = list(_jsonl_records(path))
    elif suffix == ".parquet":
        records = list(_parquet_records(path))
    else:
        raise DataError(f"{path.name} has the unknown suffix {suffix!r}", allowed=", ".join(SUFFIXES) + ", or a folder")
    header = list(dict.fromkeys(column for _, record in records for column in record))
    return header, [Row(where, {c: text_from_value(record.get(c)) for c in header}) for where, record in records]


def text_from_value(value: Any) -> str:
    """A cell as text: missing values as '', whole floats without ``.0``, nested values as JSON."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, (dict, list, bool)):
        return json.dumps(value, ensure_ascii=False, default=str)
    text = str(value)
    return "" if text.strip().casefold() in MISSING else text


def _decoded(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    for encoding in ENCODINGS:
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise DataError(f"{path.name} is neither UTF-8 nor GB 18030 text", fix="save it as UTF-8")


def _csv_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    text = _decoded(path)
    first_line = next(iter(text.splitlines()), "")
    delimiter = max(DELIMITERS, key=lambda d: len(next(csv.reader([first_line], delimiter=d), [])))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = [column.strip() for column in next(reader, [])]
        twice = sorted({column for column in header if header.count(column) > 1})
        if twice:
            raise DataError(f"{path.name} has the column {twice[0]!r} twice", fix="rename or remove one of them")
        for cells in reader:
            if not any(cells):
                continue
            if len(cells) != len(header):
                raise DataError(f"{path.name}, line {reader.line_num} has {len(cells)} cells, the header {len(header)}",
                                fix=f'write cells that contain {delimiter!r} between double quotes')
            yield f"line {reader.line_num}", dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise DataError(f"{path.name}, line {reader.line_num} is no CSV: {error}") from error


def _jsonl_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(_decoded(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path.name}, line {number} is no JSON: {error}") from error
        if not isinstance(record, dict):
            raise DataError(f"{path.name}, line {number} is no JSON object", allowed='one {"path": …} per line')
        yield f"line {number}", record


def _parquet_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    parquet, arrow = require("pyarrow.parquet", "parquet"), require("pyarrow", "parquet")
    try:
        records = parquet.read_table(path).to_pylist()
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path.name} is no readable Parquet file: {error}") from error
    for number, record in enumerate(records, start=1):
        yield f"row {number}", record


def write_table(table: Table, path: str | Path) -> None:
    """Write a manifest that ``load_table`` reads back equal. Paths in it are relative to its own folder.

    Columns: ``path``, the labels (``action``, ``defect_class``, ``risk_level``), ``split``, ``group``, ``risk``,
    ``advice``, ``description``, then the extra ones.

    Raises:
        DataError: the file exists, its suffix is unknown, a sample lies outside its folder, or the disk is full.
        MissingExtra: Parquet without pyarrow.
    """
    path = Path(path)
    root = path.parent.resolve()
    records = [_record(sample, root) for sample in table.samples]
    columns = list(dict.fromkeys(column for record in records for column in record))
    suffix = path.suffix.lower()
    try:
        if suffix in (".csv", ".tsv"):
            data = _csv_bytes(records, columns, "\t" if suffix == ".tsv" else ",")
        elif suffix in (".jsonl", ".ndjson"):
            data = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records).encode()
        elif suffix == ".parquet":
            data = _parquet_bytes(records, columns)
        else:
            raise DataError(f"{path.name} has the unknown suffix {suffix!r}", allowed=", ".join(SUFFIXES))
    except UnicodeEncodeError as error:
        raise DataError(f"a name in the table is not Unicode: {error.object[:80]!r}", fix="rename the file") from error
    write_new_file(path, data)


def _record(sample: Sample, root: Path) -> dict[str, str]:
    if not (sample.path.is_relative_to(root) and sample.path.resolve().is_relative_to(root)):
        raise DataError(f"{sample.path} lies outside {root}, the manifest's folder",
                        fix="write the manifest into a folder above all its files")
    record = {"path": sample.path.relative_to(root).as_posix()}
    record |= {LABEL_COLUMNS[target]: label for target, label in sample.labels.items()}
    record |= {"split": sample.split or "", "group": sample.group or "", "risk": sample.risk, "advice": sample.advice,
               "description": sample.description}
    clash = sorted(set(record) & set(sample.extra))
    if clash:
        raise DataError(f"the extra column {clash[0]!r} of {sample.name} has a reserved name", fix="rename it")
    return record | dict(sample.extra)


def _csv_bytes(records: Sequence[Mapping[str, str]], columns: Sequence[str], delimiter: str) -> bytes:
    buffer = io.StringIO(newline="")
    # Cells that hold a character of the line end are quoted: with both characters in it, no stray one ends a row.
    writer = csv.DictWriter(buffer, columns, delimiter=delimiter, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(records)
    return buffer.getvalue().encode("utf-8-sig")  # the mark lets spreadsheets read Chinese


def _parquet_bytes(records: Sequence[Mapping[str, str]], columns: Sequence[str]) -> bytes:
    parquet, arrow = require("pyarrow.parquet", "parquet"), require("pyarrow", "parquet")
    buffer = io.BytesIO()
    table = {column: arrow.array([record.get(column, "") for record in records], arrow.string()) for column in columns}
    parquet.write_table(arrow.table(table), buffer)
    return buffer.getvalue()


def write_new_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, and never over another one.

    Raises:
        DataError: ``path`` exists, or the system refuses (no space, no permission).
    """
    if path.exists():
        raise DataError(f"{path} exists already", fix="choose another name, or delete it first")
    staging = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix=f".{path.name[:40]}.", dir=path.parent, delete=False) as file:
            staging = Path(file.name)
            file.write(data)
        staging.chmod(0o644)
        staging.replace(path)
    except OSError as error:
        if staging:
            staging.unlink(missing_ok=True)
        raise DataError(f"{path} cannot be written: {error.strerror}",
                        fix="check free space and permissions") from error
