"""Tests of docs/ucf101.md and docs/something-something-v2.md.

Their commands work as described, and everything that they name exists.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from pages import read_commands
from trees import SSV2_TEMPLATES, UCF_CLASSES, encoded, write_ssv2, write_ucf101

from vidrisk.data import load_table
from vidrisk.data.formats import FORMATS, something, ucf101
from vidrisk.models.config import TrainConfig, config_from_options
from vidrisk.runtimes import Bundle

REPOSITORY = Path(__file__).resolve().parents[4]
DOCS = REPOSITORY / "docs"
PAGES = {"ucf101": DOCS / "ucf101.md", "ssv2": DOCS / "something-something-v2.md"}
WRITERS = {"ucf101": write_ucf101, "ssv2": write_ssv2}
FEW = {"ucf101": "small.jsonl", "ssv2": "few.csv"}
# Frames of the default size take an export minutes, and all else is the same; the README's photos are trained at that
# size.
QUICK = {"train": ("--set", "pixel.height=96", "--set", "pixel.width=96"), "export": ("--search-s", "5")}
LABELS = {
    "ucf101": tuple(UCF_CLASSES),
    "ssv2": tuple(template.replace("[", "").replace("]", "") for template in SSV2_TEMPLATES),
}


def text_of(name: str) -> str:
    return PAGES[name].read_text(encoding="utf-8")


def commands_of(name: str) -> list[str]:
    return read_commands(PAGES[name].relative_to(REPOSITORY).as_posix())


@pytest.mark.page("docs/ucf101.md", "docs/something-something-v2.md")
@pytest.mark.slow(minutes=4)
@pytest.mark.parametrize("name", PAGES)
def test_every_command_of_the_page_does_what_it_says(
    name: str, tmp_path: Path, run_line: Callable[..., object]
) -> None:
    root = WRITERS[name](tmp_path / name, clips=True)
    encoded((200, 40, 40), 1000)(tmp_path / "cam7" / "1.mp4")
    for command in commands_of(name):
        run_line(command, tmp_path, *QUICK.get(command.split()[1], ()), alone=command.startswith("vidrisk infer "))
    bundle = Bundle.open(tmp_path / f"{name}.bundle")
    assert bundle.contract.targets[0].labels == LABELS[name]
    test = load_table(root, "action").of_split("test")
    assert json.loads((tmp_path / "eval.json").read_text(encoding="utf-8"))["metrics"]["action"]["n"] == len(test) > 0
    assert len((tmp_path / "out" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()) == 1
    assert (tmp_path / "sheet.png").is_file()
    few = load_table(root / FEW[name], "action")
    assert max(few.of_split("test").label_counts("action").values()) == 2


@pytest.mark.parametrize("name", PAGES)
def test_the_page_shows_every_step(name: str) -> None:
    assert [command.split()[1] for command in commands_of(name)] == [
        "train",
        "export",
        "eval",
        "infer",
        "data",
        "data",
        "data",
    ]
    assert any(" --int8" in command for command in commands_of(name))


@pytest.mark.parametrize("name", PAGES)
def test_options_and_settings_exist(name: str) -> None:
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]+", text_of(name)))
    commands = "".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "vidrisk" / "cli").glob("*.py"))
    offered = {f"--{option.replace('_', '-')}" for option in re.findall(r"^    (\w+): ", commands, re.MULTILINE)}
    assert named and named <= offered | set(re.findall(r'"(--[\w-]+)"', commands))
    keys = set(re.findall(r"--set (\w+)", text_of(name)))
    assert keys and keys <= set(TrainConfig.model_fields)


@pytest.mark.parametrize(("name", "module"), [("ucf101", ucf101), ("ssv2", something)])
def test_folders_and_lists_are_those_that_are_read(name: str, module: object) -> None:
    folders = {
        folder for attribute in ("LIST_FOLDERS", "VIDEO_FOLDERS") for folder in getattr(module, attribute) if folder
    }
    said = text_of(name)
    assert {folder for folder in folders if folder.rpartition("/")[2] not in said} == set()
    assert set(re.findall(r"\b((?:train|test)list\d\d|classInd)\.txt", said)) <= {
        "classInd",
        *(f"{what}list{split:02d}" for what in ("train", "test") for split in ucf101.SPLITS),
    }


def test_every_format_has_a_page_that_is_linked() -> None:
    support = (DOCS / "support.md").read_text(encoding="utf-8")
    for page in PAGES.values():
        assert f"](docs/{page.name})" in (REPOSITORY / "README.md").read_text(encoding="utf-8")
        assert f"]({page.name})" in support
    for name in FORMATS.keys() - {"ucf101", "something", "jsonl", "parquet"}:  # all manifests have one page
        assert (DOCS / "formats" / f"{name}.md").is_file() and f"](formats/{name}.md)" in support


@pytest.mark.parametrize("name", PAGES)
def test_links_and_configurations_exist(name: str) -> None:
    links = re.findall(r"\]\(([^)#]+)", text_of(name))
    configs = re.findall(r"--config (\S+?)`", text_of(name))
    assert links and [link for link in links if not (DOCS / link).exists()] == []
    assert configs and all(config_from_options(REPOSITORY / config).task == "action" for config in configs)
