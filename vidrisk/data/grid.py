"""Turns a grid of cells from a CSV file or a spreadsheet into records, and finds its header."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice

from vidrisk.data.columns import looks_like_header
from vidrisk.data.text import nfc, trim_text
from vidrisk.runtimes.contract.errors import DataError

log = logging.getLogger(__name__)

MOST_ABOVE_HEADER = 30  # lines, such as a title, a date, a legend
UNNAMED = "unnamed"  # pandas writes its index without a name

Line = tuple[str, Sequence[str]]  # its place and its cells


def header_index(lines: Sequence[Line]) -> int | None:
    """Return the index of the header: the first line with a column for the path and one for a label."""
    return next((i for i, (_, cells) in enumerate(lines) if looks_like_header([_name(cell) for cell in cells])), None)


def records_from_grid(lines: Iterable[Line], source: str, *, advice: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the place of each record and its cells by column name.

    Empty lines and lines above the header are left out. Cells that are missing at the end of a line are empty, and
    columns without name and cells do not count. A first column without a name, which pandas writes, is called
    ``unnamed``.

    Args:
        lines: the grid.
        source: name of the file, for errors.
        advice: how to fix a cell beyond the last column.

    Raises:
        DataError: a repeated column name, or a cell in a column without a name.
    """
    filled = ((where, cells) for where, cells in lines if any(map(trim_text, cells)))
    first = list(islice(filled, MOST_ABOVE_HEADER))
    if not first:
        return
    index = header_index(first) or 0
    if index:
        log.info("%s: %d lines above the header are left out", source, index)
    where_header, cells = first[index]
    names = [_name(cell) for cell in cells]
    while names and not names[-1]:
        names.pop()
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise DataError(
            f"{source}, {where_header} has the column {twice[0]!r} twice", fix="rename or remove one of them"
        )
    if names and not names[0] and UNNAMED not in names:
        names[0] = UNNAMED
    for where, cells in chain(first[index + 1 :], filled):
        beyond = [cell for cell in cells[len(names) :] if trim_text(cell)]
        if beyond:
            raise DataError(f"{source}, {where} has {len(cells)} cells, the header {len(names)}", fix=advice)
        record = dict.fromkeys((name for name in names if name), "")
        for name, cell in zip(names, cells, strict=False):
            if name:
                record[name] = cell
            elif trim_text(cell):
                raise DataError(
                    f"{source}, {where} has {cell[:40]!r} in a column without a name",
                    fix="give the column a name, or remove its cells",
                )
        yield where, record


def _name(cell: str) -> str:
    return trim_text(nfc(cell))
