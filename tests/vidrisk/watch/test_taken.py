from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from vidrisk.jobs.ledger import Ledger, Row
from vidrisk.runtimes.contract.errors import DataError, SettingsError
from vidrisk.watch.memory import TAKEN
from vidrisk.watch.taken import MemoryDamaged, Taken

A, B, C = "/in/a.png", "/in/b.png", "/in/夜 c.png"


def row(path: str, stamp: tuple[int, int] | tuple[None, None] = (1, 10), state: str = "ok") -> Row:
    return Row(1, path, state, bytes=stamp[0], mtime_ns=stamp[1])


def test_what_was_taken_is_known_as_it_was(tmp_path: Path) -> None:
    odd = "/in/\udcff.png"
    with Taken(tmp_path / "out") as taken:
        day = taken.day("2026-11-21", "x")
        taken.take({A: (1, 10), odd: (2, 20)}, day)
        assert taken.has(A, (1, 10)) and taken.has(odd, (2, 20))
        assert not taken.has(A, (1, 11)) and not taken.has(A, (2, 10)) and not taken.has(B, (1, 10))
        assert taken.undone(day) == [A, odd] and taken.undone_days()[0].folder == "2026-11-21"
        taken.finish([row(A, (3, 30))], forget=[odd])  # it changed before it was read
        assert taken.has(A, (3, 30)) and not taken.has(odd, (2, 20)) and taken.undone_days() == []
        taken.finish([row(A, (None, None))])
        assert taken.has(A, (3, 30))


def test_everything_survives_but_what_was_not_committed(tmp_path: Path) -> None:
    with Taken(tmp_path / "out") as taken:
        taken.take({A: (1, 10), B: (1, 10)}, taken.day("2026-11-21", "x"))
        taken.finish([row(A)])
    with Taken(tmp_path / "out") as taken:
        (day,) = taken.days()
        assert taken.undone(day) == [B] and taken.has(A, (1, 10)) and not day.reported


def test_one_watch_at_a_time(tmp_path: Path) -> None:
    with Taken(tmp_path), pytest.raises(SettingsError, match="another run is writing"):
        Taken(tmp_path)
    with Taken(tmp_path):
        pass


def test_a_day_has_one_folder_per_identity(tmp_path: Path) -> None:
    with Taken(tmp_path) as taken:
        assert taken.day("2026-11-21", "x").folder == "2026-11-21"
        assert taken.day("2026-11-21", "y").folder == "2026-11-21.2"
        assert taken.day("2026-11-21", "x").folder == "2026-11-21"
        (tmp_path / "2026-11-22").mkdir()  # somebody else's
        assert taken.day("2026-11-22", "x").folder == "2026-11-22.2"
        assert [day.date for day in taken.days()] == ["2026-11-21", "2026-11-21", "2026-11-22"]


def test_undone_files_go_to_the_day_that_can_end_them(tmp_path: Path) -> None:
    with Taken(tmp_path) as taken:
        before, after = taken.day("2026-11-21", "old"), taken.day("2026-11-21", "new")
        taken.take({A: (1, 10), B: (1, 10)}, before)
        taken.finish([row(A)])
        taken.hand_over(before, after)
        assert taken.undone(before) == [] and taken.undone(after) == [B]
        assert [day.reported for day in taken.days()] == [False, False]


def test_the_days_that_began_last_are_kept_whatever_the_clock_said(tmp_path: Path) -> None:
    dates = ["2026-11-20", "1970-01-01", "2026-11-21", "2099-01-01", "2026-11-22"]
    with Taken(tmp_path) as taken:
        for date in dates:
            taken.day(date, "x")
        taken.day("2026-11-22", "y")
        assert [day.folder for day in taken.find_outlived(3)] == ["2026-11-20", "1970-01-01"]
        assert taken.find_outlived(5) == []
        taken.take({A: (1, 10)}, taken.days()[0])
        assert [day.folder for day in taken.find_outlived(3)] == ["1970-01-01"]  # the other one is not finished
        taken.finish([row(A)])
        assert [day.folder for day in taken.find_outlived(3)] == ["1970-01-01"]  # nor has it its page
        taken.set_reported(taken.days()[0])
        assert [day.folder for day in taken.find_outlived(3)] == ["2026-11-20", "1970-01-01"]


@pytest.mark.parametrize("present", [set(), {A}])
def test_files_of_a_day_that_is_dropped(tmp_path: Path, present: set[str]) -> None:
    with Taken(tmp_path) as taken:
        old = taken.day("2026-11-21", "x")
        taken.take({A: (1, 10), B: (1, 10)}, old)
        taken.finish([row(A), row(B)])
        taken.day("2026-11-22", "x")
        taken.drop(old, present)
        assert [day.folder for day in taken.days()] == ["2026-11-22"]
        assert taken.has(A, (1, 10))  # it still lies there: it must not be done again
        assert taken.has(B, (1, 10)) == (not present)  # an empty inbox may be one that is not mounted


