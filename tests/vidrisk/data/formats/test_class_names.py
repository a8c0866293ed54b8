"""Tests of files that hold the names of numbered classes."""

from __future__ import annotations

from pathlib import Path

import pytest

from vidrisk.data.formats.class_names import label_map_text, read_class_names
from vidrisk.runtimes.contract.errors import DataError

AWKWARD = ("裂缝", 'say "x"', "a\\b", "it's", "{x}", "# y", "a: 1", "t\tb")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("m.pbtxt", "item {\n  name: 'crack'\n  id: 2\n}\nitem { id: 1 name: \"sound\" }\n", {1: "sound", 2: "crack"}),
        (
            "m.pbtxt",
            "item { id: 1, name: '/m/01', display_name: 'Crack'; keypoints { id: 7 label: 'x' } } # a comment }",
            {1: "Crack"},
        ),
        ("m.pbtxt", r"item { id: 1 name: '\350\243\202\347\274\235' }", {1: "裂缝"}),
        ("m.txt", "0:crack\n3: no crack\n", {0: "crack", 3: "no crack"}),
        ("m.txt", "crack\n2 cracks\n", {0: "crack", 1: "2 cracks"}),
        ("m.json", '["b", "a"]', {0: "b", 1: "a"}),
        ("m.json", '{"crack": 1, "sound": 0}', {0: "sound", 1: "crack"}),
        ("m.json", '{"id2label": {"0": "crack"}, "label2id": {"crack": 0}}', {0: "crack"}),
    ],
)
def test_names_are_read(tmp_path: Path, name: str, text: str, expected: dict[int, str]) -> None:
    for mark in ("", "\ufeff"):
        (tmp_path / name).write_text(mark + text.replace("\n", "\r\n"), encoding="utf-8")
        assert read_class_names(tmp_path / name).by_number == expected


def test_a_label_map_holds_any_name(tmp_path: Path) -> None:
    (tmp_path / "m.pbtxt").write_text(label_map_text(AWKWARD), encoding="utf-8")
    assert read_class_names(tmp_path / "m.pbtxt").order == AWKWARD


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("m.pbtxt", "item { name: 'a' }", "the item 'a' has no id"),
        ("m.pbtxt", "item { id: 1 name: 'a' ", "has no end"),
        ("m.pbtxt", "item { id: 1 name: 'a' }\nitem { id: 1 name: 'b' }", "has a number or a name twice"),
        ("m.pbtxt", "}", "unbalanced braces"),
        ("m.pbtxt", "item { id: 1 name: \x00 }", "character 18"),
        ("m.pbtxt", "", "names no class"),
        ("m.json", '{"a": 1.5}', "has 'a': '1.5'"),
        ("m.json", "[1]", "something other than names"),
        ("m.json", '["a", "a"]', "twice"),
        ("m.json", "[", "is not JSON"),
    ],
)
def test_what_is_no_list_of_names_is_one_line(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=said):
        read_class_names(tmp_path / name)


def test_a_number_without_a_name_is_said_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text('["a", "b"]', encoding="utf-8")
    names = read_class_names(tmp_path / "m.json")
    assert names.name_of(1, "x.tfrecord, record 3") == "b"
    with pytest.raises(DataError, match=r"record 3: the class 7 is not in m\.json; allowed: its numbers, 0 to 1"):
        names.name_of(7, "x.tfrecord, record 3")
