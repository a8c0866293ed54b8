"""Cases: what a risk report is about. A case is one defect: its photos, or a text where there is none, and what is known of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from vidrisk.data.scheme import Scheme
from vidrisk.data.table import SplitName, items_of_split


@dataclass(frozen=True)
class PhotoFile:
    """A photo in a file.

    Attributes:
        path: absolute.
        name: relative to the folder of the data, with ``/`` between folders.
    """

    path: Path
    name: str


@dataclass(frozen=True)
class PhotoInRow:
    """A photo in a row of a Parquet file, which ``row_photos`` reads.

    Attributes:
        file: absolute.
        row: from 0, over all row groups.
        column: that holds it, as bytes, as base64, or as a struct with ``bytes``.
        place: in the list that the column holds; None where it holds one photo.
        name: what it was called; '' where that is unknown.
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
        photos: in their order; none where the case is told in words.
        fields: values by the names of the scheme's fields, all of them; '' where nothing is known.
        level: of the scheme's first level field that has one; '' where none is known.
        split: ``train``, ``val`` or ``test``; None before the split.
        group: cases of one group, such as a building, stay in one split.
        extra: every other column that is not empty, by its name.
        where: the row that it comes from, for messages.
        written_id: the id that its row has, which rows of other files may have, too; '' for none.
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
        return f"Case({self.id}: {len(self.photos)} photos, {self.level or 'no level'}{f', {self.split}' if self.split else ''})"


@dataclass(frozen=True, repr=False)
class Cases:
    """Cases of one scheme.

    Attributes:
        root: the folder that photos in files are relative to.
        missing: photos that are named and not there, with the row that names each.
        left_out: rows that are no case, with the reason: all photos missing, or neither photo nor text.
        notes: what was assumed when they were read.
        absent: photos that are named and not there, by the id of their case, those of rows that are no case too.
        no_cases: what is known of the rows that are no case: their ids, without photos.
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
        """The cases of one split; empty when there are none.

        Raises:
            SettingsError: no such split.
        """
        return self.with_cases(items_of_split(self.cases, name))

    def with_cases(self, cases: Iterable[Case]) -> Cases:
        return replace(self, cases=tuple(cases))

    def level_counts(self) -> dict[str, int]:
        """Cases per level, in the order of the scheme, without levels that no case has."""
        counts = Counter(case.level for case in self.cases)
        return {name: counts[name] for name in self.scheme.level_names if counts[name]}
