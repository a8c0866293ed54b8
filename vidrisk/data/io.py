"""Reads manifests (CSV, Excel, JSONL and Parquet) as rows of text, and writes tables to all of them except Excel."""

from __future__ import annotations

import csv
import io
import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from vidrisk.data import excel
from vidrisk.data.delimited import lines_from_csv
from vidrisk.data.encoding import text_from_bytes
from vidrisk.data.grid import records_from_grid
from vidrisk.data.intervals import interval_cells
from vidrisk.data.label_ids import ID_COLUMNS
from vidrisk.data.table import Sample, Table
from vidrisk.data.text import nfc, trim_text
from vidrisk.runtimes.contract.errors import DataError, SettingsError, require
from vidrisk.runtimes.contract.outputs import refuse_below_file

MISSING = frozenset({"", "nan", "null", "n/a", "#n/a", "<na>"})
CSV_SUFFIXES, JSONL_SUFFIXES, PARQUET_SUFFIX = (".csv", ".tsv"), (".jsonl", ".ndjson"), ".parquet"
WRITTEN_SUFFIXES = (*CSV_SUFFIXES, *JSONL_SUFFIXES, PARQUET_SUFFIX)
SUFFIXES = (*WRITTEN_SUFFIXES, *excel.SUFFIXES)
LABEL_COLUMNS = {"action": "action", "defect": "defect_class", "level": "risk_level"}
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")  # spreadsheets compute cells that begin with these

_Cell = str | list[str]
_Records = Iterator[tuple[str, dict[str, Any]]]


@dataclass(frozen=True)
class Row:
    """Cells by column, all as text, '' for a missing value; ``where`` names the row in errors."""

    where: str
    cells: Mapping[str, str]


@dataclass(frozen=True)
class Rows:
    """Content of a manifest.

    Attributes:
        header: names of the columns, composed (NFC).
        rows: the rows below the header.
        notes: assumptions made when it was read.
    """

    header: list[str]
    rows: list[Row]
    notes: tuple[str, ...] = field(default=())


def rows_from_manifest(path: Path, *, encoding: str | None = None, sheet: str | None = None) -> Rows:
    """Read the header and the rows of a manifest.

    See ``encoding`` for how text is decoded and ``excel`` for which sheet is read.

    Args:
        path: the manifest.
        encoding: encoding of CSV and JSONL; None detects it.
        sheet: sheet of a workbook; None finds it.

    Raises:
        DataError: unknown suffix, unknown encoding, a row that does not fit the header, broken JSON, Parquet or Excel.
        SettingsError: an encoding that does not exist, or for a file that is not text; a sheet that does not exist.
        MissingExtra: Parquet without pyarrow, or Excel without openpyxl.
    """
    suffix = path.suffix.lower()
    is_text = suffix in CSV_SUFFIXES + JSONL_SUFFIXES
    if encoding is not None and not is_text:
        raise SettingsError(
            f"an encoding for {path.name}", allowed=f"only for {', '.join(CSV_SUFFIXES + JSONL_SUFFIXES)}"
        )
    if sheet is not None and suffix not in excel.SUFFIXES:
        raise SettingsError(f"a sheet for {path.name}", allowed=f"only for {', '.join(excel.SUFFIXES)}")
    note = ""
    records: _Records
    if is_text:
        decoded = text_from_bytes(_bytes_of(path), path.name, encoding)
        note = decoded.note
        records = (
            _csv_records(decoded.text, path.name) if suffix in CSV_SUFFIXES else _jsonl_records(decoded.text, path.name)
        )
    elif suffix in excel.SUFFIXES:
        lines = excel.lines_from_workbook(path, sheet)
        records = records_from_grid(lines, path.name, advice="give its column a name, or remove it")
    elif suffix == PARQUET_SUFFIX:
        records = _parquet_records(path)
    else:
        raise DataError(
            f"{path.name} has the unknown suffix {suffix!r}",
            allowed=", ".join(SUFFIXES) + ", or a folder",
            fix=excel.SAVE_AS if suffix in excel.OLD_SUFFIXES else None,
        )
    found = [(where, {nfc(column): value for column, value in record.items()}) for where, record in records]
    header = list(dict.fromkeys(column for _, record in found for column in record))
    return Rows(
        header,
        [Row(where, {c: text_from_value(record.get(c)) for c in header}) for where, record in found],
        (note,) if note else (),
    )


