"""Tests of data sets as input of every command.

Data sets are recognised, counted, split, written as manifests, and used for training.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trees
from trees import SSV2_TEMPLATES, UCF_CLASSES, encoded, touch, write_json, write_ssv2, write_ucf101

from vidrisk.data import Sample, Table, check_leaks, load_table, split_table, targets_from_table, write_table
from vidrisk.data.choice import few_per_class
from vidrisk.data.data_sets import import_data, write_data_set
from vidrisk.data.formats import FORMATS, format_of
from vidrisk.data.formats.fit import fit_table
from vidrisk.data.leaks import leaks_from_table
from vidrisk.models.run import Run
from vidrisk.runtimes.contract.errors import DataError, SettingsError

WRITERS: dict[str, Callable[..., Path]] = {"ucf101": write_ucf101, "something": write_ssv2}


@pytest.fixture(params=sorted(WRITERS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def root(name: str, tmp_path: Path) -> Path:
    return WRITERS[name](tmp_path / name)


def videos_of(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.suffix in (".avi", ".webm"))


def test_the_formats_that_are_tested_here_exist() -> None:
    assert set(WRITERS) < set(FORMATS)


def test_a_folder_is_recognised_and_no_other_format_claims_it(name: str, root: Path) -> None:
    assert [known.name for known in FORMATS.values() if known.owns(root)] == [name]
    assert import_data(root).table == import_data(root, name=name).table == load_table(root, "action")
    assert import_data(root).format.name == name


@pytest.mark.parametrize(
    "names",
    [
        ["crack/1.jpg", "sound/1.jpg"],
        ["crack/1.jpg", "sound/1.jpg", "classInd.txt"],
        ["train/a/1.jpg", "train/b/1.jpg", "test/a/1.jpg"],
        ["a/1.jpg", "b/1.jpg", "labels.json", "train.json"],
        ["videos/1.mp4", "annotations/2.mp4", "labels/3.mp4"],
    ],
)
def test_class_folders_stay_class_folders(tmp_path: Path, names: list[str]) -> None:
    for file in names:
        touch(tmp_path / file)
    for lists in tmp_path.glob("*.json"):  # of some other tool
        write_json(lists, {"a": 0, "b": 1} if lists.stem == "labels" else [{"id": "1", "label": "a"}])
    assert format_of(tmp_path) is None
    assert load_table(tmp_path, "action").label_order == {}


def test_what_is_of_no_format_and_what_is_not_there_are_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"matches no known format; allowed: activitynet, .*ucf101, ") as caught:
        import_data(tmp_path)
    assert len(str(caught.value)) < 500
    (tmp_path / "nothing.json").touch()
    with pytest.raises(DataError, match=r"nothing\.json is empty \(0 bytes\); fix: get the file again$"):
        import_data(tmp_path / "nothing.json")
    with pytest.raises(DataError, match="nothing does not exist"):
        import_data(tmp_path / "nothing")
    with pytest.raises(SettingsError, match="format 'nonesuch'; allowed: "):
        import_data(tmp_path, name="nonesuch")


def test_a_format_to_write_is_one_that_can_be_written(cli: Callable[..., Any], tmp_path: Path) -> None:
    for name in ("cavt", "ucf101"):
        end = cli("data", "convert", tmp_path / "none.csv", "-o", tmp_path / "x", "--to", name)
        allowed = end.stderr.strip().partition("; allowed: ")[2].split(", ")
        assert end.code == 2 and set(allowed) == {
            "risk-parquet",
            "risk-jsonl",
            *(known.name for known in FORMATS.values() if known.write),
        }


def test_levels_alone_are_no_labels_of_formats_with_one_target(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4")
    samples = [
        Sample(tmp_path / "a.mp4", "a.mp4", labels)
        for labels in ({"level": "high"}, {"defect": "crack", "level": "high"})
    ]
    fitted, lost = fit_table(Table(tmp_path, "risk", tuple(samples)), FORMATS["mmaction"])
    assert [sample.labels for sample in fitted.samples] == [{"defect": "crack"}]
    assert lost == {"labels of level": 2, "samples without a label of defect": 1}


def test_labels_are_of_actions(root: Path) -> None:
    with pytest.raises(DataError, match="whose labels are of the task action, not risk; fix: use the task action"):
        load_table(root, "risk")
    with pytest.raises(SettingsError, match="an encoding for the folder"):
        load_table(root, "action", encoding="utf-8")


def test_absent_videos_are_counted_and_said_and_strict_names_three(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = import_data(root)
    absent = videos_of(root)[:5]
    for path in absent:
        path.unlink()
    found = import_data(root)
    assert found.listed == whole.listed and {Path(name).name for name in found.absent} == {path.name for path in absent}
    assert len(found.table) == len(whole.table) - 5 and not whole.absent
    assert f"listed files that do not exist: 5 of {whole.listed} (" in found.table.notes[-1]
    assert "and 2 more); they are left out" in caplog.text
    with pytest.raises(
        DataError, match=rf"do not exist: 5 of {whole.listed} \((\S+, ){{2}}\S+ and 2 more\); allowed: all of them "
    ):
        load_table(root, "action", strict=True)


def test_a_broken_link_and_a_folder_of_the_name_are_absent_and_a_link_is_followed(root: Path, tmp_path: Path) -> None:
    first, second, third = videos_of(root)[:3]
    first.unlink()
    first.symlink_to("nowhere")
    second.unlink()
    second.mkdir()
    third.rename(tmp_path / "elsewhere")
    third.symlink_to(tmp_path / "elsewhere")
    found = import_data(root)
    assert {Path(name).name for name in found.absent} == {first.name, second.name}
    assert third in {sample.path for sample in found.table.samples}


def test_no_video_at_all_is_an_error_that_says_where_it_looked(root: Path) -> None:
    for path in videos_of(root):
        path.unlink()
    with pytest.raises(
        DataError, match=rf"allowed: files in {root.name}/.*, {root.name}/.*; fix: unpack the files there; if "
    ):
        load_table(root, "action")


def test_the_test_videos_alone_can_be_scored_on(name: str, root: Path) -> None:
    for sample in import_data(root).table.samples:
        if sample.split != "test":
            sample.path.unlink()
    found = import_data(root)
    assert {sample.split for sample in found.table.samples} == {"test"}


@pytest.mark.skipif(os.name != "posix", reason="modes of folders")
def test_a_folder_that_may_not_be_listed_is_an_error(folder_of_nobody: Path) -> None:
    folder = folder_of_nobody / "ucf"
    write_ucf101(folder)
    (folder / "UCF-101" / "Hammering").chmod(0)
    with pytest.raises(DataError, match=r"Hammering cannot be listed: .*; fix: grant the permission"):
        import_data(folder)


def test_a_class_without_clips_keeps_its_number_and_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_ucf101(tmp_path)
    shutil.rmtree(root / "UCF-101" / "Hammering")
    table = load_table(root, "action")
    (target,) = targets_from_table(table.of_split("train"))
    assert target.labels == tuple(UCF_CLASSES) and "Hammering" not in table.label_counts("action")
    assert "labels without a clip to learn from: 1 of 3 (Hammering)" in caplog.text


def test_one_group_to_learn_from_leaves_none_for_val(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_ucf101(tmp_path, classes=["Hammering", "HammerThrow"])
    for path in videos_of(root):
        if not any(group in path.name for group in ("_g01_", "_g03_")):
            path.unlink()
    table = load_table(root, "action")
    assert {sample.split for sample in table.samples} == {"train", "test"}
    assert "too few clips to take a val split from it" in caplog.text


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_manifest_has_the_same_samples_and_the_same_order_of_labels(root: Path, suffix: str) -> None:
    table = import_data(root).table
    write_table(table, root / f"m{suffix}")
    again = load_table(root / f"m{suffix}", "action")
    assert again == table and targets_from_table(again) == targets_from_table(table)
    assert again.label_order["action"] != tuple(sorted(again.label_order["action"]))


def test_a_manifest_without_a_class_says_that_numbers_have_gaps(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = import_data(write_ucf101(tmp_path)).table
    some = table.with_samples(sample for sample in table.samples if sample.labels["action"] != "Hammering")
    write_table(some, tmp_path / "some.csv")
    again = load_table(tmp_path / "some.csv", "action")
    assert again.label_order == {"action": ("HammerThrow", "HandstandPushups")}
    assert "column 'action_id' has 2 ids, from 1 to 2" in caplog.text


def test_a_given_split_is_kept_and_forced_anew_by_groups(tmp_path: Path) -> None:
    table = load_table(write_ucf101(tmp_path, clips=True), "action")
    assert split_table(table) == table and leaks_from_table(table) == []
    with pytest.raises(SettingsError, match="data that is split already"):
        split_table(table, group_by="group")
    anew = split_table(table, force=True, seed=3)
    assert leaks_from_table(anew) == [] and anew.label_order == table.label_order
    assert "the split of the data is replaced by a new one, seed 3" in anew.notes


def test_a_copy_in_two_splits_is_a_leak(tmp_path: Path) -> None:
    root = write_ssv2(tmp_path, clips=True)
    table = load_table(root, "action")
    check_leaks(table, strict=True)
    shutil.copy(table.of_split("train").samples[0].path, table.of_split("test").samples[0].path)
    with pytest.raises(DataError, match=r"contents that are in two splits \(1\)"):
        check_leaks(table, strict=True)


def test_few_of_each_class_keep_every_split_and_class(root: Path) -> None:
    table = import_data(root).table
    few = few_per_class(table, 1, 0)
    for split in ("train", "test"):
        assert set(few.of_split(split).label_counts("action").values()) == {1}
        assert few.of_split(split).label_counts("action").keys() == table.of_split(split).label_counts("action").keys()
    assert few_per_class(table, 1000, 0) == table and few.label_order == table.label_order


def told(end: Any) -> dict[str, Any]:
    assert end.code == 0, end
    content: dict[str, Any] = json.loads(end.stdout)
    return content


def test_import_writes_a_manifest_and_tells_what_is_missing(cli: Callable[..., Any], name: str, root: Path) -> None:
    videos_of(root)[0].unlink()
    for path in videos_of(root):
        path.write_bytes(path.name.encode())  # no two alike
    said = told(cli("data", "import", root, "-o", root / "m.jsonl", "--json", "--seed", "2"))
    assert (said["format"], said["absent"], said["listed"], said["samples"]) == (
        name,
        1,
        said["samples"] + 1,
        said["samples"],
    )
    assert any("do not exist: 1 of" in note for note in said["notes"])
    expected = UCF_CLASSES if name == "ucf101" else [t.replace("[", "").replace("]", "") for t in SSV2_TEMPLATES]
    assert list(said["counts"]["action"]) == list(expected)
    assert load_table(root / "m.jsonl", "action") == import_data(root, seed=2).table
    strict = cli("data", "import", root, "-o", root / "n.jsonl", "--strict")
    assert strict.code == 1 and "do not exist: 1 of" in strict.stderr and not (root / "n.jsonl").exists()
    assert "fix: get them, or leave --strict out" in strict.stderr
    few = told(cli("data", "import", root, "--format", name, "-o", root / "few.csv", "--per-class", "1", "--json"))
    assert all(count <= 1 for counts in few["counts"]["action"].values() for count in counts.values())


def test_import_reads_the_split_that_is_asked_for(cli: Callable[..., Any], tmp_path: Path) -> None:
    root = write_ucf101(tmp_path)
    cli("data", "import", root, "--split", "3", "-o", root / "m.csv")
    assert load_table(root / "m.csv", "action") == import_data(root, split=3).table
    for options, code, said in (
        (["--split", "9"], 2, "split 9 of UCF101; allowed: 1, 2, 3"),
        (["--format", "x"], 2, "format 'x'"),
        (["--per-class", "0"], 2, "--per-class"),
    ):
        end = cli("data", "import", root, "-o", root / "n.csv", *options)
        assert (end.code, said in end.stderr) == (code, True), end
    end = cli("data", "import", root / "UCF-101", "-o", root / "n.csv")
    assert end.code == 1 and "fix: name it with --format" in end.stderr
    end = cli("data", "split", root, "-o", root / "n.csv", "--task", "risk")
    assert end.code == 1 and "fix: use --task action" in end.stderr and not (root / "n.csv").exists()


@pytest.mark.slow
def test_training_takes_the_folder_as_it_is(
    cli: Callable[..., Any], name: str, tmp_path: Path, settings: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    root = WRITERS[name](tmp_path / name, clips=True)
    videos_of(root)[-1].unlink()
    frozen = ["--set", "lora.last_blocks=0", "--set", "optim.epochs=1"]
    end = cli("train", root, "-o", tmp_path / "run", *settings, *frozen)
    assert end.code == 0 and "do not exist: 1 of" in caplog.text, end
    table = load_table(root, "action")
    run = Run.open(tmp_path / "run")
    assert (
        run.labels.targets == targets_from_table(table) and run.labels.targets[0].labels == table.label_order["action"]
    )
    assert {sample.name: sample.split for sample in run.read_split().samples} == {
        sample.name: sample.split for sample in table.samples
    }
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["data_notes"] == list(table.notes) and metrics["unreadable"] == []
    assert cli("train", root, "-o", tmp_path / "other", *settings, "--strict").code == 1
    scored = cli("eval", tmp_path / "run", root, "--split", "test", "-o", tmp_path / "eval.json")
    assert scored.code == 0, scored
    told_of = json.loads((tmp_path / "eval.json").read_text(encoding="utf-8"))
    assert told_of["metrics"]["action"]["n"] == len(table.of_split("test"))


def test_the_contact_sheet_shows_classes_in_their_order(cli: Callable[..., Any], tmp_path: Path) -> None:
    root = write_ucf101(tmp_path / "ucf")
    for sample in load_table(root, "action").samples:
        encoded(UCF_CLASSES[sample.labels["action"]], 0)(sample.path)
    said = told(cli("data", "preview", root, "-o", tmp_path / "sheet.png", "--per-class", "1", "--json"))
    assert list(said["counts"]["action"]) == list(UCF_CLASSES) and (tmp_path / "sheet.png").is_file()


def test_notes_are_logged_when_asked(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "vidrisk"):
        table: Table = load_table(root, "action")
    assert table.notes and all(note in caplog.text for note in table.notes)


@pytest.mark.parametrize(
    ("write", "place"),
    [
        (trees.write_ucf101, {"videos": "../clips/UCF-101"}),
        (trees.write_ssv2, {"videos": "../clips"}),
        (trees.write_hmdb51, {"videos": "../clips/hmdb51_org"}),
        (trees.write_ava, {"videos": "../clips"}),
        (trees.write_kinetics, {"place": "../clips/{split}"}),
    ],
)
def test_clips_may_lie_in_a_folder_of_their_own(
    tmp_path: Path, write: Callable[..., Path], place: dict[str, str]
) -> None:
    source = write(tmp_path / "lists", **place)
    with pytest.raises(DataError, match="do not exist"):
        import_data(source)
    found = import_data(source, media=tmp_path / "clips")
    assert found.absent == () and {sample.name.split("/")[0] for sample in found.table.samples} == {"clips"}


@pytest.mark.parametrize(
    ("name", "file"), [("activitynet", "some.json"), ("kinetics", "some.csv"), ("mmaction", "some")]
)
def test_a_split_in_only_some_samples_survives_lists(tmp_path: Path, name: str, file: str) -> None:
    """A sample without a split is written without one, and is read as a training sample."""
    splits = {"a.mp4": "train", "b.mp4": "test", "c.mp4": "val", "d.mp4": None}
    for video in splits:
        touch(tmp_path / video)
    samples = [
        Sample(tmp_path / video, video, {"action": "run" if video < "c" else "sit"}, split=split)  # type: ignore[arg-type]
        for video, split in splits.items()
    ]
    assert write_data_set(Table(tmp_path, "action", tuple(samples)), tmp_path / file, name=name).lost == {}
    found = import_data(tmp_path / file, name=name, media=tmp_path).table
    assert {sample.name: sample.split for sample in found.samples} == {**splits, "d.mp4": "train"}
    assert "samples of no split, taken as train: 1 of 4" in found.notes
