"""Tests of UCF101: class numbers, lists with and without labels, groups, lists that contradict folders."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees import TEST_GROUPS, UCF_CLASSES, UCF_GROUPS, touch, write_lines, write_ucf101

from vidrisk.data import load_table, targets_from_table
from vidrisk.data.data_sets import import_data
from vidrisk.data.formats.rows import MediaFiles
from vidrisk.data.formats.ucf101 import class_numbers, rows_from_list
from vidrisk.data.text import nfc
from vidrisk.runtimes.contract.errors import DataError, SettingsError

LISTS = Path("ucfTrainTestlist")
names = (
    st.text(st.characters(categories=("L", "N"), include_characters=" -'&"), min_size=1, max_size=12)
    .map(lambda name: " ".join(nfc(name).split()))
    .filter(bool)
)


@given(
    st.lists(names, min_size=1, max_size=12, unique_by=str.casefold),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    st.sampled_from([" ", "\t", "   "]),
    st.randoms(),
)
def test_numbers_of_classes_are_read_back(
    classes: list[str], end: str, encoding: str, between: str, rng: object
) -> None:
    lines = [f"{number}{between}{name}" for number, name in enumerate(classes, start=1)]
    rng.shuffle(lines)  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "classInd.txt"
        write_lines(path, lines, end, encoding)
        found = class_numbers(path)
        assert [found[number] for number in sorted(found)] == classes


def test_many_classes_are_read_in_one_pass(tmp_path: Path) -> None:
    write_lines(tmp_path / "classInd.txt", [f"{number} class {number:06d}" for number in range(1, 100_001)])
    begun = time.process_time()
    assert len(class_numbers(tmp_path / "classInd.txt")) == 100_000
    assert time.process_time() - begun < 10  # every name against every other takes minutes


@given(st.lists(names, min_size=1, max_size=6, unique_by=str.casefold), st.data())
def test_rows_have_the_class_of_their_folder_with_and_without_a_number(classes: list[str], data: st.DataObject) -> None:
    numbers = dict(enumerate(classes, start=1))
    drawn = data.draw(
        st.lists(st.tuples(st.sampled_from(sorted(numbers)), names, st.booleans(), st.integers(1, 25)), min_size=1)
    )
    lines = [
        f"{numbers[number]}/v_{name}_g{group:02d}_c01.avi" + (f" {number}" if labelled else "")
        for number, name, labelled, group in drawn
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trainlist01.txt"
        write_lines(path, lines, "\r\n")
        rows = list(rows_from_list(path, numbers, "train"))
    assert [row.labels["action"] for row in rows] == [numbers[number] for number, *_ in drawn]
    assert [row.name for row in rows] == [
        f"{numbers[number]}/v_{name}_g{group:02d}_c01.avi" for number, name, _, group in drawn
    ]
    assert [row.group for row in rows] == [f"{numbers[number]} g{group:02d}" for number, _, _, group in drawn]


@pytest.mark.parametrize("lists", ["ucfTrainTestlist", "", "annotations"])
@pytest.mark.parametrize("videos", ["UCF-101", "", "videos"])
def test_every_layout_is_read(tmp_path: Path, lists: str, videos: str) -> None:
    table = load_table(write_ucf101(tmp_path, lists=lists, videos=videos), "action")
    assert len(table.of_split("test")) == 2 * TEST_GROUPS * len(UCF_CLASSES)
    assert len(table) == 2 * UCF_GROUPS * len(UCF_CLASSES)
    assert all(sample.path.is_file() and sample.path == tmp_path / sample.name for sample in table.samples)


@pytest.mark.parametrize(("end", "encoding"), [("\r\n", "utf-8"), ("\n", "utf-8-sig"), ("\r\n", "utf-16")])
def test_line_ends_and_marks_make_no_difference(tmp_path: Path, end: str, encoding: str) -> None:
    plain = load_table(write_ucf101(tmp_path / "ucf"), "action")
    write_ucf101(tmp_path / "ucf", end=end, encoding=encoding)
    assert load_table(tmp_path / "ucf", "action") == plain


def test_outputs_are_numbered_as_the_classes_are_less_one(tmp_path: Path) -> None:
    table = load_table(write_ucf101(tmp_path), "action")
    (target,) = targets_from_table(table.of_split("train"))
    assert target.labels == tuple(UCF_CLASSES) != tuple(sorted(UCF_CLASSES))
    for line in (tmp_path / LISTS / "trainlist01.txt").read_text(encoding="utf-8").splitlines():
        path, number = line.rsplit(" ", 1)
        sample = next(sample for sample in table.samples if sample.name.endswith(path))
        assert target.labels.index(sample.labels["action"]) == int(number) - 1


@pytest.mark.parametrize("split", [1, 2, 3])
def test_val_is_whole_groups_of_the_train_list_and_test_is_the_test_list(tmp_path: Path, split: int) -> None:
    table = import_data(write_ucf101(tmp_path), split=split).table
    listed = (tmp_path / LISTS / f"testlist{split:02d}.txt").read_text(encoding="utf-8").split()
    assert sorted(sample.name for sample in table.of_split("test").samples) == sorted(
        f"UCF-101/{name}" for name in listed
    )
    groups = [{sample.group for sample in table.of_split(name).samples} for name in ("train", "val", "test")]
    assert all(groups) and sum(map(len, groups)) == len(set.union(*groups)) == UCF_GROUPS * len(UCF_CLASSES)
    assert set(table.of_split("train").label_counts("action")) == set(UCF_CLASSES)
    assert f"official split {split}" in table.notes[0] and "whole groups" in table.notes[1]


def test_another_seed_draws_another_val_and_the_same_test(tmp_path: Path) -> None:
    first, again, other = (import_data(write_ucf101(tmp_path), seed=seed).table for seed in (0, 0, 1))
    assert first == again != other and first.of_split("test") == other.of_split("test")


def test_names_have_spaces_and_files_are_named_otherwise_than_their_folder(tmp_path: Path) -> None:
    write_ucf101(tmp_path, lists="", videos="")
    tested, pushups, alone = (
        "Jump Rope/v 1_g01_c01.avi",
        "HandStand PushUps/v_HandStandPushups_g02_c01.avi",
        "Jump Rope/v_J 2.avi",
    )
    write_lines(tmp_path / "classInd.txt", ["1 Jump Rope", "2 Handstand Push-ups"])
    write_lines(tmp_path / "testlist01.txt", [tested])
    write_lines(tmp_path / "trainlist01.txt", [f"{pushups} 2", f"{alone} 1"])
    for name in (tested, pushups, alone):
        touch(tmp_path / name)
    table = load_table(tmp_path, "action")
    assert {sample.name: (sample.labels["action"], sample.group) for sample in table.samples} == {
        tested: ("Jump Rope", "Jump Rope g01"),
        alone: ("Jump Rope", None),
        pushups: ("Handstand Push-ups", "Handstand Push-ups g02"),
    }


def test_a_folder_that_could_be_two_classes_is_none_of_them(tmp_path: Path) -> None:
    classes = {1: "Push Ups", 2: "PushUps", 3: "Pull Ups"}
    write_lines(tmp_path / "testlist01.txt", ["Push Ups/a.avi", "PushUps/b.avi", "pull-ups/c.avi"])
    found = [row.labels["action"] for row in rows_from_list(tmp_path / "testlist01.txt", classes, "test")]
    assert found == ["Push Ups", "PushUps", "Pull Ups"]
    write_lines(tmp_path / "testlist01.txt", ["push-ups/a.avi"])
    with pytest.raises(DataError, match="the folder 'push-ups' is not a class"):
        list(rows_from_list(tmp_path / "testlist01.txt", classes, "test"))


def test_backslashes_the_folder_of_the_videos_and_other_containers_are_understood(tmp_path: Path) -> None:
    root = write_ucf101(tmp_path)
    path = root / LISTS / "trainlist01.txt"
    lines = path.read_text(encoding="utf-8").splitlines()
    expected = load_table(root, "action")
    path.write_text(
        "\n".join([lines[0].replace("/", "\\"), f"./{lines[1]}", f"UCF-101/{lines[2]}", *lines[3:], lines[0]]),
        encoding="utf-8",
    )
    repeated = load_table(root, "action")
    assert repeated == expected and "repeated rows left out: 1" in repeated.notes
    for video in (root / "UCF-101").rglob("*.avi"):
        video.rename(video.with_suffix(".MP4"))
    assert len(load_table(root, "action")) == len(expected)


def edited(name: str, old: str, new: str) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        path = root / LISTS / name
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    return edit


def replaced(name: str, text: str) -> Callable[[Path], None]:
    return lambda root: (root / LISTS / name).write_text(text, encoding="utf-8") and None


def removed(name: str) -> Callable[[Path], None]:
    return lambda root: (root / LISTS / name).unlink()


def test_a_name_without_the_suffix_of_a_video_is_found_as_it_is_or_not_at_all(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.txt"):
        touch(tmp_path / "A" / name)
    videos = MediaFiles(tmp_path, [""])
    listed = ["A/a.avi", "A/a.mp4", "A/b.txt", "A/a.avi,2", "A/a.avi 2 extra", "A/a.txt", "A/a", "A/b.avi"]
    assert [videos.find(name) for name in listed] == ["A/a.mp4", "A/a.mp4", "A/b.txt", *[None] * 5]


@pytest.mark.parametrize(
    ("trained", "tested", "file"),
    [
        ("v_é_g01_c01.avi", "v_é_g01_c01.mp4", "v_é_g01_c01.mp4"),
        ("v_é_g01_c01.avi", "v_e\u0301_g01_c01.avi", "v_é_g01_c01.avi"),
        ("v_é_g01_c01.mkv", "v_e\u0301_g01_c01.webm", "v_é_g01_c01.avi"),
    ],
)
def test_one_file_that_is_listed_under_two_names_is_listed_twice(
    tmp_path: Path, trained: str, tested: str, file: str
) -> None:
    root = write_ucf101(tmp_path)
    touch(root / "UCF-101" / "Hammering" / file)
    before = (root / LISTS / TRAIN).read_text(encoding="utf-8")
    (root / LISTS / TRAIN).write_text(f"{before}Hammering/{trained} 1\nHammering/{tested} 1\n", encoding="utf-8")
    table = load_table(root, "action")
    assert (
        sum(sample.name.endswith(file) for sample in table.samples) == 1 and "repeated rows left out: 1" in table.notes
    )
    (root / LISTS / TRAIN).write_text(f"{before}Hammering/{trained} 1\n", encoding="utf-8")
    with (root / LISTS / TEST).open("a", encoding="utf-8") as listed:
        listed.write(f"Hammering/{tested}\n")
    with pytest.raises(
        DataError, match=r"\(as Hammering/\S+ and as Hammering/\S+\) is listed twice with different splits"
    ):
        load_table(root, "action")


TRAIN, TEST, CLASSES = "trainlist01.txt", "testlist01.txt", "classInd.txt"
HAMMER = "Hammering/v_Hammering_g03_c01.avi"
NO_PATH = r"trainlist01\.txt, line 1 is .*; allowed: Class/video\.avi"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            removed(CLASSES),
            r"ucf has no classInd\.txt; looked in ucf/ucfTrainTestlist/, ucf/, ucf/annotations/; fix: unpack UCF101",
        ),
        (removed(TRAIN), r"ucf has no trainlist01\.txt; looked in "),
        (removed(TEST), r"ucf has no testlist01\.txt; looked in "),
        (
            edited(TRAIN, f"{HAMMER} 1", f"{HAMMER} 4"),
            r"list01\.txt, line 1: the class 4 is outside classInd\.txt; allowed: 1 to 3",
        ),
        (edited(TRAIN, f"{HAMMER} 1", f"{HAMMER} 0"), r"line 1: the class 0 is outside"),
        (edited(TRAIN, f"{HAMMER} 1", f"{HAMMER} -1"), r"line 1: the class -1 is outside"),
        (
            edited(TRAIN, f"{HAMMER} 1", f"{HAMMER} 2"),
            r"class 2 is HammerThrow, but the folder is that of class 1, Hammering",
        ),
        (edited(TRAIN, "Hammering/", "Juggling/"), r"line 1: the folder 'Juggling' is not a class of classInd\.txt"),
        (edited(TRAIN, "Hammering/", ""), NO_PATH),
        (edited(TRAIN, "Hammering/", "../Hammering/"), NO_PATH),
        (edited(TRAIN, "Hammering/", "/etc/Hammering/"), NO_PATH),
        (edited(TRAIN, "Hammering/", "C:/Hammering/"), NO_PATH),
        (edited(TRAIN, "Hammering/", "a/b/Hammering/"), NO_PATH),
        (
            edited(TRAIN, f"{HAMMER} 1", f"{HAMMER},2"),
            r"line 1: 'Hammering/\S+_c01\.avi,2' does not have the suffix of a video; allowed",
        ),
        (
            edited(TRAIN, f"{HAMMER} 1", f"{HAMMER} 2 extra"),
            r"line 1: 'Hammering/\S+\.avi 2 extra' does not have the suffix of a video; .*; fix: ",
        ),
        (
            edited(TRAIN, f"{HAMMER} 1", "Hammering/readme.txt 1"),
            r"line 1: 'Hammering/readme\.txt' does not have the suffix of a video",
        ),
        (
            edited(TEST, "v_Hammering_g01_c01.avi", "v_Hammering_g01_c01"),
            r"testlist01\.txt, line 1: \S+_c01' does not have the suffix of a video",
        ),
        (
            edited(TEST, "v_Hammering_g01_c01", "v_Hammering_g03_c01"),
            r"listed twice with different splits: trainlist01\.txt, line 1 ",
        ),
        (replaced(TRAIN, ""), r"trainlist01\.txt lists no video"),
        (replaced(TEST, "\n \r\n"), r"testlist01\.txt lists no video"),
        (replaced(CLASSES, ""), r"classInd\.txt has 0 classes; allowed: numbers from 1 on"),
        (
            replaced(CLASSES, "1 a\n3 b\n"),
            r"has 2 classes, with numbers from 1 to 3, without 2; allowed: numbers from 1 on, each once",
        ),
        (replaced(CLASSES, "0 a\n1 b\n"), r"has 2 classes, with numbers from 0 to 1, without 2; allowed"),
        (
            replaced(CLASSES, "1 a\n1 b\n"),
            r"classInd\.txt, line 2: the class '1 b' has a number or a name that is taken",
        ),
        (replaced(CLASSES, "1 a\n2 a\n"), r"has a number or a name that is taken"),
        (replaced(CLASSES, "Hammering 1\n"), r"line 1 is 'Hammering 1'; allowed: a number and the name of a class"),
        (replaced(CLASSES, "1\n"), r"line 1 is '1'; allowed"),
    ],
)
def test_lists_that_do_not_fit_are_refused_in_one_line(
    tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    root = write_ucf101(tmp_path / "ucf")
    touch(root / "UCF-101" / "Hammering" / "readme.txt")
    spoil(root)
    with pytest.raises(DataError, match=said) as caught:
        import_data(root, name="ucf101")
    assert "\n" not in str(caught.value)


def test_a_split_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"split 4 of UCF101; allowed: 1, 2, 3"):
        import_data(write_ucf101(tmp_path), split=4)
