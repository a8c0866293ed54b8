"""The precision search: which blocks stay in floating point while the rest becomes 8 bits wide.

The steps:

    all in 8 bits ── inside the budget? ── done
         │ no
    each block alone in 8 bits: its share of the noise;  each block alone in float: the time it costs
         │
    blocks into floating point, in order of noise removed per millisecond; the fewest that suffice (bisection)
         │
    blocks back into 8 bits, the most expensive first, as long as the point stays inside
         │
    the few most promising points timed in turns with floating point; the best one chosen (``points.choose_point``)
"""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import onnx

from vidrisk.calibration.blocks import Blocks
from vidrisk.calibration.journal import Journal
from vidrisk.calibration.points import Budget, Outcome, Point, choose_point
from vidrisk.runtimes.contract.progress import OnProgress

log = logging.getLogger(__name__)

Quantize = Callable[[Collection[str]], onnx.ModelProto]
MAX_TIMED = 4  # of the points found
MAX_RETURNS = 8  # blocks that are tried in 8 bits again
MEASURING = 0.6  # largest share of the time for measuring blocks; the rest is for trying points
BLOCK_ROUNDS = 5  # rounds for timing one block of dozens
POINT_ROUNDS = 15  # rounds for timing the points
NOT_FINITE = 1e12  # noise of a block with values that are not finite


class Judge(Protocol):
    """Measurements that a search makes of a graph.

    The search does not know what the graph computes, or on which samples it is judged.
    """

    def probe(self, model: onnx.ModelProto) -> tuple[float, float]:
        """Return the features' mean squared error and the probabilities' mean total variation on a few samples.

        The total variation is 0–1.
        """

    def outcome(self, model: onnx.ModelProto) -> Outcome:
        """Compare with floating point on all selection samples."""

    def seconds(self, models: Sequence[onnx.ModelProto | None], rounds: int) -> list[list[float]]:
        """Time a frame with all models in turns; return one value per turn for each model.

        None stands for the fastest floating-point graph.
        """


@dataclass(frozen=True)
class BlockRow:
    """Cost and benefit of one block.

    Attributes:
        noise_share: this block's share of the noise that all blocks together add to the features.
        probability_shift: mean total variation of the probabilities with this block alone in 8 bits, 0–1.
        float_ms: milliseconds per frame that keeping this block in floating point costs.
    """

    block: str
    nodes: int
    precision: str
    noise_share: float
    probability_shift: float
    float_ms: float


@dataclass(frozen=True)
class Search:
    """Result of a search.

    Attributes:
        best: as ``choose_point`` chooses. At least one of its blocks is in 8 bits.
        reason: why it was chosen.
        rows: empty if 8 bits everywhere were good enough.
    """

    best: Point
    reason: str
    rows: tuple[BlockRow, ...]
    points: tuple[Point, ...]


def search_precision(
    quantize: Quantize,
    blocks: Blocks,
    judge: Judge,
    budget: Budget,
    journal: Journal,
    on_progress: OnProgress,
    refused: Collection[tuple[str, ...]] = (),
) -> Search:
    """Find the fastest point within the budget, assuming that more blocks in floating point agree better.

    Args:
        quantize: names of nodes to keep in floating point → quantised graph.
        blocks: the nodes of each block.
        judge: measures graphs.
        budget: limits for accuracy, and for the time of the search.
        journal: measurements that are not repeated.
        on_progress: called after each measurement.
        refused: blocks in floating point of points that were refused by another judge.
    """
    begin = time.monotonic()
    points = Points(quantize, blocks, judge, budget, journal, begin + budget.seconds, on_progress, refused)
    if points.at(()).inside or not blocks:
        best, reason = choose_point([points.at(())])
        return Search(best, reason, (), points.list_judged())
    rows = points.explore(begin + MEASURING * budget.seconds)
    cost = {row.block: row.float_ms for row in rows}
    every = sorted(points.list_judged(), key=lambda point: math.fsum(cost[block] for block in point.float_blocks))
    if points.has_time():
        every = time_promising(every, points.graph, judge, journal)
    best, reason = choose_point(every)
    rows = [replace(row, precision="float" if row.block in best.float_blocks else "int8") for row in rows]
    return Search(best, reason, tuple(rows), tuple(every))


def time_promising(
    points: Sequence[Point], graph: Callable[[Point], onnx.ModelProto], judge: Judge, journal: Journal
) -> list[Point]:
    """Return the points, with the few most promising ones timed in turns with floating point.

    Only points that may be chosen are timed.

    Args:
        points: most promising in speed first.
        graph: returns the graph of a point.
        judge: measures graphs.
        journal: measurements that are not repeated.
    """
    promising = _select_promising(points)
    if not promising:
        return list(points)
    step = f"race {[point.choice for point in promising]}"
    of_float, *seconds = journal.value(
        step, lambda: judge.seconds([None, *(graph(point) for point in promising)], POINT_ROUNDS)
    )
    measured = {
        point.choice: replace(point, seconds=tuple(each), float_seconds=tuple(of_float))
        for point, each in zip(promising, seconds, strict=True)
    }
    return [measured.get(point.choice, point) for point in points]


