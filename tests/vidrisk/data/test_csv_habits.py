"""Tests of CSV files as spreadsheets write them."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from vidrisk.data import Sample, Table, load_table, write_table
from vidrisk.runtimes.contract.errors import DataError


@pytest.fixture
def root(tmp_path: Path, photo: Callable[..., Path]) -> Path:
    for name in "abc":
        photo(tmp_path / f"{name}.jpg")
    return tmp_path


def table_of(root: Path, text: str, encoding: str = "utf-8") -> Table:
    (root / "m.csv").write_bytes(text.encode(encoding))
    return load_table(root / "m.csv", "risk")


def labels(table: Table) -> dict[str, str]:
    return {sample.name: sample.labels["defect"] for sample in table.samples}


BOTH = {"a.jpg": "x", "b.jpg": "y"}


@pytest.mark.parametrize(
    "text",
    [
        "path,label,,\na.jpg,x,,\nb.jpg,y,,\n",  # columns that were emptied
        "path,label,,\na.jpg,x\nb.jpg,y,\n",
        "path,,label\na.jpg,,x\nb.jpg,,y\n",
        "path,label,advice\na.jpg,x\nb.jpg,y,do\n",  # empty cells at the end left out
        "path,label\na.jpg,x,\nb.jpg,y,,,\n",
        "sep=;\npath;label\na.jpg;x\nb.jpg;y\n",
        '"sep=;"\r\npath;label\r\na.jpg;x\r\nb.jpg;y\r\n',
        "SEP=|\npath|label\na.jpg|x\nb.jpg|y\n",
        "sep=\t\npath\tlabel\na.jpg\tx\nb.jpg\ty\n",
        "sep=,\r\npath,label\r\na.jpg,x\r\nb.jpg,y",
        "path|label\na.jpg|x\nb.jpg|y\n",
        "List of defects, 2026\n\n;;\npath;label\na.jpg;x\nb.jpg;y\n",  # a title above, with another separator in it
        '"path","label"\n"a.jpg","x"\n"b.jpg","y"\n',
        " path , label \na.jpg,x\nb.jpg,y\n",
        "path,label\ra.jpg,x\rb.jpg,y\r",
        "\n\npath,label\n\na.jpg,x\n,\nb.jpg,y\n\n",
        "path,label\na.jpg,\u3000x\u00a0\nb.jpg,y\u200b\n",
    ],
)
def test_habits(root: Path, text: str) -> None:
    table = table_of(root, text)
    assert labels(table) == BOTH
    assert set(table.samples[0].extra) == set()


def test_unicode_text_of_excel(root: Path) -> None:
    assert labels(table_of(root, "path\tlabel\r\na.jpg\t裂缝\r\nb.jpg\t正常\r\n", "utf-16")) == {
        "a.jpg": "裂缝",
        "b.jpg": "正常",
    }


def test_the_index_of_pandas(root: Path) -> None:
    table = table_of(root, ",path,label\n0,a.jpg,x\n1,b.jpg,y\n")
    assert labels(table) == BOTH and dict(table.samples[1].extra) == {"unnamed": "1"}
    write_table(table, root / "again.csv")
    assert load_table(root / "again.csv", "risk") == table


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "path,label\na.jpg,x\nb.jpg,y, deep\n",
            "line 3 has 3 cells, the header 2; fix: write cells that contain ',' between double quotes",
        ),
        ("path,label,,\na.jpg,x,,\nb.jpg,y, deep,\n", "line 3 has 4 cells, the header 2"),
        ("sep=;\npath;label\na.jpg;x;z\n", "line 3 has 3 cells, the header 2; fix: write cells that contain ';'"),
        ("path,,label\na.jpg,what,x\n", "line 2 has 'what' in a column without a name"),
        ("title\npath,label,label\na.jpg,x,y\n", "line 2 has the column 'label' twice"),
        ('sep=;\npath;label\na.jpg;"x\n', "line 3 is not CSV"),
        ("path,label\na.jpg,x\nnone.jpg,y\n", "none.jpg (line 3)"),
    ],
)
def test_errors_name_the_line(root: Path, text: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        table_of(root, text)
    assert message in str(caught.value)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t"])
def test_a_path_is_no_formula_and_everything_is_read_as_it_was(
    root: Path, photo: Callable[..., Path], start: str
) -> None:
    name = f"{start}cmd|' C calc'!A0/1.png"
    photo(root / name)
    sample = Sample(root / name, name, {"defect": f"{start.strip() or '='}1+1"}, advice="=do", extra={"Site": "@x"})
    table = Table(root, "risk", (sample, replace(sample, path=root / "a.jpg", name="a.jpg", labels={"defect": "ok"})))
    write_table(table, root / "out.csv")
    rows = list(csv.reader(io.StringIO((root / "out.csv").read_text(encoding="utf-8-sig"), newline="")))
    assert rows[1][0] == f"./{name}" and rows[2][0] == "a.jpg"
    assert load_table(root / "out.csv", "risk") == table


@pytest.mark.parametrize("label", ["null", "NaN", "n/a"])
def test_a_label_that_reads_as_missing_is_not_written(root: Path, label: str) -> None:
    samples = (Sample(root / "a.jpg", "a.jpg", {"defect": label}), Sample(root / "b.jpg", "b.jpg", {"defect": "ok"}))
    with pytest.raises(DataError, match="which a manifest reads as a missing value; fix: rename the class"):
        write_table(Table(root, "risk", samples), root / "out.csv")


def test_a_path_that_ends_in_spaces_only_where_the_file_does(root: Path) -> None:
    (root / "c.jpg").rename(root / "c.jpg ")
    table = table_of(root, "path,label\na.jpg ,x\nb.jpg\u00a0,y\n")
    assert labels(table) == BOTH
    assert labels(table_of(root, "path,label\na.jpg,x\nc.jpg ,y\n")) == {"a.jpg": "x", "c.jpg ": "y"}
    with pytest.raises(DataError, match="line 2: the path is empty"):
        table_of(root, "path,label\n  ,x\nb.jpg,y\n")


@pytest.mark.parametrize(
    "text", ['path, "label"\na.jpg, "x, deep"\nb.jpg, "y"\n', 'path;label\n "a.jpg"; "x, deep"\nb.jpg; "y"\n']
)
def test_quotes_behind_a_space_are_no_part_of_a_label(root: Path, text: str) -> None:
    assert labels(table_of(root, text)) == {"a.jpg": "x, deep", "b.jpg": "y"}


def test_a_quote_within_quotes_keeps_its_spaces(root: Path) -> None:
    table = table_of(root, 'path,label,note\na.jpg,x," say, ""no"""\nb.jpg,y, z\n')
    assert [sample.extra["note"] for sample in table.samples] == [' say, "no"', " z"]
