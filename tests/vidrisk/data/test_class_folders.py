"""Tests of the distinction between folders of classes and of splits; gaps in training data are reported."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from vidrisk.data import Table, load_table
from vidrisk.runtimes.contract.errors import DataError

Photo = Callable[[Path], Path]


@pytest.fixture
def write(tmp_path: Path, photo: Photo) -> Callable[..., Path]:
    def write(*names: str) -> Path:
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            photo(path) if path.suffix == ".jpg" else path.touch()
        return tmp_path

    return write


def counts(table: Table) -> dict[str, dict[str, int]]:
    return {
        split: table.of_split(split).label_counts("action")
        for split in ("train", "val", "test")
        if len(table.of_split(split))
    }


def test_splits_above_classes_and_classes_above_splits_are_the_same(write: Callable[..., Path]) -> None:
    above = write(*(f"above/{split}/{label}/1.jpg" for split in ("train", "Valid", "测试") for label in "ab"))
    below = write(*(f"below/{label}/{split}/1.jpg" for split in ("train", "Valid", "测试") for label in "ab"))
    expected = {split: {"a": 1, "b": 1} for split in ("train", "val", "test")}
    assert counts(load_table(above / "above", "action")) == counts(load_table(below / "below", "action")) == expected


def test_some_of_the_splits_are_enough(write: Callable[..., Path]) -> None:
    assert counts(load_table(write("train/a/1.jpg", "train/b/1.jpg"), "action")) == {"train": {"a": 1, "b": 1}}


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            ["train/a/1.jpg", "val/a/1.jpg", "raw/1.jpg"],
            r"has split folders \(train, val\) and others beside them: raw;",
        ),
        (
            ["train/a/1.jpg", "train/b/1.jpg", "extra/1.jpg"],
            r"has split folders \(train\) and others beside them: extra;",
        ),
        (["train/1.jpg", "test/1.jpg", "bus/1.jpg"], r"others beside them: bus;"),
        (["train/a/1.jpg", "train/b/1.jpg", "val/1.jpg"], r"val contains files, and no class folders"),
        (["train/1.jpg", "val/1.jpg"], r"train contains files, and no class folders"),
        (
            ["a/train/1.jpg", "a/val/1.jpg", "b/1.jpg"],
            r"class folders with split folders in them \(a\) and others .* \(b\)",
        ),
        (
            ["a/train/1.jpg", "a/2.jpg", "b/train/1.jpg"],
            r"\(a, b\) and others without, or with files beside them \(a\)",
        ),
        (["a/train/1.jpg", "a/val/1.jpg", "a/raw/1.jpg", "b/train/1.jpg"], r"files beside them \(a\)"),
        (["set1/train/a/1.jpg", "set2/train/b/1.jpg"], r"train is a split folder in set1, and contains folders \(a\)"),
        (["train/a/val/1.jpg", "train/b/1.jpg"], r"a lies in a split folder and contains split folders"),
    ],
)
def test_every_other_layout_is_refused_with_the_names_that_do_not_fit(
    write: Callable[..., Path], names: list[str], said: str
) -> None:
    with pytest.raises(DataError, match=said) as caught:
        load_table(write(*names), "action")
    assert (
        "allowed: class folders; train" in str(caught.value)
        and "fix: " in str(caught.value)
        and "\n" not in str(caught.value)
    )


def test_a_train_is_also_something_that_a_clip_shows(write: Callable[..., Path]) -> None:
    table = load_table(write("vehicles/train/1.jpg", "vehicles/bus/1.jpg", "animals/1.jpg"), "action")
    assert table.label_counts("action") == {"animals": 1, "vehicles": 2} and counts(table) == {}


def test_what_a_nas_makes_is_neither_a_class_nor_a_split_nor_a_sample(
    write: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    write("System Volume Information/d.jpg", "$RECYCLE.BIN/S-1/a.jpg", ".Trash-1000/e.jpg", "b/._1.jpg", "b/Thumbs.db")
    root = write("a/1.jpg", "b/1.jpg", "a/@eaDir/1.jpg/SYNOFILE_THUMB_M.jpg", "#recycle/b.jpg", "lost+found/c.jpg")
    table = load_table(root, "action")
    assert [sample.name for sample in table.samples] == ["a/1.jpg", "b/1.jpg"]
    assert (
        "6 made by a NAS, a desktop system or a camera (#recycle, $RECYCLE.BIN, System Volume Information, …)"
        in caplog.text
    )
    splits = load_table(write("s/train/a/1.jpg", "s/train/b/1.jpg", "s/@eaDir/x/1.jpg") / "s", "action")
    assert counts(splits) == {"train": {"a": 1, "b": 1}}


def test_a_class_may_begin_with_underscores(write: Callable[..., Path]) -> None:
    table = load_table(write("__background__/1.jpg", "crack/1.jpg"), "action")
    assert table.label_counts("action") == {"__background__": 1, "crack": 1}


def test_a_split_without_a_class_is_said(write: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    load_table(write("train/a/1.jpg", "train/b/1.jpg", "val/a/2.jpg"), "action")
    assert "the val split has no sample of b" in caplog.text


def test_files_of_unknown_suffixes_are_samples(write: Callable[..., Path]) -> None:
    root = write("a/1.jpg", "b/2.jpg")
    (root / "a" / "1.jpg").rename(root / "a" / "1.jfif")
    (root / "b" / "2.jpg").rename(root / "b" / "IMG_2")
    assert [sample.name for sample in load_table(root, "action").samples] == ["a/1.jfif", "b/IMG_2"]


def test_ten_thousand_levels_and_loops_cost_one_entry(
    write: Callable[..., Path], deep_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write("a/1.jpg", "b/1.jpg")
    (root / "a" / "deep").symlink_to(deep_folder)
    (root / "a" / "self").symlink_to("self")
    os.mkfifo(root / "a" / "pipe")
    assert len(load_table(root, "action")) == 2
    assert all(
        said in caplog.text
        for said in ("1 File name too long (d)", "1 Too many levels of symbolic links (self)", "(pipe)")
    )


def test_links_lead_to_more_samples_but_not_into_another_class(
    write: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    root = write("data/a/1.jpg", "data/b/1.jpg", "more/2.jpg") / "data"
    (root / "a" / "more").symlink_to("../../more")
    (root / "a" / "other").symlink_to("../b")
    (root / "a" / "root").symlink_to("..")
    assert [sample.name for sample in load_table(root, "action").samples] == ["a/1.jpg", "a/more/2.jpg", "b/1.jpg"]
    assert "2 entered under another name (other, root)" in caplog.text


@pytest.mark.parametrize("closed", ["b", "a/deep"])
def test_a_folder_that_may_not_be_entered_is_no_gap(folder_of_nobody: Path, photo: Photo, closed: str) -> None:
    for name in ("a/1.jpg", "a/deep/2.jpg", "b/1.jpg"):
        photo(folder_of_nobody / name)
    (folder_of_nobody / closed).chmod(0)
    with pytest.raises(DataError, match=f"{closed} cannot be listed: Permission denied; fix: grant the permission"):
        load_table(folder_of_nobody, "action")


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train_set", "test_set"),
        ("TrainingSet", "TestData"),
        ("0_train", "1_test"),
        ("train2017", "test2017"),
        ("train", "test images"),
        ("训练图片", "测试图片"),
        ("train 70%", "test 30%"),
    ],
)
def test_splits_by_longer_names_do_not_become_classes(write: Callable[..., Path], train: str, test: str) -> None:
    root = write(
        *(f"above/{split}/{label}/1.jpg" for split in (train, test) for label in "ab"),
        *(f"below/{label}/{split}/1.jpg" for split in (train, test) for label in "ab"),
    )
    expected = {split: {"a": 1, "b": 1} for split in ("train", "test")}
    assert counts(load_table(root / "above", "action")) == counts(load_table(root / "below", "action")) == expected
    with pytest.raises(DataError, match="and others beside them: c;"):
        load_table(write("above/c/1.jpg") / "above", "action")


def test_classes_may_begin_like_a_split(write: Callable[..., Path]) -> None:
    root = write("rig/test1/1.jpg", "rig/test2/1.jpg", "work/trainer/1.jpg", "work/tester/1.jpg", "work/valley/1.jpg")
    assert load_table(root / "rig", "action").label_counts("action") == {"test1": 1, "test2": 1}
    assert load_table(root / "work", "action").label_counts("action") == {"tester": 1, "trainer": 1, "valley": 1}
