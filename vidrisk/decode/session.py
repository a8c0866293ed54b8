"""One call of a pool: what waits to be read for it, and what has come of it."""

from __future__ import annotations

import itertools
import queue
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from vidrisk.decode.messages import Read, Request, Settings

_numbers = itertools.count()


class Slot(Protocol):
    """Where the pixels of an item lie."""

    def free(self) -> None:
        """They have been copied."""
        ...


Answers = list[tuple[Read, Slot | None]] | BaseException


@dataclass(frozen=True)
class CacheFolder:
    """The feature cache that workers may write."""

    path: str
    max_bytes: int


@dataclass(frozen=True)
class Limits:
    """When to give up on an input.

    Attributes:
        silence_s: a worker that for so long gives no sign of life is killed.
        input_s: what one input may take in all; None for any time.
        retries: whether an input that costs its worker is read once more, alone.
    """

    silence_s: float = 60.0
    input_s: float | None = None
    retries: bool = True


@dataclass(eq=False)
class Session:
    """One call. All but ``answers`` belongs to the pool's owner.

    Attributes:
        cache: that its workers may write; None without.
        pending: requests that no worker has.
        failed: requests that cost their worker, and are to be read again.
        in_hand: requests that workers have.
        is_closed: nobody listens any more.
        answers: items as they come, or an error that ends the call.
        waits_since_s: since when something is pending and no worker reads anything of it.
    """

    settings: Settings
    limits: Limits
    cache: CacheFolder | None = None
    number: int = field(default_factory=lambda: next(_numbers))
    pending: deque[Request] = field(default_factory=deque)
    failed: deque[Request] = field(default_factory=deque)
    in_hand: int = 0
    is_closed: bool = False
    answers: queue.SimpleQueue[Answers] = field(default_factory=queue.SimpleQueue)
    waits_since_s: float = field(default_factory=time.monotonic)

    @property
    def is_alone(self) -> bool:
        """Whether its next request is one that is read again: when all others that it has been given are done, by a fresh worker.

        More of them may come later: whoever gives them waits for the failed ones, too.
        """
        return not self.pending and not self.in_hand and bool(self.failed)

    @property
    def is_waiting(self) -> bool:
        return not self.is_closed and (bool(self.pending) or self.is_alone)