def test_done_files_of_other_days(tmp_path: Path) -> None:
    with Taken(tmp_path) as taken:
        for date, path in (("2026-11-20", A), ("2026-11-21", B), ("2026-11-22", C)):
            day = taken.day(date, "x")
            taken.take({path: (1, 10)}, day)
            taken.finish([row(path)])
            if date != "2026-11-20":
                taken.set_reported(day)
        assert [(path, day.folder) for path, _, day in taken.find_done_before("2026-11-22", [A, B, C, "/in/new"])] == [
            (B, "2026-11-21")
        ]


def test_a_memory_that_was_lost_is_made_from_the_ledgers(tmp_path: Path) -> None:
    with Ledger(tmp_path / "2026-11-20", {"bundle": "x"}, resume=True) as ledger:
        ledger.add([A, B, C])
        rows = ledger.rows()
        ledger.finish(Row(rows[0].id, A, "ok", bytes=1, mtime_ns=10), b"")
        ledger.finish(Row(rows[1].id, B, "corrupt", bytes=2, mtime_ns=20), b"")
    (tmp_path / "2026-11-21").mkdir()
    with Taken(tmp_path) as taken:
        assert taken.has(A, (1, 10)) and taken.has(B, (2, 20)) and not taken.has(C, (1, 10))
        assert taken.day("2026-11-20", "x").folder == "2026-11-20.2"  # whose run it was, nobody knows
        assert taken.day("2026-11-21", "x").folder == "2026-11-21.2"


