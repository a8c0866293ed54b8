from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from vidrisk.inference.predictions import PREDICTIONS, Prediction, read_predictions
from vidrisk.jobs.folder import LEDGER
from vidrisk.jobs.ledger import Ledger, Row, read_ledger
from vidrisk.runtimes.contract.errors import EXIT_USAGE, DataError, SettingsError, VidriskError

IDENTITY = {"bundle": "a" * 64, "variant": "int8"}


def line(path: str, label: str = "red") -> bytes:
    return Prediction(path, None, None, label, 1.0, False, None, None, None, {}).to_json()


def finish(ledger: Ledger, row: Row, *lines: bytes) -> None:
    info = Path(row.path).stat()
    ledger.finish(
        replace(row, state="ok", bytes=info.st_size, mtime_ns=info.st_mtime_ns, predictions=len(lines)), b"".join(lines)
    )


def labels(out: Path) -> list[tuple[str, str]]:
    return [(Path(p.path).name, p.label) for p in read_predictions(out)]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    paths = [tmp_path / name for name in ("a", "b", "c")]
    for path in paths:
        path.write_text(path.name)
    return [str(path) for path in paths]


@pytest.fixture
def out(tmp_path: Path, files: list[str]) -> Path:
    """Return the folder of a run over a, b and c that was stopped after a and b."""
    with Ledger(tmp_path / "out", IDENTITY, resume=False) as ledger:
        ledger.add(files)
        for row in ledger.rows()[:2]:
            finish(ledger, row, line(row.path))
    return tmp_path / "out"


def test_rows_and_lines_are_there_after_the_block(out: Path) -> None:
    assert [(row.id, row.state, row.predictions) for row in read_ledger(out)] == [
        (1, "ok", 1),
        (2, "ok", 1),
        (3, "pending", 0),
    ]
    assert labels(out) == [("a", "red"), ("b", "red")]
    assert not list(out.glob(f"{LEDGER}-*"))


def test_resume_cuts_off_what_nobody_committed(out: Path, files: list[str]) -> None:
    with (out / PREDICTIONS).open("ab") as file:
        file.write(line(files[2]) + b'{"path": "torn')
    with Ledger(out, IDENTITY, resume=True) as ledger:
        assert [row.state for row in ledger.rows()] == ["ok", "ok", "pending"]
    assert labels(out) == [("a", "red"), ("b", "red")]


def test_a_file_that_changed_is_pending_again_and_its_lines_go(out: Path, files: list[str]) -> None:
    Path(files[0]).write_text("another content", encoding="utf-8")
    with Ledger(out, IDENTITY, resume=True) as ledger:
        assert [row.state for row in ledger.rows()] == ["pending", "ok", "pending"]
        assert labels(out) == [("b", "red")]
        finish(ledger, ledger.rows()[0], line(files[0], "green"))
    assert labels(out) == [("b", "red"), ("a", "green")]


