"""Loads the training data of a report model: conversations from cases or from instruction data, with splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from vidrisk.data.case_split import split_cases
from vidrisk.data.case_tables import load_cases
from vidrisk.data.cases import Case, Cases
from vidrisk.data.formats.json_lists import json_lines_of
from vidrisk.data.instructions import Instruction, instruction_from_case
from vidrisk.data.load_instructions import JSON_SUFFIXES, LINES_SUFFIXES, load_instructions
from vidrisk.data.scheme import Scheme
from vidrisk.data.split import split_table
from vidrisk.data.table import SPLITS, Sample, SplitName, Table, items_of_split
from vidrisk.runtimes.contract.errors import DataError, SettingsError

TURNS = ("conversations", "messages")  # keys of a conversation in instruction data
FIELDS = "metadata"  # key of the fields of a case, next to its conversation


@dataclass(frozen=True, repr=False)
class ReportData:
    """Conversations, and the cases that they are about.

    Attributes:
        scheme: levels and fields; None for instruction data.
        items: the conversations; all have a split, unless they were read without splitting.
        cases: by the id of the conversation; empty for instruction data.
        notes: assumptions made when they were read, and what is left out.
    """

    scheme: Scheme | None
    items: tuple[Instruction, ...]
    cases: Mapping[str, Case]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(self.of_split(name))} {name}" for name in SPLITS)
        return f"ReportData({self.scheme.name if self.scheme else 'no scheme'}: {counts})"

    def of_split(self, name: SplitName) -> tuple[Instruction, ...]:
        return items_of_split(self.items, name)


def load_report_data(
    source: str | Path,
    *,
    scheme: Scheme | str | Path | None = None,
    photos: str | Path | None = None,
    seed: int = 0,
    group_by: str | None = None,
    strict: bool = False,
    encoding: str | None = None,
    sheet: str | None = None,
    split: bool = True,
) -> ReportData:
    """Read cases (``load_cases``) or instruction data (``load_instructions``), and split data without a split.

    ``scheme`` applies to cases; None selects the one in a Parquet file, else the default. Paths of photos are relative
    to ``photos``; None selects the folder of the data. Cases with a common ``group_by`` stay in one split, see
    ``split_cases``. Without ``split``, every conversation keeps the split in the data, or has none.

    Raises:
        DataError, SettingsError, MissingExtra: as those raise them; a scheme or a group for instruction data.
    """
    source = Path(source)
    if not _has_conversations_alone(source, encoding):
        cases = load_cases(source, scheme, photos=photos, strict=strict, encoding=encoding, sheet=sheet)
        return data_from_cases(split_cases(cases, seed=seed, group_by=group_by, strict=strict) if split else cases)
    for what, given in (("a scheme", scheme), ("group-by", group_by), ("an encoding", encoding), ("a sheet", sheet)):
        if given is not None:
            raise SettingsError(
                f"{what} for the conversations of {source.name}",
                allowed="only for tables of cases",
                fix=f"leave {what.removeprefix('a ')} out",
            )
    found = load_instructions(source, images=photos, strict=strict)
    return ReportData(None, _split(found.items, found.root, seed) if split else found.items, {}, found.notes)


def data_from_cases(cases: Cases) -> ReportData:
    """Make conversations from cases.

    Raises:
        DataError: a case whose fields the scheme does not allow.
    """
    items = tuple(instruction_from_case(cases.scheme, case) for case in cases.cases)
    return ReportData(cases.scheme, items, {case.id: case for case in cases.cases}, cases.notes)


def _has_conversations_alone(source: Path, encoding: str | None) -> bool:
    """Return whether a file contains conversations without the fields of cases."""
    suffix = source.suffix.lower()
    if suffix in JSON_SUFFIXES:
        return True
    if suffix not in LINES_SUFFIXES or not source.is_file():
        return False
    for tried in (encoding,) if encoding else (None, "gb18030"):
        with suppress(DataError, LookupError):  # reading the whole file later reports the error
            first = next((record for _, record in json_lines_of(source, tried)), {})
            return FIELDS not in first and any(key in first for key in TURNS)
    return False


def _split(items: Sequence[Instruction], root: Path, seed: int) -> tuple[Instruction, ...]:
    """Assign a split to conversations; those about one image stay together."""
    if all(item.split for item in items):
        if not any(item.split == "train" for item in items):
            raise DataError(
                f"all conversations are in the {items[0].split} split", fix="name the file of the training data"
            )
        return tuple(items)
    names = [f"{place}" for place in range(len(items))]
    samples = tuple(
        Sample(Path(name), name, {"level": ""}, split=item.split, group=item.group or name)
        for name, item in zip(names, items, strict=True)
    )
    done = split_table(Table(root, "risk", samples), seed=seed, group_by="group")
    split = {sample.name: sample.split for sample in done.samples}
    return tuple(replace(item, split=split[name]) for name, item in zip(names, items, strict=True))
