"""What goes wrong while a watch goes on: said once, tried again after a while, and in the way of nothing else."""

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
    """Attempts the duties of one pass after another. A duty that has failed rests for a while.

    Args:
        retry_s: for how long.
    """

    def __init__(self, retry_s: float) -> None:
        self._retry_s = retry_s
        self._errors: dict[str, tuple[Exception, float]] = {}  # duty → what it failed with, and when it is tried again
        self._attempted: set[str] = set()
        self._said: frozenset[str] = frozenset()

    def attempt(self, duty: str, work: Callable[[], Result], otherwise: Result) -> Result:
        """Do the work of a duty, unless it rests; return its result, or ``otherwise``.

        Raises:
            RuntimeFailure, Interrupted, MemoryDamaged, BrokenPipeError: what no other try can mend.
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
        """Whether the last attempt at a duty failed."""
        return duty in self._errors

    def first(self) -> Exception | None:
        """Return what the duty that has failed longest failed with."""
        return next((error for error, _ in self._errors.values()), None)

    def say(self) -> None:
        """Say, at the end of a pass, what is new. A duty that was not attempted in it is none any more."""
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
    """One line; of an error that nobody foresaw also where it came from."""
    if isinstance(error, VidriskError):
        return error.what
    last = traceback.extract_tb(error.__traceback__)[-1:]
    place = "".join(f" ({Path(frame.filename).name}:{frame.lineno})" for frame in last)
    return " ".join(f"{type(error).__name__}: {error}{place}".split())
