"""Tests of the folds of a search: linked samples count as one unit, and unlabelled samples are in no fold."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vidrisk.data import Sample, Table
from vidrisk.data.split import unit_keys
from vidrisk.frames import Interval
from vidrisk.models.config import TrainConfig
from vidrisk.models.pretrained import Labels, contract_from_config
from vidrisk.runtimes.contract.contract import Target
from vidrisk.runtimes.contract.errors import DataError
from vidrisk.train.dataset import ClipDataset
from vidrisk.train.shares import ALONE
from vidrisk.train.tune_folds import FoldJudge, count_folds

ROOT = Path("/data")
TARGETS = (Target(name="action", labels=("a", "b")),)
Row = tuple[str, int, str | None]
ROWS = st.lists(
    st.tuples(st.sampled_from("ab-"), st.integers(0, 20), st.sampled_from(["g1", "g2", "g3", "g4", "g5", None])),
    min_size=12,
    max_size=40,
)


def table_of(rows: list[Row]) -> Table:
    """Return a table of parts of files from rows of label (``-`` for none), file number and group."""
    return Table(
        ROOT,
        "action",
        tuple(
            Sample(
                ROOT / f"{file}.mp4",
                f"{file}.mp4",
                {} if label == "-" else {"action": label},
                group=group,
                interval=Interval(number, number + 1.0),
            )
            for number, (label, file, group) in enumerate(rows)
        ),
    )


def judge_of(table: Table, folds: int) -> FoldJudge:
    contract = contract_from_config(TrainConfig(), Labels(targets=TARGETS, clips=True))
    return FoldJudge(contract, ClipDataset(table, contract), folds, 0, [], ALONE, Path())


def test_groups_that_lie_in_one_file_are_one_unit() -> None:
    table = table_of([("a", 0, "g1"), ("b", 0, "g2"), ("a", 0, "g3"), ("b", 1, "g1"), ("a", 2, "g2"), ("b", 3, "g3")])
    assert set(unit_keys(table)) == {"g1"}
    with pytest.raises(DataError, match=r"action '.' has 1 groups or files in the train split, too few to tune on"):
        count_folds(table)


@given(ROWS)
def test_what_is_counted_can_be_dealt_and_every_fold_has_labels(rows: list[Row]) -> None:
    table = table_of(rows)
    assume({label for label, _, _ in rows} >= {"a", "b"})
    try:
        folds = count_folds(table)
    except DataError:
        return
    judge = judge_of(table, folds)
    units = [judge.units_of(fold) for fold in range(folds)]
    labelled = [key for key, sample in zip(unit_keys(table), table.samples, strict=True) if sample.labels]
    assert all(units) and sorted(key for each in units for key in each) == sorted(labelled)
    assert sum(len(set(each)) for each in units) == len(set(labelled))  # none is in two folds


def test_samples_without_a_label_fill_no_fold() -> None:
    """Samples without a label fill no fold, although two large units of them would be dealt first."""
    unknown: list[Row] = [("-", number, f"u{number % 2}") for number in range(30)]
    known: list[Row] = [("ab"[number % 2], 100 + number, None) for number in range(6)]
    table = table_of([*unknown, *known])
    assert count_folds(table) == 3
    assert [len(judge_of(table, 3).units_of(fold)) for fold in range(3)] == [2, 2, 2]
