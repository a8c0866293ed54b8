"""Tests of VIA: CSV files with either header, projects of VIA 2 and 3, options, regions, damaged files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from trees import encoded, photo, touch, write_json

from vidrisk.data import Sample, Table, load_table
from vidrisk.data.data_sets import import_data, write_data_set
from vidrisk.data.formats import FORMATS, format_of
from vidrisk.data.formats.format import Listed, Reading
from vidrisk.frames import Interval
from vidrisk.runtimes.contract.choices import LabelTask
from vidrisk.runtimes.contract.errors import DataError

KNOWN = FORMATS["via"]
HEADER = "# CSV_HEADER = metadata_id,file_list,flags,temporal_coordinates,spatial_coordinates,metadata"
ATTRIBUTES = {
    "1": {"aname": "Action", "anchor_id": "FILE1_Z2_XY0", "type": 4, "options": {"0": "fall", "1": "走 路"}},
    "2": {"aname": "defect", "anchor_id": "FILE1_Z0_XY0", "type": 2, "options": {"0": "crack", "1": "rust"}},
    "3": {"aname": "Comment", "anchor_id": "FILE1_Z2_XY0", "type": 1, "options": {}},
}


def row(file: str, times: Any, values: Any, places: Any = ()) -> str:
    cells = (
        "1_a",
        json.dumps([file], ensure_ascii=False),
        0,
        json.dumps(times),
        json.dumps(list(places)),
        json.dumps(values, ensure_ascii=False),
    )
    return ",".join(str(cell) if cell == 0 else '"' + str(cell).replace('"', '""') + '"' for cell in cells)


def csv_file(
    folder: Path, *lines: str, header: str = HEADER, attributes: Any = ATTRIBUTES, end: str = "\n", mark: str = ""
) -> Path:
    path = folder / "via.csv"
    comments = ["# Exported using VGG Image Annotator (http://www.robots.ox.ac.uk/~vgg/software/via)"]
    comments += [f"# ATTRIBUTE = {json.dumps(attributes, ensure_ascii=False)}"] if attributes else []
    path.write_bytes((mark + end.join([*comments, header, *lines, ""])).encode())
    return path


def read(path: Path, task: LabelTask = "action", **options: Any) -> Listed:
    return KNOWN.read(path, Reading(task, **options))


def parts_of(listed: Listed, target: str = "action") -> list[tuple[object, object]]:
    return [
        (sample.labels.get(target), sample.interval and (sample.interval.start, sample.interval.end))
        for sample in listed.samples
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("t.mp4", "a.jpg", "b.jpg"):
        touch(tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(("end", "mark"), [("\n", ""), ("\r\n", "\ufeff")])
def test_numbers_of_options_are_names_and_times_are_parts(folder: Path, end: str, mark: str) -> None:
    path = csv_file(
        folder,
        row("t.mp4", [1.124, 5.31493], {"1": "1", "3": 'says "no", twice'}),
        row("t.mp4", [6, 7], {"1": "0"}),
        end=end,
        mark=mark,
    )
    listed = read(path)
    assert parts_of(listed) == [("走 路", (1.124, 5.31493)), ("fall", (6, 7))]
    assert [sample.extra for sample in listed.samples] == [{"Comment": 'says "no", twice'}, {}]


def test_several_ticks_are_several_labels_and_no_tick_is_none(folder: Path) -> None:
    path = csv_file(folder, row("a.jpg", [], {"2": "0,1"}), row("b.jpg", [], {"2": ""}))
    assert parts_of(read(path, "risk"), "defect") == [(("crack", "rust"), None), ((), None)]


def test_the_older_header_has_a_column_for_each_end(folder: Path) -> None:
    header = "# CSV_HEADER = metadata_id, file_list, temporal_segment_start, temporal_segment_end, metadata"
    path = csv_file(
        folder,
        '"1_a", "[""t.mp4""]", 1.5, 2.25, "{""TEMPORAL-SEGMENTS"":""fall""}"',
        '"1_b","[""t.mp4""]",3,4,"{""TEMPORAL-SEGMENTS"":""_DEFAULT""}"',
        header=header,
        attributes=None,
    )
    listed = read(path)
    assert parts_of(listed) == [("fall", (1.5, 2.25))] and "'TEMPORAL-SEGMENTS' is taken as the action" in listed.notes
    assert "files, or parts of them, without a label left out: 1" in listed.notes


def test_a_header_without_a_mark_and_comments_that_a_spreadsheet_has_quoted(folder: Path) -> None:
    plain = csv_file(folder, row("t.mp4", [1, 2], {"1": "0"}), header=HEADER.removeprefix("# CSV_HEADER = "))
    assert parts_of(read(plain)) == [("fall", (1, 2))] and KNOWN.owns(plain)
    attributes = json.dumps(ATTRIBUTES).replace('"', '""')
    plain.write_text(
        f'"# ATTRIBUTE = {attributes}",,,\n{HEADER},,,\n{row("t.mp4", [1, 2], {"1": "0"})},,,\n', encoding="utf-8"
    )
    assert parts_of(read(plain)) == [("fall", (1, 2))] and KNOWN.owns(plain)


def test_still_frames_regions_of_videos_and_pairs_of_files_are_counted(folder: Path) -> None:
    pair = row("t.mp4", [1, 2], {"1": "0"}).replace('[""t.mp4""]', '[""t.mp4"",""u.mp4""]')
    listed = read(
        csv_file(
            folder,
            row("t.mp4", [1.5], {"1": "0"}),
            row("t.mp4", [1.5], {"1": "0"}, [2, 10, 20, 50, 80]),
            pair,
            row("t.mp4", [0, 1], {"1": "1"}),
        )
    )
    assert parts_of(listed) == [("走 路", (0, 1))]
    assert {
        "single frames of videos left out: 1",
        "regions in frames of videos left out: 1",
        "lines of several files at once left out: 1",
    } <= set(listed.notes)


def project(**more: Any) -> dict[str, Any]:
    return {
        "project": {"pid": "__VIA_PROJECT_ID__", "rev": "1", "pname": "p", "vid_list": ["1", "2"]},
        "config": {"file": {"loc_prefix": {"1": ""}}},
        "attribute": ATTRIBUTES,
        "file": {
            "1": {"fid": "1", "fname": "t.mp4", "type": 4, "loc": 1, "src": "t.mp4"},
            "2": {"fid": "2", "fname": "a.jpg", "type": 2, "loc": 2, "src": "https://host/photos/a.jpg"},
        },
        "metadata": {
            "1_x": {"vid": "1", "flg": 0, "z": [1.5, 2.5], "xy": [], "av": {"1": "0"}},
            "2_x": {"vid": "2", "flg": 0, "z": [], "xy": [], "av": {"1": "1"}},
        },
        "view": {"1": {"fid_list": ["1"]}, "2": {"fid_list": [2]}},
    } | more


def test_a_project_of_via_3_says_the_same(folder: Path) -> None:
    write_json(folder / "p.json", project())
    assert format_of(folder / "p.json") is KNOWN
    assert [(sample.name, sample.labels, sample.interval) for sample in read(folder / "p.json").samples] == [
        ("t.mp4", {"action": "fall"}, Interval(1.5, 2.5)),
        ("a.jpg", {"action": "走 路"}, None),
    ]


def second(attributes: Any = None, **photos: Any) -> dict[str, Any]:
    images = {
        f"{name}.jpg-1": {"filename": f"{name}.jpg", "size": -1, "file_attributes": {}, "regions": []} | photo
        for name, photo in photos.items()
    }
    return {"_via_settings": {}, "_via_img_metadata": images, "_via_attributes": attributes} if attributes else images


def region(**attributes: Any) -> dict[str, Any]:
    return {
        "shape_attributes": {"name": "rect", "x": 1, "y": 2, "width": 3, "height": 4},
        "region_attributes": attributes,
    }


def test_via_2_has_values_of_photos_and_those_of_regions_count_where_there_are_none(folder: Path) -> None:
    others = {"0": region(type="rust"), "1": region(type={"rust": True, "hole": False})}
    write_json(
        folder / "v.json",
        second(
            a={"file_attributes": {"class": "crack", "caption": ""}, "regions": [region(type="x")]},
            b={"regions": others},
        ),
    )
    assert format_of(folder / "v.json") is KNOWN
    listed = read(folder / "v.json", "risk")
    assert parts_of(listed, "defect") == [("crack", None)]  # the type of regions is another attribute than the class
    write_json(
        folder / "v.json",
        second(
            a={"file_attributes": {"class": "crack"}, "regions": [region(**{"class": "x"})]},
            b={"regions": {"0": region(**{"class": "rust"}), "1": region(**{"class": "hole"})}},
        ),
    )
    listed = read(folder / "v.json", "risk")
    assert parts_of(listed, "defect") == [(("crack",), None), (("hole", "rust"), None)]
    assert {
        "photos without values of their own (the labels of their regions are used): 1",
        "regions of photos that have values of their own left out: 1",
    } <= set(listed.notes)


def test_rectangles_of_photos_are_cut_out_with_what_is_said_of_the_photo(tmp_path: Path) -> None:
    pixels = photo(tmp_path / "a.png")
    polygon = region(type="rust") | {
        "shape_attributes": {"name": "polygon", "all_points_x": [1, 2], "all_points_y": [1, 2]}
    }
    images = second(
        a={
            "file_attributes": {"split": "val", "advice": "paint it"},
            "regions": [region(type="rust"), region(type=""), polygon],
        }
    )
    images["a.jpg-1"]["filename"] = "a.png"
    write_json(tmp_path / "v.json", images)
    listed = read(tmp_path / "v.json", "risk", crops=True, made=tmp_path / "made")
    (sample,) = listed.samples
    assert np.array_equal(np.asarray(Image.open(sample.path)), pixels[2:6, 1:4])
    assert (sample.labels, sample.split, sample.advice, sample.group) == (
        {"defect": "rust"},
        "val",
        "paint it",
        "a.png",
    )
    assert {"boxes without a label left out: 1", "regions that are not rectangles left out: 1"} <= set(listed.notes)
    path = csv_file(
        tmp_path,
        row("a.png", [], {"2": "0"}, [2, 5, 6, 7, 8]),
        row("a.png", [], {"2": "1"}, [3, 5, 6, 7]),
        row("a.png", [], {"2": "1"}),
    )
    listed = read(path, "risk", crops=True, made=tmp_path / "more")
    (sample,) = listed.samples
    assert np.array_equal(np.asarray(Image.open(sample.path)), pixels[6:14, 5:12]) and sample.labels == {
        "defect": "crack"
    }
    assert {"regions that are not rectangles left out: 1", "labels of whole files left out: 1"} <= set(listed.notes)


def test_options_of_via_2_are_names_where_numbers_stand_for_them(folder: Path) -> None:
    attributes = {
        "file": {"class": {"type": "dropdown", "options": {"0": "crack", "1": "rust", "m6": ""}}},
        "region": {},
    }
    write_json(
        folder / "v.json",
        second(attributes, a={"file_attributes": {"class": "1"}}, b={"file_attributes": {"class": "m6"}}),
    )
    assert parts_of(read(folder / "v.json", "risk"), "defect") == [("rust", None), ("m6", None)]


def test_ticks_of_via_2_are_several_labels(folder: Path) -> None:
    write_json(
        folder / "v.json", second(a={"file_attributes": {"defect": {"crack": True, "rust": True, "hole": False}}})
    )
    assert parts_of(read(folder / "v.json", "risk"), "defect") == [(("crack", "rust"), None)]


def test_of_several_attributes_without_a_name_for_it_none_is_the_class(folder: Path) -> None:
    path = csv_file(folder, row("t.mp4", [1, 2], {"a": "x", "b": "y"}), attributes=None)
    with pytest.raises(DataError, match="the attributes a, b: it is unclear which of them is the action"):
        read(path)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (row("t.mp4", [2, 1], {"1": "0"}), "lasts from 2 to 1 s; allowed: an end after the start"),
        (row("t.mp4", [-1, 1], {"1": "0"}), "lasts from -1 to 1 s"),
        (row("t.mp4", [1, 2, 3], {}), "the temporal coordinates are"),
        (row("t.mp4", ["a"], {}), "the temporal coordinates are"),
        (row("t.mp4", [1e999, 2], {}), "the temporal coordinates are"),
        (row("t.mp4", [0, 10**400], {}), "the temporal coordinates are"),
        (row("t.mp4", [], 7), "the metadata are '7'"),
        (row("t.mp4", [], {}).replace('[""t.mp4""]', "[]"), "the list of files is"),
        ("1_a,t.mp4,0,[],[],{}", "'t.mp4' is not JSON"),
        ("1_a,0", "has 2 cells, but the header 6"),
        ('"1_a', "is not a line of CSV"),
        (row("t.txt", [], {"1": "0"}), "does not have the suffix of a video or photo"),
    ],
)
def test_a_damaged_line_is_an_error_of_one_line(folder: Path, line: str, said: str) -> None:
    with pytest.raises(DataError, match=said) as found:
        read(csv_file(folder, line))
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (project(view={}), "belongs to the view '1', which has no file"),
        (project(file={"1": {}, "2": {}}), "its file has no name"),
        (project(metadata=[]), "metadata is not a JSON object"),
        (project(attribute={"1": {"aname": ""}}), "the attribute '1' has no name"),
        (project(metadata={"x": {"vid": "1", "av": 7}}), "its values are 7"),
        ({"a": 7}, "'a' is not a JSON object"),
        ({"a": {"filename": ""}}, "'a' is not a photo of VIA 2"),
        ({"a": {"filename": "a.jpg", "regions": [7]}}, "has an invalid region"),
        ({"_via_img_metadata": {}, "_via_attributes": 7}, "_via_attributes is not a JSON object"),
    ],
)
def test_a_damaged_project_is_an_error_of_one_line(folder: Path, content: Any, said: str) -> None:
    write_json(folder / "v.json", content)
    with pytest.raises(DataError, match=said):
        read(folder / "v.json")


def test_a_file_without_a_header_and_one_that_is_too_large_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="has no header before its first line; allowed: the CSV of VIA 3"):
        read(csv_file(folder, row("t.mp4", [], {}), header="#"))
    write_json(folder / "v.json", project())
    monkeypatch.setattr("vidrisk.data.formats.via.projects.MAX_BYTES", 100)
    with pytest.raises(DataError, match="is larger than 0 MB; allowed: a project of VIA, or its CSV"):
        read(folder / "v.json")


def test_manifests_and_other_json_are_not_claimed(folder: Path) -> None:
    (folder / "m.csv").write_text("file,label\nt.mp4,run\na.jpg,sit\n", encoding="utf-8")
    (folder / "n.csv").write_text("# a comment\nfilename,file_size,class\na.jpg,3,run\n", encoding="utf-8")
    for other in ({"images": []}, {"project": {"id": 1}}, [], {"a.jpg": {"filename": "a.jpg"}}):
        write_json(folder / "o.json", other)
        assert not KNOWN.owns(folder / "o.json")
    assert not KNOWN.owns(folder / "m.csv") and not KNOWN.owns(folder / "n.csv") and not KNOWN.owns(folder)
    assert len(load_table(folder / "m.csv", "action")) == 2


def test_a_csv_is_written_with_options_and_predictions_with_their_model(tmp_path: Path) -> None:
    encoded((200, 40, 40), 1)(tmp_path / "a.mp4")
    samples = [
        Sample(tmp_path / "a.mp4", "a.mp4", {"action": label}, extra={"score": "0.5"}, interval=part)
        for label, part in (("run", Interval(0.1, 1 / 3)), ("fall", Interval(0.4, 2)))
    ]
    table = Table(tmp_path, "action", tuple(samples))
    write_data_set(table, tmp_path / "via.csv", name="via", model="m1")
    text = (tmp_path / "via.csv").read_text(encoding="utf-8")
    assert '"options": {"0": "fall", "1": "run"}' in text
    assert '"[0.1, 0.3333333333333333]","[]","{""1"": ""1"", ""2"": ""0.5"", ""3"": ""m1""}"' in text
    found = import_data(tmp_path / "via.csv").table.samples
    assert [(sample.labels, sample.interval, sample.extra) for sample in found] == [
        (sample.labels, sample.interval, {"score": "0.5", "model": "m1"}) for sample in samples
    ]
