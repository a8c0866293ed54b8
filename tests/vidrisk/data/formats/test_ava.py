"""Tests of AVA: the boxes of one second become one clip of three seconds with the actions of all persons."""

from __future__ import annotations

from pathlib import Path

import pytest
from trees import touch, write_ava, write_lines

from vidrisk.data import Sample, Table, load_table, write_table
from vidrisk.data.data_sets import import_data
from vidrisk.data.formats import FORMATS, format_of
from vidrisk.frames import Interval
from vidrisk.runtimes.contract.errors import DataError

TRAIN, ACTIONS = "ava_train_v2.2.csv", "ava_action_list_v2.2.pbtxt"
TALK = "talk to (e.g., self, a person, a group)"
ROW = "film-A,0902,0.1,0.2,0.5,0.9,12,0"


def rows(root: Path, *lines: str, name: str = TRAIN) -> Path:
    write_lines(root / name, lines)
    touch(root / "film-A.mp4")
    return root


def clips(root: Path) -> list[tuple[object, Interval | None]]:
    return [(sample.labels["action"], sample.interval) for sample in import_data(root).table.samples]


def test_all_boxes_of_a_second_are_one_clip_of_three_seconds(tmp_path: Path) -> None:
    root = write_ava(tmp_path)
    assert [known.name for known in FORMATS.values() if known.owns(root)] == ["ava"]
    table = load_table(root, "action")
    assert [(sample.labels["action"], sample.interval) for sample in table.of_split("train").samples] == [
        (("stand", TALK), Interval(0.5, 3.5)),
        (("stand", TALK), Interval(1.5, 4.5)),
        (("crouch/kneel", "stand", TALK), Interval(2.5, 5.5)),
    ]
    assert {sample.name for sample in table.of_split("val").samples} == {"trainval/film_B.mkv"}
    assert table.multi_targets == {"action"} and table.label_order == {"action": ("crouch/kneel", "stand", TALK)}
    assert any(note.startswith("boxes of persons are not kept") for note in table.notes)


def test_timestamps_have_leading_zeros_and_a_clip_begins_with_its_film(tmp_path: Path) -> None:
    root = rows(tmp_path, ROW, ROW.replace("0902", "0001"), ROW.replace("0902", "10.5"))
    assert clips(root) == [(("12",), Interval(900.5, 903.5)), (("12",), Interval(0, 2.5)), (("12",), Interval(9, 12))]


def test_rows_of_one_second_may_lie_apart(tmp_path: Path) -> None:
    root = rows(tmp_path, ROW, ROW.replace("0902", "0903"), ROW.replace(",12,", ",7,"))
    assert clips(root) == [(("12", "7"), Interval(900.5, 903.5)), (("12",), Interval(901.5, 904.5))]


def test_without_an_action_list_labels_are_numbers_in_their_order(tmp_path: Path) -> None:
    table = import_data(rows(tmp_path, ROW, ROW.replace(",12,", ",7,"))).table
    assert (
        table.label_order == {"action": ("7", "12")}
        and "no action list: labels are the numbers of the actions" in table.notes
    )


def test_the_action_list_may_lie_elsewhere_and_have_another_syntax(tmp_path: Path) -> None:
    root = rows(tmp_path / "ava", ROW)
    (tmp_path / "names.pbtxt").write_text(
        "# AVA\nitem{name:'stand \\'up\\'' id:12}\nitem { id: 3, name: \"x\" }", encoding="utf-8"
    )
    table = import_data(root, labels=tmp_path / "names.pbtxt").table
    assert table.samples[0].labels == {"action": ("stand 'up'",)} and table.label_order == {
        "action": ("x", "stand 'up'")
    }


def test_what_cannot_be_used_is_counted(tmp_path: Path) -> None:
    root = write_ava(tmp_path)
    with (root / TRAIN).open("a", encoding="utf-8") as listed:
        listed.write("film-A,0005,,,,,,\nfilm-A,0004,0.1,0.2,0.5,0.9,80,0\n")
    write_lines(root / "ava_train_excluded_timestamps_v2.2.csv", ["film-A,0002", "film_B,0009"])
    table = load_table(root, "action")
    assert {
        "rows without an action left out: 1",
        "rows of actions outside the action list left out: 1",
        "rows of excluded timestamps left out: 3",
    } <= set(table.notes)
    assert [sample.interval for sample in table.of_split("train").samples] == [Interval(1.5, 4.5), Interval(2.5, 5.5)]


