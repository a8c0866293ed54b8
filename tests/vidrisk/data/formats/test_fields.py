"""Tests of the names of columns, attributes and controls: a name means the same in every format."""

from __future__ import annotations

from pathlib import Path

import pytest

from vidrisk.data import Sample
from vidrisk.data.formats.fields import (
    fields_from_values,
    fields_of_sample,
    find_field,
    find_target,
    rename_extra,
    task_of_columns,
    with_splits,
)
from vidrisk.data.formats.rows import Row
from vidrisk.data.table import split_from_name
from vidrisk.runtimes.contract.errors import DataError


@pytest.mark.parametrize(
    ("name", "target", "field"),
    [
        ("Action", "action", None),
        (" data_defect_class ", "defect", None),
        ("缺陷", "defect", None),
        ("风险等级", "level", None),
        ("subset", None, "split"),
        ("分组", None, "group"),
        ("建议", None, "advice"),
        ("weather", None, None),
        ("label", None, None),
    ],
)
def test_a_name_is_a_target_a_field_or_neither(name: str, target: str | None, field: str | None) -> None:
    assert (find_target(name), find_field(name)) == (target, field)
    assert find_target(name, "action") == (target if target == "action" else None)


@pytest.mark.parametrize("name", ["path", "Label", "split", "level", "start_s", "action_id", "", "data_video"])
def test_a_further_column_never_means_something_else_in_a_manifest(name: str) -> None:
    assert rename_extra(name) == f"{name} (extra)" and rename_extra(rename_extra(name)) == f"{name} (extra)"


def test_of_two_names_for_one_field_the_first_counts_and_nothing_is_lost() -> None:
    assert fields_from_values(
        {
            "group": " g1 ",
            "分组": "g2",
            "split": "soon",
            "subset": "Validation",
            "risk_level": "high",
            "note": 1.0,
            "empty": "",
            "list": ["a"],
        }
    ) == {
        "group": "g1",
        "split": "val",
        "extra": {
            "分组 (extra)": "g2",
            "split (extra)": "soon",
            "risk_level (extra)": "high",
            "note": "1",
            "list": '["a"]',
        },
    }


def test_what_is_known_of_a_sample_is_read_back() -> None:
    sample = Sample(
        Path("/x/a.png"), "a.png", {"defect": "crack"}, "it falls", "", "a crack", "val", "g", {"note": "1", "none": ""}
    )
    named = fields_of_sample(sample)
    assert fields_from_values(named) == {
        "split": "val",
        "group": "g",
        "risk": "it falls",
        "description": "a crack",
        "extra": {"note": "1"},
    }
    assert "split" not in fields_of_sample(sample, without=("split",))


@pytest.mark.parametrize("name", ["severity", "Split", "分组", "advice", " ", "own"])
def test_a_column_with_the_name_of_something_else_is_refused(name: str) -> None:
    sample = Sample(Path("/x/a.png"), "a.png", {"action": "run"}, extra={name: "1"})
    with pytest.raises(DataError, match=rf"the extra column '{name}' of a\.png has a reserved name; fix: rename it"):
        fields_of_sample(sample, reserved=("own",))


def test_columns_of_one_task_decide_where_both_were_asked_for() -> None:
    assert task_of_columns(["path", "risk_level"], "action+risk") == "risk"
    assert task_of_columns(["path", "动作"], "action+risk") == "action"
    assert (
        task_of_columns(["action", "defect"], "action+risk") == "action+risk"
        and task_of_columns(["action"], "risk") == "risk"
    )


def test_rows_without_a_split_are_train_where_others_have_one() -> None:
    rows = [Row("1", "a", {}, "test"), Row("2", "b", {})]
    assert [row.split for row in with_splits(rows)[0]] == ["test", "train"]
    assert with_splits(rows[1:]) == (rows[1:], {})
    assert with_splits(rows)[1] == {"files without a split, taken as train": 1}


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("instances_val2017", "val"),
        ("kinetics400_validate_list", "val"),
        ("测试集", "test"),
        ("train_val", None),
        ("trainer", None),
        ("Training", "train"),
    ],
)
def test_the_name_of_a_list_says_one_split_or_none(name: str, split: str | None) -> None:
    assert split_from_name(name) == split