def test_a_folder_of_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(SettingsError, match=r"thesis\.tex"):
        Taken(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(SettingsError, match="cannot be used as an output folder"):
        Taken(tmp_path / "thesis.tex")


def test_a_disk_of_its_own_may_have_what_every_disk_has(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    with Taken(tmp_path) as taken:
        assert taken.days() == []


def test_what_was_added_later_does_no_harm(tmp_path: Path) -> None:
    with Taken(tmp_path):
        (tmp_path / "notes.txt").touch()
    with Taken(tmp_path):
        pass


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[:100] + b"\xa5" * (len(whole) - 100),
        lambda whole: bytes(4096) + whole[4096:],
        lambda whole: b"garbage" * 9,
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[:4096] + b"\x00" * 8192 + whole[12288:],
    ],
)
def test_a_damaged_memory_is_kept_and_made_again(
    tmp_path: Path, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    with Ledger(tmp_path / "2026-11-20", {"bundle": "x"}, resume=True) as ledger:
        ledger.add([A])
        ledger.finish(Row(ledger.rows()[0].id, A, "ok", bytes=1, mtime_ns=10), b"")
    (tmp_path / "notes.txt").touch()
    with Taken(tmp_path) as taken:
        taken.take({f"/in/{n}.png": (n, n) for n in range(2000)}, taken.day("2026-11-21", "x"))
    damaged = damage((tmp_path / TAKEN).read_bytes())
    (tmp_path / TAKEN).write_bytes(damaged)
    (tmp_path / f"{TAKEN}-journal").write_bytes(b"of the one before")
    for _ in range(2):
        with Taken(tmp_path) as taken:
            assert taken.has(A, (1, 10)) and not taken.has("/in/3.png", (3, 3))
    assert (tmp_path / f"{TAKEN}.damaged-1").read_bytes() == damaged and not (tmp_path / f"{TAKEN}.damaged-2").exists()
    assert len(caplog.messages) == 1 and "is damaged: it is kept as inbox.sqlite.damaged-1" in caplog.text


@pytest.mark.parametrize("odd", ["link", "folder", "pipe"])
def test_something_else_in_place_of_the_memory(tmp_path: Path, odd: str) -> None:
    path = tmp_path / TAKEN
    {"link": lambda: path.symlink_to("/etc/passwd"), "folder": path.mkdir, "pipe": lambda: os.mkfifo(path)}[odd]()
    with Taken(tmp_path) as taken:
        assert taken.days() == []
    assert os.path.lexists(tmp_path / f"{TAKEN}.damaged-1") and path.is_file() and not path.is_symlink()


def test_a_memory_that_is_damaged_while_it_is_open_is_mended(tmp_path: Path) -> None:
    with Taken(tmp_path) as taken:
        taken.take({f"/in/{n:05}.png": (n, n) for n in range(5000)}, taken.day("2026-11-21", "x"))
    with Taken(tmp_path) as taken:
        size = (tmp_path / TAKEN).stat().st_size
        with (tmp_path / TAKEN).open("r+b") as file:
            file.write(bytes(size))
        taken._database.execute("PRAGMA shrink_memory")  # it has to look at the disk again
        with pytest.raises(MemoryDamaged, match=r"inbox\.sqlite is damaged"):
            [taken.has(f"/in/{n:05}.png", (n, n)) for n in range(5000)]
        taken.mend()
        assert taken.days() == [] and taken.day("2026-11-21", "x").folder == "2026-11-21"


def test_a_day_that_is_set_aside_gets_no_more_files(tmp_path: Path) -> None:
    for forgets_done in (True, False):
        with Taken(tmp_path / str(forgets_done)) as taken:
            day = taken.day("2026-11-21", "x")
            taken.take({A: (1, 10), B: (1, 10)}, day)
            taken.finish([row(A)])
            (tmp_path / str(forgets_done) / day.folder).mkdir()
            taken.set_aside(day, forgets_done=forgets_done)
            (after,) = taken.days()
            assert (after.folder, after.date, after.identity) == ("2026-11-21.2", "2026-11-21", "x")
            assert taken.undone(after) == [B] and taken.has(A, (1, 10)) != forgets_done
            taken.finish([row(B)])
            taken.day("2026-11-22", "x")
            assert [day.folder for day in taken.find_outlived(1)] == [
                "2026-11-21",
                "2026-11-21.2",
            ]  # it is deleted in its time, too


def test_a_memory_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    with Taken(tmp_path) as taken:
        taken.take({A: (1, 10)}, taken.day("2026-11-21", "x"))
    with sqlite3.connect(tmp_path / TAKEN) as database:
        database.execute("ALTER TABLE days DROP COLUMN state")
        database.execute("PRAGMA user_version = 0")
    database.close()
    with Taken(tmp_path) as taken:
        assert [day.folder for day in taken.undone_days()] == ["2026-11-21"] and taken.has(A, (1, 10))
    assert {path.name for path in tmp_path.iterdir()} == {TAKEN}


@pytest.mark.parametrize(("major", "minor"), [(1, 1), (1, 9)], ids=["this version", "a newer minor one"])
def test_a_memory_keeps_the_version_that_it_has(tmp_path: Path, major: int, minor: int) -> None:
    with Taken(tmp_path) as taken:
        taken.take({A: (1, 10)}, taken.day("2026-11-21", "x"))
    set_version(tmp_path, major << 16 | minor)
    with Taken(tmp_path) as taken:
        assert taken.has(A, (1, 10))
    with sqlite3.connect(tmp_path / TAKEN) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (major << 16 | minor,)
    database.close()


def test_a_memory_of_another_major_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    with Taken(tmp_path):
        pass
    set_version(tmp_path, 2 << 16)
    before = (tmp_path / TAKEN).read_bytes()
    with pytest.raises(DataError, match=r"inbox.sqlite has version 2.0; allowed: 1.x; fix: use a newer"):
        Taken(tmp_path)
    assert (tmp_path / TAKEN).read_bytes() == before and [path.name for path in tmp_path.iterdir()] == [TAKEN]


def test_a_memory_of_a_newer_minor_version_may_have_more_columns(tmp_path: Path) -> None:
    with Taken(tmp_path) as taken:
        taken.take({A: (1, 10)}, taken.day("2026-11-21", "x"))
    set_version(tmp_path, 1 << 16 | 9)
    with sqlite3.connect(tmp_path / TAKEN) as database:
        for table in ("files", "days"):
            database.execute(f"ALTER TABLE {table} ADD COLUMN new TEXT NOT NULL DEFAULT ''")
    database.close()
    with Taken(tmp_path) as taken:
        taken.take({B: (2, 20)}, taken.day("2026-11-22", "x"))
        taken.finish([row(A), row(B, (2, 20))])
        assert taken.has(A, (1, 10)) and taken.has(B, (2, 20)) and len(taken.days()) == 2 and taken.undone_days() == []
    assert {path.name for path in tmp_path.iterdir()} == {TAKEN}


@pytest.mark.parametrize("place", [60, 68], ids=["version", "application id"])
def test_a_version_in_a_damaged_memory_says_nothing(tmp_path: Path, place: int) -> None:
    with Taken(tmp_path) as taken:
        taken.take({f"/in/{n}.png": (n, n) for n in range(2000)}, taken.day("2026-11-21", "x"))
    whole = bytearray((tmp_path / TAKEN).read_bytes())
    whole[60:64] = b"\xa5" * 4
    whole[place : place + 4] = b"\xa5" * 4
    if place == 60:
        whole[-8192:] = b"\xa5" * 8192
    (tmp_path / TAKEN).write_bytes(whole)
    with Taken(tmp_path) as taken:
        assert taken.days() == []
    assert (tmp_path / f"{TAKEN}.damaged-1").read_bytes() == whole


def set_version(out: Path, number: int) -> None:
    with sqlite3.connect(out / TAKEN) as database:
        database.execute(f"PRAGMA user_version = {number}")
    database.close()


def test_a_kill_while_it_is_made_leaves_what_can_be_made_again(tmp_path: Path) -> None:
    (tmp_path / TAKEN).touch()  # SQLite's first act
    with Taken(tmp_path) as taken:
        taken.day("2026-11-21", "x")
    with sqlite3.connect(tmp_path / TAKEN) as database:
        assert database.execute("SELECT folder FROM days").fetchall() == [("2026-11-21",)]
    database.close()
