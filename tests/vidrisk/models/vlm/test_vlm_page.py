"""Tests of docs/vlm.md: its first commands work as described, and its references exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from pages import read_blocks, read_page
from trees import encoded

from vidrisk.models.config import TrainConfig, config_from_options
from vidrisk.runtimes import Bundle

REPOSITORY = Path(__file__).resolve().parents[4]
DOCS = REPOSITORY / "docs"
PAGE = read_page("docs/vlm.md")
FIRST, PROMPTS, TOWER, SCRIPT = read_blocks(
    "docs/vlm.md"
)  # the last two are of tests/vidrisk/jobs/test_dynamic_vision.py
COLOURS = {"sit": (200, 40, 40), "stand": (40, 40, 200)}
# A small language model in the place of SmolLM2, whose export takes ten minutes; budgets that so small a one keeps.
SMALL = {
    "train": "--set pixel.height=64 --set pixel.width=64 --set frames=4 --set optim.epochs=1 --set optim.batch_size=6 "
    "--set precision=fp32",
    "export": "--max-drop 60 --max-confidence-drop 100 --allow-drop --search-s 5",
    "infer": "",
}


@pytest.mark.page("docs/vlm.md")
@pytest.mark.slow(minutes=3)
def test_the_first_commands_go_from_clips_to_predictions(
    language_folder: Callable[..., Path], tmp_path: Path, run_line: Callable[..., object]
) -> None:
    assert [command.split()[1] for command in FIRST.commands] == ["train", "export", "infer"]
    (tmp_path / "examples").symlink_to(REPOSITORY / "examples")
    for number in range(20):
        label = tuple(COLOURS)[number % 2]
        encoded(COLOURS[label], 500 + 40 * number)(tmp_path / "clips" / label / f"{number}.mp4")
    encoded((200, 40, 40), 1000)(tmp_path / "cam7" / "1.mp4")
    for command in FIRST.commands:
        verb = command.split()[1]
        small = shlex.split(SMALL[verb])
        if verb == "train":
            small += ["--backbone", f"compose:efficientnet-lite0+{language_folder()}"]
        run_line(command, tmp_path, *small, alone=verb == "infer")
    assert [stage.name for stage in Bundle.open(tmp_path / "vlm.bundle").stages] == ["vision", "text", "head"]
    assert len((tmp_path / "out" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()) == 1


def test_every_setting_that_is_named_exists() -> None:
    named = set(re.findall(r"`((?:lora|head|vlm|optim)\.\w+)\b(?!\.onnx)", PAGE))
    config = TrainConfig()
    assert (
        len(named) > 10
        and [name for name in named if not hasattr(getattr(config, name.partition(".")[0]), name.partition(".")[2])]
        == []
    )


@pytest.mark.page("docs/vlm.md")
def test_the_settings_that_are_shown_are_read(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(PROMPTS.text, encoding="utf-8")
    prompts = config_from_options(tmp_path / "c.yaml").vlm.prompts
    assert (
        isinstance(prompts, tuple)
        and [pair.model_dump() for pair in prompts] == yaml.safe_load(PROMPTS.text)["vlm"]["prompts"]
    )


def test_links_and_configurations_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)", PAGE) if "://" not in link]
    links = [link.removeprefix("docs/") for link in links]
    assert links and [link for link in links if not (DOCS / link).exists()] == []
    configs = re.findall(r"--config (\S+)", PAGE)
    assert configs and all((REPOSITORY / config).is_file() for config in configs)
    assert "](docs/vlm.md)" in (REPOSITORY / "README.md").read_text(encoding="utf-8")
