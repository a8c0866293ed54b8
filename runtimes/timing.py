"""Interleaved timing of runners, in which a load peak of the machine affects all of them alike."""

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
    """Time one call per runner and round; return the seconds, where equal indices are of the same round.

    In each turn a runner is called twice and only the second call is timed: during the first one the threads of the
    previous runner still spin, waiting for work. The first round is discarded: engines compile and allocate in it.

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
