"""Tests of label ids: a column that numbers the labels gives their order; any other is an extra column."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidrisk.data import load_table, write_table
from vidrisk.data.label_ids import find_odd_row, labels_from_ids
from vidrisk.data.text import nfc
from vidrisk.runtimes.contract.choices import Task

labels = st.text(st.characters(categories=("L",)), min_size=1, max_size=5).map(nfc)
ids = st.dictionaries(labels, st.integers(0, 200), max_size=8).filter(
    lambda drawn: len(set(drawn.values())) == len(drawn)
)


@given(ids, st.data())
def test_labels_come_in_the_order_of_their_ids(drawn: dict[str, int], data: st.DataObject) -> None:
    cells = [(label, f" {number} ") for label, number in drawn.items() for _ in range(data.draw(st.integers(1, 3)))]
    found = labels_from_ids(data.draw(st.permutations(cells)))
    assert list(found) == sorted(drawn.values())
    assert {label: number for number, label in found.items()} == drawn


@pytest.mark.parametrize(
    "cells",
    [
        [("a", "0"), ("a", "1")],
        [("a", "0"), ("b", "0")],
        [("a", "0"), ("b", "")],
        [("a", "x"), ("b", "1")],
        [("a", "-1")],
        [("a", "1.5")],
        [("a", "9" * 40)],
        [("a", "0"), ("b", "00")],
    ],
)
def test_what_numbers_something_else_is_no_order(cells: list[tuple[str, str]]) -> None:
    assert labels_from_ids(cells) == {}


@pytest.mark.parametrize(
    ("task", "column", "target"), [("action", "action", "action"), ("risk", "defect_class", "defect")]
)
def test_a_manifest_with_ids_is_read_and_written_back(
    tmp_path: Path, photo: Callable[[Path], Path], task: Task, column: str, target: str
) -> None:
    rows = [("walk", "2"), ("run", "0"), ("jump", "1"), ("walk", "2")]
    for number in range(len(rows)):
        photo(tmp_path / f"{number}.png")
    lines = [f"path,{column},{column}_id", *(f"{number}.png,{label},{of}" for number, (label, of) in enumerate(rows))]
    (tmp_path / "m.csv").write_text("\n".join(lines), encoding="utf-8")
    table = load_table(tmp_path / "m.csv", task)
    assert table.label_order == {target: ("run", "jump", "walk")} and not any(sample.extra for sample in table.samples)
    write_table(table, tmp_path / "n.parquet")
    assert load_table(tmp_path / "n.parquet", task) == table


def test_an_id_may_be_written_with_zeros_in_front() -> None:
    assert labels_from_ids([("b", "01"), ("a", "2"), ("b", "1")]) == {1: "b", 2: "a"}


@given(ids.filter(lambda drawn: len(drawn) > 1), st.data())
def test_the_first_row_that_differs_from_most_is_found(drawn: dict[str, int], data: st.DataObject) -> None:
    cells = [(label, str(number)) for label, number in drawn.items() for _ in range(3)]
    assert find_odd_row(cells) is None
    label = data.draw(st.sampled_from(sorted(drawn)))
    wrong = data.draw(st.sampled_from(["", "x", "-1", "201", *(str(n) for n in drawn.values() if n != drawn[label])]))
    at = data.draw(st.integers(0, len(cells)))
    assert find_odd_row([*cells[:at], (label, wrong), *cells[at:]]) == at


@pytest.mark.parametrize(
    "cells",
    [
        [],
        [("a", ""), ("b", "")],
        [("a", "x"), ("b", "y")],
        [("a", "10"), ("a", "11"), ("b", "12")],
        [("a", "10"), ("a", ""), ("a", "11"), ("b", "12")],
        [(label, str(n)) for n, label in enumerate("ab" * 20)],
        [(label, str(n // 2)) for n, label in enumerate("aabb" * 20)],
    ],
)
def test_a_column_that_numbers_samples_or_nothing_has_no_odd_row(cells: list[tuple[str, str]]) -> None:
    assert find_odd_row(cells) is None


@pytest.mark.parametrize("wrong", ["", "7", "1", "one"])
def test_one_wrong_id_that_costs_the_order_is_named(
    tmp_path: Path, photo: Callable[[Path], Path], wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [("walk", "2"), ("run", "0"), ("jump", "1"), ("walk", "2"), ("run", "0"), ("walk", wrong), ("jump", "1")]
    for number in range(len(rows)):
        photo(tmp_path / f"{number}.png")
    lines = ["path,action,action_id", *(f"{number}.png,{label},{of}" for number, (label, of) in enumerate(rows))]
    (tmp_path / "m.csv").write_text("\n".join(lines), encoding="utf-8")
    assert load_table(tmp_path / "m.csv", "action").label_order == {}
    assert f"m.csv, line 7: column 'action_id' has {wrong!r} for the label 'walk', but most rows" in caplog.text


def test_ids_of_samples_stay_an_extra_column(
    tmp_path: Path, photo: Callable[[Path], Path], caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        photo(tmp_path / f"{number}.png")
    (tmp_path / "m.csv").write_text(
        "path,action,action_id\n0.png,walk,10\n1.png,walk,11\n2.png,run,12\n", encoding="utf-8"
    )
    table = load_table(tmp_path / "m.csv", "action")
    assert table.label_order == {} and [sample.extra for sample in table.samples] == [
        {"action_id": str(n)} for n in (10, 11, 12)
    ]
    assert "action_id" not in caplog.text
    write_table(table, tmp_path / "n.csv")
    assert load_table(tmp_path / "n.csv", "action") == table
