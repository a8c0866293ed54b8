"""Tests of Hugging Face folders: metadata of every kind, splits as folders, and files that are not metadata."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from drawn_tables import file_of

from vidrisk.data import Sample, Table
from vidrisk.data.data_sets import import_data, write_data_set
from vidrisk.data.formats import format_of
from vidrisk.data.load import load_table
from vidrisk.frames import Interval
from vidrisk.runtimes.contract.errors import DataError


def metadata(path: Path, text: str, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))


def photos(root: Path, *names: str) -> None:
    for number, name in enumerate(names):
        file_of(root, name, number)


def test_columns_are_those_of_a_manifest_and_folders_are_splits(tmp_path: Path) -> None:
    photos(tmp_path, "train/a.png", "train/in/b.png", "validation/a.png", "test/图.png")
    metadata(
        tmp_path / "train" / "metadata.csv",
        'file_name,label,group,缺陷描述,site\r\na.png,crack,g1,"long, thin",\r\nin/b.png,spall,,,north\r\n',
        "utf-8-sig",
    )
    metadata(tmp_path / "validation" / "metadata.jsonl", '{"file_name": "./a.png", "label": "crack", "extra": 1.0}\n')
    metadata(tmp_path / "test" / "metadata.csv", "file_name,label\n图.png,裂缝\n", "gb18030")
    table = import_data(tmp_path, task="risk").table
    assert [(s.name, s.labels["defect"], s.split, s.group, s.description, s.extra) for s in table.samples] == [
        ("train/a.png", "crack", "train", "g1", "long, thin", {}),
        ("train/in/b.png", "spall", "train", None, "", {"site": "north"}),
        ("validation/a.png", "crack", "val", None, "", {"extra": "1"}),
        ("test/图.png", "裂缝", "test", None, "", {}),
    ]


def test_one_file_of_metadata_says_the_split_in_a_column_and_several_labels_in_lists(tmp_path: Path) -> None:
    photos(tmp_path, "a.png", "b.png")
    metadata(
        tmp_path / "metadata.jsonl",
        '{"file_name": "a.png", "defect_class": ["crack", "a, b"], "split": "dev"}\n'
        '{"file_name": "b.png", "defect_class": [], "split": "train"}\n',
    )
    table = import_data(tmp_path, task="risk").table
    assert [(sample.labels["defect"], sample.split) for sample in table.samples] == [
        (("a, b", "crack"), "val"),
        ((), "train"),
    ]


def test_parquet_and_clips_with_parts(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file_of(tmp_path, "train/a.mp4", 0)
    rows = {"file_name": ["a.mp4", "a.mp4"], "action": ["run", "fall"], "start_s": [0.0, 1.5], "end_s": [1.5, 2.0]}
    parquet.write_table(arrow.table(rows), tmp_path / "train" / "metadata.parquet")
    assert {sample.interval: sample.labels["action"] for sample in load_table(tmp_path, "action").samples} == {
        Interval(0, 1.5): "run",
        Interval(1.5, 2): "fall",
    }


def test_columns_of_several_kinds_of_files_are_found_by_their_ending(tmp_path: Path) -> None:
    photos(tmp_path, "a.png", "b.png")
    metadata(tmp_path / "metadata.csv", "image_file_name,label,path\na.png,x,elsewhere\nb.png,y,\n")
    table = load_table(tmp_path, "risk")
    assert [sample.name for sample in table.samples] == ["a.png", "b.png"] and "elsewhere" in table.samples[
        0
    ].extra.values()


def test_rows_without_a_label_and_files_that_are_not_there_are_counted(tmp_path: Path) -> None:
    photos(tmp_path, "a.png")
    metadata(tmp_path / "metadata.csv", "file_name,label\na.png,x\nb.png,y\nc.png,\na.png,x\n")
    found = import_data(tmp_path)
    assert found.absent == ("b.png",)
    assert {"rows without a label left out: 1", "repeated rows left out: 1"} <= set(found.table.notes)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file_name,label\n../a.png,x\n", r"metadata\.csv, line 2: the file_name '\.\./a\.png'; allowed: a path below"),
        ("file_name,label\n/etc/a.png,x\n", "the file_name '/etc/a.png'"),
        ("file_name,note\na.png,x\n", "has no column for the action"),
        ("file_name,label,start_s,end_s\na.png,x,3,2\n", "is reversed"),
        ("file_name,label,start_s,end_s\na.png,x,1,2\n", "time interval"),
        ("file_name,label\na.txt,x\n", "does not have the suffix of a video or photo"),
        ("file_name\n", "has no labelled file"),
    ],
)
def test_damaged_metadata_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    photos(tmp_path, "a.png")
    metadata(tmp_path / "metadata.csv", text)
    with pytest.raises(DataError, match=said):
        import_data(tmp_path, name="hf-folder")


def test_class_folders_and_manifests_are_not_claimed(tmp_path: Path) -> None:
    photos(tmp_path, "train/x/a.png", "train/y/b.png")
    metadata(tmp_path / "metadata.csv", "path,label\ntrain/x/a.png,x\ntrain/y/b.png,y\n")
    assert format_of(tmp_path) is None and format_of(tmp_path / "metadata.csv") is None
    with pytest.raises(
        DataError, match=r"has no metadata with a column file_name; .*fix: read folders without metadata as class"
    ):
        import_data(tmp_path, name="hf-folder")


def test_labels_are_numbered_alike_in_all_splits(tmp_path: Path) -> None:
    photos(tmp_path, "a.png", "b.png", "c.png")
    samples = [
        Sample(tmp_path / f"{name}.png", f"{name}.png", {"defect": label}, split=split)  # type: ignore[arg-type]
        for name, label, split in (("a", "z", "train"), ("b", "m", "val"), ("c", "a", "test"))
    ]
    table = Table(tmp_path, "risk", tuple(samples), label_order={"defect": ("z", "unused", "a", "m")})
    written = write_data_set(table, tmp_path / "out", name="hf-folder")
    assert written.lost == {"labels that no sample has": 1}
    assert sorted(
        path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()
    ) == [
        "test/c.png",
        "test/metadata.csv",
        "train/a.png",
        "train/metadata.csv",
        "validation/b.png",
        "validation/metadata.csv",
    ]
    assert import_data(tmp_path / "out", task="risk").table.label_order == {"defect": ("z", "a", "m")}


def test_it_loads_as_hugging_face_would_look_at_it(tmp_path: Path, photo: Callable[[Path], Path]) -> None:
    photo(tmp_path / "=a.png")
    table = Table(tmp_path, "action", (Sample(tmp_path / "=a.png", "=a.png", {"action": ("a", "b")}),))
    write_data_set(table, tmp_path / "out", name="hf-folder")
    text = (tmp_path / "out" / "metadata.jsonl").read_text(encoding="utf-8")
    assert text.startswith('{"file_name": "=a.png", "action": ["a", "b"]')


def test_a_split_in_which_no_label_holds_has_no_column_of_numbers(tmp_path: Path) -> None:
    photos(tmp_path / "m", "a.png", "b.png")
    samples = (
        Sample(tmp_path / "m" / "a.png", "a.png", {"defect": ()}, split="train"),
        Sample(tmp_path / "m" / "b.png", "b.png", {"defect": ("z", "a")}, split="val"),
    )
    table = Table(tmp_path / "m", "risk", samples, label_order={"defect": ("z", "a")})
    write_data_set(table, tmp_path / "out", name="hf-folder")
    again = import_data(tmp_path / "out", task="risk").table
    assert [sample.extra for sample in again.samples] == [{}, {}] and again.label_order == table.label_order
