"""Tests of CVAT for images: tags, attributes, boxes, subsets, frame names, and files that are not exports."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trees import photo, touch

from vidrisk.data import Sample, Table
from vidrisk.data.data_sets import import_data, write_data_set
from vidrisk.data.formats import FORMATS, format_of
from vidrisk.data.formats.cvat.elements import MAX_ITEM_BYTES, PREDICTED, TAKEN
from vidrisk.data.formats.format import Listed, Reading
from vidrisk.runtimes.contract.choices import LabelTask
from vidrisk.runtimes.contract.errors import DataError, SettingsError

KNOWN = FORMATS["cvat-images"]
DUMPED = "<dumped>2026-09-07 18:35:00+00:00</dumped>"  # when CVAT has exported it
TASK = "<meta><task><id>4</id><name>t</name><mode>annotation</mode>{}</task></meta>"


def export(folder: Path, *images: str, meta: str = TASK.format("")) -> Path:
    """Write ``annotations.xml`` and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "annotations.xml"
    path.write_text(
        f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n{meta}\n{"".join(images)}'
        "</annotations>",
        encoding="utf-8",
    )
    return path


def image(name: str, *inner: str, more: str = "") -> str:
    return f'<image id="0" name="{name}" width="90" height="60"{more}>{"".join(inner)}</image>\n'


def tag(label: str, **attributes: str) -> str:
    inner = "".join(f'<attribute name="{name}">{value}</attribute>' for name, value in attributes.items())
    return f'<tag label="{label}" source="manual">{inner}</tag>'


def box(label: str, left: float, top: float, right: float, bottom: float, more: str = "") -> str:
    return f'<box label="{label}" occluded="0" xtl="{left}" ytl="{top}" xbr="{right}" ybr="{bottom}" z_order="0"{more}></box>'


def read(path: Path, task: LabelTask = "risk", **options: object) -> Listed:
    return KNOWN.read(path, Reading(task, **options))  # type: ignore[arg-type]


def labels_of(listed: Listed) -> dict[str, object]:
    return {sample.name: dict(sample.labels) for sample in listed.samples}


def test_a_tag_is_the_class_and_its_attributes_are_targets_texts_and_columns(tmp_path: Path) -> None:
    touch(tmp_path / "images" / "墙" / "a.jpg")
    path = export(
        tmp_path,
        image(
            "墙/a.jpg", tag("裂缝 &lt;&amp;&quot;", 风险等级="严重", advice="seal it", site="north", group="house 1")
        ),
    )
    (sample,) = read(path).samples
    assert sample.name == "images/墙/a.jpg" and sample.labels == {"defect": '裂缝 <&"', "level": "严重"}
    assert (sample.advice, sample.group, sample.extra, sample.split) == ("seal it", "house 1", {"site": "north"}, None)


def test_a_level_is_a_column_where_the_task_is_another(tmp_path: Path) -> None:
    touch(tmp_path / "a.jpg")
    (sample,) = read(export(tmp_path, image("a.jpg", tag("run", level="bad", speed="4"))), "action").samples
    assert sample.labels == {"action": "run"} and sample.extra == {"level (extra)": "bad", "speed": "4"}


