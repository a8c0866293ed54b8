"""Derives targets and comparisons from a scheme, to learn, count, calibrate and compare levels and other choices."""

from __future__ import annotations

from vidrisk.data.scheme import Scheme
from vidrisk.runtimes.contract.contract import Target
from vidrisk.runtimes.text.requests import MOST_ALTERNATIVES, Comparison


def target_from_scheme(scheme: Scheme) -> Target:
    """Return the target of the scheme's first level field, with its name; ordered unless a level is off the scale."""
    severities = tuple(level.severity for level in scheme.levels if level.severity is not None)
    on_scale = len(severities) == len(scheme.levels)
    return Target(
        name=scheme.level_fields[0].name,
        labels=scheme.level_names,
        ordered=on_scale,
        severity=severities if on_scale else None,
    )


def comparisons_from_scheme(scheme: Scheme) -> dict[str, Comparison]:
    """Return, for each field with a few possible words, its place in a JSON answer and the words."""
    last = scheme.answer_fields[-1]
    words = {
        field: tuple(value for value in scheme.list_allowed_values(field) if value) for field in scheme.answer_fields
    }
    return {
        field.name: Comparison.of_field(field.name, found, is_last=field is last)
        for field, found in words.items()
        if 2 <= len(found) <= MOST_ALTERNATIVES
    }
