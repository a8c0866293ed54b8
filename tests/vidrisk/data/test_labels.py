"""Tests of label cells: several labels in a cell are refused unless the data are multi-label.

A name with commas is one label.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vidrisk.data import Sample, load_table
from vidrisk.data.labels import labels_from_cells
from vidrisk.data.table import Label
from vidrisk.runtimes.contract.errors import DataError


def check(labels: Sequence[str], *, multi: bool = False) -> list[Label | None]:
    cells = [(f"line {n}", label) for n, label in enumerate(labels, start=2)]
    return labels_from_cells(cells, "defect label", "label", "m.csv", multi=multi)


@pytest.mark.parametrize(
    "labels",
    [
        ["a", "b", "a,b"],
        ["a", "b", "a, b"],
        ["a", "b", "a;b"],
        ["a", "b", "a|b"],
        ["a", "b", "a；b"],
        ["裂纹", "脏污", "裂纹、脏污"],
        ["a", "b", "a\nb"],
        ["a", "b", "c", "c,a,b"],
        ["a,b", "b,a"],
        ["a,b", "a,b,c"],
        ["a;b", "b;c"],
        ["x|y", "x|z"],
        ["a", "b", "a,b,"],
        ['["a"]', "b"],
        ['["a", "b"]', "b"],
        ["['a', 'b']", "b"],
        ["[]", "b"],
        ['{"a": 1}', "b"],
        ["('a', 'b')", "b"],
        ["[1, 0, 1]", "b"],
        ["[a, b]", "c"],
        ["{裂纹、脏污}", "c"],
        ["{a: 1}", "b"],
    ],
)
def test_several_labels_are_refused(labels: list[str]) -> None:
    with pytest.raises(
        DataError, match=r"line \d.*allowed: one label per sample; fix: keep the main one.*multi-label"
    ) as caught:
        check(labels)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "labels",
    [
        ["green, dark", "green, light", "red, dark"],
        ["kick, hard", "hug"],
        ["crack", "crack, deep"],
        ["裂纹,深", "正常"],
        ["a;b", "c"],
        ["[red]sound", "crack"],
        ["(old) crack", "crack"],
        ["a,b", "c,d"],
        ["holding potato, then cup", "holding cup"],
        ["a/b", "a", "b"],
        ["1", "2"],
        ["12", "1"],
        ["{x", "y"],
    ],
)
def test_names_are_not(labels: list[str]) -> None:
    assert check(labels) == labels


@pytest.mark.parametrize(
    ("cells", "found"),
    [
        (["a;b", "c", "a，b；c"], [("a", "b"), ("c",), ("a，b", "c")]),
        (["a, b", "c"], [("a", "b"), ("c",)]),
        (["a|b", "c, d"], [("a", "b"), ("c, d",)]),
        (["a\nb", "c; d"], [("a", "b"), ("c; d",)]),
        (['["a", "b"]', "c;d", "[]"], [("a", "b"), ("c", "d"), ()]),
        (["['a', 'b']", "", "c"], [("a", "b"), None, ("c",)]),
    ],
)
def test_multi_label_cells_hold_lists_or_labels_between_separators(cells: list[str], found: list[Label | None]) -> None:
    assert check([cell.replace("\\n", "\n") for cell in cells], multi=True) == found


def test_a_column_of_json_lists_is_multi_label_without_being_asked() -> None:
    assert check(['["a", "b"]', "[]", "", '["a"]']) == [("a", "b"), (), None, ("a",)]


def test_an_empty_cell_is_no_label() -> None:
    assert check(["a", "\u3000\u200b", "b"]) == ["a", None, "b"]
    with pytest.raises(DataError, match=r"m.csv has no defect label: the column 'label' is empty; fix: fill it"):
        check(["", " "])


@pytest.mark.parametrize("label", ["#NAME?", "#REF!", "#DIV/0!"])
def test_an_error_of_the_spreadsheet_is_no_label(label: str) -> None:
    with pytest.raises(DataError, match=r"line 3: '#.*correct these cells"):
        check(["a", label])


def test_lists_of_jsonl_and_parquet(tmp_path: Path, photo: Callable[..., Path]) -> None:
    for name in "ab":
        photo(tmp_path / f"{name}.jpg")
    rows = [{"path": "a.jpg", "label": ["x", "y"]}, {"path": "b.jpg", "label": "x"}]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pq.write_table(pa.table({"path": ["a.jpg", "b.jpg"], "label": [["x", "y"], ["x"]]}), tmp_path / "m.parquet")
    with pytest.raises(DataError, match=r"with a list as action label .*line 1"):
        load_table(tmp_path / "m.jsonl", "action")
    assert [sample.labels["action"] for sample in load_table(tmp_path / "m.parquet", "action").samples] == [
        ("x", "y"),
        ("x",),
    ]


def test_white_space_around_labels_does_not_count() -> None:
    for label in ("\u3000裂纹\u00a0", "裂纹\u200b ", "\ufeff裂纹\t"):
        assert Sample(Path("/d/a.jpg"), "a.jpg", {"defect": label}).labels == {"defect": "裂纹"}
