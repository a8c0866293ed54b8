"""Tests of FiftyOne: kinds of labels in samples.json, file stems in labels.json, frames counted from 1."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from drawn_tables import file_of
from trees import write_json

from vidrisk.data import Sample, Table
from vidrisk.data.data_sets import import_data, write_data_set
from vidrisk.data.formats import format_of
from vidrisk.frames import Interval
from vidrisk.runtimes.contract.errors import DataError


def one(label: str | None, kind: str = "Classification", **more: Any) -> dict[str, Any]:
    return {"_id": {"$oid": "65d"}, "_cls": kind, "tags": [], "label": label, "confidence": None} | more


def several(*labels: str, kind: str = "Classifications") -> dict[str, Any]:
    return {
        "_cls": kind,
        "classifications" if kind == "Classifications" else "detections": [
            one(label, kind.removesuffix("s")) for label in labels
        ],
    }


def sample(path: str, **fields: Any) -> dict[str, Any]:
    return {
        "_id": {"$oid": "65d"},
        "filepath": path,
        "tags": [],
        "metadata": {"_cls": "ImageMetadata"},
        "_media_type": "image",
        "_rand": 0.5,
        "created_at": {"$date": 1},
    } | fields


def data_set(root: Path, *samples: dict[str, Any], **about: Any) -> Path:
    write_json(root / "metadata.json", {"version": "1.0.0", "sample_fields": [{"name": "filepath"}], **about})
    write_json(root / "samples.json", {"samples": list(samples)})
    return root


def test_the_ground_truth_is_the_target_and_tags_are_splits(tmp_path: Path) -> None:
    for number, name in enumerate("abc"):
        file_of(tmp_path / "data", f"{name}.png", number)
    root = data_set(
        tmp_path,
        sample(
            "data/a.png",
            ground_truth=one("cat"),
            predictions=one("dog"),
            tags=["training", "hard"],
            weather="sunny",
            uniqueness=0.25,
        ),
        sample("data/b.png", ground_truth=one("dog"), tags=["test"]),
        sample("data/c.png", predictions=one("dog")),
        default_classes=["dog", "cat", "bird"],
    )
    found = import_data(root)
    first, second = found.table.samples
    assert found.format.name == "fiftyone" and (first.labels, first.split, second.split) == (
        {"action": "cat"},
        "train",
        "test",
    )
    assert first.extra == {"weather": "sunny", "uniqueness": "0.25", "tags": "hard"}
    assert found.table.label_order == {"action": ("dog", "cat", "bird")}
    assert {"labels of the field predictions left out: 2", "samples without a label left out: 1"} <= set(
        found.table.notes
    )


def test_fields_named_as_targets_are_these(tmp_path: Path) -> None:
    file_of(tmp_path / "data", "a.png", 0)
    root = data_set(
        tmp_path,
        sample(
            "data/a.png", 缺陷类别=several("crack", "spall"), risk_level=one("严重"), action=one("run"), other=one("x")
        ),
    )
    (risk,) = import_data(root, task="risk").table.samples
    assert risk.labels == {"defect": ("crack", "spall"), "level": "严重"}
    (both,) = import_data(root, task="action+risk").table.samples
    assert set(both.labels) == {"action", "defect", "level"}


def test_temporal_detections_are_parts_whose_frames_count_from_1(tmp_path: Path) -> None:
    file_of(tmp_path / "data", "a.mp4", 0)
    events = {
        "_cls": "TemporalDetections",
        "detections": [
            one("run", "TemporalDetection", support=[1, 40]),
            one("fall", "TemporalDetection", support=[41, 41]),
        ],
    }
    root = data_set(tmp_path, sample("data/a.mp4", _media_type="video", events=events))
    assert [(s.interval, s.labels["action"]) for s in import_data(root).table.samples] == [
        (Interval(0, 40, "frame"), "run"),
        (Interval(40, 41, "frame"), "fall"),
    ]
    write_json(root / "frames.json", {"frames": []})
    assert any("frames.json" in note for note in import_data(root).table.notes)


def test_paths_of_another_machine_are_found_by_their_last_parts_and_nothing_outside_is(tmp_path: Path) -> None:
    root = tmp_path / "set"
    file_of(root, "data/in/a.png", 0)
    file_of(tmp_path, "out.png", 1)
    paths = ("/home/me/fiftyone/in/a.png", "C:\\data\\in\\a.png", "../out.png", str(tmp_path / "out.png"))
    data_set(root, *(sample(path, ground_truth=one("x")) for path in paths))
    found = import_data(root)
    assert [s.name for s in found.table.samples] == ["data/in/a.png"] and len(found.absent) == 3
    found = import_data(root, media=root / "data")
    assert [s.name for s in found.table.samples] == ["data/in/a.png"] and len(found.absent) == 2


@pytest.mark.parametrize(
    ("classes", "labels", "expected"),
    [
        (["dog", "cat"], {"a": 1, "in/b": "dog"}, {"data/a.png": "cat", "data/in/b.png": "dog"}),
        (
            None,
            {"a": "cat", "in/b": {"label": "dog", "confidence": 0.5}},
            {"data/a.png": "cat", "data/in/b.png": "dog"},
        ),
        (["dog", "cat"], {"a": [0, 1], "in/b": []}, {"data/a.png": ("cat", "dog"), "data/in/b.png": ()}),
        (["dog", "cat"], {"a": [{"label": 0}, {"label": "cat"}]}, {"data/a.png": ("cat", "dog")}),
    ],
)
def test_labels_json_names_files_without_their_suffix(tmp_path: Path, classes: Any, labels: Any, expected: Any) -> None:
    file_of(tmp_path / "data", "a.png", 0)
    file_of(tmp_path / "data", "in/b.png", 1)
    write_json(tmp_path / "labels.json", {"classes": classes, "labels": {**labels, "gone": labels["a"], "empty": None}})
    found = import_data(tmp_path)
    assert {s.name: s.labels["action"] for s in found.table.samples} == expected and found.absent == ("gone",)
    assert found.table.label_order == ({"action": ("dog", "cat")} if classes else {})
    assert "files without a label left out: 1" in found.table.notes
    of_models = "confidence" in json.dumps(labels)
    assert ("labels with the confidence of a model, taken as they are: 1" in found.table.notes) == of_models


def test_labels_json_of_clips_has_frames_or_seconds(tmp_path: Path) -> None:
    file_of(tmp_path / "data", "a.mp4", 0)
    write_json(
        tmp_path / "labels.json",
        {
            "classes": ["run", "fall"],
            "labels": {
                "a": [
                    {"label": 1, "support": [5, 9], "attributes": {"weather": "rain"}},
                    {"label": 0, "timestamps": [0.5, 2]},
                ]
            },
        },
    )
    assert [(s.interval, s.labels["action"], s.extra) for s in import_data(tmp_path).table.samples] == [
        (Interval(4, 9, "frame"), "fall", {"weather": "rain"}),
        (Interval(0.5, 2), "run", {}),
    ]


def test_numbers_without_classes_get_their_names_from_a_file(tmp_path: Path) -> None:
    file_of(tmp_path / "data", "a.png", 0)
    write_json(tmp_path / "labels.json", {"labels": {"a": 1}})
    (tmp_path / "names.txt").write_text("dog\ncat\n")
    assert import_data(tmp_path).table.samples[0].labels == {"action": "1"}
    assert import_data(tmp_path, labels=tmp_path / "names.txt").table.samples[0].labels == {"action": "cat"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"classes": ["a"], "labels": {"a": 1}}, "has the class 1; allowed: 0 to 0"),
        ({"labels": {"a": 0.5}}, "has the label '0.5'"),
        ({"labels": {"a": True}}, "has the label 'True'"),
        ({"labels": {"a": [{"label": "x", "support": [0, 3]}]}}, "frames counted from 1"),
        ({"labels": {"a": [{"label": "x", "support": "3"}]}}, "two numbers"),
        ({"classes": "a", "labels": {}}, "not a list of names"),
        ({"labels": {"a": [{"label": "x", "timestamps": [3, 1]}]}}, "allowed: seconds"),
    ],
)
def test_damaged_labels_are_one_line(tmp_path: Path, content: Any, said: str) -> None:
    file_of(tmp_path / "data", "a.mp4", 0)
    write_json(tmp_path / "labels.json", content)
    with pytest.raises(DataError, match=said):
        import_data(tmp_path, name="fiftyone")


def test_several_fields_that_may_be_meant_and_labels_without_a_name_are_one_line(tmp_path: Path) -> None:
    file_of(tmp_path / "data", "a.png", 0)
    root = data_set(tmp_path, sample("data/a.png", first=one("x"), second=one("y")))
    with pytest.raises(DataError, match=r"several fields of labels: first, second; .*fix: export the right one"):
        import_data(root)
    data_set(tmp_path, sample("data/a.png", first={"_cls": "Classification", "label": 3}))
    with pytest.raises(DataError, match="has a label in 'first' without a name"):
        import_data(root)


def test_other_files_of_these_names_are_not_claimed(tmp_path: Path) -> None:
    write_json(tmp_path / "labels.json", {"Holding something": "1", "labels": 3})
    (tmp_path / "data").mkdir()
    write_json(tmp_path / "samples.json", {"samples": [{"path": "a.jpg"}]})
    assert format_of(tmp_path) is None


def test_clips_and_photos_become_two_data_sets_and_seconds_frames(tmp_path: Path) -> None:
    clip, photo = file_of(tmp_path, "a.mp4", 0), file_of(tmp_path, "b.png", 1)
    samples = (
        Sample(clip, "a.mp4", {"action": "run"}, split="val", interval=Interval(0.2, 0.5), extra={"score": "0.5"}),
        Sample(photo, "b.png", {"action": "fall"}, split="train"),
    )
    write_data_set(Table(tmp_path, "action", samples), tmp_path / "out", name="fiftyone", model="m1")
    written = json.loads((tmp_path / "out" / "videos" / "samples.json").read_text())["samples"]
    (event,) = written[0].pop("action_events")["detections"]
    assert written == [{"filepath": "data/a.mp4", "tags": ["val"], "frames": "frames/none.json"}]
    assert event == {
        "_cls": "TemporalDetection",
        "label": "run",
        "confidence": 0.5,
        "tags": ["val"],
        "support": [2, 4],
        "columns": {"start_s": "0.2", "end_s": "0.5"},
    }
    assert json.loads((tmp_path / "out" / "images" / "metadata.json").read_text())["media_type"] == "image"
    table = import_data(tmp_path / "out").table
    assert "labels with the confidence of a model, taken as they are: 1" in table.notes
    assert {s.name: (s.interval, s.split) for s in table.samples} == {
        "videos/data/a.mp4": (Interval(0.2, 0.5), "val"),
        "images/data/b.png": (None, "train"),
    }
