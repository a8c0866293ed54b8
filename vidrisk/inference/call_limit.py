"""Limit of concurrent calls of an engine, and its closing after the last one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from vidrisk.runtimes.contract.errors import RuntimeFailure


class CallLimit:
    """Let at most ``at_once`` calls run at the same time, and none after ``close``."""

    def __init__(self, at_once: int) -> None:
        self._at_once, self._running = at_once, 0
        self._is_closed = self._is_ended = False
        self._changed = threading.Condition()

    @contextmanager
    def call(self) -> Iterator[None]:
        """Wait until fewer calls run, and count as one of them.

        Raises:
            RuntimeFailure: closed, before or while waiting.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._running < self._at_once)
            if self._is_closed:
                raise RuntimeFailure("the model is closed", fix="load it again")
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def close(self) -> bool:
        """Refuse further calls, and wait for the running ones; return whether it is the first to do so."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._running)
            is_first, self._is_ended = not self._is_ended, True
            return is_first
