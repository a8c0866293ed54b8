"""Tests of CVAT for video: tracks with gaps, frame steps, skeletons, and attributes that change.

They also cover projects and folders of tasks.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from trees import encoded, touch

from vidrisk.data import Sample, Table
from vidrisk.data.data_sets import import_data, write_data_set
from vidrisk.data.formats import FORMATS, format_of
from vidrisk.data.formats.cvat.elements import PREDICTED, TAKEN
from vidrisk.data.formats.format import Listed, Reading
from vidrisk.frames import Interval
from vidrisk.runtimes.contract.choices import LabelTask
from vidrisk.runtimes.contract.errors import DataError

KNOWN = FORMATS["cvat-video"]


def export(folder: Path, *tracks: str, source: str = "<source>t.mp4</source>", task: str = "") -> Path:
    """Write a task with its tracks."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "annotations.xml"
    meta = f"<meta><task><id>5</id><name>v1</name><mode>interpolation</mode>{task}</task>{source}</meta>"
    path.write_text(
        f'<?xml version="1.0"?>\n<annotations><version>1.1</version>{meta}{"".join(tracks)}</annotations>', "utf-8"
    )
    return path


def track(label: str, *shapes: str, more: str = "") -> str:
    return f'<track id="0" label="{label}" source="manual"{more}>{"".join(shapes)}</track>'


def shape(frame: object, outside: int = 0, kind: str = "box", **attributes: str) -> str:
    inner = "".join(f'<attribute name="{name}">{value}</attribute>' for name, value in attributes.items())
    return f'<{kind} frame="{frame}" outside="{outside}" occluded="0" keyframe="1">{inner}</{kind}>'


def read(path: Path, task: LabelTask = "action", **options: object) -> Listed:
    return KNOWN.read(path, Reading(task, **options))  # type: ignore[arg-type]


