"""Cases, the subjects of risk reports: one defect with its photos, or a text instead, and the known fields."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from vidrisk.data.scheme import Scheme
from vidrisk.data.table import SplitName, items_of_split


@dataclass(frozen=True)
class PhotoFile:
    """Photo in a file.

    Attributes:
        path: absolute.
        name: relative to the data folder, with ``/`` between folders.
    """

    path: Path
    name: str


@dataclass(frozen=True)
class PhotoInRow:
    """Photo in a row of a Parquet file, which ``row_photos`` reads.

    Attributes:
        file: absolute.
        row: counted from 0 over all row groups.
        column: the column with the photo, as bytes, as base64, or as a struct with ``bytes``.
        place: index in the column's list, or None if the column holds one photo.
        name: original name, or '' if unknown.
    """

    file: Path
    row: int
    column: str
    place: int | None = None
    name: str = ""

    def __str__(self) -> str:
        return f"{self.file.name}, row {self.row + 1}{f', {self.name}' if self.name else ''}"


PhotoSource = PhotoFile | PhotoInRow


@dataclass(frozen=True)
class Case:
    """One defect.

    Attributes:
        id: unique among the cases of a table.
        photos: in their order; empty if the case is described by a text only.
        fields: values by field name, for all fields of the scheme; '' if unknown.
        level: value of the scheme's first level field that has one; '' if there is none.
        split: ``train``, ``val`` or ``test``; None before the split.
        group: cases of one group, such as a building, stay in one split.
        extra: every other column that is not empty, by name.
        where: the row that the case comes from, for messages.
        written_id: the id in the row, which rows of other files may have, too; '' if there is none.
    """

    id: str
    photos: tuple[PhotoSource, ...]
    fields: Mapping[str, str]
    level: str = ""
    split: SplitName | None = None
    group: str | None = None
    extra: Mapping[str, str] = field(default_factory=dict)
    where: str = field(default="", compare=False)
    written_id: str = field(default="", compare=False)

    def __repr__(self) -> str:
        split = f", {self.split}" if self.split else ""
        return f"Case({self.id}: {len(self.photos)} photos, {self.level or 'no level'}{split})"


@dataclass(frozen=True, repr=False)
class Cases:
    """Cases of one scheme.

    Attributes:
        root: the folder that the names of photo files are relative to.
        missing: named photos that do not exist, each with the row that names it.
        left_out: rows that do not make a case, with the reason: all photos missing, or neither photo nor text.
        notes: assumptions made when the cases were read.
        absent: named photos that do not exist, by the id of their case; rows that do not make a case are included.
        no_cases: the rows that do not make a case, with their ids and without photos.
    """

    root: Path
    scheme: Scheme
    cases: tuple[Case, ...]
    missing: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=(), compare=False)
    absent: Mapping[str, tuple[str, ...]] = field(default_factory=dict, compare=False)
    no_cases: tuple[Case, ...] = field(default=(), compare=False)

    def __len__(self) -> int:
        return len(self.cases)

    def __repr__(self) -> str:
        splits = Counter(case.split or "no split" for case in self.cases)
        parts = ", ".join(f"{n} {name}" for name, n in splits.items())
        return f"Cases({self.root.name}, {self.scheme.name}: {parts or 'empty'})"

    def of_split(self, name: str) -> Cases:
        """Return the cases of one split, which may be empty.

        Raises:
            SettingsError: no such split.
        """
        return self.with_cases(items_of_split(self.cases, name))

    def with_cases(self, cases: Iterable[Case]) -> Cases:
        return replace(self, cases=tuple(cases))

    def level_counts(self) -> dict[str, int]:
        """Count the cases per level, in the order of the scheme, without levels that no case has."""
        counts = Counter(case.level for case in self.cases)
        return {name: counts[name] for name in self.scheme.level_names if counts[name]}
