"""Timing runners side by side: in turns, so that a busy moment of the machine hits all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from typing import TypeVar

from vidrisk.runtimes.runner import Array, Runner

Key = TypeVar("Key")


def seconds_in_turns(runners: Mapping[Key, Runner], feed: Mapping[str, Array], rounds: int) -> dict[Key, float]:
    """Median seconds of one call per runner, after one call each to warm up: engines compile and allocate on the first.

    Raises:
        RuntimeFailure: an engine failed.
    """
    for runner in runners.values():
        runner.infer(feed)
    seconds: dict[Key, list[float]] = {key: [] for key in runners}
    for _ in range(rounds):
        for key, runner in runners.items():
            begin = time.perf_counter()
            runner.infer(feed)
            seconds[key].append(time.perf_counter() - begin)
    return {key: statistics.median(times) for key, times in seconds.items()}
