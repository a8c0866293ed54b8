"""Reads cases (photos, fields and id) from the rows of a table, and joins rows with the same id if they agree."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vidrisk.data.answers import fields_from_answer
from vidrisk.data.case_columns import METADATA, CaseColumns, find_column
from vidrisk.data.cases import Case, PhotoInRow, PhotoSource
from vidrisk.data.io import PARQUET_SUFFIX, Row, Rows, rows_from_manifest, text_from_value
from vidrisk.data.parquet_rows import rows_from_parquet
from vidrisk.data.photo_paths import MAX_PHOTOS, find_photos, paths_from_cells
from vidrisk.data.places import Places
from vidrisk.data.scheme import Scheme, problem_of
from vidrisk.data.table import SPLIT_WORDS, SplitName, first_three
from vidrisk.data.text import label_from_text, nfc, trim_text
from vidrisk.files.paths import is_unicode
from vidrisk.runtimes.contract.errors import DataError

ID_PREFIX = "risk_detection_"  # prefix of the ids that ``data convert`` writes
MOST_COMPARED = 50  # a row is compared with at most so many rows with the same id


@dataclass(frozen=True)
class ToldCase:
    """Case from a single row, before rows with the same id are joined.

    Attributes:
        case: the case, with its values as written.
        missing: photos that do not exist, each with its row.
        named: number of photos, missing ones included.
    """

    case: Case
    missing: tuple[str, ...]
    named: int


def rows_of_file(path: Path, encoding: str | None, sheet: str | None) -> tuple[Rows, list[tuple[PhotoInRow, ...]]]:
    """Read the rows of a file and the photos in each row.

    The members of a column ``metadata`` become columns of their own; they fill only cells that are empty.

    Raises:
        DataError: the file cannot be read, or has no rows.
    """
    if path.suffix.lower() == PARQUET_SUFFIX and encoding is None and sheet is None:
        rows, photos = rows_from_parquet(path)
    else:
        rows = rows_from_manifest(path, encoding=encoding, sheet=sheet)
        photos = [()] * len(rows.rows)
    if not rows.rows:
        raise DataError(f"{path.name} has no rows", allowed="a header and one row per photo or defect")
    metadata = find_column(rows.header, (METADATA,))
    if metadata is None:
        return rows, photos
    inner = [_members(row.cells[metadata]) for row in rows.rows]
    header = list(dict.fromkeys(name for names in (*inner, rows.header) for name in names if name != metadata))
    flat = [
        Row(row.where, {name: row.cells.get(name) or members.get(name, "") for name in header})
        for row, members in zip(rows.rows, inner, strict=True)
    ]
    return Rows(header, flat, rows.notes), photos


def _members(text: str) -> dict[str, str]:
    try:
        value = json.loads(text) if text.startswith("{") else {}
    except (ValueError, RecursionError):
        return {}
    return {nfc(name): text_from_value(member) for name, member in value.items()} if isinstance(value, dict) else {}


class CaseReader:
    """Reads cases from the rows of one file."""

    def __init__(
        self, path: Path, scheme: Scheme, columns: CaseColumns, places: Places, split: SplitName | None
    ) -> None:
        self._path, self._scheme, self._columns, self._places, self._split = path, scheme, columns, places, split

    def tell(self, row: Row, in_row: Sequence[PhotoInRow]) -> ToldCase:
        """Read the case in a row.

        Raises:
            DataError: a path that leaves the folder, an invalid list of photos, or an unknown split.
        """
        where = f"{self._path.name}, {row.where}"
        cells = {name: _clean(text) for name, text in row.cells.items()}
        columns = self._columns
        named = () if in_row else paths_from_cells(_cell(cells, columns.path), _cell(cells, columns.paths), where)
        found, absent = find_photos(named, self._places, where)
        photos: list[PhotoSource] = [*in_row, *found]
        missing = [f"{name} ({row.where})" for name in absent]
        fields = {name: self._value(name, cells[column]) for name, column in columns.fields.items()}
        if not fields and columns.conversations:
            fields = _fields_of_conversation(self._scheme, cells[columns.conversations])
        ids = [trim_text(cells[column]) for column in columns.ids]
        case = Case(
            "-".join(ids).removeprefix(ID_PREFIX) if all(ids) else "",
            tuple(photos),
            fields,
            split=self._split_of(cells, where),
            group=trim_text(_cell(cells, columns.group)) or None,
            extra={name: cells[name] for name in columns.extra if cells[name]},
            where=where,
        )
        return ToldCase(case, tuple(missing), len(photos) + len(missing))

    def _value(self, name: str, text: str) -> str:
        """Return a value in the scheme's spelling, or as written if the scheme does not allow it."""
        field = self._scheme.find_field(name)
        value = self._scheme.value_from_text(field, text) if field else None
        return label_from_text(text) if value is None else value

    def refuse_bad(self, told: Iterable[ToldCase], *, labelled: bool) -> None:
        """Refuse values that the scheme does not allow.

        All bad values of one field are named in one message. With ``labelled``, a required value that is empty is
        refused, too.

        Raises:
            DataError: there are such values.
        """
        cases = [found.case for found in told]
        for field in self._scheme.fields:
            wrong = [
                case
                for case in cases
                if self._scheme.value_from_text(field, case.fields.get(field.name, "")) is None
                and (labelled or case.fields.get(field.name))
            ]
            if wrong:
                shown = first_three(
                    [
                        f"{case.where.rpartition(', ')[2]}: {problem_of(field, case.fields.get(field.name, ''))}"
                        for case in wrong
                    ]
                )
                fix = (
                    "fill them, or remove these rows"
                    if not any(case.fields.get(field.name) for case in wrong)
                    else f"shorten them, or raise max_chars of {field.name} in the scheme"
                    if field.kind == "text"
                    else "correct these rows, or name the scheme that the data are written in"
                )
                raise DataError(
                    f"{self._path.name} has rows whose {field.name} is not of the scheme {self._scheme.name} "
                    f"({len(wrong)}): {shown}",
                    allowed=self._scheme.describe_allowed_values(field),
                    fix=fix,
                )

    def _split_of(self, cells: Mapping[str, str], where: str) -> SplitName | None:
        written = trim_text(_cell(cells, self._columns.split))
        if written and written.casefold() not in SPLIT_WORDS:
            raise DataError(f"{where}: split {written[:40]!r}", allowed="train, val, test, or empty")
        return SPLIT_WORDS[written.casefold()] if written else self._split


