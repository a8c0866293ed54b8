"""Tests of COCO: boxes as labels or as crops, photos in folders around the lists, and damaged lists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from drawn_tables import file_of
from PIL import Image
from trees import write_json

from vidrisk.data import Sample, Table
from vidrisk.data.data_sets import import_data, write_data_set
from vidrisk.data.formats import format_of
from vidrisk.runtimes.contract.errors import DataError, SettingsError, VidriskError

CATEGORIES = [
    {"id": 7, "name": "crack", "supercategory": "defect of walls"},
    {"id": 3, "name": "spall", "supercategory": ""},
]


def content(images: list[str], boxes: list[tuple[int, int, list[float] | None]], **more: Any) -> dict[str, Any]:
    return {
        "info": {},
        "licenses": [],
        "images": [
            {"id": number, "file_name": name, "width": 20, "height": 12, "license": 1}
            for number, name in enumerate(images)
        ],
        "annotations": [
            {"id": number, "image_id": image, "category_id": category, "iscrowd": 0, "segmentation": [[1, 2, 3, 4]]}
            | ({} if box is None else {"bbox": box})
            for number, (image, category, box) in enumerate(boxes)
        ],
        "categories": CATEGORIES,
    } | more


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder with two lists named as in COCO 2017, and photos in folders beside ``annotations``."""
    folder = tmp_path / "coco"
    box = [2.0, 3.0, 5.5, 4.0]
    write_json(
        folder / "annotations" / "instances_train2017.json",
        content(["a.png", "b.png", "c.png"], [(0, 7, box), (0, 7, [0, 0, 2, 2]), (0, 3, box), (1, 3, box)]),
    )
    write_json(folder / "annotations" / "instances_val2017.json", content(["a.png"], [(0, 7, box)]))
    write_json(
        folder / "annotations" / "captions_train2017.json",
        {"images": [], "annotations": [{"image_id": 1, "caption": "x"}]},
    )
    for number, name in enumerate(("train2017/a", "train2017/b", "train2017/c", "val2017/a")):
        file_of(folder, f"{name}.png", number)
    return folder


def test_categories_of_boxes_are_the_labels_of_an_image_and_lists_tell_the_split(root: Path) -> None:
    found = import_data(root)
    labels = {sample.name: (sample.labels["defect"], sample.split) for sample in found.table.samples}
    assert labels == {
        "train2017/a.png": (("crack", "spall"), "train"),
        "train2017/b.png": (("spall",), "train"),
        "train2017/c.png": ((), "train"),
        "val2017/a.png": (("crack",), "val"),
    }
    assert found.format.name == "coco" and found.table.label_order == {
        "defect": ("spall", "crack")
    }  # by their ids, 3 and 7
    assert any("defect is multi-label: 2 of 4" in note for note in found.table.notes)


def test_one_label_per_image_leaves_out_images_without_a_box_and_says_so(root: Path) -> None:
    with pytest.raises(DataError, match="samples with several labels of defect"):
        import_data(root, multi_label=False)
    path = root / "annotations" / "instances_train2017.json"
    whole = json.loads(path.read_text())
    whole["annotations"] = [box for box in whole["annotations"] if (box["image_id"], box["category_id"]) != (0, 3)]
    path.write_text(json.dumps(whole))
    table = import_data(root, multi_label=False).table
    assert [sample.labels["defect"] for sample in table.samples] == ["crack", "spall", "crack"]
    assert "images without a box left out: 1" in table.notes


def test_every_box_becomes_a_photo_of_its_own(root: Path, tmp_path: Path) -> None:
    path = root / "annotations" / "instances_train2017.json"
    whole = json.loads(path.read_text())
    whole["annotations"] += [
        {"id": 90, "image_id": 1, "category_id": 7},
        {"id": 91, "image_id": 1, "category_id": 7, "iscrowd": 1, "bbox": [0, 0, 9, 9]},
        {"id": 92, "image_id": 1, "category_id": 7, "bbox": [0, 0, 0, 5]},
    ]
    path.write_text(json.dumps(whole))
    table = import_data(root, crops=True, made=tmp_path / "made").table
    assert sorted((sample.group, sample.labels["defect"], sample.split) for sample in table.samples) == [
        ("train2017/a.png", "crack", "train"),
        ("train2017/a.png", "crack", "train"),
        ("train2017/a.png", "spall", "train"),
        ("train2017/b.png", "spall", "train"),
        ("val2017/a.png", "crack", "val"),
    ]
    assert "boxes without an area, or around a crowd, left out: 3" in table.notes
    with Image.open(table.samples[0].path) as image:
        assert image.size == (6, 4)  # every pixel that 5.5 x 4 touches
    with pytest.raises(SettingsError, match="crops without a folder"):
        import_data(root, crops=True)
    (root / "train2017" / "b.png").unlink()
    found = import_data(root, crops=True, made=tmp_path / "less")
    assert found.listed == 3 and found.table.notes[-1].startswith("listed files that do not exist: 1 of 3 (")


def test_roboflow_has_a_list_beside_the_photos_of_every_split(tmp_path: Path) -> None:
    categories = [
        {"id": 0, "name": "walls", "supercategory": "none"},
        {"id": 1, "name": "crack", "supercategory": "walls"},
    ]
    for number, split in enumerate(("train", "valid", "test")):
        write_json(
            tmp_path / split / "_annotations.coco.json",
            content(["a.png"], [(0, 1, [1, 1, 3, 3])], categories=categories),
        )
        file_of(tmp_path / split, "a.png", number)
    table = import_data(tmp_path).table
    assert [(sample.name, sample.split, sample.labels["defect"]) for sample in table.samples] == [
        ("train/a.png", "train", "crack"),
        ("valid/a.png", "val", "crack"),
        ("test/a.png", "test", "crack"),
    ]
    assert "categories without a box that only group others: 3" in table.notes and table.label_order == {}


