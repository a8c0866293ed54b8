"""Tests of docs/risk-data.md: its commands and its scheme work as stated, and the names in it exist."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pages import read_blocks, read_page
from risk_tables import draw, seed_rows, write_csv

from vidrisk.data.answers import answer_from_fields
from vidrisk.data.case_columns import columns_of_cases, find_column
from vidrisk.data.case_tables import load_cases
from vidrisk.data.instruction_formats import FORMATS
from vidrisk.data.scheme_file import BUILT_IN, load_scheme, scheme_from_text

REPOSITORY = Path(__file__).resolve().parents[3]
PAGE = read_page("docs/risk-data.md")
COMMANDS, SCRIPT, BRIDGES = read_blocks("docs/risk-data.md")


@pytest.mark.page("docs/risk-data.md")
@pytest.mark.slow(minutes=2)
def test_every_command_of_the_page_does_what_it_says(tmp_path: Path, run_line: Callable[..., object]) -> None:
    rows = seed_rows(30)
    for number, row in enumerate(rows):
        draw(tmp_path / "photos" / row["image_path"], number, (600, 500))
        row["building"] = f"b{number // 3}"
        row["data_原"] = "D"
    write_csv(tmp_path / "photos" / "risks.csv", rows)
    write_csv(tmp_path / "photos" / "grades.csv", rows)
    for command in COMMANDS.commands:
        run_line(command, tmp_path)
    assert (tmp_path / "sheet.png").is_file()
    for name, scheme in (
        ("risk-data", "three-levels"),
        ("risk-jsonl", None),
        ("grades", "riskva"),
        ("small", "three-levels"),
    ):
        cases = load_cases(tmp_path / name)
        assert len(cases) == 30 and (scheme is None or cases.scheme == load_scheme(scheme))
        stats = json.loads((tmp_path / name / "dataset_stats.json").read_text(encoding="utf-8"))
        assert (stats["total_samples"], stats["images"], stats["missing_images"]) == (30, 30, 0)
    (tmp_path / "risk-data").rename(tmp_path / "by-command")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    end = subprocess.run(
        [sys.executable, "-c", SCRIPT.text], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert end.returncode == 0 and len(load_cases(tmp_path / "risk-data")) == 30, end.stderr


@pytest.mark.page("docs/risk-data.md")
def test_the_scheme_of_the_page_is_one() -> None:
    scheme = scheme_from_text(BRIDGES.text, "page")
    assert scheme.level_names == ("good", "poor", "not seen") and scheme.levels[2].severity is None
    assert answer_from_fields(scheme, {"level": "差", "part": "pier"}) == '{"level":"poor","part":"pier","finding":""}'


def test_what_the_page_names_exists() -> None:
    assert all(f"`{name}`" in PAGE for name in BUILT_IN)
    assert len(FORMATS) == 5 and all(known.title in PAGE for known in FORMATS.values())
    rows = dict(re.findall(r"^\| ([a-z ',]+?) \| (.*) \|$", PAGE.partition("## The scheme")[0], re.MULTILINE))
    named = {what: re.findall(r"`([^`]+)`", cells) for what, cells in rows.items()}
    scheme = load_scheme("three-levels")
    for what, field in (("level", "level"), ("risk, advice, defect", None)):
        for column in named[what]:
            found = scheme.find_field(column.removeprefix("data_"))
            assert found and field in (None, found.name), column
    riskva = load_scheme("riskva")
    levels = {riskva.find_field(column.removeprefix("data_")) for column in named["level before and now"][:2]}
    assert levels == set(riskva.level_fields)
    for what, attribute in (
        ("photo", "path"),
        ("several photos", "paths"),
        ("kept together", "group"),
        ("split", "split"),
    ):
        for column in named[what][: 1 if what == "split" else 2]:
            columns = columns_of_cases(["description", column], scheme, "page", labelled=False, has_photos=True)
            assert getattr(columns, attribute) == column
    assert find_column(named["one defect"], ("case_id",))


def test_options_of_the_page_exist_and_the_page_is_linked() -> None:
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]+", PAGE))
    commands = "".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "vidrisk" / "cli").glob("*.py"))
    offered = {f"--{option.replace('_', '-')}" for option in re.findall(r"^    (\w+): ", commands, re.MULTILINE)}
    assert named and named <= offered | set(re.findall(r'"(--[\w-]+)"', commands))
    assert "](docs/risk-data.md)" in (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert "](risk-data.md)" in (REPOSITORY / "docs" / "support.md").read_text(encoding="utf-8")
