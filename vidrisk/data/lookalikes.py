"""Finds labels that differ only in case or spaces, which are nearly always one class in two spellings."""

from __future__ import annotations

from collections import defaultdict

from vidrisk.data.table import Table, first_three
from vidrisk.data.text import label_from_text


def describe_lookalikes(table: Table) -> list[str]:
    """Describe labels of a target that differ only in case or spaces, with their counts: a line per target with any."""
    lines = []
    for target in table.target_names:
        counts = table.label_counts(target)
        alike: defaultdict[str, list[str]] = defaultdict(list)
        for label in counts:
            alike["".join(label_from_text(label).casefold().split())].append(label)
        named = [
            " and ".join(f"{label!r} ({counts[label]})" for label in labels)
            for labels in alike.values()
            if len(labels) > 1
        ]
        if named:
            lines.append(
                f"{target} labels that differ only in case or spaces are separate classes ({len(named)}): "
                f"{first_three(named)}"
            )
    return lines
