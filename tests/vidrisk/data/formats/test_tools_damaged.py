"""Tests of damaged files of labelling tools, in the layouts that are only read.

The layouts are from Label Studio (JSON with boxes in videos, JSON-MIN), VIA (projects, CSV with the older
header) and CVAT (skeletons, boxes).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import test_cvat_images as images
import test_cvat_video as videos
import test_label_studio as tasks
import test_via as via
from test_fuzzed import damaged
from trees import photo, touch, write_json

from vidrisk.data.formats import FORMATS, format_of
from vidrisk.data.formats.format import Reading
from vidrisk.runtimes.contract.errors import VidriskError

COUNT = 300


def full(folder: Path) -> Path:
    sequence = [{"frame": frame, "enabled": frame % 2 == 0} for frame in range(1, 9)]
    box = tasks.result("videorectangle", "box", "r3", sequence=sequence, labels=["car"], framesCount=8, duration=0.5)
    write_json(
        folder / "full.json",
        [
            tasks.task(
                tasks.timeline("fall", (1, 10), (5, 20)),
                box,
                tasks.choices("run", region="r3"),
                tasks.result("textarea", "advice", "r1", text=["a", "b"]),
            )
        ],
    )
    return folder / "full.json"


def flat(folder: Path) -> Path:
    line = [{"ranges": [{"start": 1, "end": 12}], "timelinelabels": ["fall"]}]
    write_json(
        folder / "flat.json",
        [
            {
                "video": "t.mp4",
                "n": 3,
                "id": number,
                "tl": line,
                "action": {"choices": ["a", "b"]},
                "annotator": 1,
                "annotation_id": number,
                "lead_time": 1.5,
            }
            for number in range(3)
        ],
    )
    return folder / "flat.json"


def third(folder: Path) -> Path:
    write_json(folder / "third.json", via.project())
    return folder / "third.json"


def second(folder: Path) -> Path:
    attributes = {
        "file": {"class": {"type": "dropdown", "options": {"0": "crack"}}},
        "region": {"type": {"type": "text"}},
    }
    write_json(
        folder / "second.json",
        via.second(attributes, a={"file_attributes": {"class": "0"}}, b={"regions": {"0": via.region(type="x")}}),
    )
    return folder / "second.json"


def old(folder: Path) -> Path:
    return via.csv_file(
        folder,
        '"1_a", "[""t.mp4""]", 1.5, 2.25, "{""TEMPORAL-SEGMENTS"":""fall""}"',
        attributes=None,
        header="# CSV_HEADER = metadata_id, file_list, temporal_segment_start, temporal_segment_end, metadata",
    )


def tracks(folder: Path) -> Path:
    joints = videos.track("knee", videos.shape(10, kind="points"), videos.shape(12, 1, "points"))
    return videos.export(
        folder,
        videos.track("person", videos.shape(1, action="walk"), videos.shape(5, action="run"), joints),
        videos.track("dog", joints),
        task="<stop_frame>99</stop_frame><frame_filter>step=3</frame_filter>",
    )


def shapes(folder: Path) -> Path:
    turned = images.box("crack", 1, 2, 3, 4, ' rotation="30"')
    return images.export(
        folder,
        images.image("a.jpg", turned, images.tag("x", level="y")),
        images.image("b.jpg", images.box("rust", 1, 2, 3, 4)),
        meta=images.TASK.format("<subset>Train</subset>"),
    )


LAYOUTS: dict[Callable[[Path], Path], str] = {
    full: "label-studio",
    flat: "label-studio",
    third: "via",
    second: "via",
    old: "via",
    tracks: "cvat-video",
    shapes: "cvat-images",
}


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_damaged_files_are_read_or_are_one_line(layout: Callable[[Path], Path], tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "t.mp4"):
        touch(tmp_path / name)
    path, known = layout(tmp_path), FORMATS[LAYOUTS[layout]]
    assert format_of(path) is known and known.read(path, Reading("action", rate=24.0)).samples
    whole, draw, refused = path.read_bytes(), random.Random(0), 0
    for number in range(COUNT):
        path.write_bytes(damaged(whole, draw))
        try:
            format_of(path)
            known.read(path, Reading(known.tasks[number % 3], rate=24.0))
        except VidriskError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 2000, str(error)
    assert refused


def test_damaged_boxes_are_cut_out_or_are_one_line(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        photo(tmp_path / name)
    path, draw = shapes(tmp_path), random.Random(1)
    whole, cut = path.read_bytes(), 0
    for number in range(12):
        try:
            cut += len(
                FORMATS["cvat-images"].read(path, Reading("risk", crops=True, made=tmp_path / f"made{number}")).samples
            )
        except VidriskError as error:
            assert "\n" not in str(error)
        path.write_bytes(damaged(whole, draw))
    assert cut >= 2