def _cell(cells: Mapping[str, str], column: str | None) -> str:
    return cells[column] if column else ""


def _clean(text: str) -> str:
    """Replace characters that UTF-8 cannot hold; paths keep their bytes."""
    return text if is_unicode([text]) else text.encode("utf-8", "replace").decode()


def _fields_of_conversation(scheme: Scheme, text: str) -> dict[str, str]:
    """Parse the fields from the last answer of a conversation, for a table without columns for them."""
    try:
        turns: Any = json.loads(text) if text.startswith("[") else []
    except (ValueError, RecursionError):
        return {}
    answers = [
        turn.get("value", turn.get("content"))
        for turn in turns
        if isinstance(turn, dict) and turn.get("from", turn.get("role")) in ("assistant", "gpt")
    ]
    return fields_from_answer(scheme, answers[-1]).fields if answers and isinstance(answers[-1], str) else {}


def join_rows(told: Sequence[ToldCase], columns: CaseColumns, source: str) -> Iterator[ToldCase]:
    """Join rows with the same id into one case if they agree.

    Raises:
        DataError: two rows of one case contradict each other, or a case has too many photos.
    """
    by_id: dict[str, list[ToldCase]] = {}
    for number, found in enumerate(told):
        key = found.case.id or f"\0{number}"
        same = by_id.setdefault(key, [])
        last = max(0, len(same) - MOST_COMPARED)
        into = next(
            (place for place, other in enumerate(same[last:], start=last) if _agree(other.case, found.case)), None
        )
        if into is not None:
            same[into] = _with_few_photos(_both(same[into], found), source)
        elif same and columns.is_case_id:
            raise DataError(
                f"{source} has two rows of the case {found.case.id!r} that contradict each other: "
                f"{same[0].case.where.rpartition(', ')[2]} and {found.case.where.rpartition(', ')[2]}",
                fix="correct them, or give each defect an id of its own",
            )
        else:
            same.append(_with_few_photos(found, source))
    for key, same in by_id.items():
        shared = None if len(same) == 1 else f"id {key}"  # cases with the same id stay in one split
        yield from (replace(found, case=replace(found.case, group=found.case.group or shared)) for found in same)


def _with_few_photos(found: ToldCase, source: str) -> ToldCase:
    count = len(found.case.photos)
    if count > MAX_PHOTOS:
        raise DataError(
            f"{source}, {found.case.where.rpartition(', ')[2]}: the case {found.case.id!r} has {count} photos or more",
            allowed=f"up to {MAX_PHOTOS}",
            fix="keep those that show the defect best, or give each defect an id of its own",
        )
    return found


def _agree(one: Case, other: Case) -> bool:
    both = [(one.fields.get(name, ""), other.fields.get(name, "")) for name in {**one.fields, **other.fields}]
    both += [(one.split or "", other.split or ""), (one.group or "", other.group or "")]
    return all(not a or not b or a == b for a, b in both)


def _both(one: ToldCase, other: ToldCase) -> ToldCase:
    a, b = one.case, other.case
    fields = {name: a.fields.get(name) or b.fields.get(name, "") for name in {**a.fields, **b.fields}}
    case = replace(
        a,
        photos=tuple(dict.fromkeys((*a.photos, *b.photos))),
        fields=fields,
        split=a.split or b.split,
        group=a.group or b.group,
        extra={**b.extra, **a.extra},
    )
    missing = tuple(dict.fromkeys((*one.missing, *other.missing)))
    return ToldCase(case, missing, one.named + other.named)
