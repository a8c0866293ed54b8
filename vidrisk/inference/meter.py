"""What a run has done so far: seconds per stage, and counts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

STAGES = ("decode", "encode", "waiting for decode", "waiting for encode", "head", "write")


@dataclass
class Meter:
    """Seconds per stage, and counts.

    Seconds of ``decode`` add up over processes, so they may exceed the wall time; ``encode`` runs beside the rest,
    which tells in ``waiting for …`` how long it had nothing else to do.

    Attributes:
        decoded: items of the decode processes that have come and were not taken yet, most of them frames.
        batched: frames that wait for their batch to be full.
        windows: predicted.
        uncertain: predictions written that are.
    """

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    decoded: int = 0
    batched: int = 0
    windows: int = 0
    uncertain: int = 0

    def add(self, stage: str, seconds: float) -> None:
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
