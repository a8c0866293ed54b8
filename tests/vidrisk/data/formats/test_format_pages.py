"""Tests of the pages in docs/formats about formats that other tools read and write.

The commands of a page run on a folder as the page shows it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from drawn_tables import file_of
from pages import read_commands
from trees import write_json

from vidrisk.data import Sample, Table, load_table
from vidrisk.data.data_sets import write_data_set
from vidrisk.data.formats import FORMATS
from vidrisk.data.table import SplitName

PAGES = Path(__file__).resolve().parents[4] / "docs" / "formats"
SPLITS: tuple[SplitName, ...] = ("train", "train", "val", "test")
TASKS = {"coco": "risk", "tfrecord": "risk", "yolo-classify": "risk", "hf-folder": "risk"}  # of the page; else action


def table_of(root: Path, suffix: str, task: str) -> Table:
    target = "defect" if task == "risk" else "action"
    samples = [
        Sample(file_of(root, f"{number}{suffix}", number), f"{number}{suffix}", {target: "xy"[number % 2]}, split=split)
        for number, split in enumerate(SPLITS)
    ]
    return Table(root, task, tuple(samples))  # type: ignore[arg-type]


def written(name: str, folder: str, suffix: str = ".png") -> Callable[[Path], None]:
    """Return a function that writes a data set of the format into a folder of the page."""

    def write(root: Path) -> None:
        write_data_set(table_of(root / "media", suffix, TASKS.get(name, "action")), root / folder, name=name)

    return write


def clips(root: Path) -> None:
    for number, split in enumerate(SPLITS):
        file_of(root / "clips" / split / "xy"[number % 2], f"{number}.mp4", number)


def coco(root: Path) -> None:
    for split, places in {"train": (0, 1), "val": (2, 3)}.items():
        for place in places:
            file_of(root / "coco" / f"{split}2017", f"{place}.png", place)
        write_json(
            root / "coco" / "annotations" / f"instances_{split}2017.json",
            {
                "images": [{"id": place, "file_name": f"{place}.png", "width": 16, "height": 12} for place in places],
                "annotations": [
                    {"id": place, "image_id": place, "category_id": place % 2, "bbox": [1, 2, 5, 6]} for place in places
                ],
                "categories": [{"id": 0, "name": "x"}, {"id": 1, "name": "y"}],
            },
        )


def fiftyone(root: Path) -> None:
    written("fiftyone", "shots", ".mp4")(root)
    for number, name in enumerate(("a", "in/b")):
        file_of(root / "gates" / "data", f"{name}.mp4", number)
    write_json(root / "gates" / "labels.json", {"classes": ["run", "fall"], "labels": {"a": 0, "in/b": "fall"}})


WRITERS: dict[str, Callable[[Path], None]] = {
    "coco": coco,
    "tfrecord": written("tfrecord", "records"),
    "yolo-classify": written("yolo-classify", "walls"),
    "hf-folder": written("hf-folder", "walls"),
    "fiftyone": fiftyone,
    "llava": clips,
    "llama-factory": clips,
    "ms-swift": clips,
    "csv": clips,
}


def text_of(name: str) -> str:
    return (PAGES / f"{name}.md").read_text(encoding="utf-8")


MARK = pytest.mark.page(
    "docs/formats/coco.md",
    "docs/formats/csv.md",
    "docs/formats/fiftyone.md",
    "docs/formats/hf-folder.md",
    "docs/formats/llama-factory.md",
    "docs/formats/llava.md",
    "docs/formats/ms-swift.md",
    "docs/formats/tfrecord.md",
    "docs/formats/yolo-classify.md",
)


@MARK
@pytest.mark.parametrize("page", MARK.args)
def test_every_command_of_the_page_does_what_it_says(
    page: str, tmp_path: Path, run_line: Callable[..., object]
) -> None:
    WRITERS[Path(page).stem](tmp_path)
    commands = read_commands(page)
    assert len(commands) > 1
    for command in commands:
        run_line(command, tmp_path)
        output = tmp_path / re.findall(r" -o (\S+)", command)[0]
        if output.suffix in (".csv", ".jsonl", ".parquet"):
            found = load_table(output, "risk" if "--task risk" in command else "action", min_labels=1)
            assert len(found) and {path.is_file() for path in (sample.path for sample in found.samples)} == {True}
        else:
            assert output.exists()


@pytest.mark.parametrize("name", WRITERS)
def test_the_page_is_short_and_says_how_the_format_is_written(name: str) -> None:
    assert len(text_of(name).splitlines()) <= 60
    assert f"`--to {name}`" in text_of(name) and FORMATS[name].write is not None
    assert "Carried: " in text_of(name)


@pytest.mark.parametrize("name", WRITERS)
def test_options_and_links_of_the_page_exist(name: str) -> None:
    links = re.findall(r"\]\(([^)#]+)", text_of(name))
    assert [link for link in links if not (PAGES / link).exists()] == []
    own = {
        option
        for command in read_commands(f"docs/formats/{name}.md")
        for option in re.findall(r" (--[a-z][\w-]+)", command)
    }
    assert own <= {"--to", "--task", "--format", "--media", "--labels", "--crops"}
