"""Repeat measurements during which other programs were at work, and record how often that was needed."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from process_costs import descendants, running_cpu_s

LIMIT = 0.05  # of one core
ATTEMPTS = 10  # of one measurement
CHECK_S, PATIENCE_S = 2.0, 900.0  # one look at the machine; longest wait until it is quiet
SHORT_S = 0.2  # the kernel counts in hundredths of a second: shorter measurements cannot be judged
Item = TypeVar("Item")


@dataclass(frozen=True)
class Moment:
    """Seconds of the clock, of work on all cores, and of work of this process and the processes that it started."""

    clock_s: float
    busy_s: float
    own_s: float


@dataclass
class Record:
    """Counts of the measurements of this process.

    Attributes:
        accepted, rejected: how many.
        most: the largest share of a core that other programs used during an accepted one.
        too_short: accepted without a check, because they took less than ``SHORT_S``.
    """

    accepted: int = 0
    rejected: int = 0
    most: float = 0.0
    too_short: int = 0

    def to_json(self) -> dict[str, Any]:
        counts = {"accepted": self.accepted, "rejected": self.rejected, "too_short_to_judge": self.too_short}
        return {"limit": LIMIT, "most": round(self.most, 4), **counts}


RECORD = Record()


def take_record() -> dict[str, Any]:
    """Return the record since the last call, and start a new one; empty if nothing was measured."""
    global RECORD
    taken, RECORD = RECORD, Record()
    return taken.to_json() if taken.accepted or taken.too_short else {}


def measure_quietly(measure: Callable[[], Item]) -> Item:
    """Measure, and repeat the measurement while other programs use over 5 % of a core.

    Processes that ``measure`` starts count as its own work if they are still running afterwards or were waited for.

    Raises:
        SystemExit: the machine was not quiet in ten attempts, or for 15 minutes.
    """
    for _ in range(ATTEMPTS):
        before = read_moment()
        found = measure()
        after = read_moment()
        if after.clock_s - before.clock_s < SHORT_S:
            RECORD.too_short += 1
            return found
        other = other_work(before, after)
        if other <= LIMIT:
            RECORD.accepted, RECORD.most = RECORD.accepted + 1, max(RECORD.most, other)
            return found
        RECORD.rejected += 1
        print(f"  repeated: other programs took {other:.0%} of a core", file=sys.stderr, flush=True)
        wait_until_quiet()
    raise SystemExit(
        f"other programs took over {LIMIT:.0%} of a core in {ATTEMPTS} attempts: stop them, and run this again"
    )


def wait_until_quiet() -> None:
    """Wait until other programs use less than 5 % of a core for two seconds.

    Raises:
        SystemExit: that did not happen within 15 minutes.
    """
    end_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < end_s:
        before = read_moment()
        time.sleep(CHECK_S)
        if other_work(before, read_moment()) <= LIMIT:
            return
    raise SystemExit(f"other programs took over {LIMIT:.0%} of a core for {PATIENCE_S / 60:.0f} minutes: stop them")


def read_moment() -> Moment:
    user, nice, system, _, _, irq, soft_irq, steal = map(int, Path("/proc/stat").read_text("ascii").split()[1:9])
    busy_s = (user + nice + system + irq + soft_irq + steal) / os.sysconf("SC_CLK_TCK")
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    own_s = sum(each.ru_utime + each.ru_stime for each in usages)
    return Moment(time.monotonic(), busy_s, own_s + sum(map(running_cpu_s, descendants(os.getpid()))))


def other_work(before: Moment, after: Moment) -> float:
    """Return the share of a core that other programs used between two moments, at least 0."""
    other_s = (after.busy_s - before.busy_s) - (after.own_s - before.own_s)
    return max(0.0, other_s / (after.clock_s - before.clock_s))
