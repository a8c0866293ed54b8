from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np

from vidrisk.frames import Clip
from vidrisk.infer.decode import CLIPS_AHEAD, Read, ReadClip, ReadEnd, read_in_order
from vidrisk.infer.ledger import Row

ROWS = [Row(number, f"/{number}") for number in range(12)]
FRAME = Clip(np.zeros((1, 1, 1, 3), np.uint8), np.zeros(1), None, None, "/x")


def ids(reads: Iterator[Read]) -> list[int]:
    return [read.row.id for read in reads if isinstance(read, ReadEnd)]


def test_what_is_read_in_parallel_comes_out_in_order() -> None:
    def read(row: Row) -> Iterator[Read]:
        time.sleep(0.02 if row.id % 3 == 0 else 0.0)
        yield ReadEnd(row, 0.0)

    assert ids(read_in_order(ROWS, read, workers=4)) == [row.id for row in ROWS]


def test_reading_ahead_is_bounded() -> None:
    taken = 0
    lock = threading.Lock()

    def read(row: Row) -> Iterator[Read]:
        nonlocal taken
        for _ in range(100):
            with lock:
                taken += 1
            yield ReadClip(FRAME)
        yield ReadEnd(row, 0.0)

    reads = read_in_order(ROWS, read, workers=2)
    next(reads)
    time.sleep(0.2)
    assert taken <= 2 * (CLIPS_AHEAD + 2)
    reads.close()


def test_closing_stops_the_threads() -> None:

    def ours() -> int:
        return sum(thread.name.startswith("decode-") for thread in threading.enumerate())

    def read(row: Row) -> Iterator[Read]:
        while True:
            yield ReadClip(FRAME)

    reads = read_in_order(ROWS, read, workers=3)
    next(reads)
    reads.close()
    deadline = time.monotonic() + 10
    while ours() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert ours() == 0
