"""Classes with few samples are named, with their counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from vidrisk.data import Sample, Table
from vidrisk.data.skew import describe_skew, ratio_of_classes


def table_of(**counts: int) -> Table:
    return Table(
        Path("site"),
        "action",
        tuple(
            Sample(Path(f"{label}{i}.png"), f"{label}{i}.png", {"action": label})
            for label, count in counts.items()
            for i in range(count)
        ),
    )


def test_even_classes_are_not_worth_a_word() -> None:
    assert describe_skew(table_of(walk=500, run=5)) == []
    assert ratio_of_classes(table_of(walk=500, run=5), "action") == 100


@pytest.mark.parametrize(
    ("counts", "named"), [({"walk": 6, "run": 4}, "'run' has 4"), ({"walk": 505, "run": 5}, "'run' has 5")]
)
def test_few_samples_and_samples_of_many_are_named(counts: dict[str, int], named: str) -> None:
    (line,) = describe_skew(table_of(**counts))
    assert f"too few samples of 1 of 2 action classes: {named}; 'walk' has {counts['walk']}: add samples" in line


def test_of_many_classes_the_rarest_are_named_first() -> None:
    (line,) = describe_skew(table_of(**{f"class{i:03}": 1 + i % 4 for i in range(500)}))
    assert "500 of 500" in line and "'class000' has 1, 'class004' has 1, 'class008' has 1 and 497 more" in line


def test_a_sample_with_several_labels_counts_for_each() -> None:
    samples = [
        Sample(Path(f"{i}.png"), f"{i}.png", {"defect": ("crack", "rust") if i < 2 else ("crack",)}) for i in range(10)
    ]
    (line,) = describe_skew(Table(Path("site"), "risk", tuple(samples)))
    assert "'rust' has 2; 'crack' has 10" in line