@pytest.mark.parametrize("place", ["images", "", "images/train"])
def test_photos_are_found_around_one_list_and_in_a_folder_that_is_named(tmp_path: Path, place: str) -> None:
    write_json(
        tmp_path / "set" / "train.json", content(["in/a.png", "b.png"], [(0, 7, [1, 1, 3, 3]), (1, 7, [1, 1, 3, 3])])
    )
    file_of(tmp_path / "set" / place, "in/a.png", 0)
    file_of(tmp_path / "elsewhere", "b.png", 1)
    found = import_data(tmp_path / "set" / "train.json")
    assert [sample.name for sample in found.table.samples] == [f"{place}/in/a.png".lstrip("/")] and found.absent == (
        "b.png",
    )
    other = import_data(tmp_path / "set", media=tmp_path / "elsewhere")
    assert [sample.name for sample in other.table.samples] == [
        f"set/{place}/in/a.png".replace("//", "/"),
        "elsewhere/b.png",
    ]


def test_a_list_that_is_large_is_known_by_its_beginning_or_its_end(tmp_path: Path) -> None:
    images = [{"id": number, "file_name": f"{number}.png"} for number in range(4000)]
    write_json(tmp_path / "a" / "x.json", {"categories": CATEGORIES, "annotations": [], "images": images})
    write_json(tmp_path / "b" / "x.json", {"images": images, "annotations": [], "categories": CATEGORIES})
    for folder in "ab":
        assert format_of(tmp_path / folder) is not None
    others = {"l.json": [{"images": [], "categories": []}], "m.json": {"images": ["a.jpg"]}, "n.json": {"crack": 0}}
    for name, value in others.items():
        write_json(tmp_path / "c" / name, value)
        assert format_of(tmp_path / "c") is None and format_of(tmp_path / "c" / name) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"images": [{"id": 0, "file_name": "../a.png"}]}, r"has no id, or the file_name '\.\./a\.png'"),
        ({"images": [{"id": 0, "file_name": "/etc/a.png"}]}, "file_name '/etc/a.png'"),
        ({"images": [{"id": 0, "file_name": "a.png"}] * 2}, "has the id 0 of 'a.png'"),
        ({"categories": []}, "belongs to the category '7', which is not listed; fix: add it to categories"),
        ({"categories": [{"id": 7, "name": ""}]}, "has no name; allowed"),
        ({"categories": [{"name": "crack"}]}, "has no id; allowed"),
        ({"categories": [{"id": "x", "name": "crack"}]}, "has the id 'x', which is no whole number"),
        ({"categories": CATEGORIES * 2}, "has the id 7, which another one has"),
        ({"annotations": [{"image_id": 5, "category_id": 7}]}, "belongs to the image '5', which is not listed"),
        ({"annotations": [{"image_id": 0, "category_id": True}]}, "category 'True', which"),
        ({"annotations": [7]}, "is not a JSON object"),
    ],
)
def test_a_damaged_list_is_one_line(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    file_of(tmp_path, "a.png", 0)
    write_json(tmp_path / "x.json", content(["a.png"], [(0, 7, [1, 1, 2, 2])]) | change)
    with pytest.raises(VidriskError, match=said):
        import_data(tmp_path / "x.json", name="coco")


def test_ids_of_categories_may_be_written_as_text(tmp_path: Path) -> None:
    file_of(tmp_path, "a.png", 0)
    for category, of_box in (("7", 7), (7, "7")):
        write_json(
            tmp_path / "x.json",
            content(["a.png"], [])
            | {
                "categories": [{"id": category, "name": "crack"}],
                "annotations": [{"image_id": 0, "category_id": of_box}],
            },
        )
        assert import_data(tmp_path / "x.json", name="coco").table.samples[0].labels == {"defect": "crack"}


def test_categories_of_one_name_are_one_label_and_are_counted(tmp_path: Path) -> None:
    file_of(tmp_path, "a.png", 0)
    categories = [{"id": number, "name": name} for number, name in ((1, "crack"), (2, "crack"), (3, "spall"))]
    write_json(tmp_path / "x.json", content(["a.png"], [(0, 2, None), (0, 3, None)], categories=categories))
    table = import_data(tmp_path / "x.json", name="coco").table
    assert table.samples[0].labels == {"defect": ("crack", "spall")}
    assert "categories with the name of another one (they are one label): 1" in table.notes


def test_two_lists_that_number_categories_differently_are_refused(root: Path) -> None:
    path = root / "annotations" / "instances_val2017.json"
    path.write_text(path.read_text().replace('"crack"', '"rust"'))
    with pytest.raises(DataError, match="the category 7 is rust, and crack in another list"):
        import_data(root)


def test_predictions_are_annotations_with_a_score(tmp_path: Path) -> None:
    path = file_of(tmp_path, "a.png", 4)
    sample = Sample(path, "a.png", {"defect": "crack", "level": "严重"}, extra={"score": "0.91", "note": "x"})
    write_data_set(Table(tmp_path, "risk", (sample,)), tmp_path / "set.json", name="coco", model="m1")
    written = json.loads((tmp_path / "set.json").read_text(encoding="utf-8"))
    assert written["info"]["description"] == "predictions of m1"
    assert [(box["bbox"], box["score"]) for box in written["annotations"]] == [([0, 0, 20, 12], 0.91)] * 2
    (image,) = written["images"]
    assert (image["attributes"], image["width"], image["height"]) == ({"note": "x"}, 20, 12)
    table = import_data(tmp_path / "set.json").table
    assert table.samples[0].labels == {"defect": "crack", "level": "严重"}
    assert "labels with the confidence of a model, taken as they are: 2" in table.notes
