"""Tests of docs/composed-models.md: its commands and its Python work as described, and its references exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers
from pages import read_blocks, read_page
from typer.testing import CliRunner
from vlm_runs import write_photos

from vidrisk.cli.app import app
from vidrisk.models.config import TrainConfig
from vidrisk.models.run import Run
from vidrisk.models.vlm.composed import Composed

REPOSITORY = Path(__file__).resolve().parents[4]
DOCS = REPOSITORY / "docs"
PAGE = read_page("docs/composed-models.md")
FIRST, SCRIPT, SECOND = read_blocks("docs/composed-models.md")
SMALL = ("lora.rank=2", "optim.epochs=1", "optim.batch_size=8", "precision=fp32", "head.hidden=16", "views=1")


def train(words: list[str], small: list[str]) -> None:
    end = CliRunner().invoke(app, [*words, *small])
    assert end.exit_code == 0, f"{words}\n{end.output}\n{end.exception!r}"


@pytest.mark.page("docs/composed-models.md")
@pytest.mark.slow(minutes=1)
def test_a_run_becomes_a_folder_and_the_folder_a_run(
    backbone_folder: Callable[[str], Path],
    language_folder: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "photos").mkdir()
    for sample in write_photos(tmp_path / "photos").samples:
        place = tmp_path / "photos" / sample.labels["defect"]
        place.mkdir(exist_ok=True)
        sample.path.rename(place / sample.name)
    monkeypatch.chdir(tmp_path)
    composed = f"compose:{backbone_folder('clip_vision_model')}+{language_folder('Qwen2ForCausalLM')}"
    small = [word for setting in SMALL for word in ("--set", setting)]
    first, second = (shlex.split(command)[1:] for block in (FIRST, SECOND) for command in block.commands)
    place = first.index("--backbone") + 1
    assert first[place].startswith("compose:") and second[second.index("--backbone") + 1] == "defects-llava"
    first[place] = composed
    train(first, small)
    SCRIPT.execute({})
    train(second, small)
    transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path / "defects-llava")
    run = Run.open(tmp_path / "runs" / "further")
    backbone = run.load_classifier().backbone
    assert isinstance(backbone, Composed) and backbone.image == "<image>" and backbone.vision.average is None
    named = re.findall(r"^\| ((?:`[^`]+`(?:, )?)+)", PAGE, re.MULTILINE)
    files = [name for cell in named for name in re.findall(r"`([^`]+)`", cell)]
    assert len(files) > 6 and [name for name in files if not (tmp_path / "defects-llava" / name).is_file()] == []


def test_what_is_named_exists() -> None:
    named = set(re.findall(r"`((?:lora|head|vlm|optim)\.\w+)\b", PAGE))
    config = TrainConfig()
    assert named and all(
        hasattr(getattr(config, section), field) for section, field in (name.split(".") for name in named)
    )
    links = [link for link in re.findall(r"\]\(([^)#]+)", PAGE) if "://" not in link]
    assert links and all((DOCS / link).is_file() for link in links)
    examples = re.findall(r"`(examples/[^`]+)`", PAGE)
    assert examples and all((REPOSITORY / example).is_file() for example in examples)
    assert "](composed-models.md)" in (DOCS / "vlm.md").read_text(encoding="utf-8")
