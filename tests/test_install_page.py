"""Tests of the pip commands on the pages: each finds its packages among those that ``make test`` installs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import copy_checkout
from pages import read_commands

COMMANDS = [
    command
    for page in ("docs/install.md", "docs/quick-start.md")
    for command in read_commands(page)
    if command.startswith("pip ")
]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the checkout, for pip to write into."""
    return copy_checkout(tmp_path_factory.mktemp("checkout"), "constraints.txt")


@pytest.mark.page("docs/install.md", "docs/quick-start.md")
@pytest.mark.parametrize("command", COMMANDS)
def test_pip_finds_what_the_pages_install(command: str, checkout: Path) -> None:
    """Each pip command of the pages finds the wanted versions among the installed packages.

    It runs in a shell as written, but without an index and without installing anything.
    """
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PIP_DRY_RUN": "1",
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # as pip reads it: without isolation
    }
    ended = subprocess.run(
        ["bash", "-c", command], cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0 and "does not provide the extra" not in ended.stdout + ended.stderr, ended.stderr
    if "torch==" in command:
        assert "Requirement already satisfied: torch==" in ended.stdout
    else:
        assert re.search(r"^Would install vidrisk-[\d.]+$", ended.stdout, re.MULTILINE), ended.stdout


def test_every_block_of_the_page_is_run() -> None:
    assert set(read_commands("docs/install.md")) <= set(COMMANDS) and len(COMMANDS) == 3
