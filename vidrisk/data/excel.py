"""Reads the sheet with the table from Excel workbooks (.xlsx, .xlsm), without running macros or following links.

A workbook is a ZIP archive of XML files from an untrusted source: its unpacked size, cells and texts are limited, and a
document type, which no program that writes workbooks needs, is refused, which excludes entity expansion.
"""

from __future__ import annotations

import logging
import re
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from vidrisk.data.grid import MOST_ABOVE_HEADER, Line, header_index
from vidrisk.data.table import first_three
from vidrisk.runtimes.contract.errors import DataError, SettingsError, VidriskError, require

log = logging.getLogger(__name__)

SUFFIXES = (".xlsx", ".xlsm")
OLD_SUFFIXES = (".xls", ".xlsb", ".ods", ".et", ".numbers")
MAX_BYTES = 512 << 20  # of all files in the archive, unpacked
MAX_SHARED_STRINGS_BYTES = 128 << 20  # texts of all cells, which are kept in memory
MAX_FILES = 10_000
MAX_ROWS, MAX_COLUMNS = 1_048_576, 16_384  # of a sheet in Excel
MAX_CELLS = 20_000_000
MOST_ROWS_ABOVE_HEADER = 1000  # empty rows included
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"  # first bytes of .xls, and of an .xlsx with a password
CHUNK = 1 << 20
SAVE_AS = "open it in Excel or LibreOffice and save it as .xlsx (Excel Workbook), without a password"

_HIDDEN_ROW = re.compile(rb'<(?:\w+:)?row\s[^>]*?\br="([0-9]{1,7})"[^>]*?\shidden="(?:1|true)"')
_MERGED = re.compile(rb'<(?:\w+:)?mergeCell\s[^>]*?ref="([A-Z]{1,3})([0-9]{1,7}):([A-Z]{1,3})([0-9]{1,7})"')


def lines_from_workbook(path: Path, sheet: str | None = None) -> list[Line]:
    """Return the lines of the sheet with the table, every cell as text; the header comes first if it is found.

    The sheet is the named one, else the only visible one with a header among its first lines. Below the header, merged
    cells have their text in each of the cells.

    Args:
        path: the workbook.
        sheet: its name; followed by ``!`` and a number, such as ``Data!3``, also the row of the header.

    Raises:
        DataError: not a workbook, a workbook that is too large, several candidate sheets, a formula without its value.
        SettingsError: no such sheet.
        MissingExtra: openpyxl is not installed.
    """
    openpyxl: Any = require("openpyxl", "excel")
    try:
        with path.open("rb") as file:
            head = file.read(len(OLE))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if head == OLE:
        raise DataError(
            f"{path.name} is an old Excel file, or has a password", allowed=".xlsx without a password", fix=SAVE_AS
        )
    with _translate_errors(path):
        _check_archive(path)
        with _open_workbook(openpyxl, path, values=True) as workbook:
            worksheet, header_row = _choose_sheet(workbook, path.name, sheet)
            with zipfile.ZipFile(path) as archive:
                facts = _facts_of_sheet(archive, worksheet._worksheet_path)
            if facts.hidden_rows:
                log.warning(
                    "%s, sheet %r: hidden rows (for example, by a filter) are read, too: %d",
                    path.name,
                    worksheet.title,
                    facts.hidden_rows,
                )
            rows = _rows(worksheet, path.name)
            if not facts.has_formulas:
                return list(_lines(rows, worksheet.title, header_row, facts.merged))
            with _open_workbook(openpyxl, path, values=False) as formulas:
                checked = _check_values(rows, _rows(formulas[worksheet.title], path.name), path.name)
                return list(_lines(checked, worksheet.title, header_row, facts.merged))


