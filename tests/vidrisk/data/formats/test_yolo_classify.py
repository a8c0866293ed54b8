"""Tests of class folders in YOLO's layout: they are written whole and never recognised as a format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from drawn_tables import file_of

from vidrisk.data import Sample, Table, load_table
from vidrisk.data.data_sets import import_data, write_data_set
from vidrisk.data.formats import format_of
from vidrisk.data.table import Label, SplitName
from vidrisk.runtimes.contract.errors import DataError


def table_of(root: Path, samples: Mapping[str, tuple[Label, SplitName | None]]) -> Table:
    return Table(
        root,
        "risk",
        tuple(
            Sample(file_of(root, name, number), name, {"defect": label}, split=split)
            for number, (name, (label, split)) in enumerate(samples.items())
        ),
    )


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_splits_and_classes_are_folders_and_load_table_reads_them(tmp_path: Path) -> None:
    table = table_of(
        tmp_path / "media", {"a.png": ("crack", "train"), "in/a.png": ("crack", "val"), "b.png": ("裂 <缝>", "test")}
    )
    write_data_set(table, tmp_path / "out", name="yolo-classify")
    assert files_in(tmp_path / "out") == ["test/裂 <缝>/b.png", "train/crack/a.png", "val/crack/in/a.png"]
    assert {(s.labels["defect"], s.split) for s in load_table(tmp_path / "out", "risk").samples} == {
        ("crack", "train"),
        ("crack", "val"),
        ("裂 <缝>", "test"),
    }
    assert format_of(tmp_path / "out") is None


def test_cvats_labels_json_says_nothing_more(tmp_path: Path) -> None:
    table = table_of(tmp_path / "m", {"a.png": ("x", "train"), "b.png": ("y", "val")})
    write_data_set(table, tmp_path / "out", name="yolo-classify")
    before = import_data(tmp_path / "out", name="yolo-classify", task="risk").table
    (tmp_path / "out" / "train" / "labels.json").write_text('{"a.png": [0]}')
    assert import_data(tmp_path / "out", name="yolo-classify", task="risk").table == before


@pytest.mark.parametrize("label", ["a/b", "..", ".hidden", "train", "验证集", "x" * 300, "@eaDir"])
def test_a_label_that_can_be_no_folder_is_one_line_and_nothing_is_left(tmp_path: Path, label: str) -> None:
    table = table_of(tmp_path / "media", {"a.png": (label, None), "b.png": ("fine", None)})
    with pytest.raises(
        DataError, match=r"labels that cannot be names of class folders \(1\): .*fix: rename these classes"
    ):
        write_data_set(table, tmp_path / "out", name="yolo-classify")
    assert [path.name for path in tmp_path.iterdir()] == ["media"]


def test_what_has_no_place_in_a_class_folder_is_counted(tmp_path: Path) -> None:
    table = table_of(
        tmp_path / "media", {"a.png": (("x", "y"), "train"), "b.png": (("x",), "val"), "c.mp4": (("x",), "val")}
    )
    written = write_data_set(table, tmp_path / "out", name="yolo-classify")
    assert written.samples == 1 and written.lost == {"clips": 1, "samples with several labels of defect, or none": 1}
    mixed = table_of(tmp_path / "media", {"a.png": ("x", "train"), "b.png": ("x", None)})
    with pytest.raises(DataError, match="samples without a split, although others have one: 1 of 2"):
        write_data_set(mixed, tmp_path / "mixed", name="yolo-classify")


def test_a_file_that_is_gone_leaves_no_half_folder(tmp_path: Path) -> None:
    table = table_of(tmp_path / "media", {"a.png": ("x", None), "b.png": ("y", None)})
    table.samples[1].path.unlink()
    with pytest.raises(DataError, match=r"cannot be written: No such file or directory \(.*b\.png\)"):
        write_data_set(table, tmp_path / "out", name="yolo-classify")
    assert [path.name for path in tmp_path.iterdir()] == ["media"]
    with pytest.raises(DataError, match="is not a folder"):
        import_data(table.samples[0].path, name="yolo-classify")
