"""Thumbnails of decoded frames, kept during a run so that its report need not decode them again.

    OUT/thumbnails.sqlite    per readable input: size and modification time of its file, and all its frames

Thumbnails are small and few: ``MAX_KEPT_INPUTS`` per folder, however many runs continue it. None are kept for a long
video or in a run over more inputs than that, because decoding what the report shows then costs little in comparison. A
problem with the file costs time but never fails a run or a report.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from types import TracebackType

from typing_extensions import Self

from vidrisk.decode.messages import READ_STATES, Again, InputEnd, KnownFrame, Read, ReadSettings
from vidrisk.decode.thumbnails import MAX_KEPT_FRAMES, Thumbnail, thumbnail_from_values
from vidrisk.frames import Frame
from vidrisk.jobs.database import sql_from_path
from vidrisk.jobs.ledger import Row

_log = logging.getLogger(__name__)

THUMBNAILS = "thumbnails.sqlite"
MAX_CARDS = 500
MAX_KEPT_INPUTS = 6 * MAX_CARDS

# 500 cards must stay under 5 MB: this is the rest after the page's text, less a third for base64.
MAX_PAGE_BYTES = 2_700_000
MAX_TIMELINE_PAGE_BYTES = 1_900_000  # the same if every card also has a timeline
MAX_CARD_BYTES = 60_000
MAX_FRAMES, MIN_FRAMES = 8, 3
MIN_FRAME_BYTES = 1000
COMMIT_INPUTS = 100


@dataclass(frozen=True)
class CardBudget:
    """Size limits for the pictures of one card: bytes before base64, and frames of a video."""

    max_bytes: int
    frames: int


def budget_from_cards(cards: int, *, has_timelines: bool) -> CardBudget:
    page_bytes = MAX_TIMELINE_PAGE_BYTES if has_timelines else MAX_PAGE_BYTES
    max_bytes = min(MAX_CARD_BYTES, page_bytes // max(min(cards, MAX_CARDS), 1))
    return CardBudget(max_bytes, min(MAX_FRAMES, max(MIN_FRAMES, max_bytes // MIN_FRAME_BYTES)))


class KeptThumbnails:
    """The thumbnails of a run while it decodes. Use it as a context manager.

    Args:
        out: the output folder.
        cards: number of cards that the report will have.
    """

    def __init__(self, out: Path, cards: int) -> None:
        self._cards = cards
        self._open: dict[int, list[Thumbnail]] = {}
        self._frames: Counter[int] = Counter()
        self._uncommitted = 0
        self._database, count = _open(out / THUMBNAILS) if cards <= MAX_KEPT_INPUTS else (None, 0)
        self._room = MAX_KEPT_INPUTS - count
        if self._room <= 0:
            self._give_up()

    def ask_thumbnails(self, settings: ReadSettings) -> ReadSettings:
        """Return the settings that also produce thumbnails."""
        if self._database is None:
            return settings
        budget = budget_from_cards(self._cards, has_timelines=bool(settings.time and settings.time.window_s))
        frames = min(settings.time.frames if settings.time else 1, budget.frames)
        return replace(settings, thumbnail_bytes=budget.max_bytes, frame_thumbnail_bytes=budget.max_bytes // frames)

    def collect(self, reads: Iterable[Read]) -> Iterator[Read]:
        """Keep the thumbnails, and yield the other reads."""
        for read in reads:
            item = read.item
            if isinstance(item, Thumbnail):
                thumbnails = self._open.setdefault(read.id, [])
                if len(thumbnails) <= min(self._frames[read.id], MAX_KEPT_FRAMES):  # each comes before its frame
                    thumbnails.append(item)
                continue
            if isinstance(item, Frame | KnownFrame):
                self._frames[read.id] += 1
            elif isinstance(item, Again | InputEnd):
                thumbnails, frames = self._open.pop(read.id, []), self._frames.pop(read.id, 0)
                if (
                    isinstance(item, InputEnd)
                    and item.state in READ_STATES
                    and thumbnails
                    and len(thumbnails) == frames
                ):
                    self._keep(read.input.path, item, thumbnails)
            yield read

    def _keep(self, path: str, end: InputEnd, thumbnails: list[Thumbnail]) -> None:
        if self._database is None:
            return
        try:
            self._database.execute(
                "INSERT OR REPLACE INTO thumbnails (path, bytes, mtime_ns, thumbnails) VALUES (?, ?, ?, ?)",
                (
                    sql_from_path(path),
                    end.bytes,
                    end.mtime_ns,
                    json.dumps([astuple(thumbnail) for thumbnail in thumbnails]),
                ),
            )
            self._uncommitted += 1
            self._room -= 1
            if self._uncommitted >= COMMIT_INPUTS or not self._room:
                self._database.commit()
                self._uncommitted = 0
            if not self._room:
                self._give_up()
        except sqlite3.Error as error:  # a full disk, which the ledger will report
            _log.debug("thumbnails are no longer kept: %s", error)
            self._give_up()

    def _give_up(self) -> None:
        if self._database is not None:
            with suppress(sqlite3.Error):
                self._database.close()
        self._database = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._database is not None:
            with suppress(sqlite3.Error):
                self._database.commit()
        self._give_up()


def read_kept_thumbnails(out: Path, rows: Iterable[Row]) -> dict[str, tuple[Thumbnail, ...]]:
    """Return the thumbnails of all frames by path, in order of time.

    Rows whose thumbnails were not kept, or belong to another version of the file, are left out.
    """
    path = out / THUMBNAILS
    if not path.is_file():
        return {}
    found: dict[str, tuple[Thumbnail, ...]] = {}
    try:
        with closing(sqlite3.connect(path)) as database:
            for row in rows:
                kept = database.execute(
                    "SELECT thumbnails FROM thumbnails WHERE path = ? AND bytes IS ? AND mtime_ns IS ?",
                    (sql_from_path(row.path), row.bytes, row.mtime_ns),
                ).fetchone()
                if kept:
                    found[row.path] = tuple(
                        thumbnail_from_values(values, MAX_CARD_BYTES) for values in json.loads(kept[0])
                    )
    except (sqlite3.Error, ValueError, TypeError, RecursionError) as error:
        _log.debug("%s cannot be read: %s", path, error)
    return found


def thumbnails_at_moments(
    kept: tuple[Thumbnail, ...], moments_s: tuple[float, ...], max_bytes: int
) -> tuple[Thumbnail, ...]:
    """Choose the thumbnails shown at some moments from those of all frames of an input.

    Returns:
        An empty tuple if they would exceed ``max_bytes``.
    """
    shown = [
        max((one for one in kept if one.time_s is not None and one.time_s <= moment_s), key=_time_s, default=kept[0])
        for moment_s in moments_s
    ]
    return tuple(shown) if sum(one.bytes for one in shown) <= max_bytes else ()


def _time_s(thumbnail: Thumbnail) -> float:
    return thumbnail.time_s or 0.0


def _open(path: Path) -> tuple[sqlite3.Connection | None, int]:
    """Open the file, and count the inputs in it; return None if it cannot be opened."""
    for _ in range(2):
        try:
            database = sqlite3.connect(path)
            try:
                database.execute("PRAGMA journal_mode = OFF")
                database.execute("PRAGMA synchronous = OFF")
                database.execute(
                    "CREATE TABLE IF NOT EXISTS thumbnails (path BLOB PRIMARY KEY, bytes INTEGER, mtime_ns INTEGER, "
                    "thumbnails TEXT NOT NULL)"
                )
                ((count,),) = database.execute("SELECT count(*) FROM thumbnails")
                return database, int(count)
            except sqlite3.Error:
                database.close()
                raise
        except sqlite3.Error as error:  # left by a run that was killed
            _log.debug("%s is created again: %s", path, error)
            with suppress(OSError):
                path.unlink()
    return None, 0
