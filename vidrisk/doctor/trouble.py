"""Known problems of library versions (wrong, crashing or slow) on some machines, and whether they apply to this one.

The entries are in ``known_trouble.json`` (``support.py``). An entry never applies if a fact that it depends on is
unknown.
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
    """Facts about a machine, and about an engine to be built; empty or None if unknown.

    Attributes:
        versions: component → its version; components are Python packages, ``driver``, ``jetpack`` and ``jetson-linux``.
        compute_capabilities: of the GPU in this machine, or of those that an engine is built for.
        variants, opt_batch, model_mb, dla: of an engine to be built.
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
    """Where a problem is reported.

    Attributes:
        at: ``owner/repository#number`` or an address.
        date: of the statement there, or of looking it up.
    """

    at: str
    date: date


@dataclass(frozen=True)
class Trouble:
    """One entry of the table. A condition that is not given always holds.

    Attributes:
        versions: of the component that have the problem.
        beside: component → versions that must be present as well.
        variants, opt_batch_at_most, model_mb_at_most, dla: of an engine; an entry with one of them is reported when the
            engine is built.
        fixed_in: first version known to be free of it; empty if none is known.
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
        """Tell whether all conditions are known to hold."""
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

    def describe(self, situation: Situation) -> str:
        """Return one line: the installed version, what is wrong with it, and the source."""
        more = f" and {len(self.sources) - 1} more" if len(self.sources) > 1 else ""
        return f"{self.component} {situation.versions[self.component]}: {self.what} ({self.sources[0].at}{more})"


def find_troubles(troubles: Iterable[Trouble], situation: Situation) -> list[Trouble]:
    """Return the troubles that apply: wrong answers first, then crashes."""
    order = get_args(Severity)
    return sorted(
        (trouble for trouble in troubles if trouble.fits(situation)), key=lambda trouble: order.index(trouble.severity)
    )


def _meet(wanted: Sequence[str], there: Sequence[str]) -> bool:
    return not wanted or bool(set(wanted) & set(there))


def _at_most(value: float | None, limit: float | None) -> bool:
    return limit is None or (value is not None and value <= limit)