@contextmanager
def _translate_errors(path: Path) -> Iterator[None]:
    """Turn the errors of openpyxl on a damaged file into a DataError of one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about styles and rules that openpyxl does not know
            yield
    except VidriskError:
        raise
    except MemoryError as error:
        raise DataError(f"{path.name} does not fit into memory", fix="save the sheet as CSV UTF-8") from error
    except Exception as error:  # a hostile file may cause any exception
        raise DataError(
            f"{path.name} is not a readable workbook: {type(error).__name__}: {str(error)[:200]}", fix=SAVE_AS
        ) from error


@contextmanager
def _open_workbook(openpyxl: Any, path: Path, *, values: bool) -> Iterator[Any]:
    with path.open("rb") as file:  # openpyxl leaves its own file open if it fails
        yield openpyxl.load_workbook(file, read_only=True, data_only=values, keep_links=False)


def _check_archive(path: Path) -> None:
    """Refuse an archive that unpacks to too much, or has entities.

    ``zipfile`` reads no more of a file than its entry states.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        shared = sum(entry.file_size for entry in entries if "sharedstrings" in entry.filename.casefold())
        for what, value, most in (
            ("files", len(entries), MAX_FILES),
            ("bytes of text", shared, MAX_SHARED_STRINGS_BYTES),
            ("bytes, unpacked", sum(entry.file_size for entry in entries), MAX_BYTES),
        ):
            if value > most:
                raise DataError(
                    f"{path.name} contains {value} {what}", allowed=f"up to {most}", fix="save the sheet as CSV UTF-8"
                )
        for entry in entries:
            if entry.filename.casefold().endswith((".xml", ".rels")) and _has_document_type(archive, entry):
                raise DataError(
                    f"{path.name} has a document type in {entry.filename}, which no workbook needs", fix=SAVE_AS
                )