class Points:
    """Judged points, each judged once.

    Args:
        end: on the clock of ``time.monotonic``; no further measurement is started after it.
        The others are those of ``search_precision``.
    """

    def __init__(
        self,
        quantize: Quantize,
        blocks: Blocks,
        judge: Judge,
        budget: Budget,
        journal: Journal,
        end: float,
        on_progress: OnProgress,
        refused: Collection[tuple[str, ...]],
    ) -> None:
        self.refused = refused
        self.quantize, self.blocks, self.judge, self.budget, self.journal = quantize, blocks, judge, budget, journal
        self.end, self.on_progress = end, on_progress
        self.known: dict[tuple[str, ...], Point] = {}
        self.expected = 1 + math.ceil(math.log2(len(blocks) + 1)) + MAX_RETURNS

    def has_time(self) -> bool:
        return time.monotonic() < self.end

    def list_judged(self) -> tuple[Point, ...]:
        """Return points with at least one block in 8 bits, in the order in which they were judged."""
        return tuple(point for kept, point in self.known.items() if len(kept) < len(self.blocks) or not self.blocks)

    def at(self, float_blocks: Collection[str]) -> Point:
        kept = self._in_order(float_blocks)
        if kept not in self.known:
            self.on_progress("trying mixed precision", len(self.known), max(self.expected, len(self.known) + 1))
            step = f"outcome {kept}"
            outcome = Outcome.from_json(
                self.journal.value(step, lambda: self.judge.outcome(self._graph(kept)).to_json())
            )
            admissible, inside = (False, False) if kept in self.refused else outcome.compare_with_budget(self.budget)
            self.known[kept] = Point(kept, outcome, admissible, inside)
            log.info(
                "%d of %d blocks in float: agreement %.2f %%, drop %.2f points",
                len(kept),
                len(self.blocks),
                100 * outcome.agreement,
                outcome.drop_points,
            )
        return self.known[kept]

    def is_inside(self, float_blocks: Collection[str]) -> bool:
        """Return whether a point is inside; one that there was no time to judge is not."""
        return (self._in_order(float_blocks) in self.known or self.has_time()) and self.at(float_blocks).inside

    def graph(self, point: Point) -> onnx.ModelProto:
        """Return the graph of a point."""
        return self._graph(point.float_blocks)

    def explore(self, end: float) -> list[BlockRow]:
        """Measure every block until ``end``, then judge the points inside with the fewest blocks in floating point."""
        rows = _measure_blocks(self.quantize, self.blocks, self.judge, self.journal, end, self.on_progress)
        order = [row.block for row in sorted(rows, key=lambda row: -row.noise_share / row.float_ms)]
        too_few, enough = 0, len(order)
        while enough - too_few > 1 and self.has_time():
            middle = (too_few + enough) // 2
            too_few, enough = (too_few, middle) if self.at(order[:middle]).inside else (middle, enough)
        chosen = order[:enough]
        cost = {row.block: row.float_ms for row in rows}
        if self.is_inside(chosen):
            for block in sorted(chosen, key=lambda block: -cost[block])[:MAX_RETURNS]:
                fewer = [other for other in chosen if other != block]
                if self.is_inside(fewer):
                    chosen = fewer
        return rows

    def _in_order(self, float_blocks: Collection[str]) -> tuple[str, ...]:
        return tuple(block for block in self.blocks if block in float_blocks)

    def _graph(self, float_blocks: tuple[str, ...]) -> onnx.ModelProto:
        return self.quantize([node for block in float_blocks for node in self.blocks[block]])


def _finite(noise: float, shift: float) -> tuple[float, float]:
    """Return the worst possible values for a block whose answers are not finite."""
    return (noise, shift) if math.isfinite(noise) and math.isfinite(shift) else (NOT_FINITE, 1.0)


def _select_promising(points: Sequence[Point]) -> list[Point]:
    """Select the fastest admissible points, half of them inside if there are so many.

    ``points`` are in the order of their speed.
    """
    inside = [point for point in points if point.inside][: MAX_TIMED // 2]
    others = [point for point in points if point.admissible and point not in inside][: MAX_TIMED - len(inside)]
    return [point for point in points if point in inside or point in others]


def _measure_blocks(
    quantize: Quantize, blocks: Blocks, judge: Judge, journal: Journal, end: float, on_progress: OnProgress
) -> list[BlockRow]:
    """Return one row per block, in graph order; blocks not measured in time count as the most harmless."""
    every = [node for nodes in blocks.values() for node in nodes]
    whole = quantize([])

    def measure(block: str) -> list[float]:
        noise, shift = _finite(*judge.probe(quantize([node for node in every if node not in blocks[block]])))
        quick, slow = judge.seconds([whole, quantize(blocks[block])], BLOCK_ROUNDS)
        return [
            noise,
            shift,
            1e3 * statistics.median(later - sooner for sooner, later in zip(quick, slow, strict=True)),
        ]

    found: dict[str, list[float]] = {}
    for done, block in enumerate(blocks):
        if time.monotonic() >= end:
            log.warning("the precision search ran out of time after %d of %d blocks", done, len(blocks))
            break
        on_progress("measuring each block", done, len(blocks))
        found[block] = journal.value(f"block {block}", partial(measure, block))
    total = sum(noise for noise, _, _ in found.values()) or 1.0
    # The difference of two timings can be zero or negative: the block then costs practically nothing.
    least_ms = max(1e-2 * max((ms for _, _, ms in found.values()), default=1.0), 1e-6)
    rows = []
    for block, nodes in blocks.items():
        noise, shift, float_ms = found.get(block, (0.0, 0.0, 0.0))
        rows.append(BlockRow(block, len(nodes), "int8", noise / total, shift, max(float_ms, least_ms)))
    return rows
