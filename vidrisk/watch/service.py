"""Passes of a watch: finish undone files, look for new ones, predict complete ones, report, tidy.

Every pass may be killed at any moment, and the next one continues. A pass is a sequence of duties. An error that
prevents one of them (a full disk, an unmounted share, an unexpected error) is reported once and the duty is retried
until it works, while the others are done. Damage to a day or to the memory affects only that: it is set aside. Only an
engine failure ends the watch, so that the process manager restarts it.
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
from functools import partial
from itertools import islice
from pathlib import Path

from vidrisk import __version__
from vidrisk.decode.pool import DecodePool
from vidrisk.files.cache import key_of
from vidrisk.files.stamps import stamp_of
from vidrisk.inference.model import Classifier
from vidrisk.jobs.folder import LEDGER, explain_write_errors, is_ledger
from vidrisk.jobs.kept_thumbnails import MAX_CARDS
from vidrisk.jobs.ledger import Row, read_ledger
from vidrisk.jobs.progress import Progress
from vidrisk.jobs.run_folder import run_folder
from vidrisk.jobs.run_settings import InferSettings
from vidrisk.jobs.sources import Inputs
from vidrisk.report import build_report
from vidrisk.runtimes.contract.errors import Interrupted, RuntimeFailure, SettingsError, VidriskError
from vidrisk.watch import notify
from vidrisk.watch.damage import damage_of
from vidrisk.watch.inbox import LeftInInbox, Settling, Stamp, files_in, is_still
from vidrisk.watch.settings import WatchSettings
from vidrisk.watch.taken import Day, MemoryDamaged, Taken
from vidrisk.watch.tidy import expire, move_done
from vidrisk.watch.troubles import Troubles, words_of

log = logging.getLogger(__name__)

MAX_BATCH_FILES = 500  # so that a new day, a report and a signal need not wait for a flood of files
MAX_PART_OF_LOOKING = 0.1  # fraction of the time that listing a large inbox may take


@dataclass(frozen=True)
class Batch:
    """Files that were predicted together.

    Attributes:
        folder: folder of the results.
        states: number of files per final state.
        uncertain: number of uncertain predictions; None if the model has no thresholds.
    """

    folder: Path
    states: Mapping[str, int]
    uncertain: int | None = None

    def __str__(self) -> str:
        states = ", ".join(f"{count:,} {state}" for state, count in self.states.items())
        doubt = "" if self.uncertain is None else f"; {self.uncertain:,} predictions uncertain"
        return f"{self.folder.name}: {sum(self.states.values()):,} files ({states}){doubt}"


def local_date() -> str:
    """Return the current date in the machine's time zone."""
    return datetime.now().astimezone().date().isoformat()


def watch_inbox(
    classifier: Classifier,
    inbox: Path,
    out: Path,
    settings: WatchSettings,
    infer: InferSettings,
    on_batch: Callable[[Batch], None] = lambda batch: None,
    today: Callable[[], str] = local_date,
) -> None:
    """Predict files that arrive in ``inbox``, into one folder per day below ``out``, until a signal.

    With ``settings.once``, only the files present now are predicted. ``on_batch`` is called for every batch once its
    results are written; ``today`` returns the date to which a file that is complete now belongs.

    Raises:
        SettingsError: ``out`` cannot be used, a setting is invalid, or files would be moved to where they are looked
            for.
        RuntimeFailure: the engine failed, or decode processes cannot be started.
        Interrupted, KeyboardInterrupt: a signal; the next watch continues where this one stopped.
        Exception: with ``once``, also errors that a continuous watch would retry; everything else was done before.
    """
    if settings.move_done and settings.move_done.resolve().is_relative_to(inbox.resolve()):
        raise SettingsError(
            f"{settings.move_done} lies in the inbox {inbox}", fix="choose another folder for move_done"
        )
    if settings.move_done and settings.move_done.resolve().is_relative_to(out.resolve()):
        raise SettingsError(
            f"{settings.move_done} lies in {out}, where old days are deleted", fix="choose another folder for move_done"
        )
    infer.for_reading(classifier)  # reports errors in the settings now
    with Taken(out) as taken, DecodePool(infer.workers) as pool:
        watch = _Watch(classifier, inbox, out, settings, replace(infer, resume=True), taken, pool, on_batch, today)
        notify.ready()
        notify.status("watching")
        if settings.once:
            watch.make_one_pass()
        else:
            watch.run()


