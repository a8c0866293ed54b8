"""INT8 of a stage that no label judges: the recipe with the least noise in what the stage gives, and blocks in floating point where
that is too much. What a block costs is not asked: such a stage is a small part of the time that a report takes.
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
from vidrisk.calibration.graph import Net, checked_float
from vidrisk.calibration.journal import Journal
from vidrisk.calibration.profiles import Profile
from vidrisk.calibration.qdq import quantised_tensors
from vidrisk.calibration.recipe import Quantiser, chosen_recipe
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
        sqnr_db: signal to noise of what it gives, in decibels.
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
    """Quantize a stage, and again with less noise when the next graph is asked for.

    Args:
        path: the float ONNX file.
        feeds: what the stage sees of the calibration data; the first of it also measures the noise.
        cache: folder where statistics stay for the next export.
        least_db: signal to noise, in decibels, that graphs are wanted for, least first.
        seconds: of the search of blocks; none is measured after it.

    Yields:
        For each of ``least_db`` the graph with fewest blocks in floating point, each graph once; none where all would
        be.

    Raises:
        DataError: the graph is quantised already, samples that do not fit it, or fewer than 16.
    """
    model = load_graph(path, path.parent / SHARED)
    checked_float(model)
    few = [
        {name: array for name, array in feed.items() if name not in feeds.stage.constants}
        for feed in feeds.few(PROBE_FRAMES)
    ]
    exact = _computed(path, feeds, few, runtime)

    def sqnr_db(trial: onnx.ModelProto) -> float:
        with tempfile.TemporaryDirectory(prefix=f".{SHARED}-", dir=path.parent) as work:
            save_trial(trial, Path(work) / "trial.onnx")
            found = _computed(Path(work) / "trial.onnx", feeds, few, runtime)
        noise = sum(float(np.square(a - b, dtype=np.float64).sum()) for a, b in zip(found, exact, strict=True))
        power = sum(float(np.square(each, dtype=np.float64).sum()) for each in exact)
        if not np.isfinite(noise):
            return -np.inf
        return float(10 * np.log10(power / noise)) if noise and power else 99.0

    net = Net(model)
    plain = observe(model, quantised_tensors(net), feeds, cache, on_progress)
    quantiser = Quantiser(plain, migrate(plain, sqnr_db, feeds, cache, on_progress), profile)
    trials = chosen_recipe(
        quantiser, sqnr_db, Journal(), lambda done, total: on_progress("choosing a recipe", done, total)
    )
    recipe = next(trial.recipe for trial in trials if trial.chosen)
    search = _BlockSearch(
        blocks_from_net(net), lambda nodes: quantiser.quantised(recipe, nodes), sqnr_db, on_progress, seconds
    )
    before = -1
    for least in least_db:
        count = search.count_float_blocks(least)
        if before < count < len(search.blocks):
            yield search.graph(count)
        before = count


class _BlockSearch:
    """How many blocks have to stay in floating point, those first that make most noise alone.

    Args:
        quantised: names of nodes to keep in floating point → graph.
        sqnr_db: signal to noise of a graph.
        seconds: blocks that time does not suffice for are taken for the most harmless.
    """

    def __init__(
        self,
        blocks: Blocks,
        quantised: Callable[[Collection[str]], onnx.ModelProto],
        sqnr_db: Callable[[onnx.ModelProto], float],
        on_progress: OnProgress,
        seconds: float,
    ) -> None:
        self.blocks, self.quantised, self.sqnr_db, self.on_progress = blocks, quantised, sqnr_db, on_progress
        self._seconds = seconds
        self._known: dict[int, float] = {}

    def count_float_blocks(self, least_db: float) -> int:
        """Return the fewest blocks, in the order of their noise, without which the graph has ``least_db``."""
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
            self.quantised(self._nodes(count)), self._db(count), tuple(self.order[:count]) if count else ()
        )

    @cached_property
    def order(self) -> list[str]:
        """Blocks, the noisiest first."""
        every = {node for nodes in self.blocks.values() for node in nodes}
        alone: dict[str, float] = {}
        end = time.monotonic() + self._seconds
        for done, (block, nodes) in enumerate(self.blocks.items()):
            if time.monotonic() >= end:
                log.warning("the search ran out of time after %d of %d blocks", done, len(self.blocks))
                break
            self.on_progress("measuring each block", done, len(self.blocks))
            alone[block] = self.sqnr_db(self.quantised(every.difference(nodes)))
        return sorted(self.blocks, key=lambda block: alone.get(block, math.inf))

    def _db(self, count: int) -> float:
        if count not in self._known:
            self._known[count] = self.sqnr_db(self.quantised(self._nodes(count)))
        return self._known[count]

    def _nodes(self, count: int) -> list[str]:
        return [node for block in self.order[:count] for node in self.blocks[block]] if count else []


def _computed(path: Path, feeds: StageFeeds, few: list[Arrays], runtime: str) -> list[np.ndarray]:
    """The first output of the stage, for each batch."""
    stage = feeds.stage
    constants = {name: feeds.constants[name] for name in stage.constants}
    with BUNDLE_RUNTIMES[runtime](path, stage.inputs, stage.outputs, constants=constants) as runner:
        return [np.array(runner.infer(feed)[stage.outputs[0].name], np.float32) for feed in few]
