"""Quantisation of one stage's float ONNX graph: observe, choose a recipe, search the precision of every block."""

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
from vidrisk.calibration.graph import Net, check_float
from vidrisk.calibration.histogram import BINS
from vidrisk.calibration.journal import Journal
from vidrisk.calibration.migration import equalize_layers, migratable_tensors, smooth_activations
from vidrisk.calibration.observers import observe_statistics, ranges_from_statistics
from vidrisk.calibration.points import Budget
from vidrisk.calibration.profiles import Profile
from vidrisk.calibration.qdq import tensors_to_quantize
from vidrisk.calibration.recipe import Observed, Quantizer, Recipe, choose_int8_recipe
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
MAX_OUTSIDE = 0.5  # largest share of validation pixels outside the range of the calibration pixels
SAME_DB = 80.0  # signal-to-noise ratio above which two float graphs are the same function


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
        feeds: inputs of the stage from the calibration data.
        profile: how to quantise.
        judges: by runtime; the one on which plain INT8 is fastest is used.
        budget: limits for accuracy and time.
        cache: folder that stores measurements for the next export of the same model with the same data.
        on_progress: called at each step.
        refused: blocks in floating point of points that the gate has refused.

    Raises:
        DataError: the graph is already quantised, samples do not fit it, or there are fewer than 16.
    """
    model = load_graph(path, path.parent / SHARED)
    check_float(model)
    net = Net(model)
    blocks = blocks_from_net(net)
    plain = observe(model, tensors_to_quantize(net), feeds, cache, on_progress)
    settings = {
        "vidrisk": __version__,
        "profile": profile.name,
        "judges": [judge.identity for judge in judges.values()],
    }
    journal = Journal(cache / f"{_key(model, feeds, settings)}.jsonl")
    simple = Quantizer(plain, plain, profile).quantize(Recipe())
    judge = lead_judge(judges, lambda: simple, model, path, journal)
    quantizer = Quantizer(plain, migrate(plain, judge.sqnr_db, feeds, cache, on_progress), profile)
    trials = choose_int8_recipe(
        quantizer, judge.sqnr_db, journal, lambda done, total: on_progress("choosing a recipe", done, total)
    )
    recipe = next(trial.recipe for trial in trials if trial.chosen)
    search = search_precision(
        lambda kept: quantizer.quantize(recipe, kept), blocks, judge, budget, journal, on_progress, refused
    )
    kept = [node for block in search.best.float_blocks for node in blocks[block]]
    equal = quantizer.migrated.model if recipe.migrated else None
    return Quantized(
        quantizer.quantize(recipe, kept), equal, judge.runtime, tuple(trials), search, "mixed" if kept else "int8"
    )


def coverage_refusal(calibration: CalibrationFrames, validation: Validation) -> str:
    """Return why frames do not resemble the validation frames, or an empty string if they do.

    Examples are black frames, or those of another camera.
    """
    few = list(islice(calibration, COVERAGE_FRAMES))
    if not few:
        return ""  # reported later, with the allowed number
    low, high = int(min(frame.min() for frame in few)), int(max(frame.max() for frame in few))
    pixels = np.bincount(validation.frames[:COVERAGE_FRAMES].ravel(), minlength=256)
    outside = 1 - float(pixels[low : high + 1].sum() / pixels.sum())
    if outside <= MAX_OUTSIDE:
        return ""
    return (
        f"the calibration frames only have pixel values from {low} to {high}; {outside:.0%} of the validation pixels "
        "lie outside"
    )


def layer_ranges(
    model: onnx.ModelProto, feeds: StageFeeds, profile: Profile, cache: Path, on_progress: OnProgress
) -> dict[str, tuple[float, float]]:
    """Return input ranges of weighted layers, by the path of each layer's module."""
    net = Net(model)
    observed = observe(model, tensors_to_quantize(net), feeds, cache, on_progress)
    ranges = ranges_from_statistics(observed.statistics, "minmax", symmetric=profile.symmetric)
    return {node.name.partition("/")[0]: ranges[node.input[0]] for node in net.nodes if net.is_weighted(node)}


def observe(
    model: onnx.ModelProto, tensors: set[str], feeds: StageFeeds, cache: Path, on_progress: OnProgress
) -> Observed:
    """Collect statistics of activations, or load those of an earlier export with the same data."""
    key = _key(model, feeds, {"bins": BINS, "tensors": sorted(tensors)})
    statistics = load_statistics(cache, key)
    if statistics is None:
        statistics = observe_statistics(model, _count_batches(feeds, on_progress), names=tensors)
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
    """Move range into the weights without changing the function, and observe only the changed tensors again.

    Args:
        plain: the graph, with statistics.
        sqnr_db: signal-to-noise ratio of a graph of the same stage.
        feeds: inputs of the stage.
        cache: folder that stores statistics.
        on_progress: called for each batch.
    """
    model = equalize_layers(smooth_activations(plain.model, plain.statistics), plain.statistics)
    changed = plain.statistics.keys() & migratable_tensors(plain.model)
    if not changed:
        return plain
    if sqnr_db(model) < SAME_DB:
        log.warning("moving range into the weights loses too much precision in float32 here; the step is skipped")
        return plain
    return Observed(model, plain.statistics | observe(model, changed, feeds, cache, on_progress).statistics)


def _count_batches(feeds: StageFeeds, on_progress: OnProgress) -> Iterator[dict[str, Array]]:
    """Yield batches of the graph's inputs.

    Raises:
        DataError: samples have another size than the contract's, or there are too few.
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
