"""Tests of the documentation of labelling tools: its commands run on files as each page shows them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import test_cvat_images as images
import test_cvat_video as videos
import test_label_studio as tasks
import test_via as via
from pages import read_commands
from trees import encoded, photo, write_json

from vidrisk.data import load_table
from vidrisk.data.formats import FORMATS
from vidrisk.data.formats.format import PARTS

PAGES = Path(__file__).resolve().parents[4] / "docs" / "formats"
WORDS = {
    "clips": "clips",
    "photos": "photos",
    "intervals": "parts in seconds",
    "frame intervals": "parts in frames",
    "multi-label": "one label or several",
    "no label": "samples of which none holds",
    "several targets": "several targets",
    "splits": "splits",
    "groups": "groups",
    "label order": "the order of labels",
    "texts": "texts",
    "extra": "further columns",
}


def write_cvat_images(folder: Path) -> None:
    for number in range(4):
        photo(folder / "export" / "images" / "wall" / f"{number}.jpg", number)
    images.export(
        folder / "export",
        *(
            images.image(
                f"wall/{number}.jpg",
                images.box("crack", 2 + number, 3, 20, 30),
                images.box("rust", 30 + number, 3, 60, 30),
                images.tag("crack" if number % 2 else "sound", level="low"),
            )
            for number in range(4)
        ),
    )


def write_cvat_video(folder: Path) -> None:
    encoded((200, 40, 40), 1)(folder / "export" / "cam7.mp4")
    videos.export(
        folder / "export",
        videos.track("run", videos.shape(0), videos.shape(3, 1)),
        videos.track("fall", videos.shape(3), videos.shape(5)),
        source="<source>cam7.mp4</source>",
    )


def write_label_studio(folder: Path) -> None:
    encoded((200, 40, 40), 1)(folder / "clips" / "our clip.mp4")
    write_json(
        folder / "export.json",
        [
            tasks.task(
                tasks.timeline("run", (1, 6)),
                tasks.timeline("fall", (7, 12), region="r2"),
                data={"video": "/data/upload/1/0a1b2c3d-our_clip.mp4", "site": "north"},
            )
        ],
    )
    photo(folder / "wall.jpg")
    write_json(
        folder / "walls.json",
        [
            tasks.task(tasks.rectangle("b1", 10, 10, 30, 40, "rust"), data={"image": "wall.jpg"}),
            tasks.task(tasks.rectangle("b2", 50, 10, 30, 40, "crack"), data={"image": "wall.jpg"}),
        ],
    )


def write_via(folder: Path) -> None:
    encoded((200, 40, 40), 1)(folder / "t.mp4")
    via.csv_file(folder, via.row("t.mp4", [0, 0.25], {"1": "0"}), via.row("t.mp4", [0.25, 0.75], {"1": "1"}))
    for seed, name in enumerate(("a.jpg", "b.jpg")):
        photo(folder / name, seed)
    regions = [via.region(**{"class": "crack"}), via.region(**{"class": "rust"})]
    write_json(
        folder / "via_project.json",
        via.second(
            a={"file_attributes": {"class": "crack"}, "regions": regions}, b={"file_attributes": {"class": "rust"}}
        ),
    )


WRITERS = {
    "cvat-images": write_cvat_images,
    "cvat-video": write_cvat_video,
    "label-studio": write_label_studio,
    "via": write_via,
}


MARK = pytest.mark.page(
    "docs/formats/cvat-images.md", "docs/formats/cvat-video.md", "docs/formats/label-studio.md", "docs/formats/via.md"
)


def text_of(name: str) -> str:
    return (PAGES / f"{name}.md").read_text(encoding="utf-8")


@MARK
@pytest.mark.parametrize("page", MARK.args)
def test_every_command_of_the_page_does_what_it_says(
    page: str, tmp_path: Path, run_line: Callable[..., object]
) -> None:
    name = Path(page).stem
    WRITERS[name](tmp_path)
    commands = read_commands(page)
    assert len(commands) > 1
    task = "risk" if name == "cvat-images" else "action"
    for command in commands:
        run_line(command, tmp_path)
        output = tmp_path / re.findall(r" -o (\S+)", command)[0]
        of = "risk" if "--task risk" in command else task
        found = load_table(output, of, min_labels=1)  # type: ignore[arg-type]
        assert len(found) > 1
        if " --to " in command:
            source = load_table(tmp_path / command.split()[3], of, min_labels=1)  # type: ignore[arg-type]
            assert FORMATS[name].owns(output) and sorted(map(repr, found.samples)) == sorted(map(repr, source.samples))
            assert [sample.extra for sample in found.samples] == [sample.extra for sample in source.samples]
    crops = {"cvat-images": ("cracks_photos", 8), "label-studio": ("rust_photos", 2), "via": ("parts_photos", 2)}
    if name in crops:
        folder, count = crops[name]
        assert len(list((tmp_path / folder).rglob("*.png"))) == count


@pytest.mark.parametrize("name", WRITERS)
def test_the_page_says_what_is_carried_and_what_is_lost(name: str) -> None:
    said = " ".join(text_of(name).split())
    carried, lost = said.partition("Carried: ")[2].split("Lost (counted and reported): ")
    for part in PARTS:
        if part == "order of used labels":  # of formats that carry the order in part
            continue
        assert (WORDS[part] in carried, WORDS[part] in lost) == (
            part in FORMATS[name].carries,
            part not in FORMATS[name].carries,
        )
    assert len(text_of(name).splitlines()) <= 60 and f"`--to {name}`" in said


@pytest.mark.parametrize("name", WRITERS)
def test_options_of_the_page_exist(name: str) -> None:
    commands = PAGES.parents[1] / "vidrisk" / "cli"
    cli = "".join((commands / file).read_text(encoding="utf-8") for file in ("data.py", "convert.py", "tables.py"))
    for option in set(re.findall(r"(?<![\w-])--[a-z][\w-]+", text_of(name))):
        assert f'"{option}"' in cli or f"/{option}" in cli or f'"{option}/' in cli, option
