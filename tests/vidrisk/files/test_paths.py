"""Tests of file names as bytes: no text form of a name loses a byte, whatever the locale."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidrisk.files.paths import is_unicode, path_from_stored, path_from_written, stored_from_path
from vidrisk.inference.predictions import Prediction, prediction_from_json
from vidrisk.jobs.database import path_from_sql, sql_from_path

NAMES = st.binary(min_size=1).filter(lambda name: b"\0" not in name)


@given(NAMES)
def test_every_form_keeps_every_byte(name: bytes) -> None:
    path = os.fsdecode(b"/a/" + name)
    assert stored_from_path(path).encode("utf-8", "surrogateescape") == b"/a/" + name
    assert path_from_stored(stored_from_path(path)) == path
    assert path_from_sql(sqlite3.connect(":memory:").execute("SELECT ?", (sql_from_path(path),)).fetchone()[0]) == path
    prediction = Prediction(path, None, None, "red", 1.0, None, None, None, None, {})
    line = prediction.to_json()
    assert line.decode("utf-8").count("\n") == 1 and prediction_from_json(line) == prediction


def test_a_locale_that_is_not_utf8(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names keep every byte in a locale that is not UTF-8.

    The test replaces Python's conversions of names, so the machine does not need such a locale.
    """
    monkeypatch.setattr(os, "fsencode", lambda text: text.encode("gbk", "surrogateescape"))
    monkeypatch.setattr(
        os, "fsdecode", lambda name: name if isinstance(name, str) else name.decode("gbk", "surrogateescape")
    )
    for name in ("裂缝".encode(), "裂缝".encode("gbk"), b"\xff\xfe\x80", b"plain", "é".encode("latin-1")):
        path = name.decode("gbk", "surrogateescape")
        assert stored_from_path(path).encode("utf-8", "surrogateescape") == name
        assert path_from_stored(stored_from_path(path)) == path
        assert path_from_sql(sql_from_path(path)) == path
        assert isinstance(sql_from_path(path), str) == (name in ("裂缝".encode(), b"plain"))


def test_a_written_name_is_found_in_the_encoding_that_the_disk_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vidrisk.files.paths.locale_encoding", lambda: "GBK")
    old, new = (
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)) for name in ("旧的".encode("gbk"), "新的".encode())
    )
    old.touch()
    new.touch()
    assert path_from_written(tmp_path, "旧的") == old and path_from_written(tmp_path, "新的") == new
    assert path_from_written(tmp_path, "没有") == tmp_path / os.fsdecode("没有".encode())
    monkeypatch.setattr("vidrisk.files.paths.locale_encoding", lambda: "no such encoding")
    assert not path_from_written(tmp_path, "旧的").exists()


def test_what_utf8_can_hold() -> None:
    assert is_unicode([]) and is_unicode(["a", "裂缝"])
    assert not is_unicode(["a", os.fsdecode(b"\xff")])
