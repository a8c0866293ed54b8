"""Tests of vidrisk's own manifests as formats to convert to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from drawn_tables import file_of

from vidrisk.data import Sample, Table, load_table
from vidrisk.data.data_sets import import_data, write_data_set
from vidrisk.data.formats import format_of
from vidrisk.frames import Interval
from vidrisk.runtimes.contract.errors import DataError, SettingsError


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table(
        tmp_path,
        "action",
        (
            Sample(file_of(tmp_path, "a.mp4", 0), "a.mp4", {"action": "run"}, interval=Interval(0.5, 2)),
            Sample(file_of(tmp_path, "b.png", 1), "b.png", {"action": "fall"}, extra={"note": "1"}),
        ),
        label_order={"action": ("run", "fall", "sit")},
    )


@pytest.mark.parametrize("name", ["csv", "jsonl", "parquet"])
def test_a_manifest_is_one_that_load_table_reads_and_no_format_claims(tmp_path: Path, table: Table, name: str) -> None:
    written = write_data_set(table, tmp_path / f"m.{name}", name=name)
    assert written.lost == {"labels that no sample has": 1} and format_of(tmp_path / f"m.{name}") is None
    again = load_table(tmp_path / f"m.{name}", "action")
    assert again.label_order == {"action": ("run", "fall")} and [s.interval for s in again.samples] == [
        Interval(0.5, 2),
        None,
    ]
    assert import_data(tmp_path / f"m.{name}", name=name).table.samples == table.samples


def test_a_name_of_another_kind_and_intervals_in_two_units_are_refused(tmp_path: Path, table: Table) -> None:
    with pytest.raises(SettingsError, match=r"a name that ends in \.csv"):
        write_data_set(table, tmp_path / "m.jsonl", name="csv")
    other = Sample(table.samples[0].path, "a.mp4", {"action": "fall"}, interval=Interval(0, 3, "frame"))
    mixed = table.with_samples([*table.samples, other])
    with pytest.raises(DataError, match="intervals in seconds and in frames"):
        write_data_set(mixed, tmp_path / "m.csv", name="csv")


def test_convert_writes_class_folders_as_a_manifest(cli: Callable[..., Any], tmp_path: Path) -> None:
    for number, name in enumerate(("set/train/x/a.png", "set/val/y/b.png")):
        file_of(tmp_path, name, number)
    end = cli("data", "convert", tmp_path / "set", "-o", tmp_path / "m.csv", "--to", "csv", "--task", "risk", "--json")
    assert end.code == 0
    assert json.loads(end.stdout) == {
        "output": str(tmp_path / "m.csv"),
        "format": "csv",
        "samples": 2,
        "lost": {},
        "model": None,
    }
    assert [(s.name, s.labels["defect"], s.split) for s in load_table(tmp_path / "m.csv", "risk").samples] == [
        ("set/train/x/a.png", "x", "train"),
        ("set/val/y/b.png", "y", "val"),
    ]
