"""Tests of docs/distributed-training.md: its commands train, and everything that it names exists."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pages import read_commands, read_page
from trees import encoded

from vidrisk.models.config import TrainConfig, VlmSettings
from vidrisk.runtimes.contract.errors import is_installed

REPOSITORY = Path(__file__).resolve().parents[3]
PAGE = read_page("docs/distributed-training.md")
LAUNCH = "accelerate launch "
COMMANDS = [command.removeprefix(LAUNCH) for command in read_commands("docs/distributed-training.md")]
COLOURS = {"sit": (200, 40, 40), "stand": (40, 40, 200)}
SMALL = (
    "pixel.height=64",
    "pixel.width=64",
    "frames=2",
    "views=1",
    "optim.epochs=1",
    "optim.batch_size=6",
    "precision=fp32",
)


@pytest.mark.page("docs/distributed-training.md")
@pytest.mark.slow(minutes=2)
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: Path(shlex.split(command)[1]).stem)
def test_every_command_of_the_page_trains(command: str, tmp_path: Path) -> None:
    """Every command trains as documented, apart from settings that shrink the run.

    These settings include smaller frames and fewer epochs.
    """
    if "zero" in command and not is_installed("deepspeed"):
        pytest.skip("deepspeed is not installed: pip install 'vidrisk[deepspeed]'")
    (tmp_path / "examples").symlink_to(REPOSITORY / "examples")
    for number in range(20):
        label = tuple(COLOURS)[number % 2]
        encoded(COLOURS[label], 500 + 40 * number)(tmp_path / "clips" / label / f"{number}.mp4")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
    }
    small = [word for setting in SMALL for word in ("--set", setting)]
    end = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *shlex.split(command), *small],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert end.returncode == 0, f"{command}\n{end.stdout}\n{end.stderr}"
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name in command and {"adapter", "head.safetensors", "metrics.json", "tensorboard"} <= {
        path.name for path in run.iterdir()
    }


def test_every_configuration_has_a_command_and_a_row() -> None:
    files = {path.name for path in (REPOSITORY / "examples" / "accelerate").iterdir()}
    assert {Path(shlex.split(command)[1]).name for command in COMMANDS} == files
    assert set(re.findall(r"^\| `(\w+\.yaml)` \|", PAGE, re.MULTILINE)) == files
    for file in files:
        described = yaml.safe_load((REPOSITORY / "examples" / "accelerate" / file).read_text(encoding="utf-8"))
        assert (described["num_processes"], described["num_machines"]) == (2, 1)  # as the page says


def test_tests_that_the_page_names_exist() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    here = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    assert named and [name for name in named if f"def {name}(" not in here] == []


def test_settings_and_links_exist() -> None:
    settings = set(re.findall(r"`(?:--set )?([a-z][\w.]+)(?:: |=)[^`]*`", PAGE)) - {"fsdp_version"}
    known = {*TrainConfig.model_fields, *(f"vlm.{name}" for name in VlmSettings.model_fields), "lora.last_blocks"}
    assert settings and settings <= known
    links = [link for link in re.findall(r"\]\(([^)#]+)", PAGE) if "://" not in link]
    assert links and [link for link in links if not (REPOSITORY / "docs" / link).exists()] == []
    assert "](docs/distributed-training.md)" in (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert "](distributed-training.md)" in (REPOSITORY / "docs" / "vlm.md").read_text(encoding="utf-8")
