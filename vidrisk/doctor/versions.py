"""Version ranges such as ``>=10.3,<10.5`` for packages, drivers and Jetson Linux.

Simpler than PEP 440, because TensorRT and JetPack do not follow it. A version is its leading numbers:
``10.13.3.9-1+cuda13.0`` is 10.13.3.9, ``2.9.0a0+git5a1b`` is 2.9.0. A clause compares as many numbers as it has:
``==10.13.3`` also matches 10.13.3.9.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

Release = tuple[int, ...]

# Longer operators before their prefixes.
OPERATORS: dict[str, Callable[[Release, Release], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
NUMBERS = r"[0-9]{1,9}(?:\.[0-9]{1,9})*"
_CLAUSE = re.compile(rf"\s*({'|'.join(OPERATORS)})\s*({NUMBERS})\s*")
_VERSION = re.compile(rf"\s*v?({NUMBERS})(?![0-9!])")


def release_from_version(version: str) -> Release | None:
    """Return the leading numbers of a version, or None if it has none or has an epoch."""
    match = _VERSION.match(version)
    return _release(match[1]) if match else None


@dataclass(frozen=True)
class VersionRange:
    """Clauses that must all hold. Create it with ``range_from_text``."""

    clauses: tuple[tuple[str, Release], ...]

    def __contains__(self, version: object) -> bool:
        """Return False also for what is not a version: nothing is known about it."""
        release = release_from_version(version) if isinstance(version, str) else None
        return release is not None and all(
            OPERATORS[sign](_cut(release, len(wanted)), wanted) for sign, wanted in self.clauses
        )

    def __str__(self) -> str:
        return ",".join(f"{sign}{'.'.join(map(str, release))}" for sign, release in self.clauses)


def range_from_text(text: str) -> VersionRange:
    """Parse a range of versions.

    Raises:
        ValueError: ``text`` is not like ``>=10.3,<10.5``.
    """
    clauses = [_CLAUSE.fullmatch(part) for part in text.split(",")]
    if not all(clauses):
        raise ValueError(f"{text!r} is not a range of versions; allowed: for example >=10.3,<10.5")
    return VersionRange(tuple((clause[1], _release(clause[2])) for clause in clauses if clause))


def _release(numbers: str) -> Release:
    return tuple(map(int, numbers.split(".")))


def _cut(release: Release, length: int) -> Release:
    """Return the first numbers of a release, padded with zeros."""
    return (*release, *(0,) * length)[:length]
