"""Decode workers that outlive calls: whatever one file does to its decoder, the caller goes on.

One pool serves several calls at once, from several threads, each with its own settings; see ``owner`` for how they share it.
"""

from __future__ import annotations

import os
import queue
import weakref
from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import islice
from types import TracebackType

from typing_extensions import Self

from vidrisk.decode.messages import Input, InputEnd, Read, ReadSettings, Request, ThumbnailInput, ThumbnailSettings
from vidrisk.decode.meter import Meter
from vidrisk.decode.owner import Owner
from vidrisk.decode.session import Answers, CacheFolder, Limits, Session
from vidrisk.decode.thumbnails import Thumbnail
from vidrisk.decode.turns import AHEAD
from vidrisk.files.cache import array_cache
from vidrisk.frames.media import kind_of
from vidrisk.runtimes.contract.errors import RuntimeFailure

CHECK_S = 1.0
THUMBNAIL_LIMITS = Limits(silence_s=20.0, input_s=600.0, retries=False)


class DecodePool:
    """Reads inputs in worker processes, which start when they are needed and stay. Use it as a context manager, or ``close`` it.

    Safe from several threads. The workers end with the pool, and with the process, however that ends. A pool does not survive a
    fork: the child has to make its own.

    Args:
        workers: at most, but for calls that would wait for others; see ``default_workers``.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._process = os.getpid()
        self._owner = Owner(workers)
        self._end = weakref.finalize(self, _stop, self._owner, self._process)

    def read(self, inputs: Iterable[Input], settings: ReadSettings, *, limits: Limits | None = None,
             meter: Meter | None = None) -> Generator[Read, None, None]:
        """What the workers read, as it comes: in order within an input, mixed between inputs. Close it to stop.

        Args:
            inputs: taken as they are needed, in the calling thread.
            meter: gets what was waited for.

        Raises:
            RuntimeFailure: workers cannot be started, or the pool is closed.
        """
        cache = None
        if settings.cache_salt:
            folder = array_cache()
            cache = CacheFolder(os.fspath(folder.folder), folder.max_bytes)
        return self._answers(iter(inputs), Session(settings, limits or Limits(), cache), meter or Meter())

    def thumbnails(self, requests: Sequence[ThumbnailInput], settings: ThumbnailSettings) -> list[tuple[Thumbnail, ...]]:
        """The thumbnails of each request, in the order of the requests; none of an input that cannot be read.

        Raises:
            RuntimeFailure: workers cannot be started, or the pool is closed.
        """
        found: dict[int, list[Thumbnail]] = {}
        numbered = [ThumbnailInput(place, one.path, one.moments_s, one.max_bytes) for place, one in enumerate(requests)]
        for read in self._answers(iter(numbered), Session(settings, THUMBNAIL_LIMITS), Meter()):
            if isinstance(read.item, Thumbnail):
                found.setdefault(read.id, []).append(read.item)
        return [whole_thumbnails(request, found.get(request.id, ())) for request in numbered]

    def _answers(self, requests: Iterator[Request], session: Session, meter: Meter) -> Generator[Read, None, None]:
        self._refuse_unusable()
        most_waiting = AHEAD * (self.workers + 1)
        given = ended = 0
        is_complete = False
        self._owner.open(session)
        try:
            while True:
                if not is_complete and given - ended <= most_waiting // 2:
                    new = list(islice(requests, most_waiting - (given - ended)))
                    given += len(new)
                    is_complete = given - ended < most_waiting
                    self._owner.add(session, new, is_complete=is_complete)
                if ended == given and is_complete:
                    return
                answers = self._next(session, meter)
                if isinstance(answers, BaseException):
                    raise answers
                for place, (read, slot) in enumerate(answers, 1):
                    meter.decoded = len(answers) - place
                    ended += isinstance(read.item, InputEnd)
                    yield read
                    if slot:
                        slot.free()
        finally:
            self._owner.close(session)

    def _next(self, session: Session, meter: Meter) -> Answers:
        try:
            return session.answers.get_nowait()
        except queue.Empty:
            pass
        with meter.measure("waiting for decode"):
            while True:
                try:
                    return session.answers.get(timeout=CHECK_S)
                except queue.Empty:
                    self._refuse_unusable()

    def _refuse_unusable(self) -> None:
        if os.getpid() != self._process:
            raise RuntimeFailure("the decode pool belongs to the process that this one was forked from",
                                 fix="make one after the fork")
        if not self._owner.is_alive:
            raise RuntimeFailure("the decode pool is closed", fix="make another one")

    def warm_up(self, workers: int = 1) -> None:
        """Start workers before they are needed; returns at once."""
        self._refuse_unusable()
        self._owner.warm_up(workers)

    def close(self) -> None:
        """End the workers. Safe to call twice; in a process that was forked it does nothing."""
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def usable_cores() -> int:
    """Cores that this process may use: as many threads the engines take."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers() -> int:
    """One decode process per core, 8 at most."""
    return min(usable_cores(), 8)


def _stop(owner: Owner, process: int) -> None:
    if os.getpid() == process:
        owner.stop()


def whole_thumbnails(request: ThumbnailInput, found: Sequence[Thumbnail]) -> tuple[Thumbnail, ...]:
    """All thumbnails of a request, or none."""
    is_photo = kind_of(request.path) == "image"
    is_whole = len(found) == len(request.moments_s) and all((thumbnail.time_s is None) == is_photo for thumbnail in found)
    return tuple(found) if is_whole else ()
