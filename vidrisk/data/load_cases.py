"""Tables of cases: CSV, Excel, JSONL or Parquet, or a folder with ``train``, ``val`` and ``test`` of these, become cases.

Rows are matched by names and ids, never by their order: a photo that is missing costs its own row alone.
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
SCHEME_FILE = "scheme.json"  # beside data that were converted
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
            as ``.parquet`` or ``.jsonl``. ``case_columns`` says which columns are understood, in English and Chinese.
        scheme: one, or the name or the file of one; None takes the one that a Parquet file carries, or that
            a conversion has put beside a JSONL file, else ``three-levels``.
        photos: the folder that paths of photos are relative to; None for that of the table.
        labelled: whether the fields that the scheme requires must be there.
        checked: whether the values that are there must be ones that the scheme allows; else others are ''.
        strict: refuse missing photos; else they are left out, counted and named.
        encoding: of CSV and JSONL; None recognises it.
        sheet: of a workbook; None finds it.

    Raises:
        DataError: nothing there, a missing column, a level outside of the scheme, a text that is too long, one id for
            rows that contradict each other, a path that leaves the folder, with ``strict`` a photo that is missing; no
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
        else _carried_scheme(files[0][0])
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
            )  # of several rows of a defect, one may say what the others do not
        found += joined
    usable = _usable(Cases(root, chosen, ()), _with_unique_ids(found))
    notes += notes_of_left_out(
        source.name,
        {"photos that are not there": usable.missing, "rows that are no case": usable.left_out},
        strict=strict,
    )
    if not usable.cases:
        raise DataError(f"{source.name} has no case", allowed=f"rows with a photo under {root}, or with a text")
    return replace(usable, notes=tuple(notes))


def _files_of(source: Path) -> list[tuple[Path, SplitName | None]]:
    """The files of a source, with the split that their name says."""
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


def _carried_scheme(path: Path) -> Scheme:
    """The scheme in a Parquet file, or in the file beside a JSONL that a conversion has written; else the default."""
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
    """Cases with all their fields, photos that are missing, and rows that are no case."""
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
