"""Tests of damaged days, memories and inboxes.

Damage affects only the damaged part, and every file of the inbox still ends once.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from colour import ACTION, COLOURS, colour_classifier
from small_media import write_photo

from vidrisk.files.stamps import stamp_of
from vidrisk.inference.predictions import read_predictions
from vidrisk.jobs.ledger import Ledger, read_ledger
from vidrisk.jobs.run_settings import InferSettings
from vidrisk.runtimes.contract.errors import VidriskError
from vidrisk.watch import Batch, WatchSettings, watch_inbox
from vidrisk.watch.damage import Damage, damage_of
from vidrisk.watch.memory import TAKEN, open_memory
from vidrisk.watch.taken import Taken

DAYS = [f"2026-11-{number}" for number in range(21, 29)]
ONCE = WatchSettings(settle_s=0.0, report_every_s=None, once=True)
INFER = InferSettings(workers=1, batch_frames=8)
Harm = Callable[[Path], None]


def once(inbox: Path, out: Path, date: str, settings: WatchSettings = ONCE) -> list[Batch]:
    batches: list[Batch] = []
    with colour_classifier(ACTION) as classifier:
        watch_inbox(classifier, inbox, out, settings, INFER, on_batch=batches.append, today=lambda: date)
    return batches


def ended(out: Path) -> Counter[str]:
    """Return the number of final rows by file name, over the days that count."""
    with Taken(out) as taken:
        folders = [out / day.folder for day in taken.days()]
    rows = [row for folder in folders if folder.exists() for row in read_ledger(folder) if row.state != "pending"]
    lines = Counter(p.path for folder in folders if folder.exists() for p in read_predictions(folder))
    assert lines == Counter(row.path for row in rows if row.state == "ok")
    return Counter(Path(row.path).name for row in rows)


def overwrite(path: Path, start: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(data)


def cut(path: Path, part: float) -> None:
    os.truncate(path, int(path.stat().st_size * part))


def zero_pages(path: Path) -> None:
    """Overwrite everything but the header with zeros, so that a page in use is hit."""
    overwrite(path, 4096, bytes(max(0, path.stat().st_size - 4096)))


def zero_end(path: Path) -> None:
    overwrite(path, max(0, path.stat().st_size - 9), bytes(9))


def exchange(path: Path, make: Harm) -> None:
    """Move a file or folder away and create something else in its place."""
    path.rename(path.with_name(f".{path.name}.away"))
    make(path)


HARMS: dict[str, Harm] = {
    "header garbage": lambda day: overwrite(day / "ledger.sqlite", 0, b"garbage " * 20),
    "pages zeroed": lambda day: zero_pages(day / "ledger.sqlite"),
    "ledger cut in half": lambda day: cut(day / "ledger.sqlite", 0.5),
    "ledger empty": lambda day: cut(day / "ledger.sqlite", 0),
    "ledger gone": lambda day: (day / "ledger.sqlite").unlink(),
    "another database": lambda day: exchange(day / "ledger.sqlite", write_database),
    "predictions short": lambda day: cut(day / "predictions.jsonl", 0.7),
    "predictions end in zeros": lambda day: zero_end(day / "predictions.jsonl"),
    "predictions gone": lambda day: (day / "predictions.jsonl").unlink(),
    "predictions gone while lines were dropped": lambda day: begin_rewriting(day).unlink(),
    "predictions empty while lines were dropped": lambda day: cut(begin_rewriting(day), 0),
    "a pipe": lambda day: exchange(day / "ledger.sqlite", os.mkfifo),
    "a file": lambda day: exchange(day, Path.touch),
}


def begin_rewriting(day: Path) -> Path:
    """Leave a ledger as if killed while lines were dropped; return the file of these lines."""
    with closing(sqlite3.connect(day / "ledger.sqlite")) as database, database:
        database.execute("UPDATE meta SET value = '1' WHERE key = 'rewriting'")
    return day / "predictions.jsonl"


def write_database(path: Path) -> None:
    database = sqlite3.connect(path)
    with database:
        database.execute("CREATE TABLE recipes (name TEXT)")
    database.close()


@pytest.mark.parametrize("name", HARMS)
def test_a_damaged_day_costs_itself(inbox: Path, out: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(3):
        write_photo(inbox / f"{number}.png", COLOURS[number])
    once(inbox, out, DAYS[0])
    assert damage_of(out / DAYS[0], parses=True) is None
    with Taken(out) as taken:  # as after a kill
        write_photo(inbox / "undone.png", "red")
        taken.take({str(inbox / "undone.png"): stamp_of((inbox / "undone.png").stat())}, taken.days()[0])
    HARMS[name](out / DAYS[0])
    write_photo(inbox / "new.png", "blue")
    for date in DAYS[1:4]:
        once(inbox, out, date)
    files = {"0.png": 1, "1.png": 1, "2.png": 1, "undone.png": 1, "new.png": 1}
    assert ended(out) == files
    assert [row.path for row in read_ledger(out / f"{DAYS[0]}.2")] == [str(inbox / "undone.png")]
    said = [message for message in caplog.messages if "is damaged" in message]
    assert len(said) == 1 and f"{out / DAYS[0]} is damaged: " in said[0]
    (out / TAKEN).unlink()  # a memory that is made again does not count it either
    once(inbox, out, DAYS[4])
    assert ended(out) == files


def test_a_link_in_place_of_a_day_is_not_written_through(inbox: Path, out: Path, tmp_path: Path) -> None:
    write_photo(inbox / "a.png", "red")
    once(inbox, out, DAYS[0])
    (out / DAYS[0]).rename(tmp_path / "nas")
    (out / DAYS[0]).symlink_to(tmp_path / "nas")
    before = {path: path.read_bytes() for path in (tmp_path / "nas").iterdir()}
    write_photo(inbox / "b.png", "blue")
    once(inbox, out, DAYS[0])
    assert {path: path.read_bytes() for path in (tmp_path / "nas").iterdir()} == before
    assert ended(out) == {"b.png": 1}  # the result of a.png is where somebody moved it to


def test_what_lies_in_place_of_an_old_day_does_not_stop_the_tidying(
    inbox: Path, out: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keeping = WatchSettings(settle_s=0.0, report_every_s=None, once=True, keep_dates=1)
    for number in range(3):
        write_photo(inbox / f"{number}.png", COLOURS[number])
        once(inbox, out, DAYS[number])
    (out / DAYS[0]).rename(tmp_path / "nas")
    (out / DAYS[0]).symlink_to(tmp_path / "nas")
    for number in range(2):
        once(inbox, out, DAYS[2], keeping)
        assert {path.name for path in out.iterdir()} == {TAKEN, DAYS[0], DAYS[2]}, number
    assert (tmp_path / "nas" / "ledger.sqlite").exists()
    assert sum("is not deleted" in message for message in caplog.messages) == 1
    assert len(list(inbox.iterdir())) == 3 and once(inbox, out, DAYS[3], keeping) == []


def test_a_day_that_has_not_begun_is_not_damaged(tmp_path: Path) -> None:
    day = tmp_path / "day"
    assert damage_of(day) is None
    day.mkdir()
    assert damage_of(day) is None
    (day / "ledger.sqlite").touch()  # SQLite's first act
    assert damage_of(day) is None
    (day / "predictions.jsonl").touch()  # comes after the ledger's first transaction
    assert damage_of(day) == Damage("ledger.sqlite was not written by vidrisk")


def test_a_run_that_is_going_on_and_files_of_a_person_are_no_damage(tmp_path: Path) -> None:
    with Ledger(tmp_path / "day", {"bundle": "x"}, resume=True) as ledger:
        ledger.add(["/in/a.png"])
        (tmp_path / "day" / "notes").mkdir()
        assert damage_of(tmp_path / "day") is None
    assert damage_of(tmp_path / "day", parses=True) is None


def test_lines_that_are_none_are_found_where_every_line_is_read(inbox: Path, out: Path) -> None:
    write_photo(inbox / "a.png", "red")
    once(inbox, out, DAYS[0])
    overwrite(out / DAYS[0] / "predictions.jsonl", 0, bytes(20))
    assert damage_of(out / DAYS[0]) is None
    damage = damage_of(out / DAYS[0], parses=True)
    assert damage and "is not JSON" in damage.why
    write_photo(inbox / "a.png", "blue", size=(50, 36))  # its line has to be taken out
    once(inbox, out, DAYS[0])
    assert ended(out) == {"a.png": 1}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_damage_at_random(inbox: Path, out: Path, seed: int) -> None:
    """Every file of the inbox ends once in a day that counts, whatever is damaged between passes."""
    chance = random.Random(seed)
    memory: list[Harm] = [
        lambda out: overwrite(out / TAKEN, 0, b"garbage " * 20),
        lambda out: cut(out / TAKEN, 0.5),
        lambda out: zero_pages(out / TAKEN),
        lambda out: (out / TAKEN).unlink(),
        lambda out: cut(out / TAKEN, 0),
    ]
    dates, written = list(DAYS), 0
    for number in range(14):
        for _ in range(chance.randrange(1, 4)):
            write_photo(inbox / f"{written}.png", chance.choice(COLOURS))
            written += 1
        if chance.random() < 0.2 and written > 6:
            (inbox / f"{written}.png").write_bytes(b"no photo")
            written += 1
        once(inbox, out, dates[number // 3])
        with Taken(out) as taken:
            folders = [out / day.folder for day in taken.days() if (out / day.folder).is_dir()]
        if chance.random() < 0.3:
            chance.choice(memory)(out)
        elif folders and chance.random() < 0.7:
            chance.choice(list(HARMS.values()))(chance.choice(folders))
    once(inbox, out, dates[-1])
    assert ended(out) == {f"{number}.png": 1 for number in range(written)}


class Colourblind:
    """A classifier that fails for one colour with an unexpected error."""

    def __init__(self, classifier: Any) -> None:
        self._classifier = classifier

    def __getattr__(self, name: str) -> Any:
        return getattr(self._classifier, name)

    def answer(self, flat: dict[str, npt.NDArray[np.generic]], windows: int) -> dict[str, npt.NDArray[np.float32]]:
        found: dict[str, npt.NDArray[np.float32]] = self._classifier.answer(flat, windows)
        if any(scores.argmax() == COLOURS.index("green") for scores in next(iter(found.values()))):
            raise ZeroDivisionError("no green, please")
        return found


def test_a_file_that_nobody_can_predict_holds_no_other(
    inbox: Path, out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(7):
        write_photo(inbox / f"{number}.png", COLOURS[0] if number != 3 else "green")
    passes = 0

    def today() -> str:
        nonlocal passes
        passes += 1
        if passes == 40:
            write_photo(inbox / "later.png", "blue")
        if passes > 80 and (out / DAYS[0]).exists() and "later.png" in ended_or_none(out / DAYS[0]):
            raise KeyboardInterrupt
        return DAYS[0]

    settings = WatchSettings(settle_s=0.0, poll_s=0.01, report_every_s=None, retry_s=0.2)
    with colour_classifier(ACTION) as classifier, pytest.raises(KeyboardInterrupt):
        watch_inbox(Colourblind(classifier), inbox, out, settings, INFER, today=today)  # type: ignore[arg-type]
    assert ended_or_none(out / DAYS[0]) == {"0.png", "1.png", "2.png", "4.png", "5.png", "6.png", "later.png"}
    (said,) = caplog.messages
    assert "3.png' cannot be predicted: ZeroDivisionError: no green, please (" in said and "trying again" in said
    assert once(inbox, out, DAYS[0])[0].states == {"ok": 1}  # a bundle that can do it


def ended_or_none(folder: Path) -> set[str]:
    try:
        return {Path(row.path).name for row in read_ledger(folder) if row.state != "pending"}
    except VidriskError:
        return set()


def test_one_pass_says_it_too_and_does_the_rest_before(inbox: Path, out: Path) -> None:
    for number in range(3):
        write_photo(inbox / f"{number}.png", COLOURS[number])
    with (
        colour_classifier(ACTION) as classifier,
        pytest.raises(VidriskError, match="cannot be predicted: ZeroDivisionError"),
    ):
        watch_inbox(Colourblind(classifier), inbox, out, ONCE, INFER, today=lambda: DAYS[0])  # type: ignore[arg-type]
    assert len(ended_or_none(out / DAYS[0])) == 2


def test_one_file_that_cannot_be_moved_holds_neither_the_others_nor_the_tidying(
    inbox: Path, out: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    moving = WatchSettings(settle_s=0.0, report_every_s=None, once=True, keep_dates=1, move_done=tmp_path / "done")
    os.mkfifo(inbox / "a.png")
    (tmp_path / "arch").mkdir()
    write_photo(tmp_path / "arch" / "b.png", "blue")
    (inbox / "b.png").symlink_to(tmp_path / "arch" / "b.png")
    (inbox / "sub").symlink_to(tmp_path / "arch")
    for name in ("c.png", "d.png"):
        write_photo(inbox / name, "red")
    once(inbox, out, DAYS[0], moving)
    (tmp_path / "done" / DAYS[0]).mkdir(parents=True)
    for date in DAYS[1:3]:
        write_photo(inbox / f"{date}.png", "green")
        once(inbox, out, date, moving)
    assert {path.name for path in (tmp_path / "done" / DAYS[0]).iterdir()} == {"c.png", "d.png"}
    assert (tmp_path / "arch" / "b.png").exists() and (inbox / "b.png").is_symlink() and (inbox / "sub").is_symlink()
    assert {path.name for path in out.iterdir()} == {TAKEN, DAYS[2]}
    for said in (
        "a.png is not a file",
        "'b.png' stays in the inbox: it is a link",
        "'sub/b.png' stays in the inbox: it lies",
    ):
        assert any(said in message for message in caplog.messages)


def test_a_target_that_cannot_be_written_does_not_stop_the_tidying(inbox: Path, out: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    moving = WatchSettings(
        settle_s=0.0, report_every_s=None, once=True, keep_dates=1, move_done=tmp_path / "file" / "done"
    )
    write_photo(inbox / "a.png", "red")
    once(inbox, out, DAYS[0], moving)
    write_photo(inbox / "b.png", "red")
    with pytest.raises(VidriskError, match=r"'a\.png' cannot be moved to .*done: Not a directory"):
        once(inbox, out, DAYS[1], moving)
    assert {path.name for path in out.iterdir()} == {TAKEN, DAYS[1]} and (inbox / "a.png").exists()


def test_a_memory_that_is_damaged_under_a_watch_is_mended_and_the_watch_goes_on(
    inbox: Path, out: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opened: list[sqlite3.Connection] = []

    def open_and_keep(out: Path) -> sqlite3.Connection:
        opened.append(open_memory(out))
        return opened[-1]

    monkeypatch.setattr("vidrisk.watch.taken.open_memory", open_and_keep)
    for number in range(3):
        write_photo(inbox / f"{number}.png", COLOURS[number])
    passes = 0

    def today() -> str:
        nonlocal passes
        passes += 1
        if passes == 20:
            overwrite(out / TAKEN, 0, bytes((out / TAKEN).stat().st_size))
            opened[0].execute("PRAGMA shrink_memory")  # it has to look at the disk again
            write_photo(inbox / "later.png", "blue")
        if passes > 40 and "later.png" in ended_or_none(out / f"{DAYS[0]}.2"):
            raise KeyboardInterrupt
        assert passes < 2000
        return DAYS[0]

    settings = WatchSettings(settle_s=0.0, poll_s=0.01, report_every_s=None, retry_s=0.05)
    with colour_classifier(ACTION) as classifier, pytest.raises(KeyboardInterrupt):
        watch_inbox(classifier, inbox, out, settings, INFER, today=today)
    assert [line for line in caplog.messages if "damaged" in line] == [
        f"{out / TAKEN} is damaged: it is kept as {TAKEN}.damaged-1 and rebuilt from the ledgers"
    ]
    assert ended(out) == {"0.png": 1, "1.png": 1, "2.png": 1, "later.png": 1}


def test_a_folder_of_a_day_that_is_copied_back_is_no_damage(inbox: Path, out: Path, tmp_path: Path) -> None:
    write_photo(inbox / "a.png", "red")
    once(inbox, out, DAYS[0])
    shutil.copytree(out / DAYS[0], tmp_path / "copy")
    shutil.rmtree(out / DAYS[0])
    shutil.copytree(tmp_path / "copy", out / DAYS[0])
    assert damage_of(out / DAYS[0], parses=True) is None
