"""Tests of ``docs/jetson.md`` against the code: its messages, options, names and versions exist there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import vidrisk
from vidrisk.deploy.deployment import FILES
from vidrisk.deploy.devices import TARGETS

REPOSITORY = Path(vidrisk.__file__).resolve().parent.parent
PAGE_PATH = REPOSITORY / "docs" / "jetson.md"
pytestmark = pytest.mark.skipif(not PAGE_PATH.is_file(), reason="the documents are in the repository alone")
PAGE = PAGE_PATH.read_text(encoding="utf-8") if PAGE_PATH.is_file() else ""
ROOMS = ("vidrisk", "export", "calibration", "runtimes")
OF_OTHERS = {"NvRmMemInitNvmap failed with Permission denied", "FAILED"}  # NVIDIA's libraries, sha256sum
OPTIONS_OF_OTHERS = {"--restart", "--name", "--build-arg"}  # docker


def texts_of_the_code() -> str:
    """Return the code with … for every value in a text and without the line breaks inside texts."""
    modules = "".join(path.read_text(encoding="utf-8") for room in ROOMS for path in (REPOSITORY / room).rglob("*.py"))
    modules = re.sub(r"\{[^{}\n]*\}", "…", re.sub(r'"\s+f?"', "", modules))
    scripts = "".join(path.read_text(encoding="utf-8") for path in FILES.glob("*.sh"))
    return modules + re.sub(r"\$\{?\w+\}?", "…", scripts)


def test_messages_are_those_of_the_code() -> None:
    table = PAGE.partition("## When something is wrong")[2].partition("\n## ")[0]
    first = [line.split("|")[1] for line in table.splitlines() if line.startswith("| ")]
    messages = {message for cell in first for message in re.findall(r"`([^`]+)`", cell)} - OF_OTHERS
    code = texts_of_the_code()
    assert len(messages) > 15
    assert [message for message in messages if message.replace("jetson-orin", "…") not in code] == []


def test_options_exist() -> None:
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]+", PAGE)) - OPTIONS_OF_OTHERS
    commands = "".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "vidrisk" / "cli").glob("*.py"))
    offered = {f"--{name.replace('_', '-')}" for name in re.findall(r"^    (\w+): ", commands, re.MULTILINE)}
    offered |= set(re.findall(r'"(--[\w-]+)"', commands))
    scripts = "".join(path.read_text(encoding="utf-8") for path in FILES.glob("*.sh"))
    offered |= set(re.findall(r"^ +(?:-h \| )?(--[\w-]+)\)", scripts, re.MULTILINE))
    assert named and named - offered == set()


def test_targets_releases_and_images_are_those_of_the_code() -> None:
    assert all(f"`{name}`" in PAGE for name in TARGETS)
    for name in ("jetson-orin", "jetson-thor"):
        assert f"`{TARGETS[name].base_image}`" in PAGE
        assert all(f"{major}.{minor}" in PAGE for major, minor in TARGETS[name].l4t)


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)]+)\)", PAGE)
    headings = re.findall(r"^#+ (.*)", PAGE, re.MULTILINE)
    places = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert links
    for link in links:
        assert link.removeprefix("#") in places if link.startswith("#") else (PAGE_PATH.parent / link).exists(), link


def test_it_says_what_was_not_run() -> None:
    run = PAGE.partition("## What was run")[2]
    assert "**nothing**" in run and "**not built**" in run
