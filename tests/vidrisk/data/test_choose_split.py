"""Tests of the choice of the samples that a model is scored on."""

from __future__ import annotations

from pathlib import Path

import pytest

from vidrisk.data import Sample, Table
from vidrisk.data.split import choose_split, count_splits
from vidrisk.data.table import SplitName

ROWS: tuple[SplitName, ...] = ("train", "train", "val", "test")


def table_of(*splits: SplitName | None) -> Table:
    return Table(
        Path(),
        "action",
        tuple(Sample(Path(f"{n}"), f"{n}", {"action": "ab"[n % 2]}, split=split) for n, split in enumerate(splits)),
    )


@pytest.mark.parametrize(
    ("splits", "asked", "found"),
    [(ROWS, None, "3"), (ROWS, "all", "0123"), (ROWS, "val", "2"), (ROWS[:3], None, "012"), ((None, None), None, "01")],
)
def test_a_model_is_scored_on_the_test_split_where_there_is_one(
    splits: tuple[SplitName | None, ...], asked: str | None, found: str
) -> None:
    assert "".join(sample.name for sample in choose_split(table_of(*splits), asked).samples) == found


def test_the_samples_of_each_split_are_counted() -> None:
    assert count_splits(table_of("train", None, "val", "train").samples) == {"train": 2, "val": 1}
