"""Loads cases from tables (CSV, Excel, JSONL or Parquet), or from a folder with ``train``, ``val`` and ``test`` tables.

Rows are matched by names and ids, never by their order: a missing photo affects only its own row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from vidrisk.data.case_columns import columns_of_cases
from vidrisk.data.case_rows import CaseReader, ToldCase, join_rows, rows_of_file
from vidrisk.data.cases import Case, Cases
from vidrisk.data.io import JSONL_SUFFIXES, PARQUET_SUFFIX, SUFFIXES
from vidrisk.data.notes import notes_of_left_out
from vidrisk.data.parquet_rows import scheme_of_parquet
from vidrisk.data.places import Places
from vidrisk.data.report_prompts import text_of_case
from vidrisk.data.scheme import Scheme
from vidrisk.data.scheme_file import load_scheme, scheme_from_text
from vidrisk.data.table import SPLIT_WORDS, SplitName
from vidrisk.runtimes.contract.errors import DataError, SettingsError

DEFAULT_SCHEME = "three-levels"
SCHEME_FILE = "scheme.json"  # beside converted data
_SPLIT_SUFFIXES = (PARQUET_SUFFIX, ".jsonl")


def load_cases(
    source: str | Path,
    scheme: Scheme | str | Path | None = None,
    *,
    photos: str | Path | None = None,
    labelled: bool = True,
    checked: bool = True,
    strict: bool = False,
    encoding: str | None = None,
    sheet: str | None = None,
) -> Cases:
    """Read cases.

    Args:
        source: a ``.csv``, ``.xlsx``, ``.jsonl`` or ``.parquet`` file, or a folder with ``train``, ``val`` and ``test``
            as ``.parquet`` or ``.jsonl``. See ``case_columns`` for the columns that are understood, in English and
            Chinese.
        scheme: a scheme, or its name or file; None selects the one in a Parquet file, or the one that a conversion has
            written beside a JSONL file, else ``three-levels``.
        photos: the folder that paths of photos are relative to; None selects that of the table.
        labelled: whether the fields that the scheme requires must be present.
        checked: refuse values that the scheme does not allow; otherwise they become ''.
        strict: refuse missing photos; otherwise they are left out, counted and named.
        encoding: encoding of CSV and JSONL; None detects it.
        sheet: sheet of a workbook; None finds it.

    Raises:
        DataError: a missing source, a missing column, a level that is not in the scheme, a text that is too long, one
            id for rows that contradict each other, a path that leaves the folder, with ``strict`` a missing photo; no
            case at all.
        SettingsError: an unknown scheme, encoding or sheet.
        MissingExtra: Parquet without pyarrow, Excel without openpyxl, a scheme in YAML without PyYAML.
    """
    source = Path(source)
    files = _files_of(source)
    chosen = (
        scheme
        if isinstance(scheme, Scheme)
        else load_scheme(scheme)
        if scheme is not None
        else _find_scheme(files[0][0])
    )
    root = (Path(photos) if photos is not None else files[0][0].parent).resolve()
    if photos is not None and not root.is_dir():
        raise SettingsError(f"photos in {photos}", allowed="a folder")
    found: list[ToldCase] = []
    notes: list[str] = []
    places = Places(root)
    for path, split in files:
        rows, in_rows = rows_of_file(path, encoding, sheet)
        notes += rows.notes
        columns = columns_of_cases(rows.header, chosen, path.name, labelled=labelled, has_photos=any(in_rows))
        reader = CaseReader(path, chosen, columns, places, split)
        told = [reader.tell(row, own) for row, own in zip(rows.rows, in_rows, strict=True)]
        if checked:
            reader.refuse_bad(told, labelled=False)
        joined = list(join_rows(told, columns, path.name))
        if checked:
            reader.refuse_bad(
                joined, labelled=labelled
            )  # after joining, because one row of a defect may have values that the others lack
        found += joined
    usable = _usable(Cases(root, chosen, ()), _with_unique_ids(found))
    notes += notes_of_left_out(
        source.name, {"missing photos": usable.missing, "rows that do not make a case": usable.left_out}, strict=strict
    )
    if not usable.cases:
        raise DataError(f"{source.name} has no case", allowed=f"rows with a photo under {root}, or with a text")
    return replace(usable, notes=tuple(notes))


def _files_of(source: Path) -> list[tuple[Path, SplitName | None]]:
    """Return the files of a source, each with the split in its name."""
    if source.is_file():
        return [
            (
                source.resolve(),
                SPLIT_WORDS.get(source.stem.casefold()) if source.suffix.lower() in _SPLIT_SUFFIXES else None,
            )
        ]
    if not source.is_dir():
        raise DataError(
            f"{source} does not exist", allowed=f"a file ({', '.join(SUFFIXES)}), or a folder with train.parquet"
        )
    for suffix in _SPLIT_SUFFIXES:
        files: list[tuple[Path, SplitName | None]] = [
            (path.resolve(), SPLIT_WORDS[path.stem.casefold()])
            for path in sorted(source.iterdir())
            if path.suffix.lower() == suffix and path.stem.casefold() in SPLIT_WORDS
        ]
        if files:
            return files
    raise DataError(
        f"{source} has no train, val or test",
        allowed=", ".join(f"train{suffix}" for suffix in _SPLIT_SUFFIXES),
        fix="name the table in it",
    )


def _find_scheme(path: Path) -> Scheme:
    """Load the scheme in a Parquet file, or the one that a conversion wrote beside a JSONL file; else the default."""
    suffix, beside = path.suffix.lower(), path.with_name(SCHEME_FILE)
    if suffix in JSONL_SUFFIXES and beside.is_file():
        return load_scheme(beside)
    carried = scheme_of_parquet(path) if suffix == PARQUET_SUFFIX else None
    return (
        load_scheme(DEFAULT_SCHEME) if carried is None else scheme_from_text(carried, f"{path.name}, the scheme in it")
    )


def _with_unique_ids(told: Iterable[ToldCase]) -> Iterator[ToldCase]:
    used: set[str] = set()
    for number, found in enumerate(told, start=1):
        wanted = found.case.id or f"case-{number}"
        name, again = wanted, 2
        while name in used:
            name, again = f"{wanted}#{again}", again + 1
        used.add(name)
        yield replace(found, case=replace(found.case, id=name, written_id=found.case.id))


def _usable(empty: Cases, told: Iterable[ToldCase]) -> Cases:
    """Select the usable cases, with all their fields, and record missing photos and rows that do not make a case."""
    scheme = empty.scheme
    cases: list[Case] = []
    missing: list[str] = []
    left_out: list[str] = []
    no_cases: list[Case] = []
    absent: dict[str, tuple[str, ...]] = {}
    for found in told:
        fields = {
            field.name: scheme.value_from_text(field, found.case.fields.get(field.name, "")) or ""
            for field in scheme.fields
        }
        level = next((fields[field.name] for field in scheme.level_fields if fields[field.name]), "")
        case = replace(found.case, fields=fields, level=level)
        missing += found.missing
        if found.missing:
            absent[case.id] = found.missing
        if case.photos or (not found.named and text_of_case(scheme, case)):
            cases.append(case)
            continue
        why = "all its photos are missing" if found.named else "neither a photo nor a text"
        left_out.append(f"{case.where.rpartition(', ')[2]}: {why}")
        no_cases.append(case)
    return replace(
        empty,
        cases=tuple(cases),
        missing=tuple(missing),
        left_out=tuple(left_out),
        absent=absent,
        no_cases=tuple(no_cases),
    )
