from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidrisk.data import Sample, Table, load_table, write_table
from vidrisk.data.io import MISSING
from vidrisk.data.text import label_from_text, trim_text
from vidrisk.runtimes.contract.choices import Task
from vidrisk.runtimes.contract.errors import DataError, MissingExtra, SettingsError

printable = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=12)
tricky = ["a, b", 'say "x"', "two\nlines", "one\rtwo", "a;b\tc", "=1+1", "缺陷 🧱", "01", "1.0"]
cells = st.one_of(printable, st.sampled_from(tricky))
present = cells.map(str.strip).filter(lambda s: label_from_text(s).casefold() not in MISSING)
text = cells.map(str.strip).map(lambda s: "" if trim_text(s).casefold() in MISSING else s)


@st.composite
def tables(draw: st.DrawFn) -> tuple[Task, list[dict[str, Any]]]:
    task: Task = draw(st.sampled_from(["action", "risk"]))
    targets = ["action"] if task == "action" else draw(st.sampled_from([["defect"], ["level"], ["defect", "level"]]))
    extra = draw(st.lists(st.sampled_from(["Site", "备注", "image_path", "data_path"]), unique=True))
    rows: list[dict[str, Any]] = draw(
        st.lists(
            st.fixed_dictionaries(
                {
                    "labels": st.fixed_dictionaries(dict.fromkeys(targets, present)),
                    "risk": text,
                    "advice": text,
                    "description": text,
                    "split": st.sampled_from(["train", "val", "test", None]),
                    "group": st.one_of(st.none(), present),
                    "extra": st.fixed_dictionaries(dict.fromkeys(extra, text)),
                }
            ),
            min_size=2,
            max_size=5,
        )
    )
    for target in targets:  # two classes at least
        rows[0]["labels"][target], rows[1]["labels"][target] = "class one", "class two"
    return task, rows


@settings(max_examples=60, deadline=None)
@given(tables(), st.sampled_from(["csv", "tsv", "jsonl", "parquet"]))
def test_round_trip(drawn: tuple[Task, list[dict[str, Any]]], suffix: str) -> None:
    task, rows = drawn
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        samples = []
        for i, row in enumerate(rows):
            name = f"a b/it's, “{i}” 图.jpg"
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).touch()
            samples.append(Sample(root / name, name, **row))
        table = Table(root, task, tuple(samples))
        write_table(table, root / f"m.{suffix}")
        assert load_table(root / f"m.{suffix}", task) == table


@pytest.fixture
def table(tmp_path: Path) -> Table:
    samples = []
    for name in ("in/a.jpg", "in/b.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
        samples.append(Sample(tmp_path / name, Path(name).name, {"action": Path(name).stem}))
    return Table(tmp_path / "in", "action", tuple(samples))


def test_paths_are_relative_to_the_manifest(table: Table, tmp_path: Path) -> None:
    write_table(table, tmp_path / "m.csv")
    assert [s.name for s in load_table(tmp_path / "m.csv", "action").samples] == ["in/a.jpg", "in/b.jpg"]
    with pytest.raises(DataError, match="lies outside"):
        write_table(table, tmp_path / "elsewhere" / "m.csv")


def test_refusals(table: Table, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("mine")
    with pytest.raises(DataError, match="exists already"):
        write_table(table, tmp_path / "m.csv")
    assert (tmp_path / "m.csv").read_text() == "mine"
    with pytest.raises(DataError, match=r"unknown suffix '.xls'"):
        write_table(table, tmp_path / "m.xls")
    clash = table.with_samples([replace(table.samples[0], extra={"path": "x"})])
    with pytest.raises(DataError, match=r"extra column 'path' of .* has a reserved name"):
        write_table(clash, tmp_path / "n.csv")


def test_a_name_that_is_not_unicode(table: Table, tmp_path: Path) -> None:
    path = tmp_path / "in" / os.fsdecode(b"\xff.jpg")
    path.touch()
    with pytest.raises(DataError, match="is not Unicode"):
        write_table(table.with_samples([replace(table.samples[0], path=path)]), tmp_path / "m.csv")


def test_a_system_that_refuses_leaves_nothing(table: Table, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    inside = table.with_samples([])
    with pytest.raises(SettingsError, match=r"file is a file, so .*m\.csv cannot be written; fix: choose another"):
        write_table(inside, tmp_path / "file" / "m.csv")
    with pytest.raises(DataError, match=r"cannot be written: File exists"):
        write_table(inside, tmp_path / "link" / "m.csv")


def test_parquet_without_pyarrow(table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtra, match=r"pyarrow is not installed; fix: pip install 'vidrisk\[parquet\]'"):
        write_table(table, tmp_path / "m.parquet")
