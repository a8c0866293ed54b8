"""Pool of decode processes that outlives single calls and survives files that crash, hang or exhaust a decoder.

One pool serves several calls at once, from several threads, each with its own settings; see ``owner`` for how they
share it.
"""

from __future__ import annotations

import os
import queue
import time
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from types import TracebackType
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from vidrisk.decode.jpegs import Jpeg
from vidrisk.decode.messages import (
    READ_STATES,
    Again,
    CutInput,
    CutSettings,
    Input,
    InputEnd,
    Item,
    Pause,
    PhotoInput,
    PhotoSettings,
    Read,
    ReadSettings,
    Request,
    Settings,
    ThumbnailInput,
    ThumbnailSettings,
)
from vidrisk.decode.owner import Owner
from vidrisk.decode.session import CacheFolder, Limits, Session, Slot
from vidrisk.decode.thumbnails import Thumbnail
from vidrisk.decode.turns import AHEAD, MAX_WORKERS
from vidrisk.files.cache import array_cache
from vidrisk.files.paths import why_no_path
from vidrisk.frames import Frame
from vidrisk.frames.media import kind_of
from vidrisk.runtimes.contract.errors import RuntimeFailure, SettingsError

CHECK_S = 1.0
SLOW_S = 0.02  # an iterable of inputs that takes longer than this for the next one counts as slow
PATIENCE_S = 0.1  # spent on the inputs in progress before a slow iterable is advanced again
PHOTO_LIMITS = Limits(silence_s=30.0, input_s=120.0)
CUT_LIMITS = Limits(silence_s=30.0, input_s=600.0)
THUMBNAIL_LIMITS = Limits(silence_s=20.0, input_s=600.0, retries=False)

_Picture = TypeVar("_Picture")


class CallMeter(Protocol):
    """Interface for measuring a call.

    Attributes:
        decoded: items that have arrived and have not been consumed yet; most of them are frames.
    """

    decoded: int

    def wait_for_decode(self) -> AbstractContextManager[None]:
        """Return a context that is entered while the caller waits for an item."""
        ...


