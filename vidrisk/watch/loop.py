"""The passes of a watch: finish what is undone, look, predict what is complete, report, tidy.

Every pass may be killed at any moment and the next one goes on. What the world does to it (a full disk, a share that has gone) is
said once, and tried again until it works; what only a person can mend (an engine that fails, wrong settings) ends the watch.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from itertools import islice
from pathlib import Path

from vidrisk.cache import key_of
from vidrisk.infer.classifier import Classifier
from vidrisk.infer.folder import LEDGER, is_ledger
from vidrisk.infer.ledger import Row, read_ledger
from vidrisk.infer.pipeline import InferSettings, run_inference
from vidrisk.infer.sources import Inputs, stamp_of
from vidrisk.report import build_report
from vidrisk.runtimes.errors import DataError, SettingsError, VidriskError
from vidrisk.watch import notify
from vidrisk.watch.inbox import Settling, Stamp, files_in, is_still
from vidrisk.watch.taken import Day, Taken
from vidrisk.watch.tidy import expire, move_done

log = logging.getLogger(__name__)

MAX_BATCH_FILES = 500  # so that a new day, a report and a signal need not wait for a flood to pass
MAX_PART_OF_LOOKING = 0.1  # of the time, that a large inbox may take


@dataclass(frozen=True)
class WatchSettings:
    """How to watch.

    Attributes:
        settle_s: a file is complete when nothing has happened to it for so long.
        poll_s: between two looks; more where looking itself takes long.
        report_every_s: the page of the day is written again at most so often; None writes none.
        retry_s: after which what failed is tried again: a full disk, a file that may not be read.
        keep_dates: the dates with results that are kept; None keeps all.
        move_done: where files go when their day is over; None leaves them.
        once: make one pass and return.
    """

    settle_s: float = 2.0
    poll_s: float = 2.0
    report_every_s: float | None = 300.0
    retry_s: float = 30.0
    keep_dates: int | None = None
    move_done: Path | None = None
    once: bool = False

    def __post_init__(self) -> None:
        for name, least in (("settle_s", 0.0), ("poll_s", 0.01), ("report_every_s", 0.0), ("retry_s", 0.0), ("keep_dates", 1)):
            value = getattr(self, name)
            if value is not None and not least <= value <= 1e6:
                raise SettingsError(f"{name} is {value}", allowed=f"{least} to 1000000")


@dataclass(frozen=True)
class Batch:
    """Files that were predicted together: where the results are, and how many files ended in which state."""

    folder: Path
    states: Mapping[str, int]


def local_date() -> str:
    """Today, where this machine says that it is."""
    return datetime.now().astimezone().date().isoformat()


def watch_inbox(classifier: Classifier, inbox: Path, out: Path, settings: WatchSettings, infer: InferSettings,
                on_batch: Callable[[Batch], None] = lambda batch: None, today: Callable[[], str] = local_date) -> None:
    """Predict what comes into ``inbox``, into one folder per day below ``out``, until a signal; with ``once`` what is there now.

    Args:
        on_batch: told of every batch when its results are written.
        today: the date that a file which is complete now belongs to.

    Raises:
        SettingsError: ``out`` cannot be used, or files would be moved to where they are looked for.
        RuntimeFailure: the engine failed, or decode processes cannot be started.
        Interrupted, KeyboardInterrupt: a signal; the next watch goes on where this one stopped.
        VidriskError: with ``once``, also what a watch that goes on tries again.
    """
    if settings.move_done and settings.move_done.resolve().is_relative_to(inbox.resolve()):
        raise SettingsError(f"{settings.move_done} lies in the inbox {inbox}", fix="choose another folder for --move-done")
    if settings.move_done and settings.move_done.resolve().is_relative_to(out.resolve()):
        raise SettingsError(f"{settings.move_done} lies in {out}, where old days are deleted",
                            fix="choose another folder for --move-done")
    with Taken(out) as taken:
        watch = _Watch(classifier, inbox, out, settings, replace(infer, resume=True), taken, on_batch, today)
        notify.ready()
        notify.status("watching")
        if settings.once:
            watch.make_one_pass()
        else:
            watch.run()


class _Watch:
    def __init__(self, classifier: Classifier, inbox: Path, out: Path, settings: WatchSettings, infer: InferSettings, taken: Taken,
                 on_batch: Callable[[Batch], None], today: Callable[[], str]) -> None:
        self._classifier, self._inbox, self._out = classifier, inbox, out
        self._settings, self._infer, self._taken = settings, infer, taken
        self._on_batch, self._today = on_batch, today
        made_with = {"runtime": classifier.runtime, "variant": classifier.variant, **asdict(infer)}
        self._identity = key_of(classifier.provenance["digest"], classifier.contract.digest, json.dumps(made_with, sort_keys=True))
        self._settling = Settling(settings.settle_s)
        self._retry_at_s: dict[str, float] = {}  # files that could not be read
        self._reported_at_s = -math.inf
        self._looked_s = 0.0
        self._trouble = ""

    def run(self) -> None:
        while True:
            notify.alive()
            wait_s, trouble = self._settings.poll_s, ""
            try:
                if self._pass():
                    continue
            except VidriskError as error:
                if type(error) is not VidriskError:  # what the disk says has no name of its own
                    raise
                wait_s, trouble = self._settings.retry_s, error.what
            self._say(trouble)
            with notify.staying_alive():
                time.sleep(max(wait_s, self._looked_s / MAX_PART_OF_LOOKING))

    def make_one_pass(self) -> None:
        found = self._files()
        complete = self._settling.complete(found, time.monotonic())
        if any(path not in complete and not self._taken.has(path, stamp_of(info)) for path, info in found.items()):
            time.sleep(self._settings.settle_s)  # something new may be complete then
        while self._pass():
            pass
        self._report(is_last=True)

    def _say(self, trouble: str) -> None:
        if trouble and trouble != self._trouble:
            log.warning("%s; trying again", trouble)
            notify.status(trouble)
        elif self._trouble and not trouble:
            log.warning("it works again")
            notify.status("watching")
        self._trouble = trouble

    def _pass(self) -> bool:
        """Whether more is waiting already."""
        self._finish_undone()
        self._report()
        started_s = time.monotonic()
        found = self._files()
        new = dict(islice(self._new(found, started_s), MAX_BATCH_FILES))
        self._looked_s = time.monotonic() - started_s
        if new:
            day = self._taken.day(self._today(), self._identity)
            self._taken.take(new, day)
            self._predict(day)
        self._retry_at_s = {path: at_s for path, at_s in self._retry_at_s.items() if path in found}
        with notify.staying_alive():
            if self._settings.move_done:
                move_done(self._taken, self._today(), self._inbox, found, self._settings.move_done)
            if self._settings.keep_dates:
                expire(self._taken, self._out, self._settings.keep_dates, found)
        return len(new) == MAX_BATCH_FILES

    def _files(self) -> dict[str, os.stat_result]:
        try:
            return files_in(self._inbox)
        except OSError as error:
            raise VidriskError(f"the inbox {self._inbox} cannot be looked into: {error.strerror or error}",
                               fix="mount it, make it or grant the permission") from error

    def _new(self, found: Mapping[str, os.stat_result], now_s: float) -> Iterator[tuple[str, Stamp]]:
        for path, stamp in self._settling.complete(found, now_s).items():
            if not self._taken.has(path, stamp) and now_s >= self._retry_at_s.get(path, now_s) and is_still(path, stamp):
                yield path, stamp

    def _finish_undone(self) -> None:
        """What an earlier watch was killed at, or the disk had no room for."""
        for day in self._taken.undone_days():
            if day.identity != self._identity:  # another bundle began it, and cannot end it
                self._settle(day)
                today = self._taken.day(self._today(), self._identity)
                self._taken.hand_over(day, today)
                day = today
            self._predict(day)

    def _predict(self, day: Day) -> None:
        paths = self._taken.undone(day)
        if not paths:  # its ledger knew what became of them
            return
        notify.status(f"{len(paths)} files → {day.folder}")
        run_inference(self._classifier, Inputs(tuple(paths)), self._out / day.folder, self._infer,
                      on_progress=lambda progress: notify.alive())
        states = self._settle(day)
        notify.status("watching")
        self._on_batch(Batch(self._out / day.folder, states))

    def _settle(self, day: Day) -> Mapping[str, int]:
        """Note what the day's ledger says of its undone files. Those that could not be opened are forgotten, to be taken again:
        the share may have gone, or a permission be missing. Where they can be opened now, that happens once.
        """
        undone = set(self._taken.undone(day))
        folder = self._out / day.folder
        rows = read_ledger(folder) if is_ledger(folder / LEDGER) else []
        rows = [row for row in rows if row.path in undone and row.state != "pending"]
        again = [row for row in rows if row.state == "skipped" and self._may_be_read_later(row)]
        self._taken.finish([row for row in rows if row not in again], forget=[row.path for row in again])
        return Counter(row.state for row in rows)

    def _may_be_read_later(self, row: Row) -> bool:
        had_its_chance = self._settings.once or self._retry_at_s.pop(row.path, None) is not None
        if had_its_chance and os.access(row.path, os.R_OK):
            return False
        self._retry_at_s[row.path] = time.monotonic() + self._settings.retry_s
        return True

    def _report(self, *, is_last: bool = False) -> None:
        """Write the pages that are due: of a day that is over at once, of today now and then."""
        every_s = self._settings.report_every_s
        for day in self._taken.days():
            if day.reported or self._taken.undone(day):
                continue
            if every_s is not None:
                if not is_last and day.date == self._today() and time.monotonic() - self._reported_at_s < every_s:
                    continue
                with notify.staying_alive():
                    self._write_page(day)
                self._reported_at_s = time.monotonic()
            self._taken.set_reported(day)

    def _write_page(self, day: Day) -> None:
        try:
            build_report(self._out / day.folder)
        except DataError as error:  # another bundle took its files over before it had results, or somebody tidied up in there
            log.warning("no report of %s: %s", day.folder, error)
