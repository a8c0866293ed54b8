"""Tests of lists: they are read piece by piece, whatever their size, line ends or errors."""

from __future__ import annotations

import csv
import io
import json
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidrisk.data.formats import json_lists, json_pieces, lists
from vidrisk.data.formats.json_lists import members_of, object_of, records_of, records_of_lists
from vidrisk.data.formats.lists import cells_of, lines_of
from vidrisk.data.text import trim_text
from vidrisk.runtimes.contract.errors import DataError

ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32"]
texts = (
    st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1, max_size=12)
    .map(trim_text)
    .filter(bool)
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
records = st.lists(st.dictionaries(st.text(max_size=6), values, max_size=4), max_size=8)


@given(
    st.lists(texts, max_size=8),
    st.sampled_from(["\n", "\r\n", "\r", "\n\n", " \t\r\n"]),
    st.booleans(),
    st.sampled_from(ENCODINGS),
)
def test_lines_are_those_that_were_written(lines: list[str], end: str, last: bool, encoding: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "list.txt"
        path.write_bytes((end.join(lines) + (end if last else "")).encode(encoding))
        found = list(lines_of(path))
    assert [line for _, line in found] == lines
    assert all(where.startswith("list.txt, line ") for where, _ in found)


def test_lines_are_numbered_with_those_that_are_blank(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf1 a\r\n\r\n  2 b \r\n")
    assert list(lines_of(tmp_path / "list.txt")) == [("list.txt, line 1", "1 a"), ("list.txt, line 3", "2 b")]


@settings(max_examples=150)
@given(records, st.sampled_from([None, 1, "\t"]), st.booleans(), st.integers(1, 40), st.sampled_from(ENCODINGS))
def test_records_are_those_that_json_reads(
    content: list[dict[str, Any]], indent: int | str | None, ascii_only: bool, piece: int, encoding: str
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_pieces, "PIECE_CHARS", piece)
        path = Path(folder) / "list.json"
        text = json.dumps(content, indent=indent, ensure_ascii=ascii_only)
        path.write_bytes(f"\n {text}\r\n".encode(encoding))
        assert [record for _, record in records_of(path)] == content


@given(records.filter(bool), st.integers(1, 40), st.data())
def test_a_list_that_is_cut_off_anywhere_is_refused_in_one_line(
    content: list[dict[str, Any]], piece: int, data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_pieces, "PIECE_CHARS", piece)
        text = json.dumps(content)
        path = Path(folder) / "list.json"
        path.write_text(text[: data.draw(st.integers(0, len(text) - 1))], encoding="utf-8")
        with pytest.raises(DataError, match=r"^list\.json") as caught:
            list(records_of(path))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not a JSON list"),
        ("{}", "is not a JSON list"),
        ('"a"', "is not a JSON list"),
        ("null", "is not a JSON list"),
        ("[1]", "record 1 is not a JSON object"),
        ('[{"a": 1}, null]', "record 2 is not a JSON object"),
        ("[[]]", "record 1 is not a JSON object"),
        ('[{"a": 1} {"a": 2}]', "record 2: no comma before it"),
        ('[{"a": 1},]', "record 2 is not JSON"),
        ("[,]", "record 1 is not JSON"),
        ('[{"a": 1}', "record 2: no comma before it, or the list has no end"),
        ('[{"a": 1}] x', "continues after the end"),
        ("[{'a': 1}]", "record 1 is not JSON"),
        (f'[{{"a": {"[" * 100_000}', "record 1 is not readable JSON"),
        (f'[{{"a": {"9" * 5000}}}]', "record 1 is not readable JSON"),
    ],
)
def test_what_is_no_list_of_objects_is_said(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "list.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=said):
        list(records_of(tmp_path / "list.json"))


def test_a_list_takes_the_memory_of_a_record_and_not_of_the_list(tmp_path: Path) -> None:
    record = {"id": "78687", "template": "Holding [something] next to [something]", "placeholders": ["potato"] * 20}
    path = tmp_path / "train.json"
    path.write_text(json.dumps([record] * 60_000), encoding="utf-8")
    assert path.stat().st_size > 15 * 2**20
    tracemalloc.start()
    try:
        assert sum(found == record for _, found in records_of(path)) == 60_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**20


@settings(max_examples=150)
@given(
    st.dictionaries(st.text(max_size=6), values | st.floats(allow_nan=False, allow_infinity=False), max_size=6),
    st.sampled_from([None, 1]),
    st.integers(1, 40),
    st.booleans(),
)
def test_members_are_those_that_json_reads_wherever_a_piece_ends(
    content: dict[str, Any], indent: int | None, piece: int, inside: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_pieces, "PIECE_CHARS", piece)
        path = Path(folder) / "members.json"
        whole = {"version": 1.25e-7, "list": [1, {"in": 2}], "in": content, "last": 12345} if inside else content
        path.write_text(json.dumps(whole, indent=indent), encoding="utf-8")
        assert [(name, value) for _, name, value in members_of(path, "in" if inside else None)] == list(content.items())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not a JSON object"),
        ("[]", "is not a JSON object"),
        ('{"a": 1', "',' is missing"),
        ('{"a" 1}', "':' is missing"),
        ('{"a": 1, "b"', "':' is missing, or the file is cut off"),
        ('{"a": }', "'a' is not JSON"),
        ('{"a": 1 "b": 2}', "',' is missing"),
        ("{1: 2}", "has no name"),
        ('{"a": 1} x', "continues after the end of its object"),
        ('{"in": [1]}', "in is not a JSON object"),
    ],
)
def test_what_has_no_members_is_said(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=said) as caught:
        list(members_of(tmp_path / "a.json", "in" if "in" in text else None))
    assert "\n" not in str(caught.value)