def test_several_tags_make_the_target_multi_label_which_may_be_refused(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        touch(tmp_path / name)
    path = export(tmp_path, image("a.jpg", tag("crack"), tag("rust")), image("b.jpg", tag("rust")))
    listed = read(path)
    assert labels_of(listed) == {"a.jpg": {"defect": ("crack", "rust")}, "b.jpg": {"defect": ("rust",)}}
    assert any("multi-label" in note for note in listed.notes)
    with pytest.raises(DataError, match="samples with several labels of defect"):
        read(path, multi_label=False)


def test_an_attribute_may_be_the_class_and_then_the_label_of_its_tag_is_none(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        touch(tmp_path / name)
    path = export(
        tmp_path,
        image("a.jpg", tag("photo", defect_class="crack", level="low")),
        image("b.jpg", tag("photo", defect_class="__undefined__", level="high")),
        image("c.jpg", tag("photo", defect_class="__undefined__", level="")),
    )
    listed = read(path)
    assert labels_of(listed) == {"a.jpg": {"defect": "crack", "level": "low"}, "b.jpg": {"level": "high"}}
    assert "files, or parts of them, without a label left out: 1" in listed.notes


def test_images_of_a_project_lie_in_their_subsets(tmp_path: Path) -> None:
    for name in ("Train/a.jpg", "Validation/a.jpg", "Test/a.jpg"):
        touch(tmp_path / "images" / name)
    meta = "<meta><project><tasks><task><id>1</id><subset>Train</subset></task></tasks></project></meta>"
    path = export(
        tmp_path,
        *(
            image("a.jpg", tag("crack"), more=f' subset="{subset}" task_id="1"')
            for subset in ("Train", "Validation", "Test")
        ),
        meta=meta,
    )
    assert [(sample.name, sample.split) for sample in read(path).samples] == [
        ("images/Train/a.jpg", "train"),
        ("images/Validation/a.jpg", "val"),
        ("images/Test/a.jpg", "test"),
    ]


def test_the_subset_of_a_task_holds_for_its_images_and_one_of_another_name_is_a_column(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        touch(tmp_path / name)
    images = [
        image("a.jpg", tag("crack")),
        image("b.jpg", tag("crack"), more=' subset="batch 7"'),
        image("c.jpg", tag("crack"), more=' subset="default"'),
    ]
    listed = read(export(tmp_path, *images, meta=TASK.format("<subset>val</subset>")))
    assert [(sample.split, sample.extra) for sample in listed.samples] == [
        ("val", {}),
        ("train", {"subset (extra)": "batch 7"}),
        ("train", {}),
    ]
    assert "files without a split, taken as train: 2" in listed.notes


def test_frames_of_a_video_are_named_without_a_suffix(tmp_path: Path) -> None:
    touch(tmp_path / "images" / "frame_000001.PNG")
    listed = read(export(tmp_path, image("frame_000001", tag("crack")), image("frame_000002", tag("crack"))))
    assert [sample.name for sample in listed.samples] == ["images/frame_000001.PNG"] and listed.absent == (
        "frame_000002.PNG",
    )


def test_labels_of_shapes_count_where_there_is_no_tag(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg"):
        touch(tmp_path / name)
    polygon = '<polygon label="rust" points="1,2;3,4;6,5"><attribute name="level">low</attribute></polygon>'
    leaning = '<polygon label="rust" points="1,2;3,4;6,5"><attribute name="level">high</attribute></polygon>'
    listed = read(
        export(
            tmp_path,
            image("a.jpg", box("crack", 0, 0, 5, 5), polygon),
            image("b.jpg", tag("sound"), polygon),
            image("c.jpg"),
            image("d.jpg", polygon, leaning),
        )
    )
    assert labels_of(listed) == {
        "a.jpg": {"defect": ("crack", "rust"), "level": "low"},
        "b.jpg": {"defect": ("sound",)},
        "d.jpg": {"defect": ("rust",)},
    }
    assert "images without a tag, whose labels are those of their boxes and other shapes: 2" in listed.notes
    assert "images without a label left out: 1" in listed.notes
    assert "images left without a level because their shapes have several: 1" in listed.notes


def test_every_box_is_cut_out_and_those_of_a_photo_stay_together(tmp_path: Path) -> None:
    pixels = photo(tmp_path / "images" / "a.png")
    photo(tmp_path / "images" / "b.png", 1)
    turned = ' rotation="90"'
    path = export(
        tmp_path,
        image("a.png", box("crack", 10, 20, 40.5, 30), box("rust", 20, 20, 40, 30, turned), tag("wall")),
        image("b.png", '<points label="x" points="1,2"/>'),
        image("gone.png", box("crack", 0, 0, 5, 5)),
    )
    listed = read(path, crops=True, made=tmp_path / "made")
    assert [(sample.name, sample.labels, sample.group) for sample in listed.samples] == [
        ("images/a.png.1.png", {"defect": "crack"}, "images/a.png"),
        ("images/a.png.2.png", {"defect": "rust"}, "images/a.png"),
    ]
    for sample, expected in zip(listed.samples, (pixels[20:30, 10:41], pixels[15:35, 25:35]), strict=True):
        with Image.open(sample.path) as crop:
            assert np.array_equal(np.asarray(crop), expected)
    assert listed.absent == ("gone.png",) and listed.root == tmp_path / "made"
    assert {"images without a box left out: 1", "shapes that are not boxes left out: 2"} <= set(listed.notes)


def test_crops_need_a_folder(tmp_path: Path) -> None:
    path = export(tmp_path, image("a.png", box("crack", 10, 20, 40.5, 30)))
    with pytest.raises(SettingsError, match="crops without a folder"):
        read(path, crops=True)


def test_predictions_are_tags_that_a_machine_has_made(tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    table = Table(
        tmp_path, "risk", (Sample(tmp_path / "a.png", "a.png", {"defect": "crack"}, extra={"score": "0.75"}),)
    )
    write_data_set(table, tmp_path / "out.xml", name="cvat-images", model="m1")
    text = (tmp_path / "out.xml").read_text(encoding="utf-8")
    assert (
        '<tag label="crack" source="auto"><attribute name="score">0.75</attribute><attribute name="model">m1</attribute>'
        in text
    )
    with pytest.raises(
        DataError, match=r"has no labelled file .*labels with source auto left out, because CVAT has not exported this"
    ):
        import_data(tmp_path / "out.xml")
    (tmp_path / "out.xml").write_text(text.replace("</meta>", f"{DUMPED}</meta>"), encoding="utf-8")  # exported by CVAT
    table = import_data(tmp_path / "out.xml").table
    (sample,) = table.samples
    assert sample.labels == {"defect": "crack"} and sample.extra == {"score": "0.75", "model": "m1"}
    assert f"{TAKEN}: 1" in table.notes


def test_what_a_model_has_labelled_is_counted_in_an_export_and_left_out_of_predictions(tmp_path: Path) -> None:
    for name in "abc":
        photo(tmp_path / f"{name}.png")
    images = (
        image("a.png", tag("crack").replace("manual", "auto"), tag("rust")),
        image("b.png", box("crack", 1, 2, 30, 40, ' source="Auto"'), box("crack", 5, 6, 7, 8, ' source="semi-auto"')),
        image("c.png", box("rust", 1, 2, 30, 40, ' source="auto"')),
    )
    export(tmp_path, *images, meta=TASK.format("").replace("</meta>", f"{DUMPED}</meta>"))
    listed = read(tmp_path)
    assert labels_of(listed) == {
        "a.png": {"defect": ("crack", "rust")},
        "b.png": {"defect": ("crack",)},
        "c.png": {"defect": ("rust",)},
    }
    assert f"{TAKEN}: 3" in listed.notes
    assert len(read(tmp_path, crops=True, made=tmp_path / "made").samples) == 3
    export(tmp_path, *images)
    listed = read(tmp_path)
    assert labels_of(listed) == {"a.png": {"defect": "rust"}, "b.png": {"defect": "crack"}}
    assert {f"{PREDICTED}: 3", "images without a label left out: 1"} <= set(listed.notes)
    assert len(read(tmp_path, crops=True, made=tmp_path / "cut").samples) == 1


def test_what_xml_cannot_hold_is_an_error(tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    table = Table(tmp_path, "risk", (Sample(tmp_path / "a.png", "a.png", {"defect": "cra\x07ck"}),))
    with pytest.raises(DataError, match=r"XML cannot represent the character '\\x07'"):
        write_data_set(table, tmp_path / "out.xml", name="cvat-images")
    assert not (tmp_path / "out.xml").exists()


BOMB = '<!DOCTYPE a [<!ENTITY b "lol"><!ENTITY c "&b;&b;&b;">]>'


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            BOMB + "<annotations><image name='a.jpg'><tag label='&c;'/></image></annotations>",
            "document type or entities; .*; fix: export it again, without a document type",
        ),
        (
            "<annotations><meta><task/></meta><image name='a.jpg'>",
            "is not XML: no element found.*; fix: get the file again",
        ),
        ("<annotation><image name='a.jpg'/></annotation>", "begins with <annotation>; allowed: <annotations>"),
        ("<annotations><image id='0'/></annotations>", "image 1: <image> has no name"),
        ("<annotations><image name='a.jpg'><tag/></image></annotations>", "image 1: <tag> has no label"),
        (
            "<annotations><image name='a.jpg'><tag label='a'><attribute>1</attribute></tag></image></annotations>",
            "has no name",
        ),
        ("<annotations>" + "<a>" * 40, "has elements nested more than 32 levels deep"),
        ("<?xml version='1.0' encoding='nonsense'?><annotations/>", "is not readable XML"),
        ("<annotations><image name='a.txt'><tag label='a'/></image></annotations>", "absent"),
    ],
)
def test_what_is_no_export_is_one_line(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "annotations.xml"
    path.write_text(content, encoding="utf-8")
    if said == "absent":
        assert read(path).absent == ("a.txt.PNG",)
        return
    with pytest.raises(DataError, match=said) as found:
        read(path)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("edges", "said"),
    [
        (("nan", 0, 1, 1), "xtl of <box> is 'nan'; allowed: a number"),
        (("", 0, 1, 1), "<box> has no xtl"),
        ((0, 0, "1e999", 1), "xbr of <box> is '1e999'"),
    ],
)
def test_a_box_without_edges_is_one_line(tmp_path: Path, edges: tuple[float, float, float, float], said: str) -> None:
    photo(tmp_path / "a.png")
    with pytest.raises(DataError, match=said):
        read(export(tmp_path, image("a.png", box("crack", *edges))), crops=True, made=tmp_path / "made")


def test_an_image_without_end_does_not_fill_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidrisk.data.formats.cvat.elements.MAX_ITEM_BYTES", 2**18)
    assert MAX_ITEM_BYTES > 2**18
    many = export(tmp_path / "many", *(image(f"{number}.jpg", tag("crack")) for number in range(10_000)))
    assert many.stat().st_size > 2 * 2**18 and len(read(many).absent) == 10_000
    one = export(tmp_path / "one", image("a.jpg", *[tag("crack")] * 10_000))
    with pytest.raises(DataError, match="an element of more than 0 MB"):
        read(one)


def test_only_an_export_of_images_is_claimed(tmp_path: Path) -> None:
    path = export(tmp_path / "cvat", image("a.jpg", tag("crack")))
    assert format_of(path) is format_of(path.parent) is KNOWN
    for content in (
        "<annotation><folder>VOC</folder></annotation>",
        "<annotations><thing/></annotations>",
        "",
        "\0" * 100,
        "<html><annotations></html>",
    ):
        path.write_text(content, encoding="utf-8")
        assert not KNOWN.owns(path)
    export(
        tmp_path / "cvat",
        image("a.jpg"),
        meta=TASK.format("<labels>" + "<label><name>x</name></label>" * 5000 + "</labels>"),
    )
    assert KNOWN.owns(path)


def test_photos_elsewhere_are_found_by_the_folder_that_is_named(tmp_path: Path) -> None:
    touch(tmp_path / "photos" / "a.jpg")
    path = export(tmp_path / "labels", image("a.jpg", tag("crack")))
    assert read(path).absent == ("a.jpg",)
    listed = read(path, media=tmp_path / "photos")
    assert listed.root == tmp_path and [sample.name for sample in listed.samples] == ["photos/a.jpg"]


def test_paths_that_lead_out_are_not_followed(tmp_path: Path) -> None:
    touch(tmp_path / "secret.jpg")
    path = export(tmp_path / "set", image("../secret.jpg", tag("crack")), image(f"{tmp_path}/secret.jpg", tag("crack")))
    listed = read(path)
    assert not listed.samples and len(listed.absent) == 2
