"""Reports and the cases that they are about: by the id of the case, else by the name of the photo, never by their order."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from vidrisk.data.cases import Case, PhotoFile, PhotoSource
from vidrisk.jobs.photo_names import PhotoNames

# Of cases that a table gives no id: ``load_cases`` numbers them, which says something about one table alone.
_NUMBERED = re.compile(r"case-\d+(#\d+)?")

NOT_THERE = "no case has its id or its photo"
AMBIGUOUS = "its name fits photos of several cases"
SHARED = "several photos of the run have its name"


@dataclass(frozen=True)
class Pairing:
    """Who belongs to whom.

    Attributes:
        cases: per report the place of its case; None where it has none.
        reasons: why reports have none, by their place.
        left: places of the cases without a report.
    """

    cases: tuple[int | None, ...]
    reasons: dict[int, str]
    left: tuple[int, ...]


def pair_reports(reports: Sequence[tuple[str, str]], cases: Sequence[Case]) -> Pairing:
    """Find the case of every report.

    Args:
        reports: path and id of the case ('' where it is not known), of each.
        cases: with unique ids.
    """
    ids = {case.id: place for place, case in enumerate(cases)}
    names = PhotoNames((str(photo.path) if isinstance(photo, PhotoFile) else "", photo.name, (place, number))
                       for place, case in enumerate(cases) for number, photo in enumerate(case.photos))
    found: dict[int, int] = {}
    claims: defaultdict[tuple[int, int], set[str]] = defaultdict(set)  # photo → paths that have its name
    claimed: dict[int, tuple[int, int]] = {}
    reasons: dict[int, str] = {}
    exact = {photo for path, _ in reports for photo in names.at(path)}
    for number, (path, case_id) in enumerate(reports):
        place = ids.get(case_id)
        if place is not None and (not _NUMBERED.fullmatch(case_id) or _is_of_same_file(path, cases[place])):
            found[number] = place
            continue
        at_path = names.at(path)
        photos = at_path or tuple(photo for photo in names.named(path) if photo not in exact)
        if len({photo[0] for photo in photos}) != 1:
            reasons[number] = AMBIGUOUS if photos else NOT_THERE
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
    met = Counter(found.values())
    return Pairing(tuple(found.get(number) for number in range(len(reports))), reasons,
                   tuple(place for place in range(len(cases)) if not met[place]))


def _is_of_same_file(path: str, case: Case) -> bool:
    """Whether a report's path names a row of the very table that the case is from, whose numbers are the same."""
    files = {_file_of(photo) for photo in case.photos} - {""} or {case.where.rpartition(", ")[0]}
    return any(PurePath(path).name.startswith(file) for file in files if file)


def _file_of(photo: PhotoSource) -> str:
    return "" if isinstance(photo, PhotoFile) else photo.file.name
