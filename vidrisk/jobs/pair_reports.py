"""Pairing of reports with their cases: by the id of the case, else by the name of the photo, never by order."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path, PurePath

from vidrisk.data.cases import Case, Cases, PhotoFile, PhotoInRow
from vidrisk.frames.media import name_of
from vidrisk.jobs.photo_names import PhotoNames

# Ids of cases whose table has none: ``load_cases`` numbers them, which is meaningful only within one table.
_NUMBERED = re.compile(r"case-(\d+)(?:#\d+)?")

NOT_THERE = "no case has its id or its photo"
NUMBER_ALONE = "its id is a row number, which is valid only within its own table"
AMBIGUOUS = "its name fits photos of several cases"
SHARED = "several photos of the run have its name"

_Claim = tuple[int, int]  # place of the case, and of its photo; -1 for its id


@dataclass(frozen=True)
class Pairing:
    """Reports and their cases.

    Attributes:
        cases: per report the place of its case; None if it has none.
        reasons: why reports have none, by their place.
        left: places of the cases without a report.
    """

    cases: tuple[int | None, ...]
    reasons: dict[int, str]
    left: tuple[int, ...]


def pair_reports(reports: Sequence[tuple[str, str]], cases: Sequence[Case], tables: Collection[Path] = ()) -> Pairing:
    """Find the case of every report.

    The path of a report about a row of a table is that of the table, ``#`` and the id of the case. An id that is the
    name of the report's own file carries no more information than that name: it counts only if a single photo of the
    run has it, and the case names no other photos.

    Args:
        reports: path and id of the case ('' if unknown) of each report.
        cases: with unique ids.
        tables: resolved paths of the files that the cases are from: within one of these, row numbers are ids.
    """
    tables = tables if _are_ids(cases) else ()
    ids = {case.id: place for place, case in enumerate(cases)}
    names = PhotoNames(
        (str(photo.path) if isinstance(photo, PhotoFile) else "", photo.name, (place, number))
        for place, case in enumerate(cases)
        for number, photo in enumerate(case.photos)
    )
    exact = {photo for path, _ in reports for photo in names.at(path)}
    found: dict[int, int] = {}
    reasons: dict[int, str] = {}
    claims: defaultdict[_Claim, set[str]] = defaultdict(set)
    claimed: dict[int, _Claim] = {}
    for number, (path, case_id) in enumerate(reports):
        is_name = case_id in (PurePath(path).name, name_of(PurePath(path).name))
        place = ids.get(case_id)
        if (
            place is not None
            and not is_name
            and (not _NUMBERED.fullmatch(case_id) or _is_of_table(path, cases[place], tables))
        ):
            found[number] = place
            continue
        at_path = names.at(path)
        photos: tuple[_Claim, ...] = at_path or tuple(photo for photo in names.find(path) if photo not in exact)
        if not photos and is_name and place is not None and not any(photo.name for photo in cases[place].photos):
            photos = ((place, -1),)
        if len({photo[0] for photo in photos}) != 1:
            is_number = place is not None and not is_name
            reasons[number] = AMBIGUOUS if photos else NUMBER_ALONE if is_number else NOT_THERE
        elif at_path:
            found[number] = photos[0][0]
        else:
            claims[photos[0]].add(path)
            claimed[number] = photos[0]
    for number, photo in claimed.items():
        if len(claims[photo]) == 1:
            found[number] = photo[0]
        else:
            reasons[number] = SHARED
    met = set(found.values())
    return Pairing(
        tuple(found.get(number) for number in range(len(reports))),
        reasons,
        tuple(place for place in range(len(cases)) if place not in met),
    )


def tables_of_cases(cases: Cases) -> set[Path]:
    """Return the files that cases are from, as far as is known.

    These are the files in their root, and Parquet files that hold their photos.
    """
    in_rows = {photo.file for case in cases.cases for photo in case.photos if isinstance(photo, PhotoInRow)}
    in_root = {cases.root / name for name in {_file_of(case) for case in cases.cases} if name}
    return {path.resolve() for path in in_rows | in_root}


def _are_ids(cases: Sequence[Case]) -> bool:
    """Tell whether numbers identify rows of a table: not if several tables were numbered as one."""
    numbers = [int(number[1]) for case in cases if (number := _NUMBERED.fullmatch(case.id))]
    return len({_file_of(case) for case in cases}) == 1 or any(later <= earlier for earlier, later in pairwise(numbers))


def _is_of_table(path: str, case: Case, tables: Collection[Path]) -> bool:
    """Tell whether the path of a report names the table that a case is from."""
    suffix = f"#{case.id}"
    table = _resolve(path.removesuffix(suffix)) if path.endswith(suffix) else None
    return table in tables and table is not None and table.name == _file_of(case)


def _file_of(case: Case) -> str:
    return case.where.rpartition(", ")[0]


@lru_cache(maxsize=16)
def _resolve(path: str) -> Path:
    return Path(path).resolve()
