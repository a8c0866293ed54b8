"""Tests of HMDB51: three splits with a list per class, and films that stay together.

They also cover clips that a split does not use, and names with any character.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from trees import HMDB_CLASSES, touch, write_hmdb51, write_lines

from vidrisk.data import load_table, targets_from_table
from vidrisk.data.data_sets import import_data
from vidrisk.data.formats import FORMATS, format_of
from vidrisk.data.leaks import leaks_from_table
from vidrisk.runtimes.contract.errors import DataError, SettingsError

LISTS = "testTrainMulti_7030_splits"
WAVE = f"{LISTS}/wave_test_split1.txt"
FIRST = "Film_1_wave_f_nm_np1_ba_goo_0.avi"


@pytest.mark.parametrize("split", [1, 2, 3])
def test_a_number_says_what_a_clip_is_for_in_a_split(tmp_path: Path, split: int) -> None:
    table = import_data(write_hmdb51(tmp_path), split=split).table
    films = {
        name: {sample.path.name.split("_")[1] for sample in table.of_split(name).samples}
        for name in ("train", "val", "test")
    }
    assert films["test"] == {str(split)}
    assert films["train"] | films["val"] == {"1", "2", "3", "4"} - films["test"] and films["val"]
    assert (
        f"HMDB51, official split {split}: 2 classes" in table.notes
        and "clips that this split does not use: 4" in table.notes
    )


def test_val_is_whole_films_of_the_train_clips(tmp_path: Path) -> None:
    table = load_table(write_hmdb51(tmp_path), "action")
    groups = [{sample.group for sample in table.of_split(name).samples} for name in ("train", "val", "test")]
    assert all(groups) and sum(map(len, groups)) == len(set.union(*groups)) == 8
    assert leaks_from_table(table) == [] and any("whole groups" in note for note in table.notes)


def test_outputs_are_in_the_order_of_the_names_and_a_class_without_clips_keeps_its_own(tmp_path: Path) -> None:
    root = write_hmdb51(tmp_path)
    write_lines(root / LISTS / "chew_test_split1.txt", ["a_chew_h_cm_np1_fr_med_0.avi 1"])
    (target,) = targets_from_table(load_table(root, "action").of_split("train"))
    assert target.labels == ("brush_hair", "chew", "wave") != tuple(HMDB_CLASSES)


@pytest.mark.parametrize("lists", [LISTS, "", "annotations", "splits"])
@pytest.mark.parametrize("videos", ["hmdb51_org", "", "videos"])
def test_every_layout_is_read_and_no_other_format_claims_it(tmp_path: Path, lists: str, videos: str) -> None:
    root = write_hmdb51(tmp_path, lists=lists, videos=videos, end="\r\n")
    assert [known.name for known in FORMATS.values() if known.owns(root)] == ["hmdb51"]
    assert len(load_table(root, "action")) == 16


@pytest.mark.parametrize(
    "name",
    [
        "THE_WAVE_[DVD]!_(part 1)&2_wave_u_cm_np1_fr_med_0.avi",
        "#1 ;wave; 'x'_wave_f_cm_np2_le_bad_3.avi",
        "1 2 3.avi",
        "a*?.avi",
    ],
)
def test_names_with_any_sign_are_found_as_they_are(tmp_path: Path, name: str) -> None:
    root = write_hmdb51(tmp_path)
    touch(root / "hmdb51_org" / "wave" / name)
    with (root / WAVE).open("a", encoding="utf-8") as listed:
        listed.write(f"{name} 2 \n")
    found = import_data(root)
    assert not found.absent and f"hmdb51_org/wave/{name}" in {
        sample.name for sample in found.table.of_split("test").samples
    }


def test_a_clip_whose_name_says_no_film_stands_alone(tmp_path: Path) -> None:
    root = write_hmdb51(tmp_path)
    touch(root / "hmdb51_org" / "wave" / "other.avi")
    write_lines(root / WAVE, ["other.avi 2", f"{FIRST} 1"])
    groups = {
        sample.path.name: sample.group
        for sample in load_table(root, "action").samples
        if sample.labels["action"] == "wave"
    }
    assert groups == {"other.avi": None, FIRST: "wave Film_1"}


def test_clips_elsewhere_are_found_in_the_folder_that_is_named(tmp_path: Path) -> None:
    root = write_hmdb51(tmp_path / "lists")
    (root / "hmdb51_org").rename(tmp_path / "clips")
    with pytest.raises(DataError, match="do not exist: 16 of 16"):
        import_data(root)
    found = import_data(root, media=tmp_path / "clips")
    assert not found.absent and {sample.name.split("/")[0] for sample in found.table.samples} == {"clips"}


def edited(old: str, new: str) -> Callable[[Path], object]:
    def edit(root: Path) -> None:
        text = (root / WAVE).read_text(encoding="utf-8")
        assert old in text
        (root / WAVE).write_text(text.replace(old, new), encoding="utf-8")

    return edit


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda root: (root / WAVE).unlink(),
            r"hmdb has no list of split 1 for wave; looked in hmdb/testTrainMulti.*; fix: unpack",
        ),
        (lambda root: (root / WAVE).write_text(""), r"wave_test_split1\.txt lists no video"),
        (edited(f"{FIRST} 2", FIRST), r"line 1 is 'Film_1\S+'; allowed: the name of a clip and a number"),
        (edited(f"{FIRST} 2", f"{FIRST} 3"), r"line 1: the number '3'; allowed: 1 for train, 2 for test, 0 for a clip"),
        (edited(f"{FIRST} 2", f"{FIRST},2"), r"line 1 is "),
        (edited(f"{FIRST} 2", f"../{FIRST} 2"), r"line 1 is '\.\./Film"),
        (edited(f"{FIRST} 2", "a.txt 2"), r"line 1: 'wave/a\.txt' does not have the suffix of a video"),
        (edited(f"{FIRST} 2", f"{FIRST} 1\n{FIRST} 2"), r"is listed twice with different splits"),
        (lambda root: (root / WAVE).write_bytes(b"\xff\xfe\x00"), r"wave_test_split1\.txt is not utf-16 text"),
    ],
)
def test_lists_that_do_not_fit_are_refused_in_one_line(
    tmp_path: Path, spoil: Callable[[Path], object], said: str
) -> None:
    root = write_hmdb51(tmp_path / "hmdb")
    spoil(root)
    with pytest.raises(DataError, match=said) as caught:
        import_data(root, name="hmdb51")
    assert "\n" not in str(caught.value)


def test_a_folder_without_lists_and_a_split_that_does_not_exist_are_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no <class>_test_split1\.txt; looked in"):
        import_data(tmp_path, name="hmdb51")
    touch(tmp_path / "wave" / "a.avi")
    assert format_of(tmp_path) is None
    with pytest.raises(SettingsError, match=r"split 4 of HMDB51; allowed: 1, 2, 3"):
        import_data(write_hmdb51(tmp_path), split=4)
