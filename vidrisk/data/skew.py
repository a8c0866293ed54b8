"""How unevenly the classes of a table are filled, and what to say of it."""

from __future__ import annotations

from vidrisk.data.table import Table, first_three

FEW_SAMPLES = 5  # of a class: with fewer, no figure about it means much
SKEWED = 100  # samples of the largest class for each of the smallest


def ratio_of_classes(table: Table, target: str) -> float:
    """Return how many samples the largest class of a target has for each of the smallest; 1 where it has no class."""
    counts = table.label_counts(target).values()
    return max(counts) / min(counts) if counts else 1.0


def describe_skew(table: Table) -> list[str]:
    """Name classes with few samples, or with very few beside the largest one: a line for each target that has any."""
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
                "do not trust figures about these"
            )
    return lines
