"""Progress of a run: seconds per stage, and counts."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

STAGES = ("decode", "encode", "waiting for decode", "waiting for encode", "head", "write")


@dataclass
class Meter:
    """Seconds per stage, and counts.

    Seconds of ``decode`` are summed over processes, and those of ``encode`` over batches in work at the same time, so
    they may exceed the wall time; both run in parallel to the rest, which counts its idle time in ``waiting for …``.

    Attributes:
        decoded: items of the decode processes that have arrived and have not been consumed yet; most of them are
            frames.
        batched: frames in the batch that is being filled.
        windows: number of windows predicted.
        uncertain: number of uncertain predictions written.
    """

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    decoded: int = 0
    batched: int = 0
    windows: int = 0
    uncertain: int = 0
    _adding: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    def add(self, stage: str, seconds: float) -> None:
        with self._adding:  # threads encode
            self.seconds[stage] += seconds

    def wait_for_decode(self) -> AbstractContextManager[None]:
        return self.measure("waiting for decode")

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        started_s = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - started_s)