def _has_document_type(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bool:
    return any(b"<!DOCTYPE" in chunk or b"<!ENTITY" in chunk for chunk in _chunks(archive, entry.filename))


def _chunks(archive: zipfile.ZipFile, name: str) -> Iterator[bytes]:
    """Yield a file in overlapping chunks, without the zero bytes of UTF-16."""
    before = b""
    with archive.open(name) as file:
        while chunk := file.read(CHUNK):
            chunk = chunk.replace(b"\0", b"")
            yield before + chunk
            before = chunk[-200:]


class _Facts(NamedTuple):
    """Properties of a sheet.

    ``has_formulas`` tells whether it may have formulas; ``merged`` are the areas of merged cells as (first row, last
    row, first column, last column) from 0.
    """

    has_formulas: bool
    merged: list[tuple[int, int, int, int]]
    hidden_rows: int


def _facts_of_sheet(archive: zipfile.ZipFile, name: str) -> _Facts:
    has_formulas = False
    hidden: set[bytes] = set()
    merged: dict[tuple[int, int, int, int], None] = {}
    for chunk in _chunks(archive, name):
        has_formulas = has_formulas or b"<f" in chunk or b":f>" in chunk or b":f " in chunk
        hidden.update(_HIDDEN_ROW.findall(chunk))
        for first_column, first_row, last_column, last_row in _MERGED.findall(chunk):
            merged[int(first_row) - 1, int(last_row) - 1, _column(first_column), _column(last_column)] = None
    return _Facts(has_formulas, list(merged), len(hidden))


def _column(letters: bytes) -> int:
    number = 0
    for letter in letters:
        number = number * 26 + letter - ord("A") + 1
    return number - 1


def _choose_sheet(workbook: Any, name: str, asked: str | None) -> tuple[Any, int | None]:
    """Return the sheet with the table, and the row of its header from 0, or None for a header that is not found."""
    sheets = {sheet.title: sheet for sheet in workbook.worksheets}
    if asked is not None:
        title, mark, row = asked.rpartition("!")
        if asked in sheets:
            return sheets[asked], _header_row(sheets[asked], name)
        if mark and title in sheets and re.fullmatch(r"[A-Z]{0,3}[1-9][0-9]{0,6}", row):
            return sheets[title], int(re.sub("[A-Z]", "", row)) - 1
        raise SettingsError(
            f"sheet {asked!r} of {name}",
            allowed=", ".join(sheets),
            fix="name a sheet, or a sheet and the row of its header, such as Data!3",
        )
    visible = [sheet for sheet in sheets.values() if sheet.sheet_state == "visible"]
    found = [(sheet, at) for sheet in visible if (at := _header_row(sheet, name)) is not None]
    if len(found) > 1:
        raise DataError(
            f"{name} has {len(found)} sheets with a table: {first_three([sheet.title for sheet, _ in found])}",
            fix="name the sheet to read",
        )
    if found:
        return found[0]
    if len(visible) == 1:
        return visible[0], None  # the search for columns reports what is missing
    hidden = [sheet.title for sheet in sheets.values() if sheet.sheet_state != "visible"]
    raise DataError(
        f"{name} has no visible sheet with a column for the path and one for the label among its first "
        f"{MOST_ABOVE_HEADER} rows; sheets: {first_three([sheet.title for sheet in visible]) or 'none'}"
        + (f"; hidden: {first_three(hidden)}" if hidden else ""),
        fix="name the sheet to read",
    )


def _header_row(sheet: Any, name: str) -> int | None:
    first = [
        (number, [text_from_cell(cell) for cell in cells])
        for number, cells in islice(
            (
                (number, cells)
                for number, cells in enumerate(islice(_rows(sheet, name), MOST_ROWS_ABOVE_HEADER))
                if any(cell is not None for cell in cells)
            ),
            MOST_ABOVE_HEADER,
        )
    ]
    index = header_index([(str(number), cells) for number, cells in first])
    return None if index is None else first[index][0]


def _rows(sheet: Any, name: str) -> Iterator[tuple[Any, ...]]:
    sheet.reset_dimensions()  # the size that a file declares is not trusted
    cells = 0
    for number, row in enumerate(sheet.iter_rows(values_only=True), start=1):
        cells += len(row)
        if number > MAX_ROWS or len(row) > MAX_COLUMNS or cells > MAX_CELLS:
            raise DataError(
                f"{name}, sheet {sheet.title!r} has more than {MAX_CELLS} cells or {MAX_ROWS} rows",
                fix="keep only the table in the sheet",
            )
        yield row


def _check_values(
    values: Iterator[tuple[Any, ...]], formulas: Iterator[tuple[Any, ...]], name: str
) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of values; refuse a formula without its value.

    Excel stores the values of formulas; programs that only write workbooks do not.
    """
    for number, (row, written) in enumerate(zip(values, formulas, strict=True), start=1):
        for column, (value, formula) in enumerate(zip(row, written, strict=False)):
            is_formula = (isinstance(formula, str) and formula.startswith("=")) or hasattr(formula, "ref")
            if value is None and is_formula:
                raise DataError(
                    f"{name}, row {number}, column {column + 1} has a formula without its value",
                    fix="open it in Excel, save it, and try again; or replace formulas by their values",
                )
        yield row


def _lines(
    rows: Iterator[tuple[Any, ...]], title: str, header_row: int | None, merged: Sequence[tuple[int, int, int, int]]
) -> Iterator[Line]:
    starts = {(first_row, first_column): area for area in merged for first_row, _, first_column, _ in (area,)}
    open_areas: list[tuple[tuple[int, int, int, int], str]] = []
    for number, row in enumerate(rows):
        if header_row is not None and number < header_row:
            continue
        cells = [text_from_cell(cell) for cell in row]
        if header_row is not None and number > header_row:
            open_areas = [(area, text) for area, text in open_areas if area[1] >= number]
            open_areas += [
                (area, cells[column])
                for column in range(len(cells))
                if (area := starts.get((number, column))) is not None
            ]
            if any(cells):
                _fill(cells, open_areas)
        yield f"sheet {title!r}, row {number + 1}", cells


def _fill(cells: list[str], areas: Sequence[tuple[tuple[int, int, int, int], str]]) -> None:
    """Give every cell of a merged area the text of its first one."""
    for (_, _, first, last), text in areas:
        for column in range(first, min(last + 1, max(len(cells), first + 1))):
            cells += [""] * (column + 1 - len(cells))
            cells[column] = text


def text_from_cell(value: Any) -> str:
    """Convert a cell to the text that a spreadsheet shows.

    Whole numbers have no ``.0``, dates and times are ISO 8601, booleans are TRUE and FALSE.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, datetime):
        return value.date().isoformat() if value.time() == time() else value.isoformat(" ")
    if isinstance(value, timedelta):
        return repr(value.total_seconds()).removesuffix(".0")
    if isinstance(value, date | time):
        return value.isoformat()
    return str(value)
