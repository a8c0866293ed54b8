"""Thumbnails from processes under supervision: whatever an input does to its decoder, the page is made.

A worker that crashes, talks nonsense, or neither says anything nor reads on in its file is killed and replaced, and its input
has no thumbnails.
"""

from __future__ import annotations

import logging
import selectors
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import cast

from typing_extensions import Self

from vidrisk.report.process import ThumbnailWorker, Wish
from vidrisk.report.thumbnails import Thumbnail
from vidrisk.runtimes.errors import RuntimeFailure

_log = logging.getLogger(__name__)

WORKERS = 2
POLL_S = 0.5


class ThumbnailPool:
    """Reads thumbnails in processes. Use it as a context manager: leaving it kills them.

    Args:
        max_memory_mb: what each of them may allocate.
    """

    def __init__(self, max_memory_mb: int) -> None:
        self._max_memory_mb = max_memory_mb
        self._workers: list[ThumbnailWorker] = []
        self._selector = selectors.DefaultSelector()

    def read(self, wishes: Sequence[Wish]) -> list[tuple[Thumbnail, ...]]:
        """The thumbnails of each wish, in the order of the wishes; none of an input that cannot be read.

        Raises:
            RuntimeFailure: workers cannot be started.
        """
        waiting = deque(enumerate(wishes))
        found: list[tuple[Thumbnail, ...]] = [()] * len(wishes)
        self._hand_out(waiting)
        while any(worker.wish for worker in self._workers):
            for key, _ in self._selector.select(POLL_S):
                self._hear(cast(ThumbnailWorker, key.fileobj), found)
            for worker in [worker for worker in self._workers if worker.is_lost()]:
                self._lost(worker, "nothing was heard of its decoder")
            self._hand_out(waiting)
        return found

    def _hand_out(self, waiting: deque[tuple[int, Wish]]) -> None:
        """Give wishes to whoever has none; start workers while there are wishes for them."""
        while waiting:
            idle = next((worker for worker in self._workers if not worker.wish), None)
            if not idle and len(self._workers) == WORKERS:
                return
            (idle or self._started()).ask(*waiting.popleft())

    def _started(self) -> ThumbnailWorker:
        try:
            worker = ThumbnailWorker(self._max_memory_mb)
        except OSError as error:
            raise RuntimeFailure(f"a process for thumbnails cannot be started: {error.strerror}", fix="--no-report") from error
        self._workers.append(worker)
        self._selector.register(worker, selectors.EVENT_READ)
        return worker

    def _hear(self, worker: ThumbnailWorker, found: list[tuple[Thumbnail, ...]]) -> None:
        try:
            found[worker.place] = worker.receive()
        except EOFError:
            self._lost(worker)
        except (ValueError, TypeError, KeyError, RecursionError):
            _log.debug("a process for thumbnails talks nonsense", exc_info=True)
            self._lost(worker, "its decoder went astray")

    def _lost(self, worker: ThumbnailWorker, reason: str = "") -> None:
        """A worker has ended (then there is no reason yet) or has to."""
        self._workers.remove(worker)
        self._selector.unregister(worker)
        ending, last_words = worker.end(has_hung_up=not reason)
        if not worker.ready:
            raise RuntimeFailure(f"a process for thumbnails does not start ({ending}): {last_words}", fix="vidrisk doctor")
        if worker.wish:
            _log.info("no thumbnails of %r: %s: %s", worker.wish.path, reason or f"its decoder crashed ({ending})", last_words)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        while self._workers:
            self._workers.pop().end()
        self._selector.close()
