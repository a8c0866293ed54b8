"""Timing runners side by side: in turns, so that a busy moment of the machine hits all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from typing import TypeVar

from vidrisk.runtimes.runner import Array, Runner

Key = TypeVar("Key")


def seconds_in_turns(runners: Mapping[Key, Runner], feed: Mapping[str, Array], rounds: int) -> dict[Key, float]:
    """Median seconds of one call per runner.

    In each turn a runner is called twice, and the second call counts: during the first one the threads of the runner before
    still spin, waiting for more work. A first round does not count at all: engines compile and allocate in it.

    Raises:
        RuntimeFailure: an engine failed.
    """
    seconds: dict[Key, list[float]] = {key: [] for key in runners}
    for _ in range(1 + rounds):
        for key, runner in runners.items():
            runner.infer(feed)
            begin = time.perf_counter()
            runner.infer(feed)
            seconds[key].append(time.perf_counter() - begin)
    return {key: statistics.median(times[1:]) for key, times in seconds.items()}