def test_pieces_that_begin_at_900_seconds_are_counted_from_there(tmp_path: Path) -> None:
    write_lines(tmp_path / TRAIN, [ROW, ROW.replace("0902", "0900"), ROW.replace("0902", "0800")])
    touch(tmp_path / "videos_15min" / "film-A.mp4")
    assert clips(tmp_path) == [(("12",), Interval(0.5, 3.5)), (("12",), Interval(0, 1.5))]
    assert "rows before 900 s, which are not in videos_15min, left out: 1" in import_data(tmp_path).table.notes


def test_films_that_are_not_there_are_absent(tmp_path: Path) -> None:
    root = write_ava(tmp_path)
    (root / "trainval" / "film_B.mkv").unlink()
    assert import_data(root).absent == ("film_B.mp4",)


def test_rows_without_persons_are_read(tmp_path: Path) -> None:
    assert clips(rows(tmp_path, ROW.rpartition(",")[0])) == [(("12",), Interval(900.5, 903.5))]


def test_manifests_and_other_tables_are_not_claimed(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4")
    write_table(Table(tmp_path, "action", (Sample(tmp_path / "a.mp4", "a.mp4", {"action": "x"}),)), tmp_path / TRAIN)
    write_lines(tmp_path / "numbers.csv", ["1,2,3,4,5,6"])
    for name in (TRAIN, "numbers.csv", "a.mp4"):
        assert format_of(tmp_path / name) is None
    assert format_of(tmp_path) is None


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], r"ava_train_v2\.2\.csv has no rows"),
        (
            ["video_id,timestamp,x1,y1,x2,y2,action_id,person_id"],
            r"line 1 is 'video_id,timestamp\S+'; allowed: video_id,timestamp",
        ),
        ([ROW, "film-A,0902"], r"line 2 is 'film-A,0902'"),
        ([ROW.replace("0902", "15:02")], "line 1 is "),
        ([ROW.replace("0902", "-1")], "line 1 is "),
        ([ROW.replace("film-A", "../film")], "line 1 is "),
        ([ROW.replace(",12,", ",twelve,")], "line 1 is "),
        ([ROW.replace("0902", "9" * 30)], "line 1 is "),
        ([f'"{ROW}'], r"line 1 is not CSV"),
        ([ROW.replace(",12,", ",5,")], r"has no action of the action list; .*; fix: take the lists"),
    ],
)
def test_lists_that_do_not_fit_are_refused_in_one_line(tmp_path: Path, lines: list[str], said: str) -> None:
    root = write_ava(tmp_path)
    write_lines(root / TRAIN, lines)
    with pytest.raises(DataError, match=said) as caught:
        import_data(root / TRAIN, name="ava")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no class"),
        ("label { name: 'a' }", "the item 'a' has no id"),
        ("label { label_id: 1 }", "names no class"),
        ("label { name: 'a' label_id: 1 } label { name: 'a' label_id: 2 }", "has a number or a name twice"),
        ("label { name: 'a' label_id: 1", "has no end"),
        ("}", "unbalanced braces"),
        ("label { name: 'a", "allowed: item"),
    ],
)
def test_an_action_list_that_does_not_fit_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    root = write_ava(tmp_path)
    (root / ACTIONS).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=said) as caught:
        import_data(root)
    assert "\n" not in str(caught.value)


def test_two_action_lists_are_not_mixed(tmp_path: Path) -> None:
    root = write_ava(tmp_path)
    (root / "ava_action_list_v2.1.pbtxt").write_bytes((root / ACTIONS).read_bytes())
    with pytest.raises(DataError, match="has 2 action lists; allowed: one; fix: give a labels file"):
        import_data(root)
    assert len(import_data(root, labels=root / ACTIONS).table) == 6
