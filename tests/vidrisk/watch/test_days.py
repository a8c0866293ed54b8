"""Tests that a file belongs to one day, wherever a watch is killed and however the file changes meanwhile."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path
from unittest import mock

import pytest
from colour import ACTION, colour_classifier
from PIL import Image
from small_media import write_photo

from vidrisk.inference.predictions import read_predictions
from vidrisk.jobs.ledger import Ledger, Row, read_ledger
from vidrisk.jobs.run_settings import InferSettings
from vidrisk.watch import WatchSettings, watch_inbox
from vidrisk.watch.taken import Taken

DAYS = "2026-11-21", "2026-11-22", "2026-11-23"
ONCE = WatchSettings(settle_s=0.0, report_every_s=None, once=True)
INFER = InferSettings(workers=1, batch_frames=4)
POINTS = (
    (Taken, "take"),
    (Taken, "finish"),
    (Taken, "hand_over"),
    (Ledger, "_drop_pending"),
    (Ledger, "_rewrite"),
    (Ledger, "add"),
    (Ledger, "finish"),
    (Ledger, "_write_at"),
)


class Killed(BaseException):
    """Exception that stands for SIGKILL: uncommitted data are not written on the way out."""


def watch(root: Path, date: str, *, digest: str = "0" * 64, kill: random.Random | None = None) -> None:
    """Make one pass; with ``kill``, it may end before or after any of the calls in ``POINTS``."""
    calls = kill.randrange(40) if kill else -1

    def killing(real: object) -> object:
        def call(self: object, *values: object) -> object:
            nonlocal calls
            calls -= 1
            if calls == 0:
                raise Killed
            result = real(self, *values)  # type: ignore[operator]
            calls -= 1
            if calls == 0:
                raise Killed
            return result

        return call

    def leave(ledger: Ledger, kind: type[BaseException] | None, *error: object) -> None:
        with closing(ledger):
            if kind is None:
                ledger.commit()

    places = [mock.patch.object(kind, name, killing(getattr(kind, name))) for kind, name in POINTS]
    for place in [*places, mock.patch.object(Ledger, "__exit__", leave)] if kill else []:
        place.start()
    try:
        with colour_classifier(ACTION, digest=digest) as classifier, suppress(Killed):
            watch_inbox(classifier, root / "in", root / "out", ONCE, INFER, today=lambda: date)
    finally:
        mock.patch.stopall()


def leave_undone(root: Path, date: str, paths: Iterable[str]) -> None:
    """Leave the state of a watch that was killed before the first result of a batch.

    Files are taken, and pending in their day.
    """
    with (
        mock.patch.object(Ledger, "rows", side_effect=Killed),
        mock.patch.object(Ledger, "_reopen"),
        mock.patch.object(Ledger, "_drop_pending"),
        colour_classifier(ACTION) as classifier,
        suppress(Killed),
    ):
        watch_inbox(classifier, root / "in", root / "out", ONCE, INFER, today=lambda: date)
    assert {row.path for row in read_ledger(root / "out" / date) if row.state == "pending"} == set(paths)


def labels(root: Path) -> dict[str, dict[str, str]]:
    return {
        folder.name: {Path(p.path).name: p.label for p in read_predictions(folder)}
        for folder in sorted((root / "out").iterdir())
        if folder.is_dir()
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path


def test_a_file_that_was_touched_after_midnight_is_of_the_new_day_alone(root: Path) -> None:
    write_photo(root / "in" / "first.png", "green")
    watch(root, DAYS[0])
    paths = [write_photo(root / "in" / name, "red") for name in ("stays.png", "touched.png")]
    leave_undone(root, DAYS[0], paths)
    write_photo(paths[1], "blue", size=(64, 48))
    watch(root, DAYS[1])
    assert labels(root) == {DAYS[0]: {"first.png": "green", "stays.png": "red"}, DAYS[1]: {"touched.png": "blue"}}
    assert all(row.state == "ok" for date in DAYS[:2] for row in read_ledger(root / "out" / date))


def test_a_day_that_goes_on_does_not_do_again_what_changed_or_came_back_since(root: Path) -> None:
    changed = write_photo(root / "in" / "changed.png", "green")
    (root / "in" / "missing.png").symlink_to(root / "later.png")
    write_photo(root / "later.png", "red")
    with (
        colour_classifier(ACTION) as classifier,
        mock.patch(
            "vidrisk.watch.service.is_still",
            lambda path, stamp: ((root / "later.png").unlink(missing_ok=True), True)[1],
        ),
    ):
        watch_inbox(classifier, root / "in", root / "out", ONCE, INFER, today=lambda: DAYS[0])
    assert {Path(row.path).name: row.state for row in read_ledger(root / "out" / DAYS[0])} == {
        "changed.png": "ok",
        "missing.png": "skipped",
    }
    leave_undone(root, DAYS[0], [write_photo(root / "in" / "undone.png", "red")])
    write_photo(changed, "blue", size=(64, 48))
    write_photo(root / "later.png", "blue")
    watch(root, DAYS[1])
    assert labels(root) == {
        DAYS[0]: {"changed.png": "green", "undone.png": "red"},
        DAYS[1]: {"changed.png": "blue", "missing.png": "blue"},
    }


def test_a_bundle_that_comes_back_does_not_do_what_another_one_took_over(root: Path) -> None:
    write_photo(root / "in" / "first.png", "green")
    watch(root, DAYS[0])
    leave_undone(root, DAYS[0], [write_photo(root / "in" / "undone.png", "red")])
    watch(root, DAYS[0], digest="1" * 64)
    write_photo(root / "in" / "last.png", "blue")
    watch(root, DAYS[0])
    assert labels(root) == {DAYS[0]: {"first.png": "green", "last.png": "blue"}, f"{DAYS[0]}.2": {"undone.png": "red"}}


@pytest.mark.parametrize("seed", range(3))
def test_every_version_of_a_file_is_predicted_once_over_days(seed: int, root: Path) -> None:
    """Every version of a file is predicted once, although the watch is killed at any point of several days.

    Meanwhile, files come, change and stay away for a while.
    """
    chance, contents = random.Random(seed), 0
    paths = [root / "in" / f"{number}.png" for number in range(8)]

    def write(path: Path) -> None:
        nonlocal contents
        contents += 1
        Image.frombytes("RGB", (8, 8), random.Random(contents).randbytes(3 * 8 * 8)).save(path)
        os.utime(path, ns=(contents * 10**9, contents * 10**9))

    for date in (day for day in DAYS for _ in range(3)):
        for path in chance.sample(paths, 3):
            write(path)
        watch(root, date, kill=chance)
    watch(root, DAYS[-1])
    found = Counter(
        prediction.id
        for folder in (root / "out").iterdir()
        if folder.is_dir()
        for prediction in read_predictions(folder)
    )
    assert set(found.values()) == {1}
    last: dict[str, Row] = {
        row.path: row for folder in sorted((root / "out").iterdir()) if folder.is_dir() for row in read_ledger(folder)
    }
    assert {path: (row.state, row.mtime_ns) for path, row in last.items()} == {
        str(path): ("ok", path.stat().st_mtime_ns) for path in paths if path.exists()
    }
