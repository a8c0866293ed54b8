"""What is known to be wrong, to crash or to be slow, of versions of libraries on some machines; whether it fits this machine.

The entries are in ``known_trouble.json`` (``support.py``). What is unknown of a machine never fits an entry.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Literal, get_args

from vidrisk.doctor.versions import VersionRange

Severity = Literal["wrong", "crashes", "slow"]
Machine = Literal["x86-64", "arm64"]


@dataclass(frozen=True)
class Situation:
    """What is known of a machine, and of an engine that is to be built; empty or None where it is not.

    Attributes:
        versions: component → its version; components are Python packages, ``driver``, ``jetpack`` and ``jetson-linux``.
        compute_capabilities: of the GPU that is here, or of those that are built for.
        variants, opt_batch, model_mb, dla: of an engine that is to be built.
    """

    versions: Mapping[str, str] = field(default_factory=dict)
    machine: Machine | None = None
    compute_capabilities: Sequence[str] = ()
    variants: Sequence[str] = ()
    opt_batch: int | None = None
    model_mb: float | None = None
    dla: bool = False


@dataclass(frozen=True)
class Source:
    """Where it is reported: ``owner/repository#number`` or an address; the day of what is said there, or of looking it up."""

    at: str
    date: date


@dataclass(frozen=True)
class Trouble:
    """One entry of the table. Conditions that are not given hold.

    Attributes:
        versions: of the component that have it.
        beside: component → versions that have to be there, too.
        variants, opt_batch_at_most, model_mb_at_most, dla: of an engine; an entry with one of them is told when it is
            built.
        fixed_in: the first version that is known to be without it; empty where none is.
    """

    id: str
    component: str
    versions: VersionRange
    severity: Severity
    what: str
    remedy: str
    sources: tuple[Source, ...]
    fixed_in: str = ""
    beside: Mapping[str, VersionRange] = field(default_factory=dict)
    machine: Machine | None = None
    compute_capabilities: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    opt_batch_at_most: int | None = None
    model_mb_at_most: float | None = None
    dla: bool = False

    def fits(self, situation: Situation) -> bool:
        """Whether all conditions are known to hold."""
        wanted = {self.component: self.versions, **self.beside}
        return (
            all(situation.versions.get(name) in versions for name, versions in wanted.items())
            and self.machine in (None, situation.machine)
            and _meet(self.compute_capabilities, situation.compute_capabilities)
            and _meet(self.variants, situation.variants)
            and _at_most(situation.opt_batch, self.opt_batch_at_most)
            and _at_most(situation.model_mb, self.model_mb_at_most)
            and (situation.dla or not self.dla)
        )

    def found(self, situation: Situation) -> str:
        """One line: the version that is here, what is wrong with it, and who says so."""
        more = f" and {len(self.sources) - 1} more" if len(self.sources) > 1 else ""
        return f"{self.component} {situation.versions[self.component]}: {self.what} ({self.sources[0].at}{more})"


def fitting(troubles: Iterable[Trouble], situation: Situation) -> list[Trouble]:
    """Those that fit; first what gives wrong answers, then what crashes."""
    order = get_args(Severity)
    return sorted(
        (trouble for trouble in troubles if trouble.fits(situation)), key=lambda trouble: order.index(trouble.severity)
    )


def _meet(wanted: Sequence[str], there: Sequence[str]) -> bool:
    return not wanted or bool(set(wanted) & set(there))


def _at_most(value: float | None, limit: float | None) -> bool:
    return limit is None or (value is not None and value <= limit)
