"""State of one call of a pool: its pending requests and its answers."""

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
    """Storage of the pixels of an item."""

    def free(self) -> None:
        """Record that the pixels have been copied."""
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
        silence_s: a worker without a sign of life for so long is killed.
        input_s: most seconds that one input may take; None for no limit.
        retries: whether an input that costs its worker is read once more, alone.
    """

    silence_s: float = 60.0
    input_s: float | None = None
    retries: bool = True


@dataclass(eq=False)
class Session:
    """One call. Everything but ``answers`` belongs to the pool's owner.

    Attributes:
        cache: feature cache that its workers may write; None without a cache.
        pending: requests that no worker has.
        failed: requests that cost their worker and will be read again.
        in_hand: number of requests that workers have.
        is_closed: the caller has stopped listening.
        answers: items as they arrive, or an error that ends the call.
        waits_since_s: time since which requests have been pending without any worker reading one.
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
        """Whether its next request is a retry, which a fresh worker reads after all others are done.

        More requests may follow later: the caller that provides them waits for the retries, too.
        """
        return not self.pending and not self.in_hand and bool(self.failed)

    @property
    def is_waiting(self) -> bool:
        return not self.is_closed and (bool(self.pending) or self.is_alone)
