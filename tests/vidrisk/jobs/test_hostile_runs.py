"""Tests of folders that change during a run, of clocks that jump, and of inputs that are all unreadable."""

from __future__ import annotations

import datetime as time_of_day
import itertools
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import faulty_decoder
import pytest
from colour import ACTION, colour_classifier
from small_media import write_photo, write_video

from vidrisk.inference.predictions import read_predictions
from vidrisk.jobs.ledger import read_ledger
from vidrisk.jobs.progress import Progress
from vidrisk.jobs.run_folder import run_folder
from vidrisk.jobs.run_settings import InferSettings
from vidrisk.jobs.sources import find_inputs
from vidrisk.report import build_report
from vidrisk.runtimes.contract.errors import SettingsError

SETTINGS = InferSettings(workers=2, batch_frames=4, file_timeout_s=2.0)
RESUMED = InferSettings(workers=2, batch_frames=4, file_timeout_s=2.0, resume=True)


@pytest.fixture
def media(tmp_path: Path) -> Path:
    (tmp_path / "media").mkdir()
    for number, colour in enumerate(["red", "green", "blue"] * 5):
        write_photo(tmp_path / "media" / f"{number:02}.png", colour)
    return tmp_path / "media"


def states(out: Path) -> dict[str, int]:
    rows = read_ledger(out)
    assert Counter(p.path for p in read_predictions(out)) == {
        row.path: row.predictions for row in rows if row.predictions
    }
    return dict(Counter(row.state for row in rows))


def test_a_folder_that_grows_while_it_is_read(media: Path, tmp_path: Path) -> None:
    def grow(progress: Progress) -> None:
        write_photo(media / f"new{progress.files}.png", "blue")

    run_folder(colour_classifier(ACTION), find_inputs([media]), tmp_path / "out", SETTINGS, grow)
    assert states(tmp_path / "out") == {"ok": 15}
    grown = len(list(media.glob("new*.png")))
    run_folder(colour_classifier(ACTION), find_inputs([media]), tmp_path / "out", RESUMED)
    assert grown >= 15 and states(tmp_path / "out") == {"ok": 15 + grown}


def test_files_that_vanish_before_they_are_read(media: Path, tmp_path: Path) -> None:
    inputs = find_inputs([media])
    for number in range(5, 10):
        (media / f"{number:02}.png").unlink()
    run_folder(colour_classifier(ACTION), inputs, tmp_path / "out", SETTINGS)
    assert states(tmp_path / "out") == {"ok": 10, "skipped": 5}


def test_a_file_that_is_still_being_written_is_done_again_later(media: Path, tmp_path: Path) -> None:
    whole = Path(write_video(tmp_path / "whole.avi", ("red", "blue", "green"))).read_bytes()
    growing = media / "camera.avi"
    growing.write_bytes(whole[: len(whole) * 88 // 100])
    run_folder(colour_classifier(ACTION), find_inputs([media]), tmp_path / "out", SETTINGS)
    assert states(tmp_path / "out") == {"ok": 15, "partial": 1}
    growing.write_bytes(whole)
    run_folder(colour_classifier(ACTION), find_inputs([media]), tmp_path / "out", RESUMED)
    assert states(tmp_path / "out") == {"ok": 16}


def test_a_run_without_one_readable_input(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    for number in range(5):
        (tmp_path / "media" / f"{number}.mp4").write_bytes(b"no video" * number)
    summary = run_folder(colour_classifier(ACTION), find_inputs([tmp_path / "media"]), tmp_path / "out", SETTINGS)
    assert (summary.failed, summary.predictions, states(tmp_path / "out")) == (5, 0, {"corrupt": 5})
    assert "0.mp4" in build_report(tmp_path / "out").read_text(encoding="utf-8")


def test_a_clock_that_jumps(media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that jumps back and forth by years does not affect a run.

    Times are recorded for people to read, and no decision depends on them.
    """
    years = itertools.cycle([2001, 2038, 1970])

    class Jumping(time_of_day.datetime):
        @classmethod
        def now(cls, tz: time_of_day.tzinfo | None = None) -> Jumping:
            return cls(next(years), 1, 1, tzinfo=tz)

    monkeypatch.setattr("vidrisk.jobs.ledger.datetime", Jumping)
    monkeypatch.setattr("vidrisk.jobs.summary.datetime", Jumping)
    monkeypatch.setattr("time.time", lambda: float(next(years)))
    run_folder(colour_classifier(ACTION), find_inputs([media]), tmp_path / "out", SETTINGS)
    summary = run_folder(colour_classifier(ACTION), find_inputs([media]), tmp_path / "out", RESUMED)
    assert states(tmp_path / "out") == {"ok": 15} and summary.timings_s["wall"] >= 0


@pytest.mark.parametrize(
    "changed", [{"frames": "keyframes"}, {"static_levels": 3.0}, {"save_features": True}, {"window_s": 1.0}]
)
def test_a_run_is_not_continued_with_other_settings(changed: dict[str, object], media: Path, tmp_path: Path) -> None:
    run_folder(colour_classifier(ACTION), find_inputs([media]), tmp_path / "out", SETTINGS)
    settings = InferSettings(workers=2, resume=True, **changed)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="resume with what it was started with"):
        run_folder(colour_classifier(ACTION), find_inputs([media]), tmp_path / "out", settings)


def test_a_raised_limit_gives_files_another_chance(media: Path, tmp_path: Path) -> None:
    write_photo(media / "large.png", size=(9000, 9000))
    tight = replace(SETTINGS, max_memory_mb=200)
    run_folder(colour_classifier(ACTION), find_inputs([media]), tmp_path / "out", tight)
    assert states(tmp_path / "out") == {"ok": 15, "too_large": 1}
    run_folder(colour_classifier(ACTION), find_inputs([media]), tmp_path / "out", replace(tight, resume=True))
    assert states(tmp_path / "out") == {"ok": 15, "too_large": 1}
    run_folder(colour_classifier(ACTION), find_inputs([media]), tmp_path / "out", RESUMED)
    assert states(tmp_path / "out") == {"ok": 16}


def test_every_way_to_end_in_one_run(media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faulty_decoder.install(tmp_path, monkeypatch)
    for name in ("segfault.png", "hang.png", "hungry.png", "exit.png", "astray.png", "typeerror.png", "once.png"):
        shutil.copy(media / "00.png", media / name)
    write_video(media / "late.mp4", ("red", "blue"))
    settings = InferSettings(workers=2, batch_frames=4, file_timeout_s=2.0, window_s=1.0, save_features=True)
    summary = run_folder(colour_classifier(ACTION), find_inputs([media]), tmp_path / "out", settings)
    assert states(tmp_path / "out") == {"ok": 16, "partial": 1, "crashed": 4, "timeout": 1, "too_large": 1}
    assert summary.states == {"ok": 16, "partial": 1, "timeout": 1, "crashed": 4, "too_large": 1}
    assert len(list((tmp_path / "out" / "features").iterdir())) == 17
    # what failed is left alone until the file changes
    again = replace(settings, resume=True)
    assert run_folder(colour_classifier(ACTION), find_inputs([media]), tmp_path / "out", again).states == summary.states
