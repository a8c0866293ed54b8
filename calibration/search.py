"""The precision search: which blocks stay in floating point, so that the rest may be 8 bits wide.

    all in 8 bits ── inside the budget? ── done
         │ no
    each block alone in 8 bits: its share of the noise;  each block alone in float: the time it costs
         │
    blocks into floating point, those first that remove most noise per millisecond; fewest that suffice (bisection)
         │
    blocks back into 8 bits, the dearest first, as long as the point stays inside
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import onnx

from vidrisk.calibration.blocks import Blocks
from vidrisk.calibration.journal import Journal

log = logging.getLogger(__name__)

OnProgress = Callable[[str, int, int], None]
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
    """One choice of blocks in floating point, and how it was judged."""

    float_blocks: tuple[str, ...]
    agreement: float
    drop_points: float
    inside: bool


@dataclass(frozen=True)
class Search:
    """Attributes:
        best: the point inside the budget with the most 8-bit work; where none is, the one that agrees best. At least one of its
            blocks is in 8 bits.
        rows: empty when 8 bits everywhere were good enough.
    """

    best: Point
    rows: tuple[BlockRow, ...]
    points: tuple[Point, ...]


def searched_precision(quantise: Callable[[Collection[str]], onnx.ModelProto], blocks: Blocks, judge: Judge, budget: Budget,
                       journal: Journal, on_progress: OnProgress) -> Search:
    """Find the fastest point inside the budget.

    Args:
        quantise: names of nodes to keep in floating point → quantised graph.
        journal: measurements that are not repeated.
    """
    begin = time.monotonic()
    end = begin + budget.seconds
    points: dict[tuple[str, ...], Point] = {}

    def in_order(float_blocks: Collection[str]) -> tuple[str, ...]:
        return tuple(block for block in blocks if block in float_blocks)

    def at(float_blocks: Collection[str]) -> Point:
        kept = in_order(float_blocks)
        if kept not in points:
            on_progress("trying mixed precision", len(points), len(points) + 1)
            nodes = [node for block in kept for node in blocks[block]]
            agreement, drop = journal.value(f"point {kept}", lambda: judge.verdict(quantise(nodes)))
            inside = agreement >= budget.min_agreement and drop <= budget.max_drop + 1e-9
            points[kept] = Point(kept, agreement, drop, inside)
            log.info("%d of %d blocks in float: agreement %.2f %%, drop %.2f points", len(kept), len(blocks), 100 * agreement, drop)
        return points[kept]

    def is_inside(float_blocks: Collection[str]) -> bool:
        """What there was no time to judge does not count as inside."""
        return (in_order(float_blocks) in points or time.monotonic() < end) and at(float_blocks).inside

    if at(()).inside or not blocks:
        return Search(points[()], (), tuple(points.values()))
    measured = _measured_blocks(quantise, blocks, judge, journal, begin + MEASURING * budget.seconds, on_progress)
    order = [row.block for row in sorted(measured, key=lambda row: -row.noise_share / row.float_ms)]
    too_few, enough = 0, len(order)
    while enough - too_few > 1 and time.monotonic() < end:
        middle = (too_few + enough) // 2
        too_few, enough = (too_few, middle) if at(order[:middle]).inside else (middle, enough)
    chosen = order[:enough]
    cost = {row.block: row.float_ms for row in measured}
    for block in sorted(chosen, key=lambda block: -cost[block])[:MAX_RETURNS] if is_inside(chosen) else ():
        fewer = [other for other in chosen if other != block]
        if is_inside(fewer):
            chosen = fewer
    points.pop(tuple(blocks), None)  # everything in floating point is no quantised model
    kept = in_order(chosen)
    best = points[kept] if kept in points and points[kept].inside else max(
        points.values(), key=lambda point: (point.inside, point.agreement))
    rows = tuple(_with_precision(row, best) for row in measured)
    return Search(best, rows, tuple(points.values()))


def _measured_blocks(quantise: Callable[[Collection[str]], onnx.ModelProto], blocks: Blocks, judge: Judge, journal: Journal,
                     end: float, on_progress: OnProgress) -> list[BlockRow]:
    """One row per block, in graph order; blocks that time does not suffice for are taken for the most harmless."""
    every = [node for nodes in blocks.values() for node in nodes]
    whole = quantise([])
    measured: dict[str, tuple[float, float, float]] = {}
    for done, (block, nodes) in enumerate(blocks.items()):
        if time.monotonic() >= end:
            log.warning("the search ran out of time after %d of %d blocks", done, len(blocks))
            break
        on_progress("measuring each block", done, len(blocks))
        inside = set(nodes)

        def measure(nodes: tuple[str, ...] = nodes, inside: set[str] = inside) -> list[float]:
            noise, shift = judge.probe(quantise([node for node in every if node not in inside]))
            quick, slow = judge.ms_per_frame([whole, quantise(nodes)])
            return [noise, shift, slow - quick]

        noise, shift, float_ms = journal.value(f"block {block}", measure)
        measured[block] = noise, shift, float_ms
    total = sum(noise for noise, _, _ in measured.values()) or 1.0
    # A difference of two timings can come out at zero or below: then the block costs as good as nothing.
    least = 1e-2 * max((ms for _, _, ms in measured.values()), default=1.0)
    least = max(least, 1e-6)
    return [BlockRow(block, len(nodes), "int8", *_shares(measured.get(block), total, least)) for block, nodes in blocks.items()]


def _shares(found: tuple[float, float, float] | None, total: float, least_ms: float) -> tuple[float, float, float]:
    return (found[0] / total, found[1], max(found[2], least_ms)) if found else (0.0, 0.0, least_ms)


def _with_precision(row: BlockRow, best: Point) -> BlockRow:
    precision = "float" if row.block in best.float_blocks else "int8"
    return BlockRow(row.block, row.nodes, precision, row.noise_share, row.probability_shift, row.float_ms)
