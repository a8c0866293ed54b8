"""INT8 of a stage that no label judges: the recipe with the least noise in the stage's outputs.

Blocks stay in floating point if the noise is too high. The cost of a block is ignored, since such a stage takes a small
part of the time of a report.
"""

from __future__ import annotations

import logging
import math
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx

from vidrisk.calibration.blocks import Blocks, blocks_from_net
from vidrisk.calibration.files import SHARED, load_graph, save_trial
from vidrisk.calibration.graph import Net, check_float
from vidrisk.calibration.journal import Journal
from vidrisk.calibration.profiles import Profile
from vidrisk.calibration.qdq import tensors_to_quantize
from vidrisk.calibration.recipe import Quantizer, choose_int8_recipe
from vidrisk.export.quantize.feeds import StageFeeds
from vidrisk.export.quantize.int8 import migrate, observe
from vidrisk.runtimes.contract.progress import OnProgress
from vidrisk.runtimes.registry import BUNDLE_RUNTIMES
from vidrisk.runtimes.runner import Arrays

log = logging.getLogger(__name__)

PROBE_FRAMES = 32


@dataclass(frozen=True)
class QuantizedByNoise:
    """A Q/DQ graph.

    Attributes:
        sqnr_db: signal-to-noise ratio of its outputs, in decibels.
        float_blocks: blocks in floating point.
    """

    model: onnx.ModelProto
    sqnr_db: float
    float_blocks: tuple[str, ...]


def quantize_by_noise(
    path: Path,
    feeds: StageFeeds,
    profile: Profile,
    cache: Path,
    on_progress: OnProgress,
    *,
    least_db: Sequence[float],
    seconds: float = math.inf,
    runtime: str = "onnxruntime",
) -> Iterator[QuantizedByNoise]:
    """Quantise a stage, with less noise for each further graph that is requested.

    Args:
        path: the float ONNX file.
        feeds: inputs of the stage from the calibration data; the first of them also measure the noise.
        profile: how to quantise.
        cache: folder that stores statistics for the next export.
        on_progress: called at each step.
        least_db: signal-to-noise ratios, in decibels, that graphs must reach, in ascending order.
        seconds: limit for the block search; no block is measured after it.
        runtime: that measures the noise.

    Yields:
        For each of ``least_db`` the graph with the fewest blocks in floating point, each graph once; nothing if all
        blocks would be in floating point.

    Raises:
        DataError: the graph is already quantised, samples do not fit it, or there are fewer than 16.
    """
    model = load_graph(path, path.parent / SHARED)
    check_float(model)
    few = [
        {name: array for name, array in feed.items() if name not in feeds.stage.constants}
        for feed in feeds.few(PROBE_FRAMES)
    ]
    exact = _compute(path, feeds, few, runtime)

    def sqnr_db(trial: onnx.ModelProto) -> float:
        with tempfile.TemporaryDirectory(prefix=f".{SHARED}-", dir=path.parent) as work:
            save_trial(trial, Path(work) / "trial.onnx")
            found = _compute(Path(work) / "trial.onnx", feeds, few, runtime)
        noise = sum(float(np.square(a - b, dtype=np.float64).sum()) for a, b in zip(found, exact, strict=True))
        power = sum(float(np.square(each, dtype=np.float64).sum()) for each in exact)
        if not np.isfinite(noise):
            return -np.inf
        return float(10 * np.log10(power / noise)) if noise and power else 99.0

    net = Net(model)
    plain = observe(model, tensors_to_quantize(net), feeds, cache, on_progress)
    quantizer = Quantizer(plain, migrate(plain, sqnr_db, feeds, cache, on_progress), profile)
    trials = choose_int8_recipe(
        quantizer, sqnr_db, Journal(), lambda done, total: on_progress("choosing a recipe", done, total)
    )
    recipe = next(trial.recipe for trial in trials if trial.chosen)
    search = _BlockSearch(
        blocks_from_net(net), lambda nodes: quantizer.quantize(recipe, nodes), sqnr_db, on_progress, seconds
    )
    before = -1
    for least in least_db:
        count = search.count_float_blocks(least)
        if before < count < len(search.blocks):
            yield search.graph(count)
        before = count


class _BlockSearch:
    """A search for how many blocks have to stay in floating point, noisiest first.

    A block's noise is measured with this block alone quantised.

    Args:
        quantize: names of nodes to keep in floating point → graph.
        sqnr_db: signal-to-noise ratio of a graph.
        seconds: blocks that are not measured in time count as the most harmless.
    """

    def __init__(
        self,
        blocks: Blocks,
        quantize: Callable[[Collection[str]], onnx.ModelProto],
        sqnr_db: Callable[[onnx.ModelProto], float],
        on_progress: OnProgress,
        seconds: float,
    ) -> None:
        self.blocks, self.quantize, self.sqnr_db, self.on_progress = blocks, quantize, sqnr_db, on_progress
        self._seconds = seconds
        self._known: dict[int, float] = {}

    def count_float_blocks(self, least_db: float) -> int:
        """Return the fewest blocks, noisiest first, that must stay in floating point to reach ``least_db``."""
        if self._db(0) >= least_db:
            return 0
        too_few, enough = 0, len(self.blocks)
        while enough - too_few > 1:
            middle = (too_few + enough) // 2
            too_few, enough = (too_few, middle) if self._db(middle) >= least_db else (middle, enough)
        return enough

    def graph(self, count: int) -> QuantizedByNoise:
        """Return the graph with the ``count`` noisiest blocks in floating point."""
        return QuantizedByNoise(
            self.quantize(self._nodes(count)), self._db(count), tuple(self.order[:count]) if count else ()
        )

    @cached_property
    def order(self) -> list[str]:
        """Blocks, the noisiest first."""
        every = {node for nodes in self.blocks.values() for node in nodes}
        alone: dict[str, float] = {}
        end = time.monotonic() + self._seconds
        for done, (block, nodes) in enumerate(self.blocks.items()):
            if time.monotonic() >= end:
                log.warning("the block search ran out of time after %d of %d blocks", done, len(self.blocks))
                break
            self.on_progress("measuring each block", done, len(self.blocks))
            alone[block] = self.sqnr_db(self.quantize(every.difference(nodes)))
        return sorted(self.blocks, key=lambda block: alone.get(block, math.inf))

    def _db(self, count: int) -> float:
        if count not in self._known:
            self._known[count] = self.sqnr_db(self.quantize(self._nodes(count)))
        return self._known[count]

    def _nodes(self, count: int) -> list[str]:
        return [node for block in self.order[:count] for node in self.blocks[block]] if count else []


def _compute(path: Path, feeds: StageFeeds, few: list[Arrays], runtime: str) -> list[np.ndarray]:
    """Return the first output of the stage, for each batch."""
    stage = feeds.stage
    constants = {name: feeds.constants[name] for name in stage.constants}
    with BUNDLE_RUNTIMES[runtime](path, stage.inputs, stage.outputs, constants=constants) as runner:
        return [np.array(runner.infer(feed)[stage.outputs[0].name], np.float32) for feed in few]
