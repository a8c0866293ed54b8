"""Reads text with delimiters as lines of cells: CSV as spreadsheet programs of all locales write it."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from itertools import islice

from vidrisk.data.grid import MOST_ABOVE_HEADER, Line, header_index
from vidrisk.runtimes.contract.errors import DataError

DELIMITERS = (",", ";", "\t", "|")
_SPACE_BEFORE_QUOTE = r'(?:^|{delimiter}) +"(?!")'  # ``a.jpg, "crack, deep"``
_DECLARED = re.compile(r'"?sep=(?P<delimiter>[^\r\n"])"?[ ,;\t]*(?:\r\n|\n|\r|$)', re.IGNORECASE)


def lines_from_csv(text: str, name: str) -> tuple[str, Iterator[Line]]:
    """Return the delimiter and the lines of a CSV file.

    The delimiter is the one that a first line ``sep=;`` declares (Excel writes and hides it), else the one with which a
    header is found, else the one that splits the first line into most cells.

    Raises:
        DataError: (while the lines are read) quotes that are not closed, or text that is not CSV.
    """
    declared = _DECLARED.match(text)
    if declared:
        text = text[declared.end() :]
    delimiter = declared["delimiter"] if declared else _delimiter_of(text)
    return delimiter, _lines(text, name, delimiter, skipped=1 if declared else 0)


def _delimiter_of(text: str) -> str:
    first: dict[str, list[list[str]]] = {}
    for delimiter in DELIMITERS:
        reader = csv.reader(
            io.StringIO(text, newline=""),
            delimiter=delimiter,
            skipinitialspace=_has_space_before_quotes(text, delimiter),
        )
        try:
            first[delimiter] = list(islice(filter(any, reader), MOST_ABOVE_HEADER))
        except csv.Error:  # reported when the lines are read
            first[delimiter] = []
    with_header = [
        delimiter for delimiter, lines in first.items() if header_index([("", cells) for cells in lines]) is not None
    ]
    return max(with_header or DELIMITERS, key=lambda delimiter: len(next(iter(first[delimiter]), [])))


def _has_space_before_quotes(text: str, delimiter: str) -> bool:
    return re.search(_SPACE_BEFORE_QUOTE.format(delimiter=re.escape(delimiter)), text, re.MULTILINE) is not None


def _lines(text: str, name: str, delimiter: str, *, skipped: int) -> Iterator[Line]:
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        strict=True,
        skipinitialspace=_has_space_before_quotes(text, delimiter),
    )
    try:
        for cells in reader:
            yield f"line {reader.line_num + skipped}", cells
    except csv.Error as error:
        raise DataError(
            f"{name}, line {reader.line_num + skipped} is not CSV: {error}",
            fix='close every quote, and write a quote inside of quotes twice: ""',
        ) from error
