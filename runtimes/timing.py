"""Timing runners side by side: in turns, so that a busy moment of the machine hits all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from typing import TypeVar

from vidrisk.runtimes.runner import Array, Runner

Key = TypeVar("Key")


def seconds_in_turns(runners: Mapping[Key, Runner], feed: Mapping[str, Array], rounds: int) -> dict[Key, float]:
    """Return the median seconds of one call per runner: see ``turns_of``."""
    return {key: statistics.median(times) for key, times in turns_of(runners, feed, rounds).items()}


def turns_of(runners: Mapping[Key, Runner], feed: Mapping[str, Array], rounds: int) -> dict[Key, list[float]]:
    """Time one call per runner and round, and return the seconds: values at one place are of the same round, so they are pairs.

    In each turn a runner is called twice, and the second call counts: during the first one the threads of the runner
    before still spin, waiting for more work. A first round does not count at all: engines compile and allocate in it.

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
    return {key: times[1:] for key, times in seconds.items()}
