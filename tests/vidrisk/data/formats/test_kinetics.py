"""Tests of Kinetics: CSV and JSON lists, clips in every layout, whole videos, and many missing files."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from test_fuzzed import damaged
from trees import KINETICS_CLASSES, touch, write_json, write_kinetics, write_lines

from vidrisk.data import Sample, Table, load_table, write_table
from vidrisk.data.data_sets import import_data, write_data_set
from vidrisk.data.formats import FORMATS, format_of
from vidrisk.data.formats.kinetics.clip_files import clip_name, video_and_part
from vidrisk.frames import Interval
from vidrisk.runtimes.contract.errors import DataError, VidriskError

HEADER = "label,youtube_id,time_start,time_end,split"
ROW = "air drumming,--video0000,0,10,train"


def listed(root: Path, *rows: str, header: str = HEADER, name: str = "train.csv") -> Path:
    write_lines(root / name, [header, *rows])
    return root


@pytest.mark.parametrize(
    "place", ["", "{split}", "{label}", "{split}/{label}", "videos_{split}/{label}", "videos/{label}", "videos/{split}"]
)
def test_clips_are_found_in_folders_per_split_and_per_class_or_without(tmp_path: Path, place: str) -> None:
    root = write_kinetics(tmp_path, place=place)
    assert [known.name for known in FORMATS.values() if known.owns(root)] == ["kinetics"]
    found = import_data(root)
    assert not found.absent and [len(found.table.of_split(name)) for name in ("train", "val", "test")] == [6, 4, 0]
    assert set(found.table.label_counts("action")) == set(KINETICS_CLASSES)
    assert all(sample.interval is None and sample.path.is_file() for sample in found.table.samples)


def test_clips_elsewhere_are_found_in_the_folder_that_is_named(tmp_path: Path) -> None:
    root = write_kinetics(tmp_path / "lists")
    (tmp_path / ".clips").mkdir()
    (root / "train").rename(tmp_path / ".clips" / "train")
    found = import_data(root, media=tmp_path / ".clips")
    assert not found.absent and {sample.name.split("/")[0] for sample in found.table.samples} == {".clips", "lists"}


def test_folders_of_classes_may_be_renamed_as_tools_do(tmp_path: Path) -> None:
    root = write_kinetics(tmp_path)
    for split in ("train", "val"):
        for label, name in (("air drumming", "air_drumming"), ("petting, not (cat)", "petting_not_cat")):
            (root / split / label).rename(root / split / name)
    found = import_data(root)
    assert not found.absent and set(found.table.label_counts("action")) == set(KINETICS_CLASSES)


def test_a_split_takes_its_own_copy_of_a_clip(tmp_path: Path) -> None:
    for folder in ("train", "val"):
        touch(tmp_path / folder / "v_000000_000010.mp4")
    listed(tmp_path, "a,v,0,10,val", name="val.csv")
    assert [sample.name for sample in import_data(tmp_path / "val.csv").table.samples] == ["val/v_000000_000010.mp4"]


def test_clips_that_are_no_longer_to_be_had_are_absent_and_no_error(tmp_path: Path) -> None:
    root = write_kinetics(tmp_path)
    (root / "train" / "air drumming" / "--video0000_000000_000010.mp4").unlink()
    found = import_data(root)
    assert found.absent == ("--video0000_000000_000010.mp4",) and len(found.table) == 9
    with pytest.raises(DataError, match="do not exist: 1 of 10"):
        import_data(root, strict=True)


def test_a_whole_video_is_labelled_in_the_part_of_the_row(tmp_path: Path) -> None:
    touch(tmp_path / "train" / "v1.webm")
    found = import_data(listed(tmp_path, "a,v1,3,13,train", "b,v1,20.5,30.5,train"))
    assert [(sample.name, sample.labels["action"], sample.interval) for sample in found.table.samples] == [
        ("train/v1.webm", "a", Interval(3, 13)),
        ("train/v1.webm", "b", Interval(20.5, 30.5)),
    ]
    assert "whole videos with a labelled part: 2" in found.table.notes
    touch(tmp_path / "train" / "v1_000003_000013.mp4")
    assert [(sample.path.suffix, sample.interval) for sample in import_data(tmp_path).table.samples] == [
        (".mp4", None),
        (".webm", Interval(20.5, 30.5)),
    ]


def test_rows_without_a_label_are_counted(tmp_path: Path) -> None:
    root = write_kinetics(tmp_path)
    listed(root, "--video0000,0,10,test", header="youtube_id,time_start,time_end,split", name="test.csv")
    table = load_table(root, "action")
    assert len(table) == 10 and "rows without a label left out: 1" in table.notes


def json_of(root: Path, name: str) -> dict[str, Any]:
    lines = (root / f"{name}.csv").read_text(encoding="utf-8").splitlines()[1:]
    rows = [line.rsplit(",", 4) for line in lines]
    return {
        video: {
            "annotations": {"label": label.strip('"'), "segment": [float(start), float(end)]},
            "duration": 10.0,
            "subset": split,
            "url": f"https://www.youtube.com/watch?v={video}",
        }
        for label, video, start, end, split in rows
    }


def test_json_lists_say_the_same_as_csv_and_csv_wins(tmp_path: Path) -> None:
    root = write_kinetics(tmp_path)
    expected = import_data(root).table
    for name in ("train", "val"):
        write_json(root / f"{name}.json", json_of(root, name))
    assert import_data(root).table == expected
    for name in ("train", "val"):
        (root / f"{name}.csv").unlink()
    assert [known.name for known in FORMATS.values() if known.owns(root)] == ["kinetics"]
    assert import_data(root).table == expected


def test_json_without_annotations_is_counted(tmp_path: Path) -> None:
    root = write_kinetics(tmp_path)
    write_json(root / "test.json", json_of(root, "val") | {"--v": {"duration": 10.0, "subset": "test", "url": ""}})
    assert "rows without a label left out: 1" in import_data(root / "test.json").table.notes


def test_marks_line_ends_quotes_and_further_columns_survive(tmp_path: Path) -> None:
    touch(tmp_path / "v_000000_000010.mp4")
    rows = [f"{HEADER},is_cc,note", '"say ""hi"", loud",v,0,10,train,0,"two\nlines"']
    (tmp_path / "train.csv").write_bytes("\r\n".join(rows).encode("utf-8-sig"))
    (sample,) = import_data(tmp_path).table.samples
    assert sample.labels == {"action": 'say "hi", loud'} and sample.extra == {"is_cc": "0", "note": "two\nlines"}


def test_the_name_of_a_list_says_the_split_where_its_rows_do_not(tmp_path: Path) -> None:
    root = write_kinetics(tmp_path)
    for name in ("train", "val"):
        path = root / f"{name}.csv"
        text = path.read_text(encoding="utf-8").replace(",split", "").replace(f",{name}\n", "\n")
        (root / f"kinetics-600_{name}.csv").write_text(text, encoding="utf-8")
        path.unlink()
    assert [len(import_data(root).table.of_split(name)) for name in ("train", "val")] == [6, 4]


def test_a_manifest_stays_a_manifest(tmp_path: Path) -> None:
    root = write_kinetics(tmp_path)
    table = import_data(root).table
    for path in root.glob("*.csv"):
        path.unlink()
    write_table(table, root / "train.csv")
    assert format_of(root / "train.csv") is None and format_of(root) is None
    assert load_table(root / "train.csv", "action") == table


@pytest.mark.parametrize(
    ("header", "rows", "said"),
    [
        (HEADER, [], r"train\.csv lists no video"),
        ("label,youtube_id,time_start", [ROW], r"train\.csv, line 1 has no column time_end"),
        (f"{HEADER},split", [ROW], r"line 1 has a column twice"),
        (
            HEADER,
            ["petting, not (cat),v,0,10,train"],
            r"line 2 has 6 cells, but the header 5; .*fix: put labels with a comma into ",
        ),
        (HEADER, ['"a,v,0,10,train'], r"line 2 is not CSV: "),
        (HEADER, ["a,../v,0,10,train"], r"line 2: the youtube_id '\.\./v'; allowed: the id of a video"),
        (HEADER, ["a,/etc/v,0,10,train"], r"line 2: the youtube_id '/etc/v'"),
        (HEADER, ["a,,0,10,train"], r"line 2: the youtube_id ''"),
        (
            HEADER,
            ["a,v,ten,20,train"],
            r"line 2: the times 'ten' and '20'; allowed: seconds from 0 to 1000000, the end later",
        ),
        (HEADER, ["a,v,10,10,train"], r"line 2: the times '10' and '10'"),
        (HEADER, ["a,v,-1,10,train"], r"line 2: the times '-1' and '10'"),
        (HEADER, ["a,v,nan,10,train"], r"line 2: the times 'nan' and '10'"),
        (HEADER, ["a,v,0,1e999,train"], r"line 2: the times '0' and '1e999'"),
        (HEADER, ["a,v,0,,train"], r"line 2: the times '0' and ''"),
        (HEADER, ["a,v,0,10,holdout"], r"line 2: the split 'holdout'; allowed: train, training, val"),
        (
            HEADER,
            ["a,v,0,10,train", "b,v,0,10,train"],
            r"0010\.mp4 is listed twice with different labels: .*line 2 and .*line 3",
        ),
    ],
)
def test_rows_that_do_not_fit_are_refused_in_one_line(tmp_path: Path, header: str, rows: list[str], said: str) -> None:
    touch(tmp_path / "v_000000_000010.mp4")
    with pytest.raises(DataError, match=said) as caught:
        import_data(listed(tmp_path, *rows, header=header) / "train.csv", name="kinetics")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], r"train\.json is not a JSON object"),
        ({}, r"train\.json lists no video"),
        ({"v": 1}, r"train\.json, 'v' has no Kinetics annotations; allowed: \{"),
        ({"v": {"annotations": []}}, "has no Kinetics annotations"),
        ({"v": {"annotations": {"label": 7}}}, "has no Kinetics annotations"),
        ({"v": {"annotations": {"label": "a", "segment": [1]}}}, r"'v' has the segment \[1\]; allowed: \[start, end\]"),
        ({"v": {"annotations": {"label": "a", "segment": [1, None]}}}, r"the times '1' and 'None'"),
    ],
)
def test_json_that_does_not_fit_is_refused_in_one_line(tmp_path: Path, content: Any, said: str) -> None:
    write_json(tmp_path / "train.json", content)
    with pytest.raises(DataError, match=said) as caught:
        import_data(tmp_path / "train.json", name="kinetics")
    assert "\n" not in str(caught.value)


def test_damaged_json_is_read_or_is_one_line(tmp_path: Path) -> None:
    root = write_kinetics(tmp_path)
    path = root / "train.json"
    whole = json.dumps(json_of(root, "train")).encode()
    draw, refused = random.Random(0), 0
    for _ in range(150):
        path.write_bytes(damaged(whole, draw))
        try:
            import_data(path, name="kinetics")
        except VidriskError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 2000
    assert refused


def test_a_damaged_list_beside_others_is_not_passed_over(tmp_path: Path) -> None:
    root = write_kinetics(tmp_path)
    (root / "train.csv").write_text("label,youtube_id\na,v\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"train\.csv, line 1 has no column time_start"):
        import_data(root)


def test_a_manifest_beside_the_lists_is_none_of_them(tmp_path: Path) -> None:
    table = import_data(write_kinetics(tmp_path)).table
    write_table(table, tmp_path / "test.csv")
    assert import_data(tmp_path).table == table


def test_rows_without_a_split_beside_others_are_to_learn_from(tmp_path: Path) -> None:
    for name in ("v", "w"):
        touch(tmp_path / f"{name}_000000_000010.mp4")
    listed(tmp_path, "a,v,0,10,", "b,w,0,10,val", name="all.csv")
    table = import_data(tmp_path / "all.csv").table
    assert [sample.split for sample in table.samples] == ["train", "val"]
    assert "samples of no split, taken as train: 1 of 2" in table.notes


def test_clips_of_kinetics_are_written_as_kinetics_writes_them(tmp_path: Path) -> None:
    root = write_kinetics(tmp_path)
    table = import_data(root).table
    write_data_set(table, root / "again.csv", name="kinetics")
    lines = (root / "again.csv").read_text(encoding="utf-8").splitlines()
    expected = [
        line.replace('"air drumming"', "air drumming")
        for name in ("train", "val")
        for line in (root / f"{name}.csv").read_text(encoding="utf-8").splitlines()[1:]
    ]
    assert lines == [HEADER, *expected]
    assert import_data(root / "again.csv").table == table


def test_other_files_are_written_with_their_path(tmp_path: Path) -> None:
    samples = []
    for name, part in (("c/x.avi", None), ("c/x.mp4", Interval(1, 2.5)), ("y.mp4", Interval(1, 3))):
        touch(tmp_path / name)
        samples.append(Sample(tmp_path / name, name, {"action": "a"}, interval=part))
    write_data_set(Table(tmp_path, "action", tuple(samples)), tmp_path / "set.csv", name="kinetics")
    assert (tmp_path / "set.csv").read_text(encoding="utf-8").splitlines()[1:] == [
        "a,c/x.avi,,,",
        "a,c/x.mp4,1,2.5,",
        "a,y,1,3,",
    ]
    assert import_data(tmp_path / "set.csv").table.samples == tuple(samples)


def test_a_further_column_of_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "x.mp4")
    sample = Sample(tmp_path / "x.mp4", "x.mp4", {"action": "a"}, extra={"youtube_id": "x"})
    with pytest.raises(DataError, match="extra column 'youtube_id' has the name of a Kinetics column; fix: rename it"):
        write_data_set(Table(tmp_path, "action", (sample,)), tmp_path / "set.csv", name="kinetics")
    assert not (tmp_path / "set.csv").exists()


@pytest.mark.parametrize(
    ("video", "part", "name"),
    [
        ("--nQbRBEz2s", Interval(104, 114), "--nQbRBEz2s_000104_000114"),
        ("a_000001_000002", Interval(0, 10), "a_000001_000002_000000_000010"),
    ],
)
def test_names_of_clips_are_read_back(video: str, part: Interval, name: str) -> None:
    assert clip_name(video, part) == name and video_and_part(f"{name}.mp4") == (video, part)
    assert clip_name(video, Interval(0.5, 2)) is None and video_and_part("a_000002_000001.mp4") == (
        "a_000002_000001",
        None,
    )
