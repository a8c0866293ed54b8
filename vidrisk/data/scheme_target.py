"""The levels of a scheme as a target: what a report says in one word can be counted, calibrated and compared."""

from __future__ import annotations

from vidrisk.data.scheme import Scheme
from vidrisk.runtimes.contract.contract import Target


def target_from_scheme(scheme: Scheme) -> Target:
    """Return the target of the scheme's first level field, named like it; ordered where no level is off the scale."""
    severities = tuple(level.severity for level in scheme.levels if level.severity is not None)
    on_scale = len(severities) == len(scheme.levels)
    return Target(name=scheme.level_fields[0].name, labels=scheme.level_names, ordered=on_scale,
                  severity=severities if on_scale else None)
