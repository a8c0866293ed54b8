"""Inputs of a report run: photos from files, folders, globs and lists as single cases, and cases from tables.

Every case has a key in the ledger: the path of a photo, or the path of a table and the case's id in it
(``/data/risks.csv#case-3``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from vidrisk.data.case_tables import load_cases
from vidrisk.data.cases import Case, PhotoFile
from vidrisk.data.io import SUFFIXES
from vidrisk.data.scheme import Scheme
from vidrisk.files.stamps import stamp_of_file
from vidrisk.frames.left_out import LeftOut
from vidrisk.frames.media import name_of
from vidrisk.jobs.sources import find_inputs
from vidrisk.runtimes.contract.errors import DataError

LIST_SUFFIX = ".txt"
MAX_LIST_BYTES = 64 << 20

Stamp = tuple[int, int]


@dataclass(frozen=True, repr=False)
class CaseInputs:
    """Cases by their keys in the ledger.

    Attributes:
        cases: in the order of the arguments.
        stamps: for cases in tables: total bytes of the table and its photos, and the time of the last change among
            them.
        absent: per key, photos that a table names but that do not exist.
        refused: per key, why a row is not a case.
        left_out: content of the folders that is skipped.
    """

    cases: Mapping[str, Case]
    stamps: Mapping[str, Stamp] = field(default_factory=dict)
    absent: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    left_out: LeftOut = field(default_factory=LeftOut)

    def __repr__(self) -> str:
        return f"CaseInputs({len(self.cases)} cases, {len(self.stamps)} of them in tables)"


def find_cases(
    arguments: Sequence[str | os.PathLike[str]], scheme: Scheme | None, photos: Path | None = None
) -> CaseInputs:
    """Expand files, folders, globs, lists of photos and tables of cases.

    A list of photos is a ``.txt`` file with one path per line, relative to the list.

    Args:
        arguments: what to expand.
        scheme: that tables are read by; None if only photos and ids matter.
        photos: folder that paths of photos in tables are relative to; None for that of each table.

    Raises:
        DataError: nothing was found; a table or a list that cannot be used.
        MissingExtra: a Parquet file without pyarrow, a workbook without openpyxl.
    """
    cases: dict[str, Case] = {}
    tables: list[CaseInputs] = []
    left_out: list[LeftOut] = []
    for is_table, group in groupby([os.fspath(argument) for argument in arguments], _is_table):
        if not is_table:
            found = find_inputs([path for argument in group for path in _expand_list(argument)])
            left_out.append(found.left_out)
            for path in found.paths:
                cases.setdefault(path, case_of_photo(path))
            continue
        for argument in group:
            tables.append(_cases_of_table(Path(argument), scheme, photos))
            cases |= tables[-1].cases
    return CaseInputs(
        cases,
        stamps={key: stamp for table in tables for key, stamp in table.stamps.items()},
        absent={key: names for table in tables for key, names in table.absent.items()},
        refused={key: reason for table in tables for key, reason in table.refused.items()},
        left_out=LeftOut(
            [path for each in left_out for path in each.files], [item for each in left_out for item in each.omitted]
        ),
    )


def case_of_photo(path: str) -> Case:
    """Make a case of one photo, given its absolute path."""
    name = name_of(Path(path).name)
    return Case(name, (PhotoFile(Path(path), name),), {})


def _is_table(argument: str) -> bool:
    return Path(argument).suffix.lower() in SUFFIXES and os.path.isfile(argument)  # noqa: PTH113 (never raises)


def _expand_list(argument: str) -> Iterator[str]:
    """Yield the argument, or the paths that it lists."""
    path = Path(argument)
    if path.suffix.lower() != LIST_SUFFIX or not path.is_file():
        yield argument
        return
    size = path.stat().st_size
    if size > MAX_LIST_BYTES:
        raise DataError(f"{path.name} has {size} bytes", allowed=f"a list of at most {MAX_LIST_BYTES}")
    lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines()
    listed = [os.fsdecode(line.strip()) for line in lines if line.strip()]
    if not listed:
        raise DataError(f"{path.name} lists no photo", allowed="a path per line")
    for each in listed:
        yield os.path.join(path.parent, each)  # noqa: PTH118 (an entry may be no path at all)


def _cases_of_table(path: Path, scheme: Scheme | None, photos: Path | None) -> CaseInputs:
    path = Path(os.path.abspath(path))  # noqa: PTH100 (without .., so that one table has one key)
    of_table = stamp_of_file(path) or (0, 0)
    found = load_cases(path, scheme, photos=photos, labelled=False, checked=scheme is not None)
    keys = {case.id: f"{path}#{case.id}" for case in (*found.cases, *found.no_cases)}
    stamps = {}
    for case in (*found.cases, *found.no_cases):
        files = [stamp_of_file(photo.path) or (0, 0) for photo in case.photos if isinstance(photo, PhotoFile)]
        sizes, changed_ns = zip(of_table, *files, strict=True)
        stamps[keys[case.id]] = sum(sizes), max(changed_ns)
    refused = {
        keys[case.id]: "none of its photos exists" if case.id in found.absent else "it has neither a photo nor a text"
        for case in found.no_cases
    }
    return CaseInputs(
        {keys[case.id]: case for case in (*found.cases, *found.no_cases)},
        stamps,
        {keys[name]: names for name, names in found.absent.items()},
        refused,
    )