def text_from_value(value: Any) -> str:
    """Convert a cell to text.

    Missing values become '', whole floats lose ``.0``, durations become seconds, nested values JSON.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, timedelta):
        return text_from_value(value.total_seconds())
    if isinstance(value, (dict, list, bool)):
        return json.dumps(value, ensure_ascii=False, default=str)
    text = str(value)
    return "" if trim_text(text).casefold() in MISSING else text


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _csv_records(text: str, name: str) -> _Records:
    delimiter, lines = lines_from_csv(text, name)
    yield from records_from_grid(lines, name, advice=f"write cells that contain {delimiter!r} between double quotes")


def _jsonl_records(text: str, name: str) -> _Records:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{name}, line {number} is not JSON: {error}") from error
        if not isinstance(record, dict):
            raise DataError(f"{name}, line {number} is not a JSON object", allowed='one {"path": …} per line')
        yield f"line {number}", record


def _parquet_records(path: Path) -> _Records:
    parquet, arrow = require("pyarrow.parquet", "parquet"), require("pyarrow", "parquet")
    try:
        records = parquet.read_table(path).to_pylist()
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path.name} is not a readable Parquet file: {error}") from error
    for number, record in enumerate(records, start=1):
        yield f"row {number}", record


def write_table(table: Table, path: str | Path, *, path_column: str = "path") -> None:
    """Write a manifest that ``load_table`` reads back equal; its paths are relative to its own folder.

    Columns: the path (named ``path_column``), the labels (``action``, ``defect_class``, ``risk_level``; lists for a
    multi-label target, as JSON in CSV), their numbers (``action_id``, ``defect_class_id``) if the table has an order of
    labels, ``split``, ``group``, ``risk``, ``advice``, ``description``, ``start_s`` and ``end_s`` (or ``start_frame``
    and ``end_frame``) if there are intervals, then the extra ones. Labels of an order that no sample has are not
    written.

    A spreadsheet that opens a CSV computes cells that begin with ``=``, ``+``, ``-`` or ``@``. Paths that begin so get
    ``./`` in front. Labels and texts are written unchanged, to be read back equal: open a CSV with labels from an
    untrusted source as text, or write JSONL.

    Raises:
        DataError: the file exists, its suffix is unknown, a sample lies outside its folder, a label reads as a missing
            value, intervals are in two units, or the disk is full.
        MissingExtra: Parquet without pyarrow.
    """
    path = Path(path)
    check_new_manifest(path)
    root, suffix = path.parent.resolve(), path.suffix.lower()
    units = sorted({sample.interval.unit for sample in table.samples if sample.interval})
    if len(units) > 1:
        raise DataError("the table has intervals in seconds and in frames", fix="give all of them in seconds")
    ids = {
        target: {label: str(number) for number, label in enumerate(order)}
        for target, order in table.label_order.items()
        if target in ID_COLUMNS
    }
    records = [_record(sample, root, path_column, table.target_names, units, ids) for sample in table.samples]
    columns = list(dict.fromkeys(column for record in records for column in record))
    with check_unicode():
        if suffix in CSV_SUFFIXES:
            data = _csv_bytes(records, columns, "\t" if suffix == ".tsv" else ",", path_column)
        elif suffix in JSONL_SUFFIXES:
            data = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records).encode()
        else:
            data = _parquet_bytes(records, columns)
    write_new_file(path, data)


@contextmanager
def check_unicode() -> Iterator[None]:
    """Turn encoding errors in the texts of a table into a DataError.

    Raises:
        DataError: a text is not Unicode; names of files may be so.
    """
    try:
        yield
    except UnicodeEncodeError as error:
        raise DataError(f"a name in the table is not Unicode: {error.object[:80]!r}", fix="rename the file") from error


def check_new_manifest(path: Path) -> None:
    """Refuse a name under which no manifest can be written, before long lists are read.

    Raises:
        DataError: the file exists, or its suffix is unknown.
    """
    check_new_file(path, WRITTEN_SUFFIXES)


def check_new_file(path: Path, suffixes: Sequence[str]) -> None:
    """Refuse a file name that exists, or has none of these suffixes, before anything is computed.

    Raises:
        DataError: the file exists, or its suffix is unknown.
    """
    if path.suffix.lower() not in suffixes:
        raise DataError(f"{path.name} has the unknown suffix {path.suffix.lower()!r}", allowed=", ".join(suffixes))
    check_vacant(path)


def write_rows(rows: Sequence[Mapping[str, str]], path: Path) -> None:
    """Write rows of equal columns as CSV with a header; paths that a spreadsheet would compute get ``./`` in front.

    Raises:
        DataError: as ``write_new_file``; a name that is not Unicode.
    """
    with check_unicode():
        data = _csv_bytes(rows, list(dict.fromkeys(column for row in rows for column in row)), ",", "path")
    write_new_file(path, data)


def _record(
    sample: Sample,
    root: Path,
    path_column: str,
    targets: Sequence[str],
    units: Sequence[str],
    ids: Mapping[str, Mapping[str, str]],
) -> dict[str, _Cell]:
    if not (sample.path.is_relative_to(root) and sample.path.resolve().is_relative_to(root)):
        raise DataError(
            f"{sample.path} lies outside {root}, the manifest's folder",
            fix="write the manifest into a folder above all its files",
        )
    missing = [label for label in sample.labels.values() if isinstance(label, str) and label.casefold() in MISSING]
    if missing:
        raise DataError(
            f"{sample.title} has the label {missing[0]!r}, which a manifest reads as a missing value",
            fix="rename the class",
        )
    record: dict[str, _Cell] = {path_column: sample.path.relative_to(root).as_posix()}
    for target in targets:
        label = sample.labels.get(target, "")
        record[LABEL_COLUMNS[target]] = label if isinstance(label, str) else list(label)
        if target in ids:
            numbers = [ids[target][one] for one in sample.labels_of(target)]
            record[ID_COLUMNS[target]] = list(numbers) if not isinstance(label, str) else numbers[0] if numbers else ""
    record |= {
        "split": sample.split or "",
        "group": sample.group or "",
        "risk": sample.risk,
        "advice": sample.advice,
        "description": sample.description,
    }
    for unit in units:
        record |= interval_cells(sample.interval, unit)
    clash = sorted(set(record) & set(sample.extra))
    if clash:
        raise DataError(f"the extra column {clash[0]!r} of {sample.name} has a reserved name", fix="rename it")
    return record | dict(sample.extra)


def _csv_bytes(
    records: Sequence[Mapping[str, _Cell]], columns: Sequence[str], delimiter: str, path_column: str
) -> bytes:
    buffer = io.StringIO(newline="")
    # Cells with a character of the line end are quoted; with "\r\n", neither a lone "\r" nor a lone "\n" ends a row.
    writer = csv.DictWriter(buffer, columns, delimiter=delimiter, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(
        {column: _csv_cell(cell, is_path=column == path_column) for column, cell in record.items()}
        for record in records
    )
    return buffer.getvalue().encode("utf-8-sig")  # with the byte order mark, spreadsheets read Chinese


def _csv_cell(cell: _Cell, *, is_path: bool) -> str:
    if isinstance(cell, list):
        return json.dumps(cell, ensure_ascii=False)
    return f"./{cell}" if is_path and cell.startswith(FORMULA_STARTS) else cell


def _parquet_bytes(records: Sequence[Mapping[str, _Cell]], columns: Sequence[str]) -> bytes:
    parquet, arrow = require("pyarrow.parquet", "parquet"), require("pyarrow", "parquet")
    buffer = io.BytesIO()
    cells = {column: [record.get(column, "") for record in records] for column in columns}
    table = {column: _parquet_column(arrow, found) for column, found in cells.items()}
    parquet.write_table(arrow.table(table), buffer)
    return buffer.getvalue()


def _parquet_column(arrow: Any, cells: Sequence[_Cell]) -> Any:
    if not any(isinstance(cell, list) for cell in cells):
        return arrow.array(cells, arrow.string())
    return arrow.array(
        [cell if isinstance(cell, list) else None for cell in cells], arrow.list_(arrow.string())
    )  # '' is not a list


def check_vacant(path: Path) -> None:
    """Refuse a path that exists, or that cannot be written because a file lies above it.

    Raises:
        DataError: it exists.
        SettingsError: it lies below a file.
    """
    refuse_below_file(path)
    if path.exists():
        raise DataError(f"{path} exists already", fix="choose another name, or delete it first")


def write_new_file(path: Path, data: bytes) -> None:
    """Write a file completely or not at all, and never over another one.

    Raises:
        DataError: ``path`` exists, or the system refuses (no space, no permission).
    """
    check_vacant(path)
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
        raise DataError(
            f"{path} cannot be written: {error.strerror}", fix="check free space and permissions"
        ) from error
