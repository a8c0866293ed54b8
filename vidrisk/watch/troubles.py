"""Errors during a watch: reported once, retried after a while, without blocking other duties."""

from __future__ import annotations

import logging
import math
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from vidrisk.runtimes.contract.errors import Interrupted, RuntimeFailure, VidriskError
from vidrisk.watch import notify
from vidrisk.watch.taken import MemoryDamaged

log = logging.getLogger(__name__)
Result = TypeVar("Result")


class Troubles:
    """Attempts the duties of each pass. A duty that has failed is paused for a while.

    Args:
        retry_s: duration of the pause.
    """

    def __init__(self, retry_s: float) -> None:
        self._retry_s = retry_s
        self._errors: dict[str, tuple[Exception, float]] = {}  # duty → its error, and when it is tried again
        self._attempted: set[str] = set()
        self._said: frozenset[str] = frozenset()

    def attempt(self, duty: str, work: Callable[[], Result], otherwise: Result) -> Result:
        """Do the work of a duty, unless it is paused; return its result, or ``otherwise``.

        Raises:
            RuntimeFailure, Interrupted, MemoryDamaged, BrokenPipeError: errors that a retry cannot fix.
        """
        self._attempted.add(duty)
        if time.monotonic() < self._errors.get(duty, (None, -math.inf))[1]:
            return otherwise
        try:
            result = work()
        except (RuntimeFailure, Interrupted, MemoryDamaged, BrokenPipeError):
            raise
        except Exception as error:
            log.debug("%s", duty, exc_info=True)
            self._errors[duty] = error, time.monotonic() + self._retry_s
            return otherwise
        self._errors.pop(duty, None)
        return result

    def have(self, duty: str) -> bool:
        """Return whether the last attempt at a duty failed."""
        return duty in self._errors

    def first(self) -> Exception | None:
        """Return the error of the duty that has been failing longest, or None."""
        return next((error for error, _ in self._errors.values()), None)

    def say(self) -> None:
        """Report new errors at the end of a pass. Duties that were not attempted in it are forgotten."""
        self._errors = {duty: entry for duty, entry in self._errors.items() if duty in self._attempted}
        self._attempted = set()
        lines = list(dict.fromkeys(words_of(error) for error, _ in self._errors.values()))
        for line in lines:
            if line not in self._said:
                log.warning("%s; trying again", line)
        if self._said and not lines:
            log.warning("it works again")
        if self._said != frozenset(lines):
            notify.status(lines[0] if lines else "watching")
        self._said = frozenset(lines)


def words_of(error: Exception) -> str:
    """Return an error as one line; for an unexpected error, with its location."""
    if isinstance(error, VidriskError):
        return error.what
    last = traceback.extract_tb(error.__traceback__)[-1:]
    place = "".join(f" ({Path(frame.filename).name}:{frame.lineno})" for frame in last)
    return " ".join(f"{type(error).__name__}: {error}{place}".split())