def parts_of(listed: Listed) -> list[tuple[object, object]]:
    return [
        (sample.labels.get("action"), sample.interval and (sample.interval.start, sample.interval.end))
        for sample in listed.samples
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    touch(tmp_path / "t.mp4")
    return tmp_path


def test_a_track_ends_before_the_frame_where_it_is_outside_and_may_come_back(folder: Path) -> None:
    listed = read(
        export(folder, track("run", shape(10), shape(13, 1), shape(16, 1), shape(20), shape(21, kind="polygon")))
    )
    assert parts_of(listed) == [("run", (10, 13)), ("run", (20, 22))]
    assert all(sample.interval and sample.interval.unit == "frame" for sample in listed.samples)


def test_frames_are_those_of_the_video_and_the_last_one_lasts_until_the_next_that_is_taken(folder: Path) -> None:
    task = "<start_frame>10</start_frame><stop_frame>{}</stop_frame><frame_filter>step=3</frame_filter>"
    tracks = track("run", shape(10), shape(13), shape(16))
    assert parts_of(read(export(folder, tracks, task=task.format(19)))) == [("run", (10, 19))]
    assert parts_of(read(export(folder, tracks, task=task.format(17)))) == [("run", (10, 18))]
    assert parts_of(read(export(folder, tracks))) == [("run", (10, 17))]


def test_a_track_ends_at_the_last_frame_of_its_task(folder: Path) -> None:
    task = "<stop_frame>9</stop_frame>"
    listed = read(export(folder, track("run", shape(0), shape(100)), track("sit", shape(4), shape(30, 1)), task=task))
    assert parts_of(listed) == [("run", (0, 10)), ("sit", (4, 10))]
    assert "shapes behind stop_frame left out: 1" in listed.notes
    listed = read(export(folder, track("run", shape(10), shape(13)), track("sit", shape(9)), task=task))
    assert parts_of(listed) == [("sit", (9, 10))]
    assert "shapes behind stop_frame left out: 2" in listed.notes


def test_frames_are_sorted_and_only_the_key_frames_need_be_there(folder: Path) -> None:
    assert parts_of(read(export(folder, track("run", shape(40, 1), shape(5))))) == [("run", (5, 40))]


def test_joints_of_a_skeleton_are_no_tracks_of_their_own(folder: Path) -> None:
    joints = track("knee", shape(10, kind="points"), shape(12, 1, "points")) + track(
        "hip", shape(11, kind="points"), shape(14, 1, "points")
    )
    own = track("person", shape(10, kind="skeleton"), shape(20, 1, "skeleton"), joints)
    listed = read(export(folder, own, track("dog", joints)))
    assert parts_of(listed) == [("person", (10, 20)), ("dog", (10, 12))]
    assert "joints of skeletons left out: 4" in listed.notes


def test_an_attribute_that_is_the_action_cuts_the_track_where_it_changes(folder: Path) -> None:
    listed = read(
        export(
            folder,
            track(
                "person",
                shape(0, action="walk", site="1"),
                shape(5, action="walk", site="2"),
                shape(9, action="fall", site="2"),
                shape(12, 1, action="fall"),
            ),
        )
    )
    assert parts_of(listed) == [("walk", (0, 9)), ("fall", (9, 12))]
    assert [sample.extra for sample in listed.samples] == [{"site": "1"}, {"site": "2"}]
    assert "attributes that change within a track (the first one is used): 1" in listed.notes


def test_two_tracks_of_the_same_frames_are_several_labels_of_one_part(folder: Path) -> None:
    listed = read(
        export(
            folder,
            track("run", shape(0), shape(5, 1)),
            track("shout", shape(0), shape(5, 1)),
            track("run", shape(2), shape(5, 1)),
        )
    )
    assert parts_of(listed) == [(("run", "shout"), (0, 5)), (("run",), (2, 5))]


def test_what_is_never_seen_and_what_is_of_single_frames_is_counted(folder: Path) -> None:
    listed = read(
        export(folder, track("run", shape(0, 1)), track("run"), track("run", shape(1)), '<tag label="x" frame="3"/>')
    )
    assert parts_of(listed) == [("run", (1, 2))]
    assert {"tracks that are never visible left out: 2", "<tag> of single frames left out: 1"} <= set(listed.notes)


def test_the_tasks_of_a_project_are_told_apart_by_their_number(folder: Path) -> None:
    touch(folder / "u.mkv")
    tasks = "".join(
        f"<task><id>{number}</id><name>{name}</name><subset>{subset}</subset><stop_frame>99</stop_frame></task>"
        for number, name, subset in ((1, "t.mp4", "Train"), (2, "u.mkv", "Test"))
    )
    path = export(
        folder, track("run", shape(0), more=' task_id="2" subset="Test"'), track("sit", shape(3), more=' task_id="1"')
    )
    path.write_text(
        path.read_text("utf-8")
        .replace(
            "<task><id>5</id><name>v1</name><mode>interpolation</mode></task>",
            f"<project><tasks>{tasks}</tasks></project>",
        )
        .replace("<source>t.mp4</source>", ""),
        "utf-8",
    )
    assert [(sample.name, sample.labels["action"], sample.split) for sample in read(path).samples] == [
        ("u.mkv", "run", "test"),
        ("t.mp4", "sit", "train"),
    ]


@pytest.mark.parametrize(
    ("tracks", "source", "said"),
    [
        (track("run", shape("x")), "<source>t.mp4</source>", "track 1: frame is 'x'; allowed: a whole number from 0"),
        (track("run", shape(-3)), "<source>t.mp4</source>", "track 1: frame is '-3'"),
        (track("run", shape(10**12)), "<source>t.mp4</source>", "track 1: frame is '1000000000000'"),
        (track("", shape(1)), "<source>t.mp4</source>", "track 1: <track> has no label"),
        (track("run", shape(1)), "", "track 1 does not belong to a video in annotations.xml; .*fix: export each"),
        (track("run", shape(1)), "<source>t.txt</source>", r"'t.txt' does not have the suffix of a video"),
    ],
)
def test_damaged_tracks_are_one_line(folder: Path, tracks: str, source: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read(export(folder, tracks, source=source))


def test_entities_and_a_file_that_is_cut_off_are_one_line(folder: Path) -> None:
    path = export(folder, track("run", shape(1)))
    text = path.read_text("utf-8")
    bomb = '<!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;&b;">]>'
    for content, said in (
        (text.replace("<annotations>", f"{bomb}<annotations>").replace("run", "&c;"), "declares a document type"),
        (text[:-40], "annotations.xml is not XML: .*; fix: get the file again: it may be cut off"),
    ):
        path.write_text(content, "utf-8")
        with pytest.raises(DataError, match=said) as found:
            import_data(path)
        assert "\n" not in str(found.value)


def test_only_an_export_of_video_is_claimed(folder: Path) -> None:
    path = export(folder / "a", track("run", shape(1)))
    assert format_of(path) is format_of(path.parent) is KNOWN
    export(folder / "a")
    assert KNOWN.owns(path) and not FORMATS["cvat-images"].owns(path)
    path.write_text(
        path.read_text("utf-8").replace("<mode>interpolation</mode>", '</task></meta><image name="a"/>'), "utf-8"
    )
    assert not KNOWN.owns(path)
    assert not KNOWN.owns(folder) and not KNOWN.owns(folder / "none.xml")


def test_a_folder_has_a_task_for_each_video_which_lie_in_it_or_beside_it(tmp_path: Path) -> None:
    for name in ("a/x.mp4", "b/x.mp4", "c.mp4"):
        encoded((200, 40, 40), len(name))(tmp_path / name)
    samples = [
        Sample(tmp_path / name, name, {"action": "run"}, split=split, interval=part)
        for name, split, part in (
            ("a/x.mp4", "train", Interval(3, 9, "frame")),
            ("a/x.mp4", "train", None),
            ("b/x.mp4", "test", Interval(0, 2, "frame")),
            ("c.mp4", "train", Interval(0.5, 2)),
        )
    ]
    table = Table(tmp_path, "action", tuple(samples))
    written = write_data_set(table, tmp_path / "cvat", name="cvat-video", model="m1")
    assert written.samples == 3 and written.lost == {"parts of clips in seconds": 1}
    assert sorted(path.name for path in (tmp_path / "cvat").iterdir()) == ["x.mp4.2.xml", "x.mp4.xml"]
    assert 'source="auto"' in (tmp_path / "cvat" / "x.mp4.xml").read_text("utf-8")
    with pytest.raises(DataError, match=r"has no labelled file .*CVAT has not exported this file: .* 3"):
        import_data(tmp_path / "cvat")
    for path in (tmp_path / "cvat").iterdir():  # exported by CVAT
        path.write_text(path.read_text("utf-8").replace("</meta>", "<dumped>now</dumped></meta>"), "utf-8")
    read_again = sorted(
        import_data(tmp_path / "cvat").table.samples, key=lambda sample: (sample.name, sample.interval is None)
    )
    assert [(sample.name, sample.interval, sample.split, sample.extra) for sample in read_again] == [
        (sample.name, sample.interval, sample.split, {"model": "m1"}) for sample in samples[:3]
    ]
    for name in ("a/x.mp4", "b/x.mp4"):
        (tmp_path / "cvat" / name).parent.mkdir()
        (tmp_path / name).rename(tmp_path / "cvat" / name)
    assert sorted(sample.name for sample in read(tmp_path / "cvat").samples) == ["a/x.mp4", "a/x.mp4", "b/x.mp4"]


def test_tracks_that_a_model_has_made_are_counted_in_an_export_and_left_out_of_predictions(folder: Path) -> None:
    tracks = (track("run", shape(1), shape(3, 1)), track("sit", shape(5), shape(9, 1)).replace("manual", "auto"))
    listed = read(export(folder, *tracks, source="<source>t.mp4</source><dumped>now</dumped>"))
    assert parts_of(listed) == [("run", (1, 3)), ("sit", (5, 9))] and listed.notes == (f"{TAKEN}: 1",)
    listed = read(export(folder, *tracks))
    assert parts_of(listed) == [("run", (1, 3))] and listed.notes == (f"{PREDICTED}: 1",)


def test_a_folder_without_a_task_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no CVAT for video 1\.1 file; allowed: annotations\.xml"):
        read(tmp_path)


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    encoded((200, 40, 40), 1)(tmp_path / "a.mp4")
    table = Table(tmp_path, "action", (Sample(tmp_path / "a.mp4", "a.mp4", {"action": "r\x01n"}),))
    with pytest.raises(DataError, match="XML cannot represent the character"):
        write_data_set(table, tmp_path / "cvat", name="cvat-video")
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
