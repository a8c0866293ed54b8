"""Points of the precision search: what a choice of blocks costs in accuracy and in time, and which one is best.

A slower point wins only on evidence: an accuracy below the aim counts only if chance does not explain it, and a
speed only if the interval of paired timings confirms it. A lack of samples therefore never makes a slower point win.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from vidrisk.runtimes.paired import SIGNIFICANT, drop_interval_points, is_below, ratio_interval
from vidrisk.runtimes.shares import binomial_tail, share_interval

Interval = tuple[float, float, float]  # low, middle, high


@dataclass(frozen=True)
class Budget:
    """What a quantised model may cost.

    Attributes:
        max_drop: points of top-1 accuracy, 0–100.
        min_agreement: aim for the share of predictions that equal the floating-point ones, 0–1.
        seconds: no further measurement is started after this time.
        max_confidence_drop: points of probability, 0–100.
        is_strict: judge a drop at its face value, instead of by what it proves beyond chance.
    """

    max_drop: float
    min_agreement: float
    seconds: float
    max_confidence_drop: float = 100.0
    is_strict: bool = False


@dataclass(frozen=True)
class Outcome:
    """Answers of a quantised graph on the selection samples, compared with those of floating point.

    Attributes:
        kept: per sample ``1`` if every target keeps its prediction, else ``0``.
        gains: per target, and in it per sample: ``+`` if a wrong answer became right, ``-`` if a right one became
            wrong, else ``=``.
        confidence_points: shift of the top probability, as the gate measures it, 0–100.
    """

    kept: str
    gains: tuple[str, ...]
    confidence_points: float = 0.0

    @property
    def samples(self) -> int:
        return len(self.kept)

    @property
    def agreement(self) -> float:
        return self.kept.count("1") / self.samples

    @property
    def drop_points(self) -> float:
        """Percentage points of top-1 accuracy lost in the worst target."""
        return 100 * max(each.count("-") - each.count("+") for each in self.gains) / self.samples

    @property
    def drop_interval(self) -> tuple[float, float]:
        """95 % interval of ``drop_points``."""
        worst = max(self.gains, key=lambda each: each.count("-") - each.count("+"))
        return drop_interval_points(worst.count("-"), worst.count("+"), self.samples)

    def is_within(self, budget: Budget) -> bool:
        """Return whether drop and confidence are within the budget.

        Unless the budget is strict, a drop over it counts only beyond chance.
        """
        drop = self.drop_points if budget.is_strict else min(self.drop_points, self.drop_interval[0])
        return drop <= budget.max_drop + 1e-9 and self.confidence_points <= budget.max_confidence_drop + 1e-9

    def reaches_aim(self, budget: Budget) -> bool:
        """Return whether the agreement reaches the aim, or misses it only within chance."""
        return not is_below(self.kept.count("1"), self.samples, budget.min_agreement)

    def compare_with_budget(self, budget: Budget) -> tuple[bool, bool]:
        """Return whether it is within the budget, and whether it also reaches the aim."""
        is_within = self.is_within(budget)
        return is_within, is_within and self.reaches_aim(budget)

    def agrees_better(self, other: Outcome) -> bool:
        """Return whether it keeps more predictions than ``other`` beyond chance.

        This is a one-sided McNemar test on the same samples.
        """
        pairs = list(zip(self.kept, other.kept, strict=True))
        mine, theirs = pairs.count(("1", "0")), pairs.count(("0", "1"))
        return mine > theirs and binomial_tail(theirs, mine + theirs, 0.5) < SIGNIFICANT

    def to_json(self) -> dict[str, Any]:
        return {"kept": self.kept, "gains": list(self.gains), "confidence_points": self.confidence_points}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Outcome:
        return cls(value["kept"], tuple(value["gains"]), value["confidence_points"])


@dataclass(frozen=True)
class Point:
    """One choice of blocks in floating point, and its verdict.

    Attributes:
        admissible: drop and confidence are within the budget.
        inside: its agreement reaches the aim, too.
        seconds: per frame, one value per turn; empty if it was not timed.
        float_seconds: those of the best floating-point graph, in the same turns.
        recipe: how the other blocks are quantised, if the search tried several ways.
        size_bytes: of all weights, if points differ in it.
    """

    float_blocks: tuple[str, ...]
    outcome: Outcome
    admissible: bool
    inside: bool
    seconds: tuple[float, ...] = ()
    float_seconds: tuple[float, ...] = ()
    recipe: str = ""
    size_bytes: int = 0

    @property
    def choice(self) -> tuple[str, ...]:
        """What distinguishes it from the other points of a search."""
        return (self.recipe, *self.float_blocks) if self.recipe else self.float_blocks

    @property
    def in_words(self) -> str:
        """Its choice, in words."""
        return f"{self.recipe + ', ' if self.recipe else ''}{len(self.float_blocks)} blocks in floating point"

    @cached_property
    def time_share(self) -> Interval | None:
        """Its time as a share of floating point's, with the 95 % interval; None if it was not timed."""
        return ratio_interval(self.seconds, self.float_seconds) if self.seconds else None

    @property
    def is_faster_than_float(self) -> bool:
        return self.time_share is not None and self.time_share[2] < 1

    def is_slower_than(self, other: Point) -> bool:
        """Return whether it takes longer than another timed point, beyond chance."""
        return ratio_interval(self.seconds, other.seconds)[0] > 1

    def to_row(self, reason: str = "", refused: str = "") -> dict[str, Any]:
        """Return the row of the gate's page.

        ``reason`` says why the point was chosen, ``refused`` why the gate refused it.
        """
        share, outcome = self.time_share, self.outcome
        return {
            "recipe": self.recipe,
            "float_blocks": self.float_blocks,
            "agreement": outcome.agreement,
            "drop_points": outcome.drop_points,
            "agreement_interval": share_interval(outcome.kept.count("1"), outcome.samples),
            "drop_interval": outcome.drop_interval,
            "confidence_points": outcome.confidence_points,
            "admissible": self.admissible,
            "inside": self.inside,
            "chosen": bool(reason),
            "reason": reason,
            "refused": refused,
            "size_bytes": self.size_bytes or None,
            "speed": share and 1 / share[1],
            "speed_interval": share and (1 / share[2], 1 / share[0]),
        }


