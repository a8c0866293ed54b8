"""Tests of ActivityNet: segments of untrimmed videos, which may overlap.

Segments may also end, or even begin, after the end of their video.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from trees import touch, write_json

from vidrisk.data import Sample, Table
from vidrisk.data.data_sets import import_data, write_data_set
from vidrisk.data.formats import FORMATS, activitynet, format_of
from vidrisk.data.formats.format import SCORE, Writing
from vidrisk.frames import Interval
from vidrisk.runtimes.contract.errors import DataError

NAME = "activity_net.v1-3.min.json"


def annotation(start: Any, end: Any, label: Any = "Rock climbing") -> dict[str, Any]:
    return {"segment": [start, end], "label": label}


def video(*annotations: dict[str, Any], duration: Any = 60.0, subset: str = "training") -> dict[str, Any]:
    return {
        "duration": duration,
        "subset": subset,
        "resolution": "640x480",
        "url": "",
        "annotations": list(annotations),
    }


def data_set(root: Path, database: dict[str, Any], name: str = NAME) -> Path:
    """Write a list in its published form and a video for each of its entries; return the folder."""
    write_json(
        root / name,
        {
            "taxonomy": [{"nodeName": "Root", "nodeId": 0, "parentId": None}],
            "version": "VERSION 1.3",
            "database": database,
        },
    )
    for known in database:
        touch(root / f"v_{known}.mp4")
    return root


def parts_of(root: Path) -> list[tuple[str, Any, Interval | None]]:
    return [(sample.name, sample.labels["action"], sample.interval) for sample in import_data(root).table.samples]


def test_every_segment_is_a_sample_and_subsets_are_splits(tmp_path: Path) -> None:
    root = data_set(
        tmp_path,
        {
            "a": video(annotation(1.5, 10), annotation(20, 30.25, "Drinking beer")),
            "b": video(annotation(0, 5), subset="validation"),
            "c": video(annotation(0, 5), subset="testing"),
        },
    )
    assert [known.name for known in FORMATS.values() if known.owns(root)] == ["activitynet"]
    assert parts_of(root) == [
        ("v_a.mp4", "Rock climbing", Interval(1.5, 10.0)),
        ("v_a.mp4", "Drinking beer", Interval(20, 30.25)),
        ("v_b.mp4", "Rock climbing", Interval(0, 5)),
        ("v_c.mp4", "Rock climbing", Interval(0, 5)),
    ]
    assert [sample.split for sample in import_data(root).table.samples] == ["train", "train", "val", "test"]


def test_segments_are_cut_to_the_duration_and_those_behind_it_are_left_out_and_both_are_counted(tmp_path: Path) -> None:
    root = data_set(
        tmp_path,
        {
            "a": video(
                annotation(50, 60.01),
                annotation(-0.2, 5),
                annotation(60, 70),
                annotation(61, 62),
                annotation(10, 10),
                annotation(12, 11),
                annotation(1, 60),
            )
        },
    )
    found = import_data(root).table
    assert [sample.interval for sample in found.samples] == [Interval(50, 60), Interval(0, 5), Interval(1, 60)]
    assert {
        "segments cut to the duration of their video: 2",
        "segments after the end of their video left out: 2",
        "segments without a length left out: 2",
    } <= set(found.notes)


def test_without_a_duration_nothing_is_cut(tmp_path: Path) -> None:
    entry = video(annotation(50, 6000.5))
    del entry["duration"]
    assert parts_of(data_set(tmp_path, {"a": entry}))[0][2] == Interval(50, 6000.5)


@pytest.mark.parametrize(
    ("spans", "count"),
    [
        ([(0, 10), (10, 20)], 0),
        ([(0, 10), (9, 20)], 2),
        ([(0, 30), (1, 2), (5, 6), (40, 50)], 3),
        ([(0, 3), (2, 10), (2.5, 2.6), (20, 30), (29, 31)], 5),
    ],
)
def test_segments_that_overlap_are_kept_and_counted(
    tmp_path: Path, spans: list[tuple[float, float]], count: int
) -> None:
    found = import_data(
        data_set(tmp_path, {"a": video(*(annotation(*span, f"l{n}") for n, span in enumerate(spans)))})
    ).table
    assert len(found) == len(spans) and found.multi_targets == frozenset()
    said = [note for note in found.notes if note.startswith("parts of videos that overlap another one: ")]
    assert said == ([f"parts of videos that overlap another one: {count}"] if count else [])


def test_one_segment_with_two_labels_makes_the_data_multi_label(tmp_path: Path) -> None:
    root = data_set(tmp_path, {"a": video(annotation(1, 2, "x"), annotation(1, 2, "y"), annotation(3, 4, "x"))})
    found = import_data(root).table
    assert [sample.labels["action"] for sample in found.samples] == [("x", "y"), ("x",)]
    assert "action is multi-label: 1 of 2 samples have several labels, or none" in found.notes
    with pytest.raises(DataError, match="is listed twice with different labels"):
        import_data(root, multi_label=False)


def test_videos_of_the_test_subset_without_annotations_are_counted(tmp_path: Path) -> None:
    root = data_set(tmp_path, {"a": video(annotation(1, 2)), "b": video(subset="testing")})
    assert "videos without annotations left out: 1" in import_data(root).table.notes and len(parts_of(root)) == 1


@pytest.mark.parametrize("file", ["v_a.mkv", "a.webm", "videos/v_a.mp4", "v1-3/train_val/v_a.mp4", "train/a.mp4"])
def test_videos_are_found_with_and_without_v_in_any_container(tmp_path: Path, file: str) -> None:
    root = data_set(tmp_path, {"a": video(annotation(1, 2))})
    (root / "v_a.mp4").unlink()
    assert not list(root.glob("v_*"))
    touch(root / file)
    assert parts_of(root)[0][0] == file


def test_a_file_in_a_folder_for_lists_has_its_videos_beside_that(tmp_path: Path) -> None:
    root = data_set(tmp_path, {"a": video(annotation(1, 2)), "gone": video(annotation(1, 2))})
    (root / "v_gone.mp4").unlink()
    (root / "annotations").mkdir()
    (root / NAME).rename(root / "annotations" / NAME)
    for source in (root, root / "annotations" / NAME):
        found = import_data(source)
        assert [sample.name for sample in found.table.samples] == ["v_a.mp4"] and found.absent == ("v_gone.mp4",)


def test_files_of_mmaction_are_read_by_the_split_in_their_names(tmp_path: Path) -> None:
    for name, known in (("train", "v_test1"), ("val", "v_test2")):
        write_json(
            tmp_path / f"anet_anno_{name}.json",
            {
                known: {
                    "duration_second": 2,
                    "duration_frame": 48,
                    "annotations": [annotation(1.0, 2.5)],
                    "feature_frame": 48,
                    "fps": 24.0,
                }
            },
        )
        touch(tmp_path / f"{known}.mp4")
    found = import_data(tmp_path).table
    assert [(sample.name, sample.split, sample.interval) for sample in found.samples] == [
        ("v_test1.mp4", "train", Interval(1, 2)),
        ("v_test2.mp4", "val", Interval(1, 2)),
    ]


def test_a_large_file_is_read_video_by_video(tmp_path: Path) -> None:
    database = {
        f"{number:05d}": video(
            *(annotation(second, second + 1, "x" * 50) for second in range(10)), duration=20 + number / 7
        )
        for number in range(2000)
    }
    write_json(
        tmp_path / NAME,
        {"version": 1.3, "taxonomy": [{"nodeName": "n" * 60}] * 1000, "database": database, "more": 12345},
    )
    touch(tmp_path / "v_00000.mp4")
    found = import_data(tmp_path)
    assert (tmp_path / NAME).stat().st_size > 2**20 and found.listed == 2000


def test_a_file_of_such_a_name_without_segments_is_said(tmp_path: Path) -> None:
    root = data_set(tmp_path, {"a": video(annotation(1, 2))})
    write_json(root / "anet_entities.json", {"a": {"captions": []}})
    assert "files without segments are not read: anet_entities.json" in import_data(root).table.notes


def test_two_files_are_not_mixed(tmp_path: Path) -> None:
    root = data_set(tmp_path, {"a": video(annotation(1, 2))})
    data_set(root, {"a": video(annotation(1, 2))}, "activity_net.v1-2.min.json")
    with pytest.raises(DataError, match=r"several lists \(activity_net\.v1-2\.min\.json, .*fix: name the file to read"):
        import_data(root)
    assert len(import_data(root / NAME).table) == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], "is not a JSON object"),
        ({"database": []}, "database is not a JSON object"),
        ({"database": {}}, "has no videos"),
        ({"database": {"a": 1}}, r"database, 'a' is not a video with annotations; allowed: \{\"annotations\""),
        ({"database": {"a": {"annotations": {}}}}, "'a' is not a video with annotations"),
        ({"database": {"../a": video(annotation(1, 2))}}, r"'\.\./a' is not a video with annotations"),
        (
            {"database": {"a": video(annotation(1, 2)) | {"path": "/etc/passwd.mp4"}}},
            "'a' is not a video with annotations",
        ),
        ({"database": {"a": video({"segment": [1, 2]})}}, "'a' has an annotation without a label"),
        ({"database": {"a": video(annotation(1, 2, " "))}}, "'a' has an annotation without a label"),
        (
            {"database": {"a": video(annotation("1", 2))}},
            r"'a' has the segment \['1', 2\]; allowed: \{\"segment\": \[start, end\]",
        ),
        ({"database": {"a": video(annotation(1, float("nan")))}}, r"'a' has the segment \[1, nan\]"),
        ({"database": {"a": video(annotation(1, float("inf")))}}, r"'a' has the segment \[1, inf\]"),
        ({"database": {"a": video({"segment": [1], "label": "x"})}}, r"'a' has the segment \[1\]"),
        ({"database": {"a": video({"segment": None, "label": "x"})}}, "'a' has the segment None"),
        (
            {"database": {"a": video(annotation(1, 2), duration=-1)}},
            "'a' has the duration -1; allowed: seconds, more than 0",
        ),
        ({"database": {"a": video(annotation(1, 2), duration="60")}}, "'a' has the duration 60"),
        ({"database": {"a": video(annotation(1, 2), subset="holdout")}}, "'a': the split 'holdout'; allowed: "),
    ],
)
def test_files_that_do_not_fit_are_refused_in_one_line(tmp_path: Path, content: Any, said: str) -> None:
    write_json(tmp_path / "annotations.json", content)
    touch(tmp_path / "a.mp4")
    with pytest.raises(DataError, match=said) as caught:
        import_data(tmp_path / "annotations.json", name="activitynet")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        {"images": [], "annotations": [], "categories": []},
        {"a": {"annotations": {"label": "x", "segment": [0, 1]}, "subset": "train"}},
        [{"id": 1, "annotations": []}],
    ],
)
def test_other_json_is_not_claimed(tmp_path: Path, content: Any) -> None:
    write_json(tmp_path / "annotations.json", content)
    found = format_of(tmp_path / "annotations.json")
    assert found is None or found.name != "activitynet"


def sample(root: Path, name: str, label: Any, part: Interval | None = None, **more: Any) -> Sample:
    touch(root / name)
    return Sample(root / name, name, {"action": label}, interval=part, **more)


def test_videos_of_another_name_are_written_with_their_path(tmp_path: Path) -> None:
    table = Table(
        tmp_path, "action", (sample(tmp_path, "v_a.mp4", "x", Interval(1, 2)), sample(tmp_path, "cam/v_a.avi", "y"))
    )
    write_data_set(table, tmp_path / "set.json", name="activitynet")
    database = json.loads((tmp_path / "set.json").read_text(encoding="utf-8"))["database"]
    assert database == {
        "a": {"annotations": [{"segment": [1, 2], "label": "x"}]},
        "cam/v_a.avi": {"path": "cam/v_a.avi", "annotations": [{"label": "y"}]},
    }
    assert import_data(tmp_path / "set.json").table.samples == table.samples


def test_scores_of_predictions_are_written_beside_the_labels(tmp_path: Path) -> None:
    table = Table(tmp_path, "action", (sample(tmp_path, "v_a.mp4", "x", Interval(1, 2), extra={SCORE: "0.75"}),))
    activitynet.write_activitynet(table, tmp_path / "set.json", Writing("a model"))
    (entry,) = json.loads((tmp_path / "set.json").read_text(encoding="utf-8"))["database"].values()
    assert entry["annotations"] == [{"segment": [1, 2], "label": "x", "score": 0.75}]
    table = import_data(tmp_path / "set.json").table
    assert table.samples[0].labels == {"action": "x"}
    assert "labels with the confidence of a model, taken as they are: 1" in table.notes
