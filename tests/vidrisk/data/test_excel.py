"""Tests of workbooks as people fill them in, and as an attacker would craft them."""

from __future__ import annotations

import datetime
import logging
import re
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from vidrisk.data import Table, excel, load_table
from vidrisk.frames import Interval
from vidrisk.runtimes.contract.errors import DataError, MissingExtra, SettingsError

Rows = Sequence[Sequence[Any]]
PLAIN: Rows = [["path", "label"], ["a.jpg", "x"], ["b.jpg", "y"]]
BOTH = {"a.jpg": "x", "b.jpg": "y"}


@pytest.fixture
def root(tmp_path: Path, photo: Callable[..., Path], clip: Callable[..., Path]) -> Path:
    for name in "abcde":
        photo(tmp_path / f"{name}.jpg")
    clip(tmp_path / "v.mp4")
    return tmp_path


def save(
    path: Path, sheets: dict[str, Rows], *, hidden: Sequence[str] = (), merged: dict[str, list[str]] | None = None
) -> Path:
    workbook = openpyxl.Workbook()
    workbook.remove(workbook.worksheets[0])
    for title, rows in sheets.items():
        sheet = workbook.create_sheet(title)
        for row in rows:
            sheet.append(row)
        for area in (merged or {}).get(title, []):
            sheet.merge_cells(area)
        if title in hidden:
            sheet.sheet_state = "hidden"
    workbook.save(path)
    return path


def labels(table: Table, target: str = "defect") -> dict[str, str]:
    return {sample.name: sample.labels[target] for sample in table.samples}


