from __future__ import annotations

import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from colour import ACTION, COLOURS, colour_classifier
from small_media import write_photo, write_sound, write_video

from vidrisk.inference.model import Classifier
from vidrisk.inference.predictions import read_predictions
from vidrisk.jobs.ledger import read_ledger
from vidrisk.jobs.run_settings import InferSettings
from vidrisk.runtimes.contract.errors import RuntimeFailure, SettingsError, VidriskError
from vidrisk.watch import Batch, WatchSettings, watch_inbox
from vidrisk.watch import service as loop
from vidrisk.watch.taken import Taken

DAY, NEXT, THIRD = "2026-11-21", "2026-11-22", "2026-11-23"
ONCE = WatchSettings(settle_s=0.0, report_every_s=None, once=True)
ON = WatchSettings(settle_s=0.0, poll_s=0.02, report_every_s=None, retry_s=0.05)
INFER = InferSettings(workers=1, batch_frames=8)
ALL = {"predictions.jsonl", "ledger.sqlite", "summary.json"}


def once(
    inbox: Path, out: Path, date: str = DAY, settings: WatchSettings = ONCE, digest: str = "0" * 64
) -> list[Batch]:
    batches: list[Batch] = []
    with colour_classifier(ACTION, digest=digest) as classifier:
        watch_inbox(classifier, inbox, out, settings, INFER, on_batch=batches.append, today=lambda: date)
    return batches


def until(
    condition: Callable[[], bool],
    inbox: Path,
    out: Path,
    settings: WatchSettings = ON,
    dates: Callable[[], str] = lambda: DAY,
    classifier: Classifier | None = None,
) -> None:
    """Watch until ``condition`` holds at the beginning of a pass."""

    def today() -> str:
        if condition():
            raise KeyboardInterrupt
        return dates()

    # The date is asked for at least once a pass because files are to be moved: to where, does not matter.
    settings = WatchSettings(**{**vars(settings), "move_done": settings.move_done or out.with_name("moved")})
    with classifier or colour_classifier(ACTION) as opened, pytest.raises(KeyboardInterrupt):
        watch_inbox(opened, inbox, out, settings, INFER, today=today)


def labels(folder: Path) -> dict[str, str]:
    found = [(Path(p.path).name, p.label) for p in read_predictions(folder)]
    assert len(found) == len(dict(found))
    return dict(found)


def states(folder: Path) -> dict[str, str]:
    return {Path(row.path).name: row.state for row in read_ledger(folder)}


def test_a_day_gets_a_folder_with_everything(inbox: Path, out: Path) -> None:
    (inbox / "楼 1").mkdir()
    write_photo(inbox / "楼 1" / "红.png", "red")
    write_video(inbox / "a.mp4", ("blue",))
    (inbox / "bad.mp4").write_bytes(b"no clip")
    write_photo(inbox / "half.png.part", "green")
    (batch,) = once(inbox, out, settings=WatchSettings(settle_s=0.0, once=True))
    assert batch == Batch(out / DAY, {"ok": 2, "corrupt": 1}, uncertain=0)
    assert {path.name for path in (out / DAY).iterdir()} == {*ALL, "thumbnails.sqlite", "report.html"}
    assert labels(out / DAY) == {"红.png": "red", "a.mp4": "blue"}
    assert states(out / DAY) == {"红.png": "ok", "a.mp4": "ok", "bad.mp4": "corrupt"}
    assert {path.name for path in inbox.iterdir()} == {"楼 1", "a.mp4", "bad.mp4", "half.png.part"}


def test_what_is_there_is_done_once(inbox: Path, out: Path) -> None:
    write_photo(inbox / "a.png", "red")
    once(inbox, out)
    assert once(inbox, out) == once(inbox, out, NEXT) == []
    assert {path.name for path in out.iterdir()} == {"inbox.sqlite", DAY}
    write_photo(inbox / "b.png", "green")
    assert once(inbox, out, NEXT) == [Batch(out / NEXT, {"ok": 1}, uncertain=0)]
    assert labels(out / NEXT) == {"b.png": "green"}


def test_a_batch_counts_its_own_uncertain_predictions(inbox: Path, out: Path) -> None:
    for name, colour in {"a.png": "grey", "b.png": "red", "c.png": "grey"}.items():
        write_photo(inbox / name, colour)
    (first,) = once(inbox, out)
    write_photo(inbox / "d.png", "grey")
    (second,) = once(inbox, out)
    assert (first.uncertain, second.uncertain) == (2, 1)
    assert str(first) == f"{DAY}: 3 files (3 ok); 2 predictions uncertain"


