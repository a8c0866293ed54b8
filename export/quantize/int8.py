"""From a float ONNX graph of one stage to the quantised one: observe, choose a recipe, search the precision of every block."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from vidrisk import __version__
from vidrisk.calibration.blocks import blocks_from_net
from vidrisk.calibration.cache import key_of, load_statistics, save_statistics
from vidrisk.calibration.files import SHARED, fingerprint, load_graph
from vidrisk.calibration.graph import Net, checked_float
from vidrisk.calibration.histogram import BINS
from vidrisk.calibration.journal import Journal
from vidrisk.calibration.migration import equalised_from_float, migrated_tensors, smoothed_from_float
from vidrisk.calibration.observers import observed_statistics, ranges_from_statistics
from vidrisk.calibration.points import Budget
from vidrisk.calibration.profiles import Profile
from vidrisk.calibration.qdq import quantised_tensors
from vidrisk.calibration.recipe import Observed, Quantiser, Recipe, chosen_recipe
from vidrisk.calibration.search import search_precision
from vidrisk.export.gate.judge import SearchJudge
from vidrisk.export.gate.outputs import Validation
from vidrisk.export.quantize.feeds import MIN_CALIBRATION, CalibrationFrames, StageFeeds
from vidrisk.export.quantize.quantized import Quantized, lead_judge
from vidrisk.runtimes.contract.errors import DataError
from vidrisk.runtimes.contract.progress import OnProgress
from vidrisk.runtimes.runner import Array

log = logging.getLogger(__name__)

COVERAGE_FRAMES = 64
MAX_OUTSIDE = 0.5  # of the validation pixels, beyond what calibration has seen
SAME_DB = 80.0  # signal to noise of two float graphs that are the same function


def quantize_stage(
    path: Path,
    feeds: StageFeeds,
    profile: Profile,
    judges: Mapping[str, SearchJudge],
    budget: Budget,
    cache: Path,
    on_progress: OnProgress,
    refused: Collection[tuple[str, ...]] = (),
) -> Quantized:
    """Find the fastest quantised graph of a stage inside the budget, as ``calibration.search`` does.

    Args:
        path: the float ONNX file.
        feeds: what the stage sees of the calibration data.
        judges: by runtime; the one on which plain INT8 is fastest is asked.
        refused: blocks in floating point of points that the gate has refused.
        cache: folder where measurements stay for the next export of the same model with the same data.

    Raises:
        DataError: the graph is quantised already, samples that do not fit it, or fewer than 16.
    """
    model = load_graph(path, path.parent / SHARED)
    checked_float(model)
    net = Net(model)
    blocks = blocks_from_net(net)
    plain = observe(model, quantised_tensors(net), feeds, cache, on_progress)
    settings = {
        "vidrisk": __version__,
        "profile": profile.name,
        "judges": [judge.identity for judge in judges.values()],
    }
    journal = Journal(cache / f"{_key(model, feeds, settings)}.jsonl")
    simple = Quantiser(plain, plain, profile).quantised(Recipe())
    judge = lead_judge(judges, lambda: simple, model, path, journal)
    quantiser = Quantiser(plain, migrate(plain, judge.sqnr_db, feeds, cache, on_progress), profile)
    trials = chosen_recipe(
        quantiser, judge.sqnr_db, journal, lambda done, total: on_progress("choosing a recipe", done, total)
    )
    recipe = next(trial.recipe for trial in trials if trial.chosen)
    search = search_precision(
        lambda kept: quantiser.quantised(recipe, kept), blocks, judge, budget, journal, on_progress, refused
    )
    kept = [node for block in search.best.float_blocks for node in blocks[block]]
    equal = quantiser.migrated.model if recipe.migrated else None
    return Quantized(
        quantiser.quantised(recipe, kept), equal, judge.runtime, tuple(trials), search, "mixed" if kept else "int8"
    )


def coverage_refusal(calibration: CalibrationFrames, validation: Validation) -> str:
    """Why frames are nothing like the validation frames, such as black ones, or another camera's; empty when they may be."""
    few = list(islice(calibration, COVERAGE_FRAMES))
    if not few:
        return ""  # said later, with what is allowed
    low, high = int(min(frame.min() for frame in few)), int(max(frame.max() for frame in few))
    pixels = np.bincount(validation.frames[:COVERAGE_FRAMES].ravel(), minlength=256)
    outside = 1 - float(pixels[low : high + 1].sum() / pixels.sum())
    if outside <= MAX_OUTSIDE:
        return ""
    return (
        f"the calibration frames hold pixel values from {low} to {high} only, and {outside:.0%} of the validation pixels lie "
        "outside"
    )


def layer_ranges(
    model: onnx.ModelProto, feeds: StageFeeds, profile: Profile, cache: Path, on_progress: OnProgress
) -> dict[str, tuple[float, float]]:
    """Ranges of the inputs of weighted layers, by the path of the module that each comes from."""
    net = Net(model)
    observed = observe(model, quantised_tensors(net), feeds, cache, on_progress)
    ranges = ranges_from_statistics(observed.statistics, "minmax", symmetric=profile.symmetric)
    return {node.name.partition("/")[0]: ranges[node.input[0]] for node in net.nodes if net.is_weighted(node)}


def observe(
    model: onnx.ModelProto, tensors: set[str], feeds: StageFeeds, cache: Path, on_progress: OnProgress
) -> Observed:
    """Collect statistics of activations, or take those of an earlier export with the same data."""
    key = _key(model, feeds, {"bins": BINS, "tensors": sorted(tensors)})
    statistics = load_statistics(cache, key)
    if statistics is None:
        statistics = observed_statistics(model, _counted(feeds, on_progress), names=tensors)
        save_statistics(cache, key, statistics)
    return Observed(model, statistics)


def _key(model: onnx.ModelProto, feeds: StageFeeds, settings: dict[str, Any]) -> str:
    return key_of(fingerprint(model), feeds.digest, settings)


def migrate(
    plain: Observed,
    sqnr_db: Callable[[onnx.ModelProto], float],
    feeds: StageFeeds,
    cache: Path,
    on_progress: OnProgress,
) -> Observed:
    """Move range into the weights: the same function. Only what changed is observed again.

    Args:
        sqnr_db: signal to noise of a graph of the same stage.
    """
    model = equalised_from_float(smoothed_from_float(plain.model, plain.statistics), plain.statistics)
    changed = plain.statistics.keys() & migrated_tensors(plain.model)
    if not changed:
        return plain
    if sqnr_db(model) < SAME_DB:
        log.warning("moving range into the weights rounds too much in float32 here: left out")
        return plain
    return Observed(model, plain.statistics | observe(model, changed, feeds, cache, on_progress).statistics)


def _counted(feeds: StageFeeds, on_progress: OnProgress) -> Iterator[dict[str, Array]]:
    """Batches for the graph's inputs.

    Raises:
        DataError: samples of another size than the contract's, or too few.
    """
    seen = 0
    for count, feed in feeds.batches():
        seen += count
        on_progress("observing activations", seen, max(feeds.count, seen))
        yield feed
    if seen < MIN_CALIBRATION:
        what = "frames" if feeds.is_per_frame else "windows"
        raise DataError(
            f"{seen} calibration {what}", allowed=f"at least {MIN_CALIBRATION}", fix="give more calibration samples"
        )
