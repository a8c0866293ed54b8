"""The precision search: which blocks stay in floating point, so that the rest may be 8 bits wide.

    all in 8 bits ── inside the budget? ── done
         │ no
    each block alone in 8 bits: its share of the noise;  each block alone in float: the time it costs
         │
    blocks into floating point, those first that remove most noise per millisecond; fewest that suffice (bisection)
         │
    blocks back into 8 bits, the dearest first, as long as the point stays inside
         │
    the few cheapest points timed side by side, the fastest taken
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import onnx

from vidrisk.calibration.blocks import Blocks
from vidrisk.calibration.journal import Journal

log = logging.getLogger(__name__)

OnProgress = Callable[[str, int, int], None]
Quantise = Callable[[Collection[str]], onnx.ModelProto]
MAX_TIMED = 3  # of the points found
MAX_RETURNS = 8  # blocks that are tried in 8 bits again
MEASURING = 0.6  # of the time, at the most, for measuring blocks; the rest is for trying points


@dataclass(frozen=True)
class Budget:
    """What a quantised model may cost.

    Attributes:
        max_drop: points of accuracy.
        min_agreement: share of predictions that must equal the floating-point ones, 0–1.
        seconds: after that long no further measurement is begun.
    """

    max_drop: float
    min_agreement: float
    seconds: float


class Judge(Protocol):
    """What a search asks about a graph. The search does not know what the graph computes, nor on what it is judged."""

    def probe(self, model: onnx.ModelProto) -> tuple[float, float]:
        """Mean squared error of the features, and mean total variation of the probabilities (0–1), on a few samples."""

    def verdict(self, model: onnx.ModelProto) -> tuple[float, float]:
        """Agreement with floating point (0–1) and drop of accuracy in points, on all samples."""

    def ms_per_frame(self, models: Sequence[onnx.ModelProto]) -> list[float]:
        """Median time per frame, all models timed in turns."""


@dataclass(frozen=True)
class BlockRow:
    """What one block costs and saves.

    Attributes:
        noise_share: of the noise that all blocks together add to the features, the part that this one adds.
        probability_shift: mean total variation of the probabilities with this block alone in 8 bits, 0–1.
        float_ms: milliseconds per frame that it costs to keep this block in floating point.
    """

    block: str
    nodes: int
    precision: str
    noise_share: float
    probability_shift: float
    float_ms: float


@dataclass(frozen=True)
class Point:
    """One choice of blocks in floating point, and how it was judged.

    Attributes:
        admissible: its drop is within the budget.
        inside: its agreement, too.
    """

    float_blocks: tuple[str, ...]
    agreement: float
    drop_points: float
    admissible: bool
    inside: bool


@dataclass(frozen=True)
class Search:
    """Attributes:
        best: the fastest point found inside the budget; where there is none, the fastest admissible one; where there is none
            either, the one that agrees best. At least one of its blocks is in 8 bits.
        rows: empty when 8 bits everywhere were good enough.
    """

    best: Point
    rows: tuple[BlockRow, ...]
    points: tuple[Point, ...]


def searched_precision(quantise: Quantise, blocks: Blocks, judge: Judge, budget: Budget, journal: Journal,
                       on_progress: OnProgress) -> Search:
    """Find the fastest point inside the budget. More blocks in floating point are taken to agree better.

    Args:
        quantise: names of nodes to keep in floating point → quantised graph.
        journal: measurements that are not repeated.
    """
    begin = time.monotonic()
    points = _Points(quantise, blocks, judge, budget, journal, begin + budget.seconds, on_progress)
    if points.at(()).inside or not blocks:
        return Search(points.at(()), (), points.judged())
    rows = _measured_blocks(quantise, blocks, judge, journal, begin + MEASURING * budget.seconds, on_progress)
    order = [row.block for row in sorted(rows, key=lambda row: -row.noise_share / row.float_ms)]
    too_few, enough = 0, len(order)
    while enough - too_few > 1 and points.has_time():
        middle = (too_few + enough) // 2
        too_few, enough = (too_few, middle) if points.at(order[:middle]).inside else (middle, enough)
    chosen = order[:enough]
    cost = {row.block: row.float_ms for row in rows}
    if points.is_inside(chosen):
        for block in sorted(chosen, key=lambda block: -cost[block])[:MAX_RETURNS]:
            fewer = [other for other in chosen if other != block]
            if points.is_inside(fewer):
                chosen = fewer
    best = points.best(cost)
    rows = [replace(row, precision="float" if row.block in best.float_blocks else "int8") for row in rows]
    return Search(best, tuple(rows), points.judged())


class _Points:
    """Points that were judged, each once."""

    def __init__(self, quantise: Quantise, blocks: Blocks, judge: Judge, budget: Budget, journal: Journal, end: float,
                 on_progress: OnProgress) -> None:
        self.quantise, self.blocks, self.judge, self.budget, self.journal = quantise, blocks, judge, budget, journal
        self.end, self.on_progress = end, on_progress
        self.known: dict[tuple[str, ...], Point] = {}
        self.expected = 1 + math.ceil(math.log2(len(blocks) + 1)) + MAX_RETURNS

    def has_time(self) -> bool:
        return time.monotonic() < self.end

    def judged(self) -> tuple[Point, ...]:
        """Points with something in 8 bits, in the order in which they were judged."""
        return tuple(point for kept, point in self.known.items() if len(kept) < len(self.blocks) or not self.blocks)

    def at(self, float_blocks: Collection[str]) -> Point:
        kept = self._in_order(float_blocks)
        if kept not in self.known:
            self.on_progress("trying mixed precision", len(self.known), max(self.expected, len(self.known) + 1))
            agreement, drop = self.journal.value(f"point {kept}", lambda: self.judge.verdict(self._graph(kept)))
            admissible = drop <= self.budget.max_drop + 1e-9
            self.known[kept] = Point(kept, agreement, drop, admissible, admissible and agreement >= self.budget.min_agreement)
            log.info("%d of %d blocks in float: agreement %.2f %%, drop %.2f points", len(kept), len(self.blocks), 100 * agreement,
                     drop)
        return self.known[kept]

    def is_inside(self, float_blocks: Collection[str]) -> bool:
        """What there was no time to judge does not count as inside."""
        return (self._in_order(float_blocks) in self.known or self.has_time()) and self.at(float_blocks).inside

    def best(self, cost: Mapping[str, float]) -> Point:
        """As ``Search.best`` says. The few that promise most speed are timed side by side."""
        every = self.judged()
        good = [point for point in every if point.inside] or [point for point in every if point.admissible]
        if not good:
            return max(every, key=lambda point: point.agreement)
        promising = sorted(good, key=lambda point: sum(cost[block] for block in point.float_blocks))[:MAX_TIMED]
        if len(promising) == 1 or not self.has_time():
            return promising[0]
        step = f"time {[point.float_blocks for point in promising]}"
        times: list[float] = self.journal.value(
            step, lambda: self.judge.ms_per_frame([self._graph(point.float_blocks) for point in promising]))
        return promising[times.index(min(times))]

    def _in_order(self, float_blocks: Collection[str]) -> tuple[str, ...]:
        return tuple(block for block in self.blocks if block in float_blocks)

    def _graph(self, float_blocks: tuple[str, ...]) -> onnx.ModelProto:
        return self.quantise([node for block in float_blocks for node in self.blocks[block]])


def _measured_blocks(quantise: Quantise, blocks: Blocks, judge: Judge, journal: Journal, end: float,
                     on_progress: OnProgress) -> list[BlockRow]:
    """One row per block, in graph order; blocks that time does not suffice for are taken for the most harmless."""
    every = [node for nodes in blocks.values() for node in nodes]
    whole = quantise([])

    def measured(block: str) -> list[float]:
        noise, shift = judge.probe(quantise([node for node in every if node not in blocks[block]]))
        quick, slow = judge.ms_per_frame([whole, quantise(blocks[block])])
        return [noise, shift, slow - quick]

    found: dict[str, list[float]] = {}
    for done, block in enumerate(blocks):
        if time.monotonic() >= end:
            log.warning("the search ran out of time after %d of %d blocks", done, len(blocks))
            break
        on_progress("measuring each block", done, len(blocks))
        found[block] = journal.value(f"block {block}", partial(measured, block))
    total = sum(noise for noise, _, _ in found.values()) or 1.0
    # A difference of two timings can come out at zero or below: then the block costs as good as nothing.
    least_ms = max(1e-2 * max((ms for _, _, ms in found.values()), default=1.0), 1e-6)
    rows = []
    for block, nodes in blocks.items():
        noise, shift, float_ms = found.get(block, (0.0, 0.0, 0.0))
        rows.append(BlockRow(block, len(nodes), "int8", noise / total, shift, max(float_ms, least_ms)))
    return rows