def test_a_batch_of_a_model_without_thresholds_says_nothing_of_them(inbox: Path, out: Path) -> None:
    write_photo(inbox / "a.png", "grey")
    batches: list[Batch] = []
    with colour_classifier(ACTION, threshold=None) as classifier:
        watch_inbox(classifier, inbox, out, ONCE, INFER, on_batch=batches.append, today=lambda: DAY)
    assert [batch.uncertain for batch in batches] == [None] and str(batches[0]) == f"{DAY}: 1 files (1 ok)"


def test_another_file_of_the_same_name(inbox: Path, out: Path) -> None:
    write_photo(inbox / "a.png", "red")
    once(inbox, out)
    write_photo(inbox / "a.png", "blue", size=(50, 36))
    once(inbox, out)  # on the same day the later one counts
    assert labels(out / DAY) == {"a.png": "blue"}
    write_photo(inbox / "a.png", "green", size=(60, 36))
    once(inbox, out, NEXT)
    assert labels(out / DAY) == {"a.png": "blue"} and labels(out / NEXT) == {"a.png": "green"}


def test_a_half_written_file_waits_until_it_is_whole(inbox: Path, out: Path, tmp_path: Path) -> None:
    whole = Path(write_video(tmp_path / "whole.mp4", ("red", "green"))).read_bytes()
    half = (inbox / "a.mp4").open("wb", buffering=0)
    half.write(whole[: len(whole) // 2])
    passes = 0

    def grows() -> bool:
        nonlocal passes
        passes += 1
        if passes < 10:
            half.write(b"")
            os.utime(inbox / "a.mp4")  # a byte more, as the file system sees it
        elif passes == 10:
            half.write(whole[len(whole) // 2 :])
            half.close()
        assert passes > 10 or not (out / DAY).exists()
        return passes > 10 and (out / DAY / "summary.json").exists()

    until(grows, inbox, out, WatchSettings(settle_s=0.5, poll_s=0.02, report_every_s=None))
    assert states(out / DAY) == {"a.mp4": "ok"}
    assert [row.bytes for row in read_ledger(out / DAY)] == [len(whole)]


def test_midnight(inbox: Path, out: Path) -> None:
    """A file that is complete before midnight belongs to the old day.

    The page of the old day is written when the day is over.
    """
    write_photo(inbox / "before.png", "red")
    date = DAY

    def comes_to_midnight() -> bool:
        nonlocal date
        if date == DAY and (out / DAY / "report.html").exists():
            assert "after.png" not in (out / DAY / "report.html").read_text(encoding="utf-8")
            write_photo(inbox / "late.png", "green")
            date = "23:59"
        elif date == "23:59" and (out / DAY / "ledger.sqlite").exists() and "late.png" in states_or_none(out / DAY):
            assert "late.png" not in (out / DAY / "report.html").read_text(encoding="utf-8")  # not due yet
            write_photo(inbox / "after.png", "blue")
            date = NEXT
        return date == NEXT and (out / NEXT / "summary.json").exists()

    until(
        comes_to_midnight,
        inbox,
        out,
        WatchSettings(settle_s=0.0, poll_s=0.02, report_every_s=1e6),
        dates=lambda: DAY if date == "23:59" else date,
    )
    assert labels(out / DAY) == {"before.png": "red", "late.png": "green"} and labels(out / NEXT) == {
        "after.png": "blue"
    }
    assert "late.png" in (out / DAY / "report.html").read_text(encoding="utf-8")


def states_or_none(folder: Path) -> dict[str, str]:
    try:
        return {name: state for name, state in states(folder).items() if state != "pending"}
    except VidriskError:  # it is being written to
        return {}


def test_a_clock_that_jumps_loses_nothing(inbox: Path, out: Path) -> None:
    for number, date in enumerate([DAY, "1970-01-01", DAY, "2099-12-31", DAY]):
        write_photo(inbox / f"{number}.png", COLOURS[number % 3])
        once(inbox, out, date)
    assert Counter(name for date in (DAY, "1970-01-01", "2099-12-31") for name in labels(out / date)) == {
        f"{number}.png": 1 for number in range(5)
    }


def test_another_bundle_gets_another_folder_and_ends_what_the_first_one_did_not(inbox: Path, out: Path) -> None:
    write_photo(inbox / "a.png", "red")
    once(inbox, out)
    write_photo(inbox / "b.png", "green")
    with Taken(out) as taken:  # as after a kill
        stamp = (inbox / "b.png").stat().st_size, (inbox / "b.png").stat().st_mtime_ns
        taken.take({str(inbox / "b.png"): stamp}, taken.days()[0])
    write_photo(inbox / "c.png", "blue")
    batches = once(inbox, out, digest="1" * 64)
    assert {batch.folder.name for batch in batches} == {f"{DAY}.2"}
    assert labels(out / DAY) == {"a.png": "red"} and labels(out / f"{DAY}.2") == {"b.png": "green", "c.png": "blue"}
    assert once(inbox, out, digest="1" * 64) == once(inbox, out) == []


def test_an_inbox_that_goes_and_comes_back(
    inbox: Path, out: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_photo(inbox / "a.png", "red")
    once(inbox, out)
    inbox.rename(tmp_path / "unmounted")

    class Mount(logging.Handler):
        """A log handler that restores the inbox when the watch reports that it is missing."""

        def emit(self, record: logging.LogRecord) -> None:
            if "cannot be read" in record.getMessage():
                write_photo(tmp_path / "unmounted" / "b.png", "blue")
                (tmp_path / "unmounted").rename(inbox)

    handler = Mount()
    logging.getLogger("vidrisk.watch").addHandler(handler)
    try:
        until(lambda: "it works again" in caplog.text, inbox, out)
    finally:
        logging.getLogger("vidrisk.watch").removeHandler(handler)
    assert caplog.messages == [
        f"the inbox {inbox} cannot be read: No such file or directory; trying again",
        "it works again",
    ]
    assert labels(out / DAY) == {"a.png": "red", "b.png": "blue"}


def test_once_says_that_there_is_no_inbox(inbox: Path, out: Path) -> None:
    inbox.rmdir()
    with pytest.raises(VidriskError, match="cannot be read: No such file"):
        once(inbox, out)


def test_files_that_vanish_while_they_are_read_come_back(inbox: Path, out: Path, tmp_path: Path) -> None:
    """Files that vanish while a batch is read are skipped, and predicted when they come back.

    An example is a network share that is disconnected meanwhile.
    """
    write_photo(inbox / "a.png", "red")
    with Taken(out) as taken:
        day = taken.day(DAY, "another")
        taken.take({str(inbox / "a.png"): (1, 1), str(inbox / "gone.png"): (1, 1)}, day)
    (inbox / "a.png").rename(tmp_path / "a.png")
    once(inbox, out)
    assert states(out / f"{DAY}.2") == {"a.png": "skipped", "gone.png": "skipped"}
    (tmp_path / "a.png").rename(inbox / "a.png")
    assert once(inbox, out)[-1].states == {"ok": 1}
    assert labels(out / f"{DAY}.2") == {"a.png": "red"}


def test_what_cannot_be_predicted_at_all_is_tried_twice_and_no_more(inbox: Path, out: Path) -> None:
    write_sound(inbox / "sound.mp4")
    batches: list[Batch] = []
    date = DAY

    def today() -> str:
        nonlocal date
        if len(batches) == 2:
            write_photo(inbox / "a.png", "red")
        if len(batches) == 3:
            raise KeyboardInterrupt
        return date

    settings = WatchSettings(**{**vars(ON), "move_done": out.with_name("moved")})
    with colour_classifier(ACTION) as classifier, pytest.raises(KeyboardInterrupt):
        watch_inbox(classifier, inbox, out, settings, INFER, on_batch=batches.append, today=today)
    assert [dict(batch.states) for batch in batches] == [{"skipped": 1}, {"skipped": 1}, {"ok": 1}]


def test_an_engine_that_fails_ends_the_watch_and_the_next_one_goes_on(inbox: Path, out: Path) -> None:
    write_photo(inbox / "a.png", "red")
    with colour_classifier(ACTION) as classifier:
        classifier.runners[0].close()
        with pytest.raises((RuntimeFailure, VidriskError)) as failure:
            watch_inbox(classifier, inbox, out, ON, INFER, today=lambda: DAY)
    assert type(failure.value) is not VidriskError
    assert once(inbox, out) == [Batch(out / DAY, {"ok": 1}, uncertain=0)]


def test_a_flood_is_taken_in_parts(inbox: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "MAX_BATCH_FILES", 4)
    for number in range(11):
        write_photo(inbox / f"{number:02}.png", COLOURS[number % 3])
    assert [sum(batch.states.values()) for batch in once(inbox, out)] == [4, 4, 3]
    assert len(labels(out / DAY)) == 11


def test_done_files_move_when_their_day_is_over(inbox: Path, out: Path, tmp_path: Path) -> None:
    (inbox / "cam 1").mkdir()
    write_photo(inbox / "cam 1" / "a.png", "red")
    (inbox / "bad.png").write_bytes(b"bad")
    moving = WatchSettings(settle_s=0.0, once=True, move_done=tmp_path / "done")
    once(inbox, out, DAY, moving)
    assert (inbox / "cam 1" / "a.png").exists() and not (tmp_path / "done").exists()
    assert "data:image" in (out / DAY / "report.html").read_text(encoding="utf-8")
    write_photo(inbox / "cam 1" / "b.png", "blue")
    once(inbox, out, NEXT, moving)
    assert {os.path.relpath(path, tmp_path / "done") for path in (tmp_path / "done").rglob("*.png")} == {
        f"{DAY}/cam 1/a.png",
        f"{DAY}/bad.png",
    }
    assert [path.name for path in inbox.rglob("*.png")] == ["b.png"]
    write_photo(inbox / "cam 1" / "a.png", "red", size=(60, 36))  # again the same name
    once(inbox, out, DAY, moving)
    once(inbox, out, THIRD, moving)
    assert sorted(path.name for path in (tmp_path / "done" / DAY / "cam 1").iterdir()) == ["a.2.png", "a.png"]
    assert list(inbox.rglob("*.png")) == []


def test_files_that_changed_since_do_not_move(inbox: Path, out: Path, tmp_path: Path) -> None:
    write_photo(inbox / "a.png", "red")
    moving = WatchSettings(settle_s=30.0, report_every_s=None, once=True, move_done=tmp_path / "done")
    os.utime(inbox / "a.png", (1e9, 1e9))
    once(inbox, out, DAY, moving)
    (inbox / "a.png").write_bytes(b"something new is being written")
    with pytest.raises(KeyboardInterrupt), colour_classifier(ACTION) as classifier:
        dates = iter([NEXT] * 20)
        settings = WatchSettings(settle_s=30.0, poll_s=0.01, report_every_s=None, move_done=tmp_path / "done")

        def today() -> str:
            try:
                return next(dates)
            except StopIteration:
                raise KeyboardInterrupt from None

        watch_inbox(classifier, inbox, out, settings, INFER, today=today)
    assert (inbox / "a.png").exists() and not (tmp_path / "done").exists()


def test_moving_to_another_file_system(inbox: Path, out: Path) -> None:
    target = Path("/dev/shm") / f"vidrisk-{os.getpid()}"
    if not target.parent.is_dir() or target.parent.stat().st_dev == inbox.stat().st_dev:
        pytest.skip("there is no second file system")
    moving = WatchSettings(settle_s=0.0, report_every_s=None, once=True, move_done=target)
    try:
        content = Path(write_photo(inbox / "a.png", "red")).read_bytes()
        once(inbox, out, DAY, moving)
        once(inbox, out, NEXT, moving)
        assert [path.name for path in (target / DAY).iterdir()] == ["a.png"]
        assert (target / DAY / "a.png").read_bytes() == content and list(inbox.iterdir()) == []
    finally:
        shutil.rmtree(target, ignore_errors=True)


def test_files_must_not_move_to_where_they_are_looked_for(inbox: Path, out: Path) -> None:
    with pytest.raises(SettingsError, match="lies in the inbox"):
        once(inbox, out, settings=WatchSettings(once=True, move_done=inbox / "done"))
    assert not out.exists()


def test_files_must_not_move_to_where_old_days_are_deleted(inbox: Path, out: Path) -> None:
    with pytest.raises(SettingsError, match="where old days are deleted"):
        once(inbox, out, settings=WatchSettings(once=True, move_done=out / "done"))
    assert not out.exists()


def test_only_the_last_days_are_kept_and_nothing_is_done_again(inbox: Path, out: Path) -> None:
    keeping = WatchSettings(settle_s=0.0, report_every_s=None, once=True, keep_dates=2)
    for number, date in enumerate([DAY, NEXT, THIRD]):
        write_photo(inbox / f"{number}.png", COLOURS[number])
        once(inbox, out, date, keeping)
    assert {path.name for path in out.iterdir()} == {"inbox.sqlite", NEXT, THIRD}
    assert once(inbox, out, "2026-11-24", keeping) == []
    assert len(list(inbox.iterdir())) == 3


def test_somebody_tidied_up_a_day(inbox: Path, out: Path) -> None:
    write_photo(inbox / "a.png", "red")
    once(inbox, out)
    shutil.rmtree(out / DAY)
    write_photo(inbox / "b.png", "blue")
    once(inbox, out)
    assert labels(out / DAY) == {"b.png": "blue"}


@pytest.mark.parametrize("wrong", [{"settle_s": -1}, {"poll_s": 0}, {"keep_dates": 0}, {"retry_s": float("nan")}])
def test_settings_that_make_no_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        WatchSettings(**wrong)  # type: ignore[arg-type]


def test_the_summary_tells_the_whole_day(inbox: Path, out: Path) -> None:
    for number in range(3):
        write_photo(inbox / f"{number}.png", COLOURS[number])
        once(inbox, out)
    assert json.loads((out / DAY / "summary.json").read_text(encoding="utf-8"))["states"] == {"ok": 3}