class _Watch:
    def __init__(
        self,
        classifier: Classifier,
        inbox: Path,
        out: Path,
        settings: WatchSettings,
        infer: InferSettings,
        taken: Taken,
        pool: DecodePool,
        on_batch: Callable[[Batch], None],
        today: Callable[[], str],
    ) -> None:
        self._classifier, self._inbox, self._out = classifier, inbox, out
        self._settings, self._infer, self._taken, self._pool = settings, infer, taken, pool
        self._on_batch, self._today = on_batch, today
        made_with = {
            "version": __version__,
            "runtime": classifier.runtime,
            "variant": classifier.variant,
            **asdict(infer),
        }
        self._identity = key_of(
            classifier.provenance["digest"], classifier.contract.digest, json.dumps(made_with, sort_keys=True)
        )
        self._settling, self._left = Settling(settings.settle_s), LeftInInbox()
        self._retry_at_s: dict[str, float] = {}  # time of the next attempt, per file that could not be read
        self._reported_at_s = self._mended_at_s = -math.inf
        self._looked_s = 0.0
        self._troubles = Troubles(settings.retry_s)
        self._checked_date = ""
        self._staying: set[str] = set()
        self._is_more = False

    def run(self) -> None:
        while True:
            notify.alive()
            if not self._pass():
                with notify.keep_watchdog_alive():
                    time.sleep(max(self._settings.poll_s, self._looked_s / MAX_PART_OF_LOOKING))

    def make_one_pass(self) -> None:
        found = self._look()
        complete = self._settling.complete(found, time.monotonic())
        if any(path not in complete and not self._taken.has(path, stamp_of(info)) for path, info in found.items()):
            time.sleep(self._settings.settle_s)  # new files may be complete then
        while self._pass(is_last=True):
            pass
        error = self._troubles.first()
        if error:
            raise error

    def _pass(self, *, is_last: bool = False) -> bool:
        """Do every duty; return whether more files are already waiting."""
        self._is_more = False
        try:
            self._do_duties(is_last)
        except MemoryDamaged:
            self._troubles.attempt("memory", self._mend_memory, None)
        self._troubles.say()
        return self._is_more

    def _mend_memory(self) -> None:
        if time.monotonic() - self._mended_at_s < self._settings.retry_s:
            raise VidriskError(f"{self._out} loses data that is written to it", fix="check the disk")
        self._mended_at_s, self._is_more = time.monotonic(), True
        self._taken.mend()

    def _do_duties(self, is_last: bool) -> None:
        today, attempt = self._today(), self._troubles.attempt
        if today != self._checked_date:
            with notify.keep_watchdog_alive():
                for day in self._taken.days():
                    attempt(f"check {day.folder}", partial(self._set_aside_if_damaged, day), False)
            self._checked_date = today
        found = self._look()
        attempt("take", lambda: self._take_new(found), None)
        for day in self._taken.undone_days():
            attempt(day.folder, partial(self._finish, day), None)
        self._report(is_last=is_last and not self._is_more)
        with notify.keep_watchdog_alive():
            if self._settings.keep_dates:
                keep_dates = self._settings.keep_dates
                attempt("expire", lambda: expire(self._taken, self._out, keep_dates, found), None)
            if self._settings.move_done:
                target = self._settings.move_done
                attempt(
                    "move",
                    lambda: move_done(self._taken, self._today(), self._inbox, found, target, self._staying),
                    None,
                )

    def _look(self) -> dict[str, os.stat_result]:
        nothing: dict[str, os.stat_result] = {}
        return self._troubles.attempt("look", self._files, nothing)

    def _files(self) -> dict[str, os.stat_result]:
        started_s = time.monotonic()
        try:
            return files_in(self._inbox, self._left)
        except OSError as error:
            raise VidriskError(
                f"the inbox {self._inbox} cannot be read: {error.strerror or error}",
                fix="mount it, create it, or grant the permission",
            ) from error
        finally:
            self._looked_s = time.monotonic() - started_s

    def _take_new(self, found: Mapping[str, os.stat_result]) -> None:
        """Record new files as undone files of today."""
        new = dict(islice(self._new(found, time.monotonic()), MAX_BATCH_FILES))
        self._retry_at_s = {path: at_s for path, at_s in self._retry_at_s.items() if path in found}
        if new:
            self._taken.take(new, self._taken.day(self._today(), self._identity))
        self._is_more |= len(new) == MAX_BATCH_FILES

    def _new(self, found: Mapping[str, os.stat_result], now_s: float) -> Iterator[tuple[str, Stamp]]:
        for path, stamp in self._settling.complete(found, now_s).items():
            if (
                not self._taken.has(path, stamp)
                and now_s >= self._retry_at_s.get(path, now_s)
                and is_still(path, stamp)
            ):
                yield path, stamp

    def _finish(self, day: Day) -> None:
        """Predict the undone files of a day: new ones, and those that an earlier watch left unfinished."""
        if self._set_aside_if_damaged(day):
            return  # its files now belong to another day, and wait for the next pass
        if day.identity != self._identity:  # begun with another bundle or other settings
            self._settle(day)
            today = self._taken.day(self._today(), self._identity)
            self._taken.hand_over(day, today)
            day = today
        paths = self._taken.undone(day)  # empty if its ledger has all results
        alone = [path for path in paths if self._troubles.have(path)]
        self._predict(day, [path for path in paths if path not in alone])
        for path in alone:
            self._predict(day, [path])

    def _predict(self, day: Day, paths: list[str]) -> None:
        """Predict files of a day together; after an unexpected error, in halves, to isolate the file that causes it."""
        if len(paths) == 1:
            self._troubles.attempt(paths[0], lambda: self._run(day, paths), None)
        elif paths:
            try:
                self._run(day, paths)
            except (VidriskError, BrokenPipeError):  # the latter from ``on_batch``
                raise
            except Exception as error:
                log.debug("%s", words_of(error), exc_info=True)
                half = len(paths) // 2
                self._predict(day, paths[:half])
                self._predict(day, paths[half:])

    def _run(self, day: Day, paths: list[str]) -> None:
        notify.status(f"{len(paths)} files → {day.folder}")
        uncertain = 0

        def follow(progress: Progress) -> None:
            nonlocal uncertain
            notify.alive()
            uncertain = progress.uncertain

        try:
            run_folder(
                self._classifier,
                Inputs(tuple(paths)),
                self._out / day.folder,
                self._infer,
                on_progress=follow,
                pool=self._pool,
                cards=0 if self._settings.report_every_s is None else MAX_CARDS,
                is_batch=True,
            )
        except Interrupted:
            raise
        except Exception as error:
            if self._set_aside_if_damaged(day, parses=True):
                return
            if not isinstance(error, VidriskError) and len(paths) == 1:
                raise VidriskError(f"{paths[0]!r} cannot be predicted: {words_of(error)}") from error
            raise
        batch = Batch(
            self._out / day.folder, self._settle(day), uncertain if self._classifier.uncertainty.thresholds else None
        )
        notify.status(f"watching; {batch}")
        self._on_batch(batch)

    def _set_aside_if_damaged(self, day: Day, *, parses: bool = False) -> bool:
        with explain_write_errors(self._out):
            damage = damage_of(self._out / day.folder, parses=parses)
        if damage:
            self._taken.set_aside(day, forgets_done=damage.is_lost)
            self._is_more = True
            log.warning(
                "%s is damaged: %s; it is left as it is, and its %s are predicted into another folder",
                self._out / day.folder,
                damage.why,
                "files" if damage.is_lost else "undone files",
            )
        return damage is not None

    def _settle(self, day: Day) -> Mapping[str, int]:
        """Record the results that the day's ledger has for its undone files.

        Files that could not be opened are forgotten, to be taken again: the share may be unmounted, or a permission
        missing. If they can be opened now, that happens once.
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

    def _report(self, *, is_last: bool) -> None:
        """Write the reports that are due: of a past day at once, of today from time to time."""
        every_s, reported_at_s = self._settings.report_every_s, self._reported_at_s
        for day in self._taken.days():
            if day.reported or self._taken.undone(day):
                continue
            is_due = is_last or day.date != self._today() or time.monotonic() - reported_at_s >= (every_s or 0.0)
            if is_due:
                self._troubles.attempt(f"report {day.folder}", partial(self._write_page, day), None)

    def _write_page(self, day: Day) -> None:
        if self._settings.report_every_s is not None:
            self._reported_at_s = time.monotonic()
            try:
                with notify.keep_watchdog_alive():
                    build_report(self._out / day.folder, self._pool)
            except RuntimeFailure:
                raise
            except Exception as error:
                if self._set_aside_if_damaged(day, parses=True):
                    return
                if type(error) is VidriskError or isinstance(
                    error, OSError
                ):  # errors of the disk have no class of their own
                    raise
                # its files were handed over before it had results, somebody deleted files, or the cause is unknown
                log.warning("no report of %s: %s", day.folder, words_of(error))
        self._taken.set_reported(day)
