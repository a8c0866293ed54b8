"""Turns of threads at engines, and their end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from vidrisk.runtimes.contract.errors import RuntimeFailure


class Turns:
    """Let at most ``at_once`` calls run at the same time, and none during or after ``close``."""

    def __init__(self, at_once: int) -> None:
        self._at_once, self._free = at_once, threading.Semaphore(at_once)
        self._closing, self._is_closed = threading.Lock(), False

    @contextmanager
    def take(self) -> Iterator[None]:
        """Wait for a turn, and hold it.

        Raises:
            RuntimeFailure: closed.
        """
        with self._free:
            if self._is_closed:
                raise RuntimeFailure("the model is closed", fix="load it again")
            yield

    @contextmanager
    def close(self) -> Iterator[bool]:
        """Hold all turns, when the running calls have returned; give whether this is the first time."""
        with self._closing:
            for _ in range(self._at_once):
                self._free.acquire()
            try:
                is_first, self._is_closed = not self._is_closed, True
                yield is_first
            finally:
                self._free.release(self._at_once)
