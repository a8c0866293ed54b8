"""Tests of the documentation of clip data sets: its commands run on a folder as each page shows it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from pages import read_commands
from trees import touch, write_ava, write_hmdb51, write_json, write_kinetics, write_lines

from vidrisk.data import load_table
from vidrisk.data.formats import FORMATS

PAGES = Path(__file__).resolve().parents[4] / "docs" / "formats"


def write_activitynet(root: Path) -> Path:
    """Write an ActivityNet data set of three videos, of which one has two segments."""
    videos = {"a": ("training", [[1.5, 3], [2, 6.9]]), "b": ("validation", [[1, 4]]), "c": ("training", [[0, 2]])}
    write_json(
        root / "activity_net.v1-3.min.json",
        {
            "version": "VERSION 1.3",
            "database": {
                name: {
                    "duration": 6.5,
                    "subset": subset,
                    "annotations": [{"segment": part, "label": f"label {number}"} for number, part in enumerate(parts)],
                }
                for name, (subset, parts) in videos.items()
            },
        },
    )
    for name in videos:
        touch(root / f"v_{name}.mp4")
    return root


def write_mmaction(root: Path) -> Path:
    """Write an MMAction data set with a list per split; two of its lines have several class numbers."""
    for split, lines in (("train", ["a/0.mp4 1", "a/1.mp4 0 2"]), ("val", ["b/2.mp4 2", "b/3.mp4 0 1"])):
        write_lines(root / f"kinetics400_{split}_list_videos.txt", lines)
        for line in lines:
            touch(root / f"videos_{split}" / line.split()[0])
    write_lines(root / "label_map.txt", ["run", "fall", "sit"])
    return root


WRITERS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "hmdb51": (write_hmdb51, "hmdb51"),
    "kinetics": (write_kinetics, "kinetics"),
    "activitynet": (write_activitynet, "activitynet"),
    "ava": (write_ava, "ava"),
    "mmaction": (write_mmaction, "data"),
}


MARK = pytest.mark.page(
    "docs/formats/activitynet.md",
    "docs/formats/ava.md",
    "docs/formats/hmdb51.md",
    "docs/formats/kinetics.md",
    "docs/formats/mmaction.md",
)


def text_of(name: str) -> str:
    return (PAGES / f"{name}.md").read_text(encoding="utf-8")


@MARK
@pytest.mark.parametrize("page", MARK.args)
def test_every_command_of_the_page_does_what_it_says(
    page: str, tmp_path: Path, run_line: Callable[..., object]
) -> None:
    name = Path(page).stem
    write, folder = WRITERS[name]
    root = write(tmp_path / folder)
    for number, path in enumerate(sorted(path for path in root.rglob("*") if path.suffix in (".avi", ".mp4", ".mkv"))):
        path.write_bytes(bytes([number]))  # no two alike
    commands = read_commands(page)
    assert len(commands) > 1
    for command in commands:
        run_line(command, tmp_path)
        output = tmp_path / re.findall(r" -o (\S+)", command)[0]
        found = load_table(output, "action", min_labels=1)
        assert len(found) and {sample.split for sample in found.samples} <= {"train", "val", "test"}
        if " --to " in command:
            assert FORMATS[name].owns(output) and found == load_table(root, "action", min_labels=1)


@pytest.mark.parametrize("name", WRITERS)
def test_the_page_is_short_and_says_how_the_format_is_written(name: str) -> None:
    assert len(text_of(name).splitlines()) <= 60
    assert (f"`--to {name}`" in text_of(name)) == (FORMATS[name].write is not None)
    assert ("is only read" in text_of(name)) == (FORMATS[name].write is None)


@pytest.mark.parametrize("name", WRITERS)
def test_links_of_the_page_exist(name: str) -> None:
    assert [link for link in re.findall(r"\]\(([^)#]+)", text_of(name)) if not (PAGES / link).exists()] == []