class DecodePool:
    """Worker processes that read inputs, started on demand and kept until ``close``.

    Use it as a context manager, or call ``close``. Safe to use from several threads. The workers end with the pool and
    with the process, however that ends. A pool does not survive a fork: the child has to create its own.

    Args:
        workers: most workers, not counting extra ones for calls that would otherwise wait for other calls; see
            ``default_workers``.

    Raises:
        SettingsError: fewer than 1 worker, or more than ``turns.MAX_WORKERS``.
    """

    def __init__(self, workers: int) -> None:
        if not 1 <= workers <= MAX_WORKERS:
            raise SettingsError(f"workers {workers!r}", allowed=f"1 to {MAX_WORKERS}")
        self.workers = workers
        self._process = os.getpid()
        self._owner = Owner(workers)
        self._end = weakref.finalize(self, _stop, self._owner, self._process)

    def read(
        self,
        inputs: Iterable[Input],
        settings: ReadSettings,
        *,
        limits: Limits | None = None,
        meter: CallMeter | None = None,
    ) -> Generator[Read, None, None]:
        """Yield what the workers read, as it arrives: in order within an input, mixed between inputs.

        Close the generator to stop early. ``settings`` apply to all inputs.

        Args:
            inputs: consumed one by one in the calling thread, as long as fewer than ``AHEAD`` per worker, plus
                ``AHEAD`` more, are unfinished. Reading an input starts as soon as the iterable yields it, but its items
                are yielded only once the iterable has yielded the next input or ended, so the iterable must not wait
                for them. If it is slow, a ``Pause`` is yielded once all its inputs so far have ended.
            settings: how the inputs become frames.
            limits: when to give up on an input; None takes ``Limits()``.
            meter: counts the items that have arrived and measures the time spent waiting.

        Raises:
            RuntimeFailure: workers cannot be started, or the pool is closed.
        """
        cache = None
        if settings.cache_salt:
            folder = array_cache()
            cache = CacheFolder(os.fspath(folder.folder), folder.max_bytes)
        return self._answers(iter(inputs), Session(settings, limits or Limits(), cache), meter)

    def thumbnails(
        self, requests: Sequence[ThumbnailInput], settings: ThumbnailSettings
    ) -> list[tuple[Thumbnail, ...]]:
        """Return the thumbnails of each request, in order; an empty tuple for an unreadable input.

        Raises:
            RuntimeFailure: workers cannot be started, or the pool is closed.
        """
        found: dict[int, list[Thumbnail]] = {}
        numbered = [ThumbnailInput(place, one.path, one.moments_s, one.max_bytes) for place, one in enumerate(requests)]
        for read in self._answers(iter(numbered), Session(settings, THUMBNAIL_LIMITS), None):
            if isinstance(read.item, Thumbnail):
                found.setdefault(read.id, []).append(read.item)
        return [whole_thumbnails(request, found.get(request.id, ())) for request in numbered]

    def jpegs(
        self, requests: Sequence[PhotoInput], settings: PhotoSettings, limits: Limits | None = None
    ) -> list[tuple[Jpeg | None, InputEnd]]:
        """Return each photo as a JPEG, or None if it cannot be read, with its final state, in order.

        Raises:
            RuntimeFailure: workers cannot be started, or the pool is closed.
        """
        return self._of_photos(requests, settings, limits, lambda item: item if isinstance(item, Jpeg) else None)

    def photos(
        self, requests: Sequence[PhotoInput], settings: ReadSettings, limits: Limits | None = None
    ) -> list[tuple[npt.NDArray[np.uint8] | None, InputEnd]]:
        """Return each photo as a frame, or None if it cannot be read, with its final state, in order.

        Frames are ``uint8 (H, W, 3)``; their pixels equal those that ``read`` yields for the same file.

        Args:
            requests: photos to read.
            settings: moments, thumbnails and the feature cache apply to videos and runs only and are ignored.
            limits: when to give up on a photo; None takes ``PHOTO_LIMITS``.

        Raises:
            RuntimeFailure: workers cannot be started, or the pool is closed.
        """
        alone = replace(settings, time=None, cache_salt="", features=0, thumbnail_bytes=0, frame_thumbnail_bytes=0)
        return self._of_photos(
            requests, alone, limits, lambda item: item.pixels.copy() if isinstance(item, Frame) else None
        )

    def cuts(self, requests: Iterable[CutInput], settings: CutSettings) -> Generator[Read, None, None]:
        """Yield parts of photos as they arrive; an ``Again`` discards the earlier parts of its photo.

        Raises:
            RuntimeFailure: workers cannot be started, or the pool is closed.
        """
        return self._answers(iter(requests), Session(settings, CUT_LIMITS), None)

    def _of_photos(
        self,
        requests: Sequence[PhotoInput],
        settings: Settings,
        limits: Limits | None,
        picture_of: Callable[[Item], _Picture | None],
    ) -> list[tuple[_Picture | None, InputEnd]]:
        found: dict[int, _Picture] = {}
        ends: dict[int, InputEnd] = {}
        numbered = [
            PhotoInput(place, one.path if one.content is None else "", one.content)
            for place, one in enumerate(requests)
        ]
        for read in self._answers(iter(numbered), Session(settings, limits or PHOTO_LIMITS), None):
            picture = picture_of(read.item)
            if picture is not None:
                found[read.id] = picture
            elif isinstance(read.item, Again):
                found.pop(read.id, None)
            elif isinstance(read.item, InputEnd):
                ends[read.id] = read.item
        return [_whole_picture(found.get(place), ends[place]) for place in range(len(requests))]

    def _answers(
        self, requests: Iterator[Request], session: Session, meter: CallMeter | None
    ) -> Generator[Read, None, None]:
        self._refuse_unusable()
        most_waiting = AHEAD * (self.workers + 1)
        given = ended = 0
        asks_s = 0.0  # earliest time to ask for the next request
        last: Request | None = None  # last request that no ``Pause`` has followed yet
        is_complete = is_slow = False
        self._owner.open(session)
        try:
            while ended < given or not is_complete:
                may_take = not is_complete and given - ended < most_waiting
                patience_s = asks_s - time.monotonic() if is_slow and ended < given else 0.0
                if not may_take:
                    answers = self._wait_for_answers(session, meter)
                elif patience_s > 0 or given - ended > most_waiting // 2:
                    answers = self._come(session, patience_s)
                else:
                    answers = []  # arrived answers can wait, idle workers should not
                for place, (read, slot) in enumerate(answers, 1):
                    if meter:
                        meter.decoded = len(answers) - place
                    ended += isinstance(read.item, InputEnd)
                    yield read
                    if slot:
                        slot.free()
                if answers or not may_take:
                    continue
                if is_slow and ended == given and last:
                    yield Read(last, Pause())
                    last = None
                asked_s = time.monotonic()
                request = next(requests, None)
                is_slow = time.monotonic() - asked_s > SLOW_S
                asks_s = time.monotonic() + PATIENCE_S
                if request is None:
                    is_complete = True
                    continue
                last = request
                given += 1
                if reason := why_no_path(request.path):
                    ended += 1
                    yield Read(request, InputEnd("skipped", reason))
                else:
                    self._owner.add(session, request)
        finally:
            self._owner.close(session)

    def _come(self, session: Session, wait_s: float) -> list[tuple[Read, Slot | None]]:
        """Return answers that have arrived or arrive within ``wait_s``; may be empty."""
        try:
            answers = session.answers.get(timeout=wait_s) if wait_s > 0 else session.answers.get_nowait()
        except queue.Empty:
            return []
        if isinstance(answers, BaseException):
            raise answers
        return answers

    def _wait_for_answers(self, session: Session, meter: CallMeter | None) -> list[tuple[Read, Slot | None]]:
        """Wait for the next answers."""
        answers = self._come(session, 0.0)
        if not answers:
            with meter.wait_for_decode() if meter else nullcontext():
                while not (answers := self._come(session, CHECK_S)):
                    self._refuse_unusable()
        return answers

    def _refuse_unusable(self) -> None:
        if os.getpid() != self._process:
            raise RuntimeFailure(
                "the decode pool belongs to the process that this one was forked from", fix="make one after the fork"
            )
        if not self._owner.is_alive:
            raise RuntimeFailure("the decode pool is closed", fix="make another one")

    def warm_up(self, workers: int = 1) -> None:
        """Start workers before they are needed; return at once."""
        self._refuse_unusable()
        self._owner.warm_up(workers)

    def close(self) -> None:
        """End the workers. Safe to call twice; does nothing in a forked process."""
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def usable_cores() -> int:
    """Return the number of cores that this process may use, which is also the engines' thread count."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers() -> int:
    """Return the default number of workers: one per core, at most 8."""
    return min(usable_cores(), 8)


def _stop(owner: Owner, process: int) -> None:
    if os.getpid() == process:
        owner.stop()


def _whole_picture(picture: _Picture | None, end: InputEnd) -> tuple[_Picture | None, InputEnd]:
    """Pair a picture with its end; drop the picture if its input was not read to the end."""
    if end.state not in READ_STATES:
        return None, end
    return (picture, end) if picture is not None else (None, InputEnd("crashed", "the decoder produced no picture"))


def whole_thumbnails(request: ThumbnailInput, found: Sequence[Thumbnail]) -> tuple[Thumbnail, ...]:
    """Return all thumbnails of a request, or an empty tuple if any is missing."""
    is_photo = kind_of(request.path) == "image"
    is_whole = len(found) == len(request.moments_s) and all(
        (thumbnail.time_s is None) == is_photo for thumbnail in found
    )
    return tuple(found) if is_whole else ()