def patched(path: Path, changes: dict[str, Callable[[bytes], bytes]], added: dict[str, bytes] | None = None) -> Path:
    """Change the files in a workbook whose names match regular expressions, and return the workbook."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    for pattern, change in changes.items():
        files |= {name: change(data) for name, data in files.items() if re.search(pattern, name)}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in (files | (added or {})).items():
            archive.writestr(name, data)
    return path


def with_shared_strings(path: Path) -> Path:
    """Move the texts of cells into a file of their own, as Excel writes them, and return the workbook."""
    texts: list[bytes] = []

    def shared(match: re.Match[bytes]) -> bytes:
        texts.append(match[2])
        return b'<c r="%s" t="s"><v>%d</v></c>' % (match[1], len(texts) - 1)

    patched(
        path,
        {r"sheet1\.xml": lambda data: re.sub(rb'<c r="(\w+)" t="inlineStr"><is><t>([^<]*)</t></is></c>', shared, data)},
    )
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    strings = f'<sst xmlns="{main}">'.encode() + b"".join(b"<si><t>%s</t></si>" % text for text in texts) + b"</sst>"
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml.sharedStrings+xml"
    override = f'<Override PartName="/xl/sharedStrings.xml" ContentType="{kind}"/></Types>'.encode()
    return patched(
        path, {"Content_Types": lambda data: data.replace(b"</Types>", override)}, {"xl/sharedStrings.xml": strings}
    )


def test_texts_where_excel_keeps_them(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = with_shared_strings(save(root / "m.xlsx", {"s": PLAIN}))
    assert labels(load_table(path, "risk")) == BOTH
    monkeypatch.setattr(excel, "MAX_SHARED_STRINGS_BYTES", 10)
    with pytest.raises(DataError, match="bytes of text; allowed: up to 10"):
        load_table(path, "risk")


@pytest.mark.parametrize("suffix", ["xlsx", "xlsm", "XLSX"])
def test_a_plain_sheet(root: Path, suffix: str) -> None:
    assert labels(load_table(save(root / f"m.{suffix}", {"Sheet1": PLAIN}), "risk")) == BOTH


def test_a_title_empty_rows_and_a_legend_beside_other_sheets(root: Path) -> None:
    table = [
        ["2026年 缺陷清单"],
        [],
        [None, "检查人", "王"],
        ["图片路径", "类别", "风险等级", None],
        [],
        ["a.jpg", "裂纹", 1.0],
        [],
        ["b.jpg", "正常", 2.0, None],
    ]
    path = save(root / "m.xlsx", {"说明": [["读我"]], "缺陷": table, "empty": []}, merged={"缺陷": ["A1:D1"]})
    found = load_table(path, "risk")
    assert labels(found) == {"a.jpg": "裂纹", "b.jpg": "正常"} and labels(found, "level") == {
        "a.jpg": "1",
        "b.jpg": "2",
    }


def test_values_are_those_that_a_spreadsheet_shows(root: Path) -> None:
    day, moment = datetime.date(2026, 3, 1), datetime.datetime(2026, 3, 1, 10, 5)
    rows = [
        ["path", "label", "whole", "part", "day", "moment", "yes", "text", "gone"],
        ["a.jpg", 1.0, 3.0, 2.5, day, moment, True, "007", "#N/A"],
        ["b.jpg", 2],
    ]
    first = load_table(save(root / "m.xlsx", {"s": rows}), "risk").samples[0]
    assert first.labels == {"defect": "1"}
    assert dict(first.extra) == {
        "whole": "3",
        "part": "2.5",
        "day": "2026-03-01",
        "moment": "2026-03-01 10:05:00",
        "yes": "TRUE",
        "text": "007",
        "gone": "",
    }


def test_merged_cells_have_their_text_in_each(root: Path) -> None:
    rows = [
        ["path", "label", "advice"],
        ["a.jpg", "x", "do"],
        ["b.jpg", None, None],
        ["c.jpg", None, "wait"],
        ["d.jpg", "y", None],
        ["e.jpg", None, None],
    ]
    path = save(root / "m.xlsx", {"s": rows}, merged={"s": ["B2:B4", "B5:B6", "C2:C3"]})
    table = load_table(path, "risk")
    assert labels(table) == {"a.jpg": "x", "b.jpg": "x", "c.jpg": "x", "d.jpg": "y", "e.jpg": "y"}
    assert [sample.advice for sample in table.samples] == ["do", "do", "wait", "", ""]


def test_the_sheet_is_found_or_named(root: Path) -> None:
    other: Rows = [["path", "label"], ["a.jpg", "p"], ["b.jpg", "q"]]
    path = save(root / "m.xlsx", {"one": PLAIN, "two": other, "old": other}, hidden=["old"])
    with pytest.raises(DataError, match=r"has 2 sheets with a table: one, two; fix: name the sheet to read"):
        load_table(path, "risk")
    assert labels(load_table(path, "risk", sheet="one")) == BOTH
    assert labels(load_table(path, "risk", sheet="old")) == {"a.jpg": "p", "b.jpg": "q"}
    with pytest.raises(SettingsError, match=r"sheet 'three' of m\.xlsx; allowed: one, two, old"):
        load_table(path, "risk", sheet="three")
    with pytest.raises(SettingsError, match=r"a sheet for m\.csv; allowed: only for \.xlsx"):
        (root / "m.csv").touch()
        load_table(root / "m.csv", "risk", sheet="one")


def test_a_hidden_sheet_is_not_taken(root: Path) -> None:
    path = save(root / "m.xlsx", {"a": [["x"]], "b": [["y"]], "data": PLAIN}, hidden=["data"])
    with pytest.raises(
        DataError, match=r"has no visible sheet with a column for the path .*; sheets: a, b; hidden: data"
    ):
        load_table(path, "risk")


def test_the_row_of_the_header_may_be_named(root: Path) -> None:
    rows = [
        ["path", "label"],
        ["an example", "of it"],
        ["path", "label", "advice"],
        ["a.jpg", "x", "do"],
        ["b.jpg", "y"],
    ]
    path = save(root / "m.xlsx", {"s": rows})
    for sheet in ("s!3", "s!A3"):
        table = load_table(path, "risk", sheet=sheet)
        assert labels(table) == BOTH and table.samples[0].advice == "do"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [["file", "mood"], ["a.jpg", "x"]],
            "m.xlsx has no column for a defect class or a risk level; found: file, mood",
        ),
        ([["path", "label"], ["a.jpg", "x"], ["none.jpg", "y"]], "none.jpg (sheet 's', row 3)"),
        (
            [["title"], [], ["path", "label"], ["a.jpg", "x"], [], ["b.jpg", "['x', 'y']"]],
            "as defect label (1): sheet 's', row 6",
        ),
        ([["path", "label"], ["a.jpg", "x", "see me"]], "sheet 's', row 2 has 3 cells, the header 2"),
        ([["path", "label", "label"], ["a.jpg", "x", "y"]], "row 1 has the column 'label' twice"),
        ([["path", "label"], ["a.jpg", "#NAME?"], ["b.jpg", "y"]], "row 2: '#NAME?'"),
        (
            [["path", "label"], ["a.jpg", "=B3"], ["b.jpg", "y"]],
            "row 2, column 2 has a formula without its value; fix: open it in Excel, save it",
        ),
        (
            [["path", "label"], ["a.jpg", "x,y"], ["b.jpg", "y"], ["c.jpg", "x"]],
            "several labels in the defect label (1): sheet 's', row 2",
        ),
        ([], "has no rows"),
        ([["path", "label"]], "has no rows"),
    ],
)
def test_errors_name_the_row(root: Path, rows: Rows, message: str) -> None:
    with pytest.raises(DataError) as caught:
        load_table(save(root / "m.xlsx", {"s": rows}), "risk")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_formula_with_its_value_is_read(root: Path) -> None:
    path = save(root / "m.xlsx", {"s": [["path", "label"], ["a.jpg", "=B3"], ["b.jpg", "y"], ["c.jpg", "x"]]})
    patched(
        path,
        {
            r"sheet1\.xml": lambda data: (
                data.replace(b"<f>B3</f><v></v>", b"<f>B3</f><v>x</v>")
                .replace(b"<f>B3</f><v />", b"<f>B3</f><v>x</v>")
                .replace(b'<c r="B2"><f>', b'<c r="B2" t="str"><f>')
            )
        },
    )
    assert labels(load_table(path, "risk")) == {"a.jpg": "x", "b.jpg": "y", "c.jpg": "x"}


def test_times_are_intervals(root: Path) -> None:
    rows = [
        ["path", "start", "end", "label"],
        ["v.mp4", 0.0, datetime.time(0, 0, 1), "x"],
        ["v.mp4", 1.0, datetime.timedelta(seconds=1.5), "y"],
    ]
    table = load_table(save(root / "m.xlsx", {"s": rows}), "action")
    assert [sample.interval for sample in table.samples] == [Interval(0, 1), Interval(1, 1.5)]


def test_old_and_encrypted_workbooks(root: Path) -> None:
    (root / "m.xlsx").write_bytes(excel.OLE + bytes(5000))
    with pytest.raises(DataError, match=r"is an old Excel file, or has a password; .*save it as \.xlsx"):
        load_table(root / "m.xlsx", "risk")
    for suffix in ("xls", "xlsb", "ods"):
        (root / f"m.{suffix}").write_bytes(b"x")
        with pytest.raises(DataError, match=rf"unknown suffix '\.{suffix}'; .* save it as \.xlsx"):
            load_table(root / f"m.{suffix}", "risk")


def test_a_bomb_is_refused_before_it_is_unpacked(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(root / "m.xlsx", {"s": PLAIN})
    patched(path, {}, {"xl/media/zeros.xml": bytes(3 << 20)})
    assert path.stat().st_size < 1 << 16
    monkeypatch.setattr(excel, "MAX_BYTES", 1 << 20)
    with pytest.raises(DataError, match=r"contains \d{7} bytes, unpacked; allowed: up to 1048576"):
        load_table(path, "risk")
    monkeypatch.setattr(excel, "MAX_FILES", 3)
    with pytest.raises(DataError, match="files; allowed: up to 3"):
        load_table(path, "risk")


LAUGHS = b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "' + b"&b;" * 50 + b'">]>'


@pytest.mark.parametrize("part", [r"sheet1\.xml", r"workbook\.xml$", r"sharedStrings", r"Content_Types"])
def test_entities_are_refused(root: Path, part: str) -> None:
    path = with_shared_strings(save(root / "m.xlsx", {"s": PLAIN}))
    patched(path, {part: lambda data: LAUGHS + re.sub(rb"^<\?xml[^>]*>", b"", data)})
    with pytest.raises(DataError, match="has a document type in"):
        load_table(path, "risk")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'<dimension ref="A1:B3"', b'<dimension ref="A1:XFD1048576"'),
        (b'<dimension ref="A1:B3"', b'<dimension ref="A1"'),
    ],
)
def test_what_a_sheet_says_of_its_size_is_not_asked(root: Path, old: bytes, new: bytes) -> None:
    path = save(root / "m.xlsx", {"s": PLAIN})
    patched(path, {r"sheet1\.xml": lambda data: data.replace(old, new)})
    assert labels(load_table(path, "risk")) == BOTH


@pytest.mark.parametrize("row", ["1048577", "99999999999999", "0", "-4", "x"])
def test_rows_far_away_end_in_one_line(root: Path, row: str) -> None:
    path = save(root / "m.xlsx", {"s": PLAIN})
    moved = f'<row r="{row}"'.encode()
    patched(path, {r"sheet1\.xml": lambda data: re.sub(rb'r="[AB]3"', b"", data.replace(b'<row r="3"', moved))})
    with pytest.raises(DataError) as caught:
        load_table(path, "risk")
    assert "\n" not in str(caught.value)


def test_too_many_cells(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(excel, "MAX_CELLS", 5)
    with pytest.raises(DataError, match="has more than 5 cells"):
        load_table(save(root / "m.xlsx", {"s": PLAIN}), "risk")


def test_any_damage_ends_in_one_line(root: Path) -> None:
    whole = save(root / "m.xlsx", {"s": PLAIN}).read_bytes()
    for end in (0, 2, 100, len(whole) // 2, len(whole) - 30):
        (root / "cut.xlsx").write_bytes(whole[:end])
        with pytest.raises(DataError, match="is not a readable workbook"):
            load_table(root / "cut.xlsx", "risk")
    for at in range(60, len(whole), 97):
        (root / "bit.xlsx").write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            load_table(root / "bit.xlsx", "risk")
        except DataError as error:
            assert "\n" not in str(error)


def test_without_openpyxl(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(root / "m.xlsx", {"s": PLAIN})
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(MissingExtra, match=r"openpyxl is not installed; fix: pip install 'vidrisk\[excel\]'"):
        load_table(path, "risk")


def test_a_large_sheet_of_a_run_is_read(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [["path", "label"], *([f"{'ab'[i % 2]}.jpg", "xy"[i % 2]] for i in range(5000))]
    with caplog.at_level(logging.WARNING, logger="vidrisk"):
        assert labels(load_table(save(root / "m.xlsx", {"s": rows}), "risk")) == BOTH
    assert "repeated rows left out: 4998" in caplog.text


def test_rows_that_a_filter_hides_are_read_and_said(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save(root / "m.xlsx", {"Data": PLAIN})
    workbook = openpyxl.load_workbook(path)
    workbook["Data"].auto_filter.ref = "A1:B3"
    workbook["Data"].row_dimensions[3].hidden = True
    workbook.save(path)
    with caplog.at_level(logging.WARNING, logger="vidrisk"):
        assert labels(load_table(path, "risk")) == BOTH
    assert "m.xlsx, sheet 'Data': hidden rows (for example, by a filter) are read, too: 1" in caplog.text
