"""Measures and describes how unevenly the samples of a table are distributed over its classes."""

from __future__ import annotations

from vidrisk.data.table import Table, first_three

FEW_SAMPLES = 5  # of a class; with fewer, metrics of the class mean little
SKEWED = 100  # samples of the largest class per sample of the smallest


def ratio_of_classes(table: Table, target: str) -> float:
    """Return the ratio of the largest to the smallest class of a target, or 1 if it has no class."""
    counts = table.label_counts(target).values()
    return max(counts) / min(counts) if counts else 1.0


def describe_skew(table: Table) -> list[str]:
    """Describe classes with few samples, or with very few compared to the largest, in a line per target with any."""
    lines = []
    for target in table.target_names:
        counts = table.label_counts(target)
        largest = max(counts, key=counts.__getitem__, default="")
        named = [
            label
            for label in sorted(counts, key=counts.__getitem__)
            if counts[label] < FEW_SAMPLES or counts[largest] > SKEWED * counts[label]
        ]
        if named:
            shown = first_three([f"{label!r} has {counts[label]}" for label in named])
            beside = f"; {largest!r} has {counts[largest]}" if largest not in named else ""
            lines.append(
                f"too few samples of {len(named)} of {len(counts)} {target} classes: {shown}{beside}: add samples, and "
                "do not trust metrics of these"
            )
    return lines