def test_a_number_may_lie_in_two_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_pieces, "PIECE_CHARS", 1)
    (tmp_path / "a.json").write_text('{"version": 1.25e-7, "list": [{"a": 1}], "last": 12345}', encoding="utf-8")
    assert [record for *_, record in records_of_lists(tmp_path / "a.json", ["list"])] == [{"a": 1}]
    assert [value for *_, value in members_of(tmp_path / "a.json")] == [1.25e-7, [{"a": 1}], 12345]


cells = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=8)


@given(
    st.lists(st.lists(cells, min_size=2, max_size=4).filter(lambda row: any(map(trim_text, row))), max_size=6),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_cells_of_csv_are_those_that_were_written(rows: list[list[str]], end: str, encoding: str) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=end, quoting=csv.QUOTE_ALL).writerows(rows)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "list.csv"
        path.write_bytes(text.getvalue().encode(encoding))
        assert [found for _, found in cells_of(path)] == rows


def test_a_quote_or_a_line_of_csv_without_end_is_refused(tmp_path: Path) -> None:
    for text, said in (
        ('a,b\n"c', "line 2 is not CSV"),
        ("x" * 3 * lists.MAX_ROW_CHARS, "line 1 is longer than"),
        ('"' + "x\n" * 10**5, "is not CSV: field larger than"),
    ):
        (tmp_path / "list.csv").write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=said):
            list(cells_of(tmp_path / "list.csv"))


def test_one_record_or_line_without_end_is_refused_before_it_is_all_read(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text('[{"a": "' + "x" * 3 * lists.MAX_RECORD_CHARS, encoding="utf-8")
    (tmp_path / "list.txt").write_text("x" * 3 * lists.MAX_LINE_CHARS, encoding="utf-8")
    with pytest.raises(DataError, match="longer than 1048576 characters"):
        list(records_of(tmp_path / "list.json"))
    with pytest.raises(DataError, match="line 1 is longer than 4096 characters"):
        list(lines_of(tmp_path / "list.txt"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not JSON"),
        (b"[]", "is not a JSON object"),
        (b'{"a": "0", "a": "1"}', "has 'a' twice"),
        (b'{"a": ', "is not JSON"),
        (b"\xff\xfeab", "is not JSON"),
        (b'{"\xe9": 1}', "is not utf-8 text"),
        (b'{"a": ' + b"[" * 100_000, "is not JSON"),
    ],
)
def test_what_is_no_object_is_said(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "labels.json").write_bytes(content)
    with pytest.raises(DataError, match=said):
        object_of(tmp_path / "labels.json")


def test_a_key_that_is_repeated_is_found_in_one_pass(tmp_path: Path) -> None:
    keys = [f"label {number:06d}" for number in range(100_000)]
    (tmp_path / "labels.json").write_text(
        "{" + ", ".join(f'"{key}": 0' for key in [*keys, keys[-1]]) + "}", encoding="utf-8"
    )
    begun = time.process_time()
    with pytest.raises(DataError, match="has 'label 099999' twice"):
        object_of(tmp_path / "labels.json")
    assert time.process_time() - begun < 10  # every key against every other takes minutes


def test_an_object_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lists, "MAX_OBJECT_BYTES", 2**20)
    (tmp_path / "labels.json").write_text(json.dumps({"a": "x" * 2**20}), encoding="utf-8")
    with pytest.raises(DataError, match="larger than 1 MB"):
        object_of(tmp_path / "labels.json")


def test_bytes_that_are_no_text_and_files_that_are_none_are_said(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"1 caf\xe9\n")
    with pytest.raises(DataError, match=r"is not utf-8 text: .*; fix: save it as UTF-8"):
        list(lines_of(tmp_path / "list.txt"))
    with pytest.raises(DataError, match="cannot be read: "):
        list(records_of(tmp_path))
