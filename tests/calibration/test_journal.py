"""Tests of the journal: every value is measured once, also where a process resumes after a killed one."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidrisk.calibration.journal import Journal


def must_not_measure() -> Any:
    raise AssertionError("measured again")


def measured(value: Any) -> Callable[[], Any]:
    return lambda: value


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "journal.jsonl"


def test_a_value_is_measured_once(path: Path) -> None:
    journal = Journal(path)
    assert journal.value("a", measured(1.5)) == 1.5
    assert journal.value("a", must_not_measure) == 1.5
    assert Journal(path).value("a", must_not_measure) == 1.5
    assert len(path.read_text(encoding="utf-8").split()) == 2  # ["a", 1.5]


def test_steps_are_told_apart(path: Path) -> None:
    journal = Journal(path)
    assert [journal.value(step, measured(step)) for step in ("point ()", "point ('a',)", "block a")] == [
        "point ()",
        "point ('a',)",
        "block a",
    ]


@pytest.mark.parametrize("value", [None, 0.0, [1.0, -2.5], float("inf"), "Prüfung"])
def test_falsy_and_odd_values_are_kept(path: Path, value: Any) -> None:
    Journal(path).value("a", measured(value))
    assert Journal(path).value("a", must_not_measure) == value


def test_floats_come_back_exactly(path: Path) -> None:
    value = [0.1 + 0.2, 1 / 3, 5e-324]
    Journal(path).value("a", measured(value))
    assert Journal(path).value("a", must_not_measure) == value


@given(cut=st.integers(1, 21))
def test_a_torn_last_line_costs_that_line_alone(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("torn") / "journal.jsonl"
    journal = Journal(path)
    journal.value("first", measured(1))
    journal.value("second", measured([2.25, 3]))
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    resumed = Journal(path)
    assert resumed.value("first", must_not_measure) == 1
    resumed.value("second", measured([2.25, 3]))
    resumed.value("third", measured(4))
    again = Journal(path)
    for step, value in (("first", 1), ("second", [2.25, 3]), ("third", 4)):
        assert again.value(step, must_not_measure) == value


@pytest.mark.parametrize(
    "garbage", [b"\xff\xfe\x00", b"\x00\x00\x00\n", b"[1]\n", b"7\n", b"{}\n", b'["a", 1, 2]\n', b'[["a"], 1]\n']
)
def test_foreign_lines_are_skipped(path: Path, garbage: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(json.dumps(["a", 1]).encode() + b"\n" + garbage)
    journal = Journal(path)
    assert journal.value("a", must_not_measure) == 1
    assert journal.value("b", measured(2)) == 2
    assert Journal(path).value("b", must_not_measure) == 2


def test_a_measurement_that_fails_is_not_kept(path: Path) -> None:
    journal = Journal(path)
    with pytest.raises(AssertionError):
        journal.value("a", must_not_measure)
    assert journal.value("a", measured(1)) == 1


def test_a_folder_that_cannot_be_written_costs_nothing_but_repetition(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    journal = Journal(tmp_path / "cache" / "journal.jsonl")
    with caplog.at_level(logging.INFO, "vidrisk.calibration.journal"):
        assert journal.value("a", measured(1)) == 1
        assert journal.value("b", measured(2)) == 2
    assert journal.value("a", must_not_measure) == 1
    assert len(caplog.records) == 1  # said once
    assert (tmp_path / "cache").is_file()


def test_without_a_path_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    journal = Journal()
    journal.value("a", measured(1))
    assert journal.value("a", must_not_measure) == 1
    assert list(tmp_path.iterdir()) == []


def test_parts_of_a_search_have_steps_of_their_own(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.jsonl")
    assert [
        part.value("outcome", lambda number=number: number)
        for number, part in enumerate(
            (journal, journal.within("a"), journal.within("b"), journal.within("a").within("b"))
        )
    ] == [0, 1, 2, 3]
    again = Journal(tmp_path / "j.jsonl").within("a")
    assert again.value("outcome", must_not_measure) == 1 and again.within("b").value("outcome", must_not_measure) == 3
