from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vidrisk.cli.data import app
from vidrisk.data import load_table
from vidrisk.runtimes.contract.errors import DataError, SettingsError


@pytest.fixture
def photos(tmp_path: Path, photo: Callable[[Path], Path]) -> Path:
    for label in ("crack", "[red]sound"):
        for i in range(10):
            photo(tmp_path / "photos" / label / f"wall{i // 2} {i}.png")
    return tmp_path / "photos"


def test_split_writes_a_manifest_and_counts(photos: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "m.jsonl"
    args = ["split", str(photos), "-o", str(manifest), "--task", "risk", "--ratios", "6:2:2"]
    args += ["--group-by", "wall(.)", "--json"]
    result = CliRunner().invoke(app, args, catch_exceptions=False)
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert told["samples"] == 20 and told["counts"]["defect"]["crack"] == {"train": 6, "val": 2, "test": 2}
    table = load_table(manifest, "risk")
    assert len(table.of_split("train")) == 12 and {s.group for s in table.samples} == set("01234")


def test_preview_draws_and_prints_a_table(photos: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app, ["preview", str(photos), "-o", str(tmp_path / "s.png"), "--per-class", "2"], catch_exceptions=False
    )
    assert result.exit_code == 0 and (tmp_path / "s.png").is_file()
    assert "crack" in result.stdout and "[red]sound" in result.stdout and "unsplit" in result.stdout


def test_errors_reach_the_top(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("mine")
    taken = CliRunner().invoke(app, ["split", str(photos), "-o", str(tmp_path / "m.csv")])
    assert isinstance(taken.exception, DataError) and (tmp_path / "m.csv").read_text() == "mine"
    wrong = CliRunner().invoke(app, ["split", str(photos), "-o", str(tmp_path / "n.csv"), "--ratios", "8-1-1"])
    assert isinstance(wrong.exception, SettingsError)
    assert CliRunner().invoke(app, ["split", str(photos), "-o", "x.csv", "--task", "other"]).exit_code == 2


def test_code_pages_and_sheets_are_named(tmp_path: Path, photo: Callable[[Path], Path]) -> None:
    import openpyxl

    for i in range(6):
        photo(tmp_path / f"{i}.png")
    rows = [["path", "label"], *([f"{i}.png", "größe" if i % 2 else "Öl"] for i in range(6))]
    (tmp_path / "m.csv").write_bytes("".join(f"{';'.join(row)}\r\n" for row in rows).encode("cp1252"))
    workbook = openpyxl.Workbook()
    for title in ("one", "two"):
        sheet = workbook.create_sheet(title)
        for row in rows:
            sheet.append(row)
    workbook.save(tmp_path / "m.xlsx")
    for name, option in (("m.csv", ["--encoding", "cp1252"]), ("m.xlsx", ["--sheet", "two"])):
        for command, out in (("split", f"{name}.out.jsonl"), ("preview", f"{name}.png")):
            args = [command, str(tmp_path / name), "-o", str(tmp_path / out), "--task", "risk", "--json"]
            assert isinstance(CliRunner().invoke(app, args).exception, DataError)
            result = CliRunner().invoke(app, [*args, *option], catch_exceptions=False)
            assert json.loads(result.stdout)["counts"]["defect"].keys() == {"größe", "Öl"}


def test_every_command_that_reads_a_manifest_has_the_options() -> None:
    from vidrisk.cli.app import app as whole

    for command in (["train"], ["eval"], ["export"], ["bench"], ["data", "split"], ["data", "preview"]):
        shown = CliRunner().invoke(whole, [*command, "--help"]).stdout
        assert "--encoding" in shown and "--sheet" in shown