OUT_OF_TIME = "time ran out before points could be timed; this one has the highest estimated speed within the budget"
ALL_QUANTIZED = "quantised everywhere, it keeps to the budget, and any shortfall from the aim is within chance"
FASTEST = "the fastest within the budget"
BETTER = (
    "the fastest within the budget, apart from points whose agreement misses the aim while another one agrees better "
    "beyond chance"
)
NOT_FASTER = "no point within the budget is faster than floating point beyond chance; this one comes nearest"
CLOSEST = "no point is within the budget; this one agrees best"


def choose_point(points: Sequence[Point]) -> tuple[Point, str]:
    """Choose among judged points, and return the reason with the choice.

    The fastest point within the budget is chosen. A point whose agreement misses the aim loses to another one that
    is still faster than floating point and agrees better beyond chance. Among points whose times are indistinguishable,
    the smallest is chosen, then the one with the fewest blocks in floating point.

    Args:
        points: at least one, most promising in speed first. Points that were not timed are chosen only if none was.
    """
    admissible = [point for point in points if point.admissible]
    if not admissible:
        return max(
            points, key=lambda point: (point.outcome.agreement, -point.size_bytes, -len(point.float_blocks))
        ), CLOSEST
    timed = [point for point in admissible if point.seconds]
    if not timed:
        point = next((point for point in admissible if point.inside), admissible[0])
        return point, ALL_QUANTIZED if point.inside and not point.float_blocks else OUT_OF_TIME
    faster = [point for point in timed if point.is_faster_than_float]
    if not faster:
        return _fastest(timed), NOT_FASTER
    worse = [
        point
        for point in faster
        if not point.inside and any(other.outcome.agrees_better(point.outcome) for other in faster)
    ]
    return _fastest([point for point in faster if point not in worse]), BETTER if worse else FASTEST


def _fastest(points: Sequence[Point]) -> Point:
    def size(point: Point) -> tuple[int, int]:
        return point.size_bytes, len(point.float_blocks)

    quickest = min(points, key=lambda point: (statistics.median(point.seconds), *size(point)))
    return min((point for point in points if not point.is_slower_than(quickest)), key=size)
