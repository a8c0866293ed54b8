"""The result of a verification."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from vidrisk.runtimes.contract import versions

State = Literal["same", "differs", "does not run"]


@dataclass(frozen=True)
class Row:
    """One runtime with one variant.

    Attributes:
        engine: version of the runtime's library.
        engine_files: sha256 of the engines that were built for it here; empty if it needs none.
        problem: why it does not run here; then nothing was compared.
        agreement: share of labels that are the expected ones.
        largest, mean: difference between a probability and the expected one, over all samples, classes and targets.
        largest_logit_error: distance of a sample's logits from the expected ones, relative to the length of the latter.
        tolerance: of ``largest``.
        wrong, unanswered: samples that are out of tolerance, and those among them with answers that are not finite.
        layers: number by the precision that they really run in; ``unproved`` says why the engine's report proves
            nothing.
        note: says that no layer runs in the variant's own precision; empty if one does.
    """

    runtime: str
    variant: str
    engine: str = ""
    problem: str = ""
    agreement: float = 0.0
    largest: float = 0.0
    mean: float = 0.0
    largest_logit_error: float = 0.0
    tolerance: float = 0.0
    wrong: int = 0
    unanswered: int = 0
    layers: Mapping[str, int] = field(default_factory=dict)
    unproved: str = ""
    note: str = ""
    seconds: float = 0.0
    engine_files: str = ""

    def __str__(self) -> str:
        return f"{self.runtime} {self.variant}"


@dataclass(frozen=True)
class Fault:
    """A named fault; ``runtime`` and ``variant`` are empty if it does not concern a single one."""

    name: str
    said: str
    runtime: str = ""
    variant: str = ""

    def is_of(self, row: Row) -> bool:
        return self.runtime in ("", row.runtime) and self.variant in ("", row.variant)


@dataclass(frozen=True)
class Verification:
    """Everything that was compared.

    Attributes:
        folder: of the bundle, with links resolved.
        samples: number that was computed; 0 if the bundle has no golden samples, and ``without`` says why.
        reference: runtime and version that the expected answers are from.
    """

    folder: Path
    digest: str
    samples: int
    reference: str
    rows: tuple[Row, ...] = ()
    faults: tuple[Fault, ...] = ()
    without: str = ""

    @property
    def bundle(self) -> str:
        return self.folder.name

    def state_of(self, row: Row) -> State:
        if row.problem:
            return "does not run"
        return "differs" if any(fault.is_of(row) for fault in self.faults) else "same"

    @property
    def is_whole(self) -> bool:
        """Whether there was something to compare, and all of it ran."""
        return bool(self.rows) and not any(row.problem for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        rows = [{**asdict(row), "state": self.state_of(row)} for row in self.rows]
        content = {
            "bundle": self.bundle,
            **asdict(self),
            "folder": str(self.folder),
            "rows": rows,
            "is_same": bool(self.rows) and not self.faults,
            "is_whole": self.is_whole,
        }
        return versions.VERIFICATION.stamp(content)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
