"""Packing of one stage's weights: the choice of bits and group, and of the blocks that stay in float32.

    4 bits, in groups of 128, 64 or 32: the largest inside the budget          8 bits: the same
         │ none                                                                     │ none
    some kinds of layers (all down projections, say) in 8 bits                      │
         │ not enough                                                               │
    some blocks in float32, as ``calibration.search`` finds them               the same
         │                                                                          │
    points within the budget timed in turns with floating point; the fastest is chosen, the smallest if times are equal

These graphs are made without samples; the gate's samples choose between them.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import onnx

from vidrisk import __version__
from vidrisk.calibration.blocks import Blocks, blocks_from_names
from vidrisk.calibration.cache import key_of
from vidrisk.calibration.files import fingerprint
from vidrisk.calibration.journal import Journal
from vidrisk.calibration.nbits import Bits, WeightGrid
from vidrisk.calibration.points import Budget, Point, choose_point
from vidrisk.calibration.recipe import Trial
from vidrisk.calibration.search import MEASURING, NOT_FINITE, BlockRow, Points, Search, time_promising
from vidrisk.calibration.weight_only import Packing, WeightPacker
from vidrisk.export.gate.judge import SearchJudge
from vidrisk.export.quantize.quantized import Quantized, lead_judge
from vidrisk.export.quantize.readable import reading_fault
from vidrisk.runtimes.contract.errors import DataError, RuntimeFailure
from vidrisk.runtimes.contract.manifest import Precision
from vidrisk.runtimes.contract.progress import OnProgress

log = logging.getLogger(__name__)

WIDTHS: tuple[Bits, ...] = (4, 8)
GRIDS = tuple(WeightGrid(bits, group) for bits in WIDTHS for group in (128, 64, 32))
PRECISION_OF: dict[Bits, Precision] = {4: "int4", 8: "int8-weight-only"}


def pack_stage(
    path: Path,
    packer: WeightPacker,
    judges: Mapping[str, SearchJudge],
    budget: Budget,
    cache: Path,
    on_progress: OnProgress,
    refused: Collection[tuple[str, ...]] = (),
) -> Quantized:
    """Find the fastest graph of a stage with packed weights inside the budget.

    Args:
        path: the float ONNX file that ``packer`` packs.
        packer: makes graphs with packed weights.
        judges: by runtime; the one on which packed weights are fastest is used. Grids that one of them misreads are
            left out.
        budget: limits for accuracy and time.
        cache: folder that stores measurements for the next export of the same model.
        on_progress: called at each step.
        refused: ``Point.choice`` of points that the gate has refused.

    Raises:
        DataError: the graph has no weights to pack, or some that are not finite.
        RuntimeFailure: no width is readable by all runtimes.
    """
    if not packer.nodes:
        raise DataError(
            f"{path.name} has no weights to pack",
            allowed="products with a constant float32 matrix",
            fix="do without INT8",
        )
    grids = _readable_grids(judges)
    settings = {
        "vidrisk": __version__,
        "grids": [str(grid) for grid in grids],
        "judges": [judge.identity for judge in judges.values()],
    }
    journal = Journal(cache / f"{key_of(fingerprint(packer.model), [], settings)}.jsonl")
    judge = lead_judge(judges, partial(packer.pack, Packing(grids[0])), packer.model, path, journal)
    search = _Search(packer, blocks_from_names(packer.nodes), judge, budget, journal, on_progress, refused)
    search.try_whole(grids)
    search.try_wide(grids)
    search.try_mixed()
    return search.choose()


def _readable_grids(runtimes: Collection[str]) -> list[WeightGrid]:
    readable = []
    for grid in GRIDS:
        faults = [f"{runtime}: {fault}" for runtime in runtimes if (fault := reading_fault(runtime, grid))]
        if faults:
            log.warning("%s are left out: %s", grid, "; ".join(faults))
        else:
            readable.append(grid)
    if not readable:
        raise RuntimeFailure(
            "the runtimes here read no packed weights",
            allowed="versions that run MatMulNBits of 4 or 8 bits",
            fix="install newer ones, or do without INT8",
        )
    return readable


@dataclass
class _Search:
    """State of a search.

    Attributes:
        tried: judged points by packing; the coarser groups of a width first.
        rows: measurements of blocks, by packing.
    """

    packer: WeightPacker
    blocks: Blocks
    judge: SearchJudge
    budget: Budget
    journal: Journal
    on_progress: OnProgress
    refused: Collection[tuple[str, ...]]
    tried: dict[Packing, Points] = field(default_factory=dict)
    rows: dict[Packing, list[BlockRow]] = field(default_factory=dict)
    begin: float = field(default_factory=time.monotonic)

    @property
    def end(self) -> float:
        return self.begin + self.budget.seconds

    @property
    def has_time(self) -> bool:
        return time.monotonic() < self.end

    def try_whole(self, grids: Collection[WeightGrid]) -> None:
        """Judge grids with nothing in floating point: in each width, down to the largest group that is inside.

        The first grid of a width is judged even without time left, as long as no grid is inside.
        """
        for grid in grids:
            of_width = self._grids(grid.bits)
            if not self._has_inside(grid.bits) and (self.has_time or not (of_width or self._has_inside(*WIDTHS))):
                self._is_inside(Packing(grid))

    def try_wide(self, grids: Collection[WeightGrid]) -> None:
        """Search the kinds of layers that are in 8 bits while others are in 4.

        This applies if 8 bits everywhere are inside and 4 are not. Kinds that save most noise per byte come first; the
        fewest that suffice are chosen.
        """
        narrow, kinds = self._grids(4), self.packer.kinds
        if len(kinds) < 2 or not narrow or self._has_inside(4) or not self._has_inside(8) or not self.has_time:
            return
        finest = narrow[-1]
        if WeightGrid(8, finest.group) not in grids:
            return
        order = sorted(kinds, key=lambda kind: -self._noise(finest, kind) / self._further_bytes(finest, kind))
        too_few, enough = 0, len(order)
        while enough - too_few > 1 and self.has_time:
            middle = (too_few + enough) // 2
            is_inside = self._is_inside(Packing(finest, tuple(order[:middle])))
            too_few, enough = (too_few, middle) if is_inside else (middle, enough)
        for grid in narrow[:-1] if enough < len(order) else ():
            if (
                WeightGrid(8, grid.group) in grids
                and self.has_time
                and self._is_inside(Packing(grid, tuple(order[:enough])))
            ):
                break

    def try_mixed(self) -> None:
        """Search, in each width that is not inside, the blocks that stay in floating point with its finest groups."""
        for bits in WIDTHS:
            if len(self.blocks) > 1 and self._grids(bits) and not self._has_inside(bits) and self.has_time:
                now, packing = time.monotonic(), Packing(self._grids(bits)[-1])
                self.rows[packing] = self.tried[packing].explore(now + MEASURING * (self.end - now))

    def choose(self) -> Quantized:
        """Time the promising points, and choose."""
        by_name = {str(packing): packing for packing in self.tried}
        every = [
            replace(point, recipe=str(packing), size_bytes=self.packer.size_bytes(packing, self._nodes(point)))
            for packing, points in self.tried.items()
            for point in points.list_judged()
        ]
        every.sort(key=lambda point: point.size_bytes)

        def graph(point: Point) -> onnx.ModelProto:
            return self.packer.pack(by_name[point.recipe], self._nodes(point))

        if self.has_time:
            every = time_promising(every, graph, self.judge, self.journal)
        best, reason = choose_point(every)
        packing = by_name[best.recipe]
        trials = tuple(
            Trial(each, self.journal.value(f"sqnr {each}", partial(self._sqnr_db, each)), each == packing)
            for each in self.tried
            if each == packing or self.has_time
        )
        rows = tuple(
            replace(row, precision="float" if row.block in best.float_blocks else f"int{packing.grid.bits}")
            for row in self.rows.get(packing, [])
        )
        return Quantized(
            graph(best),
            None,
            self.judge.runtime,
            trials,
            Search(best, reason, rows, tuple(every)),
            PRECISION_OF[packing.grid.bits],
        )

    def _is_inside(self, packing: Packing) -> bool:
        """Judge a packing with nothing in floating point."""
        refused = {choice[1:] for choice in self.refused if choice[0] == str(packing)}
        self.tried[packing] = Points(
            partial(self.packer.pack, packing),
            self.blocks,
            self.judge,
            self.budget,
            self.journal.within(str(packing)),
            self.end,
            self.on_progress,
            refused,
        )
        return self.tried[packing].at(()).inside

    def _has_inside(self, *widths: Bits) -> bool:
        return any(points.at(()).inside for packing, points in self.tried.items() if packing.grid.bits in widths)

    def _grids(self, bits: Bits) -> list[WeightGrid]:
        """Return the grids of a width that were tried on the whole graph."""
        return [packing.grid for packing in self.tried if packing.grid.bits == bits and not packing.wide]

    def _noise(self, grid: WeightGrid, kind: str) -> float:
        """Return the noise that one kind of layers adds to the features when only it is packed."""
        others = [name for name in self.packer.nodes if name not in self.packer.kinds[kind]]

        def measure() -> float:
            noise, _ = self.judge.probe(self.packer.pack(Packing(grid), others))
            return noise if math.isfinite(noise) else NOT_FINITE

        return float(self.journal.value(f"noise of {kind} in {grid}", measure))

    def _further_bytes(self, grid: WeightGrid, kind: str) -> int:
        return self.packer.size_bytes(Packing(grid, (kind,))) - self.packer.size_bytes(Packing(grid))

    def _sqnr_db(self, packing: Packing) -> float:
        return self.judge.sqnr_db(self.packer.pack(packing))

    def _nodes(self, point: Point) -> list[str]:
        return [node for block in point.float_blocks for node in self.blocks[block]]
