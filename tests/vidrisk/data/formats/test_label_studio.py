"""Tests of Label Studio: choices, timelines and boxes, in full exports and in JSON-MIN.

They also cover times, uploads, and annotations that do not count.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from trees import encoded, photo, touch, write_json

from vidrisk.data import Sample, Table
from vidrisk.data.data_sets import import_data, write_data_set
from vidrisk.data.formats import FORMATS, format_of
from vidrisk.data.formats.format import Listed, Reading
from vidrisk.frames import Interval
from vidrisk.runtimes.contract.choices import LabelTask
from vidrisk.runtimes.contract.errors import DataError

KNOWN = FORMATS["label-studio"]
VIDEO = {"video": "/data/upload/1/0a1b2c3d-t.mp4"}

BEYOND = {"intervals cut to the end of their video: 1", "intervals beyond the end of their video left out: 1"}


def result(kind: str, control: str = "label", region: str = "r1", shown: str = "video", **value: Any) -> dict[str, Any]:
    return {"id": region, "from_name": control, "to_name": shown, "type": kind, "origin": "manual", "value": value}


def timeline(
    label: str, *ranges: tuple[int, int], control: str = "action", region: str = "r1", **more: Any
) -> dict[str, Any]:
    return result(
        "timelinelabels",
        control,
        region,
        ranges=[{"start": start, "end": end} for start, end in ranges],
        timelinelabels=[label],
        **more,
    )


def choices(*labels: str, control: str = "action", region: str = "c1", shown: str = "video") -> dict[str, Any]:
    return result("choices", control, region, shown, choices=list(labels))


def task(*results: dict[str, Any], data: Any = None, **more: Any) -> dict[str, Any]:
    return {
        "id": 1,
        "annotations": [{"id": 7, "was_cancelled": False, "result": list(results)}],
        "data": data or VIDEO,
        "predictions": [],
        **more,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    touch(tmp_path / "t.mp4")
    return tmp_path


@pytest.fixture
def read(folder: Path) -> Callable[..., Listed]:
    def read_tasks(*tasks: Any, task: LabelTask = "action", **options: Any) -> Listed:
        write_json(folder / "export.json", list(tasks))
        return KNOWN.read(folder / "export.json", Reading(task, **options))

    return read_tasks


def parts_of(listed: Listed, target: str = "action") -> list[tuple[object, object]]:
    return [
        (sample.labels.get(target), sample.interval and (sample.interval.start, sample.interval.end))
        for sample in listed.samples
    ]


def test_frames_count_from_one_and_include_the_last_one(read: Callable[..., Listed]) -> None:
    listed = read(task(timeline("fall", (1, 10), (26, 50))), rate=25.0)
    assert parts_of(listed) == [("fall", (0.0, 0.4)), ("fall", (1.0, 2.0))]
    assert all(sample.interval and sample.interval.unit == "s" for sample in listed.samples)
    assert [sample.interval for sample in read(task(timeline("fall", (3, 3))), rate=24.0).samples] == [
        Interval(2 / 24, 3 / 24)
    ]


def test_without_a_rate_the_error_names_the_tool_s_defaults(
    read: Callable[..., Listed], folder: Path, cli: Callable[..., Any]
) -> None:
    with pytest.raises(DataError, match="24 by default, 25 in Label Studio Enterprise; fix: give the rate") as found:
        read(task(timeline("fall", (1, 10))))
    assert "\n" not in str(found.value)
    end = cli("data", "import", folder / "export.json", "-o", folder / "m.csv")
    assert end.code == 1 and "fix: give it with --rate" in end.stderr
    assert cli("data", "import", folder / "export.json", "-o", folder / "m.csv", "--rate", "24").code == 0


def test_a_rate_in_the_data_of_a_task_goes_first_and_must_be_one(read: Callable[..., Listed]) -> None:
    assert parts_of(read(task(timeline("fall", (1, 10)), data={**VIDEO, "fps": "10"}), rate=25.0)) == [
        ("fall", (0.0, 1.0))
    ]
    for rate in ("fast", 0, -1, 10**400, [1]):
        with pytest.raises(DataError, match=r"the rate .* is invalid"):
            read(task(timeline("fall", (1, 10)), data={**VIDEO, "fps": rate}))


def test_overlapping_labels_stay_and_are_counted(read: Callable[..., Listed]) -> None:
    listed = read(
        task(
            timeline("run", (1, 24)),
            timeline("shout", (13, 36), region="r2"),
            timeline("sit", (37, 48), region="r3"),
            timeline("wave", (37, 48), region="r4"),
        ),
        rate=24.0,
    )
    assert parts_of(listed) == [(("run",), (0.0, 1.0)), (("shout",), (0.5, 1.5)), (("sit", "wave"), (1.5, 2.0))]
    assert "parts of videos that overlap another one: 2" in listed.notes


def test_what_lies_beyond_the_end_is_cut_or_left_out_and_counted(read: Callable[..., Listed]) -> None:
    listed = read(task(timeline("run", (1, 60), (49, 60), framesCount=48)), rate=24.0)
    assert parts_of(listed) == [("run", (0.0, 2.0))]
    assert set(listed.notes) >= BEYOND
    listed = read(task(timeline("run", (1, 49), (73, 80), (25, 72), duration=2.01)), rate=24.0)
    assert parts_of(listed) == [("run", (0.0, 2.01)), ("run", (1.0, 2.01))]
    assert set(listed.notes) >= BEYOND


@pytest.mark.parametrize(
    ("keys", "frames"),
    [
        ([(1, True), (11, False)], [(1, 11)]),
        ([(1, True), (11, False), (21, True), (31, False)], [(1, 11), (21, 31)]),
        ([(5, True)], [(5, 48)]),
        ([(1, False)], [(1, 1)]),
        ([(1, False), (2, False), (3, False)], [(1, 3)]),
        ([(31, False), (21, True)], [(21, 31)]),
        ([(1, True), (60, True)], [(1, 48)]),
    ],
)
def test_a_box_is_there_between_key_frames_where_it_is_enabled(
    read: Callable[..., Listed], keys: list[tuple[int, bool]], frames: list[tuple[int, int]]
) -> None:
    sequence = [
        {"frame": frame, "enabled": enabled, "x": 1, "y": 1, "width": 5, "height": 5} for frame, enabled in keys
    ]
    for count in ("framesCount", "frameCount"):
        found = read(task(result("videorectangle", "box", sequence=sequence, labels=["car"], **{count: 48})), rate=24.0)
        assert parts_of(found) == [("car", ((first - 1) / 24, last / 24)) for first, last in frames]
    assert "'box' is taken as the action" in found.notes


def test_a_frame_zero_which_the_format_does_not_have_is_the_first_one_and_is_said(read: Callable[..., Listed]) -> None:
    listed = read(task(timeline("fall", (0, 12), (0, 0))), rate=24.0)
    assert parts_of(listed) == [("fall", (0.0, 0.5)), ("fall", (0.0, 1 / 24))]
    assert "frame numbers 0 read as frame 1, the first in Label Studio: 3" in listed.notes
    keys = [{"frame": 0, "enabled": True}, {"frame": 12, "enabled": False}]
    listed = read(task(result("videorectangle", "box", sequence=keys, labels=["car"])), rate=24.0)
    assert parts_of(listed) == [("car", (0.0, 0.5))]
    assert "frame numbers 0 read as frame 1, the first in Label Studio: 1" in listed.notes
    assert not any("frame numbers 0" in note for note in read(task(timeline("fall", (1, 12))), rate=24.0).notes)


def test_a_box_that_knows_its_video_needs_no_rate(read: Callable[..., Listed]) -> None:
    box = result(
        "videorectangle",
        "box",
        sequence=[{"frame": 1, "enabled": True}, {"frame": 30, "enabled": False}],
        labels=["car"],
        framesCount=60,
        duration=2,
    )
    assert parts_of(read(task(box))) == [("car", (0.0, 1.0))]


def test_the_last_annotation_that_was_not_cancelled_counts(read: Callable[..., Listed]) -> None:
    def annotations(*labels: tuple[str, bool]) -> list[dict[str, Any]]:
        return [{"was_cancelled": cancelled, "result": [choices(label)]} for label, cancelled in labels]

    several = task() | {"annotations": annotations(("run", False), ("sit", False), ("fall", True))}
    cancelled = task() | {"annotations": annotations(("run", True))}
    predicted = task() | {"annotations": [], "predictions": [{"result": [choices("run")]}]}
    listed = read(several, cancelled, predicted, task())
    assert parts_of(listed) == [("sit", None)]
    assert set(listed.notes) == {
        "annotations left out because their task has a later one: 1",
        "tasks that were skipped left out: 1",
        "tasks without an annotation left out (they have predictions): 1",
        "tasks whose annotation is empty left out: 1",
    }


def test_predictions_that_a_person_has_submitted_are_labels_and_are_counted(
    read: Callable[..., Listed], folder: Path
) -> None:
    for name in ("u.mp4", "v.mp4"):
        touch(folder / name)
    predicted = choices("run") | {"origin": "prediction"}
    text = result("textarea", "advice", "c1", text=["look"]) | {"origin": "prediction-changed"}
    accepted = task(predicted, predictions=[{"result": [choices("sit")]}])
    changed = task(predicted, text, data={"video": "u.mp4"})
    cancelled = task(data={"video": "v.mp4"}) | {"annotations": [{"was_cancelled": True, "result": [predicted]}]}
    listed = read(accepted, changed, cancelled)
    assert [(sample.name, sample.labels["action"]) for sample in listed.samples] == [("t.mp4", "run"), ("u.mp4", "run")]
    assert set(listed.notes) == {
        "annotations that are predictions which a person has submitted unchanged, taken as they are: 1",
        "tasks that were skipped left out: 1",
    }


def test_an_empty_choice_differs_from_none(read: Callable[..., Listed], folder: Path) -> None:
    touch(folder / "u.mp4")
    listed = read(task(choices()), task(choices("run", "sit"), data={"video": "u.mp4"}))
    assert parts_of(listed) == [((), None), (("run", "sit"), None)]
    nothing = result("timelinelabels", "action", ranges=[{"start": 1, "end": 5}])
    assert parts_of(read(task(choices("run"), nothing), rate=24.0)) == [("run", None)]


def test_controls_are_targets_texts_and_columns_by_their_names(read: Callable[..., Listed], folder: Path) -> None:
    photo(folder / "a.png")
    listed = read(
        task(
            choices("crack", control="defect_class", shown="image"),
            choices("严重", control="风险等级"),
            choices("dry", control="weather"),
            result("textarea", "advice", "t", text=["seal it", "soon"]),
            result("rating", "clarity", "q", rating=4),
            data={"image": "a.png", "site": "north", "floor": 3, "split": "Test", "group": "g1", "label": "old"},
        ),
        task="risk",
    )
    (sample,) = listed.samples
    assert sample.labels == {"defect": "crack", "level": "严重"} and sample.advice == "seal it\nsoon"
    assert sample.extra == {"site": "north", "floor": "3", "weather": "dry", "clarity": "4", "label (extra)": "old"}
    assert (sample.split, sample.group) == ("test", "g1")


def test_one_control_of_any_name_is_the_class_and_of_two_it_cannot_be_told(read: Callable[..., Listed]) -> None:
    listed = read(task(choices("run", control="what happens")))
    assert parts_of(listed) == [("run", None)] and "'what happens' is taken as the action" in listed.notes
    assert parts_of(read(task(choices("run", control="label"), choices("dry", control="weather")))) == [("run", None)]
    with pytest.raises(
        DataError, match=r"the controls what, weather: it is unclear which of them is the action; allowed: .* action"
    ):
        read(task(choices("run", control="what"), choices("dry", control="weather", region="c2")))


def test_what_belongs_to_a_region_is_said_of_its_part(read: Callable[..., Listed]) -> None:
    listed = read(
        task(
            timeline("fall", (1, 24)),
            timeline("run", (25, 48), region="r2"),
            choices("high", control="level", region="r1"),
            result("textarea", "description", "r2", text=["fast"]),
            result("textarea", "note", "other", text=["rain"]),
        ),
        task="action+risk",
        rate=24.0,
    )
    assert [(dict(sample.labels), sample.description, sample.extra) for sample in listed.samples] == [
        ({"action": "fall", "level": "high"}, "", {"note": "rain"}),
        ({"action": "run"}, "fast", {"note": "rain"}),
    ]


def test_shapes_on_a_photo_count_where_nothing_is_chosen(read: Callable[..., Listed], folder: Path) -> None:
    for name in ("a.png", "b.png"):
        photo(folder / name)
    box = result(
        "rectanglelabels", "defect_class", "b1", "image", x=1, y=1, width=5, height=5, rectanglelabels=["rust"]
    )
    listed = read(
        task(box, data={"image": "a.png"}),
        task(box, choices("sound", control="defect_class"), data={"image": "b.png"}),
        task="risk",
    )
    assert parts_of(listed, "defect") == [("rust", None), ("sound", None)]
    assert "photos without a choice (the labels of their shapes are used): 1" in listed.notes


def test_sound_labels_are_in_seconds(read: Callable[..., Listed]) -> None:
    assert parts_of(read(task(result("labels", "action", start=0.5, end=2.25, labels=["shout"])))) == [
        ("shout", (0.5, 2.25))
    ]


def test_json_min_says_the_same(read: Callable[..., Listed], folder: Path) -> None:
    touch(folder / "u.mp4")
    after = {
        "annotator": 1,
        "annotation_id": 3,
        "created_at": "2026-01-01",
        "updated_at": "2026-01-01",
        "lead_time": 4.5,
    }
    listed = read(
        {**VIDEO, "site": "north", "id": 1, "action": {"choices": ["run", "sit"]}, "advice": "look", **after},
        {"video": "u.mp4", "id": 2, "action": "run", **after},
        {"video": "u.mp4", "id": 2, "action": "fall", **after},
        multi_label=True,
    )
    assert [(sample.name, sample.labels["action"], sample.advice, sample.extra) for sample in listed.samples] == [
        ("t.mp4", ("run", "sit"), "look", {"site": "north"}),
        ("u.mp4", ("fall",), "", {}),
    ]
    assert "annotations left out because their task has a later one: 1" in listed.notes
    line = [{"ranges": [{"start": 1, "end": 12}], "timelinelabels": ["fall"]}]
    assert parts_of(read({"video": "t.mp4", "id": 1, "tl": line, **after}, rate=24.0)) == [("fall", (0.0, 0.5))]
    box = [{"sequence": [{"frame": 1, "enabled": True}, {"frame": 12, "enabled": False}], "labels": ["car"]}]
    assert parts_of(read({"video": "t.mp4", "id": 1, "box": box, **after}, rate=24.0)) == [("car", (0.0, 0.5))]


def test_tasks_without_a_clip_are_counted_and_files_that_are_not_there_are_absent(read: Callable[..., Listed]) -> None:
    listed = read(
        task(choices("run"), data={"text": "hello"}),
        task(choices("run"), data={"video": "/data/upload/1/abcdef12-gone.mp4"}),
    )
    assert not listed.samples and listed.absent == ("abcdef12-gone.mp4",)
    assert "tasks without a clip or a photo left out: 1" in listed.notes


def test_listed_files_are_counted_and_not_their_parts(folder: Path) -> None:
    tasks = [task(timeline("run", (1, 2)), timeline("sit", (5, 9)), data={"video": "t.mp4", "fps": 24})]
    tasks += [task(timeline("run", (1, 2)), data={"video": f"{gone}.mp4", "fps": 24}) for gone in ("u", "v")]
    write_json(folder / "x.json", tasks)
    found = import_data(folder / "x.json")
    assert len(found.table) == 2 and found.listed == 3
    assert "listed files that do not exist: 2 of 3 (u.mp4, v.mp4)" in found.table.notes


def test_an_upload_is_found_by_the_name_that_it_was_stored_under(read: Callable[..., Listed], folder: Path) -> None:
    touch(folder / "我 的.mp4")
    listed = read(task(choices("run"), data={"video": "https://cdn.example/x.mp4"}, file_upload="0a1b2c3d-我_的.mp4"))
    assert [sample.name for sample in listed.samples] == ["我 的.mp4"]


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"text": "hello"}, "record 1 has neither data nor an annotation"),
        ({"data": [1], "annotations": []}, "record 1 is not a task"),
        ({"data": VIDEO, "annotations": [7]}, "record 1 is not a task"),
        ({"data": VIDEO, "annotations": [{"result": 7}]}, "the result of its annotation is not a list of objects"),
        (task({"type": "choices"}), "result 1 lacks a type, a value or the name"),
        (task(timeline("run", (5, 3))), "has a range from 5 to 3"),
        (task(timeline("run", (-1, 3))), "'-1' is not a frame number"),
        (task(timeline("run", (-4, -1))), "'-4' is not a frame number; allowed: whole numbers from 1"),
        (task(timeline("run", (1, 10**400))), "is not a frame number"),
        (task(timeline("run", (1, 2)) | {"value": {"ranges": 3}}), "has no ranges"),
        (task(result("choices", choices=7)), "is 7; allowed: a list of names"),
        (task(result("choices", choices=["a", 7])), "a list of names"),
        (task(result("videorectangle", sequence=[7])), "has no sequence of key frames"),
        (task(result("videorectangle", sequence=[{"frame": 1.5}])), "'1.5' is not a frame number"),
        (task(result("videorectangle", sequence=[{"frame": -1}])), "control 'label': '-1' is not a frame number"),
    ],
)
def test_a_damaged_export_is_one_line(read: Callable[..., Listed], broken: Any, said: str) -> None:
    with pytest.raises(DataError, match=said) as found:
        read(broken, rate=24.0)
    assert "\n" not in str(found.value) and len(str(found.value)) < 1000


def test_a_task_may_be_as_long_as_a_box_in_every_frame_makes_it(read: Callable[..., Listed]) -> None:
    sequence = [
        {"frame": frame, "enabled": True, "x": 1.123456, "y": 1.123456, "width": 5.123456, "height": 5.123456}
        for frame in range(1, 20_001)
    ]
    listed = read(task(result("videorectangle", "box", sequence=sequence, labels=["car"])), rate=24.0)
    assert parts_of(listed) == [("car", (0.0, 20_000 / 24))]


def test_only_exports_are_claimed(read: Callable[..., Listed], folder: Path) -> None:
    read(task(choices("run")))
    path = folder / "export.json"
    assert format_of(path) is KNOWN and not KNOWN.owns(folder)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert format_of(path) is KNOWN and KNOWN.read(path, Reading("action")).samples
    others = [
        {"images": [], "annotations": [], "result": 1, "data": 2},
        [{"id": "1", "template": "a"}],
        [{"video": "a.mp4"}],
        [],
    ]
    for other in others:
        write_json(path, other)
        assert not KNOWN.owns(path)


def test_predictions_are_written_to_be_corrected(tmp_path: Path) -> None:
    encoded((200, 40, 40), 1)(tmp_path / "a b" / "c.mp4")
    samples = [
        Sample(
            tmp_path / "a b" / "c.mp4",
            "a b/c.mp4",
            {"action": label},
            extra={"score": score, "cam": "7"},
            interval=part,
        )
        for label, score, part in (("run", "0.9", Interval(0, 1)), ("fall", "0.4", Interval(0.98, 2)))
    ]
    write_data_set(Table(tmp_path, "action", tuple(samples)), tmp_path / "tasks.json", name="label-studio", model="m1")
    (written,) = json.loads((tmp_path / "tasks.json").read_text("utf-8"))
    assert (
        written["data"] == {"video": "/data/local-files/?d=a%20b/c.mp4", "cam": "7", "fps": 24}
        and written["annotations"] == []
    )
    (prediction,) = written["predictions"]
    assert (prediction["model_version"], prediction["score"]) == ("m1", 0.4)
    assert [(one["type"], one["value"], one["score"]) for one in prediction["result"]] == [
        ("timelinelabels", {"ranges": [{"start": 1, "end": 24}], "timelinelabels": ["run"]}, 0.9),
        ("timelinelabels", {"ranges": [{"start": 25, "end": 48}], "timelinelabels": ["fall"]}, 0.4),
    ]
    with pytest.raises(
        DataError,
        match=r"has no labelled file \(tasks without an annotation left out \(they have predictions\): 1\); allowed",
    ):
        import_data(tmp_path / "tasks.json")


def test_a_column_named_score_is_one_where_people_have_labelled(tmp_path: Path) -> None:
    encoded((200, 40, 40), 1)(tmp_path / "a.mp4")
    table = Table(
        tmp_path, "action", (Sample(tmp_path / "a.mp4", "a.mp4", {"action": "run"}, extra={"score": "home 3:1"}),)
    )
    write_data_set(table, tmp_path / "tasks.json", name="label-studio")
    assert import_data(tmp_path / "tasks.json").table.samples == table.samples
    write_data_set(table, tmp_path / "predicted.json", name="label-studio", model="m1")
    (predicted,) = json.loads((tmp_path / "predicted.json").read_text("utf-8"))
    assert predicted["data"]["score"] == "home 3:1" and "score" not in predicted["predictions"][0]


def rectangle(
    region: str, x: float, y: float, width: float, height: float, *labels: str, turn: float = 0
) -> dict[str, Any]:
    return result(
        "rectanglelabels",
        "defect_class",
        region,
        "image",
        x=x,
        y=y,
        width=width,
        height=height,
        rotation=turn,
        rectanglelabels=list(labels),
    )


def test_rectangles_are_cut_out_by_percent_with_what_belongs_to_them(
    tmp_path: Path, read: Callable[..., Listed]
) -> None:
    pixels = photo(tmp_path / "a.png", side=(200, 100))
    boxes = [
        rectangle("b1", 10, 20, 25, 50, "rust"),
        result("choices", "level", "b1", "image", choices=["high"]),
        rectangle("b2", 50, 10, 20, 20, "crack", turn=90),
        rectangle("b3", 0, 0, 10, 10),
        result("rectangle", "box", "b4", "image", x=0, y=0, width=5, height=10),
        result("labels", "defect_class", "b4", "image", x=0, y=0, width=5, height=10, labels=["rust"]),
    ]
    others = [
        choices("dirty", control="state", region="whole", shown="image"),
        result("polygonlabels", "defect_class", "p", "image", points=[[1, 1], [2, 2], [1, 2]], polygonlabels=["rust"]),
    ]
    listed = read(
        task(*boxes, *others, data={"image": "a.png", "site": "north", "split": "test"}),
        task(rectangle("b1", 0, 0, 9, 9, "rust"), data={"image": "gone.png"}),
        task(choices("run")),
        task="risk",
        crops=True,
        made=tmp_path / "made",
    )
    cut = {sample.name: np.asarray(Image.open(sample.path)) for sample in listed.samples}
    assert np.array_equal(cut["a.png.1.png"], pixels[20:70, 20:70])
    assert np.array_equal(
        cut["a.png.2.png"], pixels[10:50, 80:100]
    )  # 40 x 20 pixels, turned around its upper left corner
    assert np.array_equal(cut["a.png.3.png"], pixels[:10, :10])
    assert [(sample.labels, sample.extra, sample.split, sample.group) for sample in listed.samples] == [
        ({"defect": "rust", "level": "high"}, {"site": "north"}, "test", "a.png"),
        ({"defect": "crack"}, {"site": "north"}, "test", "a.png"),
        ({"defect": "rust"}, {"site": "north"}, "test", "a.png"),
    ]
    assert listed.root == tmp_path / "made" and listed.absent == ("gone.png",)
    assert {
        "boxes without a label left out: 1",
        "results without a rectangle left out: 2",
        "tasks of videos left out, because boxes are cut only from photos: 1",
    } <= set(listed.notes)


def test_a_photo_that_cannot_be_read_has_no_boxes(tmp_path: Path, read: Callable[..., Listed]) -> None:
    (tmp_path / "a.png").write_bytes(b"junk")
    listed = read(
        task(rectangle("b1", 0, 0, 9, 9, "rust"), data={"image": "a.png"}),
        task="risk",
        crops=True,
        made=tmp_path / "made",
    )
    assert not listed.samples and listed.notes == ("photos that cannot be read left out: 1",)


def test_columns_that_mean_something_else_are_refused(tmp_path: Path) -> None:
    encoded((200, 40, 40), 1)(tmp_path / "a.mp4")
    for name in ("video", "fps", "severity", "subset"):
        table = Table(tmp_path, "action", (Sample(tmp_path / "a.mp4", "a.mp4", {"action": "run"}, extra={name: "1"}),))
        with pytest.raises(DataError, match=f"the extra column '{name}' of a.mp4 has a reserved name; fix: rename it"):
            write_data_set(table, tmp_path / "tasks.json", name="label-studio")
