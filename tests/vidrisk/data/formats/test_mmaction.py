"""Tests of MMAction2 and SlowFast lists: paths followed by numbers, and the names of the classes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees import touch, write_hmdb51, write_lines, write_ucf101

from vidrisk.data import Sample, Table, load_table, write_table
from vidrisk.data.data_sets import import_data, write_data_set
from vidrisk.data.formats import FORMATS, format_of
from vidrisk.data.formats.mmaction import path_and_numbers
from vidrisk.data.text import trim_text
from vidrisk.runtimes.contract.errors import DataError

NAMES = ("run", "fall down", "裂缝, a")
TRAIN, VAL = "kinetics400_train_list_videos.txt", "kinetics400_val_list_videos.txt"


def lists(root: Path, *, labels: bool = True, place: str = "{split}_videos", **lines: list[str]) -> Path:
    """Write a list per split and create every file that it names; return the folder."""
    for split, of_split in lines.items():
        write_lines(root / f"kinetics400_{split}_list_videos.txt", of_split)
        for line in of_split:
            touch(root / place.format(split=split) / path_and_numbers(line)[0])
    if labels:
        write_lines(root / "label_map.txt", NAMES)
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return lists(tmp_path / "k400", place="videos_{split}", train=["a/1.mp4 1", "a/2.mp4 0"], val=["b/3.mp4 2"])


def test_lists_of_a_folder_are_splits_and_numbers_have_names(root: Path) -> None:
    assert [known.name for known in FORMATS.values() if known.owns(root)] == ["mmaction"]
    table = load_table(root, "action")
    assert [(sample.name, sample.labels["action"], sample.split) for sample in table.samples] == [
        ("videos_train/a/1.mp4", "fall down", "train"),
        ("videos_train/a/2.mp4", "run", "train"),
        ("videos_val/b/3.mp4", "裂缝, a", "val"),
    ]
    assert table.label_order == {"action": NAMES}
    assert load_table(root, "risk").samples[0].labels == {"defect": "fall down"}


def test_without_names_labels_are_numbers_in_their_order(root: Path) -> None:
    (root / "label_map.txt").unlink()
    write_lines(root / TRAIN, ["a/1.mp4 10", "a/2.mp4 9"])
    table = load_table(root, "action")
    assert table.samples[0].labels == {"action": "10"} and table.label_order == {"action": tuple(map(str, range(11)))}
    assert "no label_map.txt: labels are the numbers of the classes" in table.notes


@pytest.mark.parametrize(
    "content",
    ["run\nfall down\n裂缝, a\n", "0 run\n1 fall down\n2 裂缝, a\n", '{"run": 0, "fall down": 1, "裂缝, a": 2}'],
)
def test_names_may_lie_in_a_file_of_their_own(root: Path, content: str) -> None:
    (root / "label_map.txt").unlink()
    names = root.parent / ("names.json" if content.startswith("{") else "names.txt")
    names.write_text(content, encoding="utf-8-sig" if names.suffix == ".txt" else "utf-8")
    assert import_data(root, labels=names).table.label_order == {"action": NAMES}


@pytest.mark.parametrize(
    "line",
    ["some dir/a b.mp4 1", "x.mp4\t1", "x.mp4,1", "x.mp4, 1", "x, 1.mp4 1", "1 2 3.mp4 1", "./x.mp4 01", "a\\x.mp4 1"],
)
def test_paths_may_have_spaces_and_commas(tmp_path: Path, line: str) -> None:
    path = path_and_numbers(line)[0].replace("\\", "/")
    touch(tmp_path / path)
    write_lines(tmp_path / "train.csv", [line], end="\r\n", encoding="utf-8-sig")
    write_lines(tmp_path / "label_map.txt", NAMES)
    found = import_data(tmp_path)
    assert found.format.name == "mmaction" and not found.absent
    assert [(sample.name, sample.labels["action"]) for sample in found.table.samples] == [
        (path.removeprefix("./"), "fall down")
    ]


@given(
    st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), max_size=12).map(trim_text),
    st.lists(st.integers(0, 99999)),
    st.sampled_from([" ", "\t", ",", ", ", "  "]),
)
def test_a_line_is_cut_where_its_numbers_begin(stem: str, numbers: list[int], between: str) -> None:
    path = f"{stem}.mp4"
    assert path_and_numbers(between.join([path, *map(str, numbers)])) == (path, tuple(numbers))


def test_several_numbers_are_several_labels(root: Path) -> None:
    write_lines(root / TRAIN, ["a/1.mp4 2 0", "a/2.mp4 0"])
    table = import_data(root).table
    assert [sample.labels["action"] for sample in table.samples] == [("run", "裂缝, a"), ("run",), ("裂缝, a",)]
    with pytest.raises(DataError, match="samples with several labels of action, or none: 1 of 3; allowed: one label"):
        import_data(root, multi_label=False)


def test_videos_without_a_class_are_counted(root: Path) -> None:
    write_lines(root / TRAIN, ["a/1.mp4 -1", "a/2.mp4 0", "a/4.mp4"])
    assert "rows without a label left out: 2" in import_data(root).table.notes


@pytest.mark.parametrize("line", ["a/frames 163 1", "a/frames 2 5 127", "a/frames 1"])
def test_folders_of_frames_are_refused_with_the_command_that_makes_videos(root: Path, line: str) -> None:
    touch(root / "videos_train" / "a" / "frames" / "img_00001.jpg")
    write_lines(root / TRAIN, [line])
    with pytest.raises(
        DataError, match=r"line 1: 'a/frames' is a folder of frames; .*ffmpeg -framerate 25 -i a/frames/img_%05d"
    ):
        import_data(root, name="mmaction")


def test_the_command_of_a_strange_path_is_quoted(root: Path) -> None:
    write_lines(root / TRAIN, ["a; rm -rf $HOME 163 1"])
    with pytest.raises(
        DataError, match=r"-i 'a; rm -rf \$HOME'/img_%05d\.jpg -pix_fmt yuv420p 'a; rm -rf \$HOME'\.mp4"
    ):
        import_data(root, name="mmaction")


def test_absolute_paths_count_below_the_folder_of_the_clips(root: Path, tmp_path: Path) -> None:
    write_lines(root / TRAIN, [f"{root}/videos_train/a/1.mp4 1"])
    assert import_data(root).table.samples[0].name == "videos_train/a/1.mp4"
    touch(tmp_path / "elsewhere" / "x.mp4")
    write_lines(root / TRAIN, [f"{tmp_path}/elsewhere/x.mp4 1", "a/2.mp4 0"])
    with pytest.raises(
        DataError, match=r"line 1: the path '/\S+x\.mp4' leads out of .*; fix: correct it, or give the folder"
    ):
        import_data(root)
    found = import_data(root, media=tmp_path / "elsewhere")
    assert {sample.name for sample in found.table.samples} == {
        "elsewhere/x.mp4",
        "k400/videos_train/a/2.mp4",
        "k400/videos_val/b/3.mp4",
    }


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "lists no video"),
        (["../a/1.mp4 1"], r"line 1: the path '\.\./a/1\.mp4' leads out of the folder with the clips"),
        (["/etc/1.mp4 1"], "line 1: the path '/etc/1.mp4' leads out of"),
        (["a/1.mp4 3"], "line 1: the class 3 is not in label_map.txt"),
        (["a/1.mp4 999999999"], "line 1: the class 999999999; allowed: 0 to 99999"),
        (["a/1.jpg 1"], "does not have the suffix of a video"),
        (["a/1.mp4 run"], r"'a/1\.mp4 run' does not have the suffix of a video"),
        (["a/1.mp4 1.5"], "does not have the suffix of a video"),
        (["a/1.mp4 1", "a/x 1"], r"line 2: 'a/x' does not have the suffix of a video"),
        (["1 2 3"], "is no video|is a folder of frames"),
    ],
)
def test_lists_that_do_not_fit_are_refused_in_one_line(root: Path, lines: list[str], said: str) -> None:
    write_lines(root / TRAIN, lines)
    with pytest.raises(DataError, match=said) as caught:
        import_data(root, name="mmaction")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["run", "run"], "has a number or a name twice"),
        ([], "names no class"),
        (["run"], "the class 1 is not in label_map.txt"),
    ],
)
def test_names_that_do_not_fit_are_refused_in_one_line(root: Path, names: list[str], said: str) -> None:
    write_lines(root / "label_map.txt", names)
    with pytest.raises(DataError, match=said):
        import_data(root)


def test_a_video_in_two_splits_and_two_lists_of_one_split_are_refused(tmp_path: Path) -> None:
    root = lists(tmp_path, place="videos", train=["a.mp4 1"], val=["a.mp4 1"])
    with pytest.raises(DataError, match="is listed twice with different splits"):
        import_data(root)
    write_lines(root / "train.txt", ["a.mp4 1"])
    with pytest.raises(DataError, match=r"several lists of one split: .*; fix: name the list to read"):
        import_data(root)
    assert len(import_data(root / "train.txt").table) == 1


def test_a_manifest_beside_the_lists_is_none_of_them(root: Path) -> None:
    table = load_table(root, "action")
    write_table(table, root / "train.csv")
    assert load_table(root, "action") == table


def test_lists_may_lie_beside_the_videos_folder_or_in_one_of_their_own(tmp_path: Path) -> None:
    touch(tmp_path / "videos" / "a.mp4")
    write_lines(tmp_path / "annotations" / "train.txt", ["a.mp4 0"])
    for source in (tmp_path, tmp_path / "annotations" / "train.txt"):
        assert [sample.name for sample in import_data(source).table.samples] == ["videos/a.mp4"]


def test_lists_of_other_data_sets_and_manifests_are_not_claimed(tmp_path: Path) -> None:
    ucf, hmdb = write_ucf101(tmp_path / "ucf", lists=""), write_hmdb51(tmp_path / "hmdb", lists="")
    for path in (ucf / "trainlist01.txt", hmdb / "wave_test_split1.txt", ucf / "classInd.txt"):
        assert format_of(path) is None
    touch(tmp_path / "a.mp4")
    write_table(
        Table(tmp_path, "action", (Sample(tmp_path / "a.mp4", "a.mp4", {"action": "1"}),)), tmp_path / "train.csv"
    )
    assert format_of(tmp_path / "train.csv") is None


def table_of(root: Path, names: list[str], labels: list[str], order: tuple[str, ...] = ()) -> Table:
    for name in names:
        touch(root / name)
    samples = tuple(Sample(root / name, name, {"action": label}) for name, label in zip(names, labels, strict=True))
    return Table(root, "action", samples, label_order={"action": order} if order else {})


def test_a_folder_with_lists_and_names_is_written_and_says_the_same(tmp_path: Path) -> None:
    table = table_of(tmp_path, ["a b.mp4", " c.mp4", "d, 1.mp4"], ["run", "fall", "run"], ("walk", "run", "fall"))
    write_data_set(table, tmp_path / "lists", name="mmaction")
    assert {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "lists").iterdir()} == {
        "list_videos.txt": "a b.mp4 1\n./ c.mp4 2\nd, 1.mp4 1\n",
        "label_map.txt": "walk\nrun\nfall\n",
    }
    again = import_data(tmp_path / "lists").table
    assert again == table


def test_names_that_all_begin_with_numbers_are_numbered(tmp_path: Path) -> None:
    table = table_of(tmp_path, ["a.mp4", "b.mp4"], ["3 men", "2 men"], ("3 men", "2 men"))
    write_data_set(table, tmp_path / "lists", name="mmaction")
    assert import_data(tmp_path / "lists").table == table


def test_a_name_with_a_line_break_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has a line break, which lists cannot represent; fix: rename it"):
        write_data_set(table_of(tmp_path, ["a.mp4"], ["a\nb"]), tmp_path / "lists", name="mmaction")
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