def test_a_kill_while_lines_are_dropped_repeats_the_copy(
    out: Path, files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(files[0]).write_text("another content", encoding="utf-8")

    def killed(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            Ledger(out, IDENTITY, resume=True)
    assert labels(out) == [("a", "red"), ("b", "red")]
    with Ledger(out, IDENTITY, resume=True) as ledger:
        assert [row.state for row in ledger.rows()] == ["pending", "ok", "pending"]
    assert labels(out) == [("b", "red")]


def test_a_file_that_has_gone_keeps_its_result(out: Path, files: list[str]) -> None:
    Path(files[0]).unlink()
    with Ledger(out, IDENTITY, resume=True) as ledger:
        assert ledger.rows()[0].state == "ok"


def test_inputs_that_came_since_go_to_the_end(out: Path, files: list[str]) -> None:
    with Ledger(out, IDENTITY, resume=True) as ledger:
        ledger.add(["/new", *files])
        assert [row.path for row in ledger.rows()] == [*files, "/new"]


def test_a_name_that_is_no_utf8_comes_back(tmp_path: Path) -> None:
    path = os.fsdecode(b"/\xff\xfe \xe8\xa3\x82.png")
    with Ledger(tmp_path / "out", IDENTITY, resume=False) as ledger:
        ledger.add([path, path])
        ledger.finish(replace(ledger.rows()[0], state="corrupt", reason=f"{path} is odd"), b"")
    rows = read_ledger(tmp_path / "out")
    assert [row.path for row in rows] == [path] and "\\udcff" in rows[0].reason


@pytest.mark.parametrize("identity", [{**IDENTITY, "bundle": "b" * 64}, {**IDENTITY, "variant": "fp32"}])
def test_another_bundle_or_setting_is_refused(out: Path, identity: Mapping[str, str]) -> None:
    before = (out / LEDGER).read_bytes()
    with pytest.raises(SettingsError, match="this one") as caught:
        Ledger(out, identity, resume=True)
    assert caught.value.exit_code == EXIT_USAGE and "\n" not in str(caught.value)
    assert (out / LEDGER).read_bytes() == before


def test_a_run_that_is_not_to_be_resumed_is_refused(out: Path) -> None:
    with pytest.raises(SettingsError, match="resume=True continues it"):
        Ledger(out, IDENTITY, resume=False)


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", ["notes.txt", LEDGER, PREDICTIONS])
def test_a_foreign_folder_is_never_written_to(tmp_path: Path, name: str, resume: bool) -> None:
    (tmp_path / name).write_bytes(b"SQLite format 3\0" + b"\0" * 100)
    with pytest.raises(SettingsError, match="holds no run"):
        Ledger(tmp_path, IDENTITY, resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_foreign_database_is_never_written_to(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / LEDGER)
    database.execute("CREATE TABLE meta (x)")
    database.commit()
    database.close()
    with pytest.raises(SettingsError, match="holds no run"):
        Ledger(tmp_path, IDENTITY, resume=True)


def test_out_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(SettingsError, match="cannot be used as an output folder"):
        Ledger(tmp_path / "out", IDENTITY, resume=False)


def test_an_empty_folder_or_a_database_killed_at_birth_is_taken(tmp_path: Path) -> None:
    (tmp_path / LEDGER).touch()
    with Ledger(tmp_path, IDENTITY, resume=False) as ledger:
        assert ledger.rows() == []


def test_two_runs_cannot_share_a_folder(out: Path) -> None:
    with Ledger(out, IDENTITY, resume=True), pytest.raises(SettingsError, match="another run"):
        Ledger(out, IDENTITY, resume=True)


def test_lines_that_somebody_else_removed(out: Path) -> None:
    (out / PREDICTIONS).write_bytes(b"")
    with pytest.raises(SettingsError, match="shorter than the ledger says"):
        Ledger(out, IDENTITY, resume=True)


@pytest.mark.parametrize("harm", ["removed", "emptied", "cut"])
def test_lines_that_were_removed_while_others_were_dropped(out: Path, files: list[str], harm: str) -> None:
    with sqlite3.connect(out / LEDGER) as database:  # as a kill leaves it
        database.execute("UPDATE inputs SET state = 'pending', predictions = 0 WHERE path = ?", (files[0],))
        database.execute("UPDATE meta SET value = '1' WHERE key = 'rewriting'")
    database.close()
    kept = {"emptied": b"", "cut": line(files[0])}
    (out / PREDICTIONS).unlink()
    if harm in kept:
        (out / PREDICTIONS).write_bytes(kept[harm])
    for _ in range(2):
        with pytest.raises(SettingsError, match="shorter than the ledger says"):
            Ledger(out, IDENTITY, resume=True)
    assert (out / PREDICTIONS).read_bytes() == kept.get(harm, b"")


def test_a_damaged_ledger_is_one_line(out: Path) -> None:
    data = bytearray((out / LEDGER).read_bytes())
    data[100:] = b"\xff" * (len(data) - 100)
    (out / LEDGER).write_bytes(data)
    with pytest.raises(VidriskError, match="damaged"):
        Ledger(out, IDENTITY, resume=True)
    with pytest.raises(VidriskError, match="cannot be read"):
        read_ledger(out)


def test_reading_a_folder_without_a_ledger(tmp_path: Path) -> None:
    with pytest.raises(VidriskError, match=r"holds no ledger\.sqlite"):
        read_ledger(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("length", None),
        ("length", "abc"),
        ("length", "-1"),
        ("length", "1e3"),
        ("length", ""),
        ("length", "9" * 5000),
        ("rewriting", None),
        ("rewriting", "yes"),
        ("started_at", None),
        ("limit timeout", "soon"),
        ("limit timeout", "nan"),
        ("schema_version", None),
        ("schema_version", "1.0"),
        ("schema_version", "True"),
    ],
)
def test_a_ledger_that_was_tampered_with_is_one_line(out: Path, key: str, value: str | None) -> None:
    with sqlite3.connect(out / LEDGER) as database:
        if value is None:
            database.execute("DELETE FROM meta WHERE key = ?", (key,))
        else:
            database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))
    database.close()
    before = (out / PREDICTIONS).read_bytes()
    with pytest.raises(VidriskError, match=f"{key} ") as refused:
        Ledger(out, IDENTITY, resume=True, limits={"timeout": 60.0})
    assert "choose another folder" in str(refused.value) and (out / PREDICTIONS).read_bytes() == before


@pytest.mark.parametrize("path", [3, None, "\ud800", ["/a"]])
def test_a_line_that_names_no_path_is_said(out: Path, path: object) -> None:
    lines = (out / PREDICTIONS).read_bytes().splitlines(keepends=True)
    record = json.loads(lines[0]) | {"path": path}
    (out / PREDICTIONS).write_bytes(json.dumps(record).encode() + b"\n")
    with pytest.raises(DataError, match="names no path"):
        list(read_predictions(out))


class _InterruptedOnce:
    """A connection that raises KeyboardInterrupt when it begins a transaction for the first time."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database, self.is_due = database, True

    def execute(self, statement: str, *values: object) -> sqlite3.Cursor:
        cursor = self._database.execute(statement, *values)
        if statement.startswith("BEGIN") and self.is_due:
            self.is_due = False
            raise KeyboardInterrupt
        return cursor

    def __getattr__(self, name: str) -> object:
        return getattr(self._database, name)


def test_ctrl_c_at_the_beginning_of_a_commit_loses_nothing(files: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), Ledger(out, IDENTITY, resume=False) as ledger:
        ledger.add(files)
        finish(ledger, ledger.rows()[0], line(files[0]))
        ledger._database = _InterruptedOnce(ledger._database)  # type: ignore[assignment]
        ledger.commit()
    assert [row.state for row in read_ledger(out)] == ["ok", "pending", "pending"] and labels(out) == [("a", "red")]
