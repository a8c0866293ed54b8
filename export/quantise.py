"""From the float ONNX encoder to the quantised one: observe, choose a recipe, search the precision of every block."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx

from vidrisk import __version__
from vidrisk.calibration.blocks import blocks_from_net
from vidrisk.calibration.cache import key_of, load_statistics, save_statistics
from vidrisk.calibration.files import fingerprint
from vidrisk.calibration.graph import Net, checked_float
from vidrisk.calibration.histogram import BINS
from vidrisk.calibration.journal import Journal
from vidrisk.calibration.migration import equalised_from_float, migrated_tensors, smoothed_from_float
from vidrisk.calibration.observers import observed_statistics, ranges_from_statistics
from vidrisk.calibration.profiles import Profile
from vidrisk.calibration.qdq import quantised_tensors
from vidrisk.calibration.recipe import Observed, Quantiser, Recipe, Trial, chosen_recipe
from vidrisk.calibration.search import Budget, OnProgress, Search, searched_precision
from vidrisk.export.judge import SearchJudge
from vidrisk.export.outputs import Validation
from vidrisk.runtimes.errors import DataError
from vidrisk.runtimes.runner import Array

log = logging.getLogger(__name__)

FRAMES_PER_PASS = 4  # activations of so many frames are in memory at once
MIN_CALIBRATION = 16
COVERAGE_FRAMES = 64
MAX_OUTSIDE = 0.5  # of the validation pixels, beyond what calibration has seen
SAME_DB = 80.0  # signal to noise of two float graphs that are the same function


class CalibrationFrames(Protocol):
    """Frames to calibrate on, read anew whenever they are asked for, so that memory does not grow with their number.

    Attributes:
        digest: of the content; equal digests, equal frames.
        count: frames that will come, as far as it is known before they are read.
    """

    @property
    def digest(self) -> str: ...

    @property
    def count(self) -> int: ...

    def __iter__(self) -> Iterator[npt.NDArray[np.uint8]]:
        """Frames ``uint8 (H, W, 3)``, one after the other."""


@dataclass(frozen=True)
class Quantised:
    """What the search has found: the graph, and how it came about.

    Attributes:
        runtime: that the search was made on.
        migrated: the float graph that the quantised one was made from, when the recipe migrates range; it must compute the same.
    """

    model: onnx.ModelProto
    migrated: onnx.ModelProto | None
    runtime: str
    trials: tuple[Trial, ...]
    search: Search


def quantised_encoder(model: onnx.ModelProto, frames: CalibrationFrames, profile: Profile, judges: Mapping[str, SearchJudge],
                      budget: Budget, cache: Path, on_progress: OnProgress) -> Quantised:
    """The fastest quantised encoder inside the budget, as ``calibration.search`` finds it.

    Args:
        judges: by runtime; the one on which plain INT8 is fastest is asked.
        cache: folder where measurements stay for the next export of the same model with the same data.

    Raises:
        DataError: the graph is quantised already, frames that do not fit it, or fewer than 16.
    """
    checked_float(model)
    net = Net(model)
    blocks = blocks_from_net(net)
    plain = _observed(model, quantised_tensors(net), frames, cache, on_progress)
    settings = {"vidrisk": __version__, "profile": profile.name, "judges": [judge.identity for judge in judges.values()]}
    journal = Journal(cache / f"{_key(model, frames, settings)}.jsonl")
    simple = Quantiser(plain, plain, profile).quantised(Recipe())
    times = journal.value("runtimes", lambda: {runtime: judge.ms_per_frame([simple])[0] for runtime, judge in judges.items()})
    fastest = min(times, key=lambda runtime: float(times[runtime]))
    judge = replace(judges[fastest], others=tuple(judge for runtime, judge in judges.items() if runtime != fastest))
    quantiser = Quantiser(plain, _migrated(plain, judge, frames, cache, on_progress), profile)
    trials = chosen_recipe(quantiser, judge.sqnr_db, journal, lambda done, total: on_progress("choosing a recipe", done, total))
    recipe = next(trial.recipe for trial in trials if trial.chosen)
    search = searched_precision(lambda kept: quantiser.quantised(recipe, kept), blocks, judge, budget, journal, on_progress)
    kept = [node for block in search.best.float_blocks for node in blocks[block]]
    equal = quantiser.migrated.model if recipe.migrated else None
    return Quantised(quantiser.quantised(recipe, kept), equal, judge.runtime, tuple(trials), search)


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
    return (f"the calibration frames hold pixel values from {low} to {high} only, and {outside:.0%} of the validation pixels lie "
            "outside")


def layer_ranges(model: onnx.ModelProto, frames: CalibrationFrames, profile: Profile, cache: Path,
                 on_progress: OnProgress) -> dict[str, tuple[float, float]]:
    """Ranges of the inputs of weighted layers, by the path of the module that each comes from."""
    net = Net(model)
    observed = _observed(model, quantised_tensors(net), frames, cache, on_progress)
    ranges = ranges_from_statistics(observed.statistics, "minmax", symmetric=profile.symmetric)
    return {node.name.partition("/")[0]: ranges[node.input[0]] for node in net.nodes if net.is_weighted(node)}


def _observed(model: onnx.ModelProto, tensors: set[str], frames: CalibrationFrames, cache: Path,
              on_progress: OnProgress) -> Observed:
    key = _key(model, frames, {"bins": BINS, "tensors": sorted(tensors)})
    statistics = load_statistics(cache, key)
    if statistics is None:
        statistics = observed_statistics(model, _feeds(frames, model, on_progress), names=tensors)
        save_statistics(cache, key, statistics)
    return Observed(model, statistics)


def _key(model: onnx.ModelProto, frames: CalibrationFrames, settings: dict[str, Any]) -> str:
    return key_of(fingerprint(model), [frames.digest.encode()], settings)


def _migrated(plain: Observed, judge: SearchJudge, frames: CalibrationFrames, cache: Path, on_progress: OnProgress) -> Observed:
    """The same function with range moved into the weights. Only what changed is observed again."""
    model = equalised_from_float(smoothed_from_float(plain.model, plain.statistics), plain.statistics)
    changed = plain.statistics.keys() & migrated_tensors(plain.model)
    if not changed:
        return plain
    if judge.sqnr_db(model) < SAME_DB:
        log.warning("moving range into the weights rounds too much in float32 here: left out")
        return plain
    return Observed(model, plain.statistics | _observed(model, changed, frames, cache, on_progress).statistics)


def feeds_from_frames(frames: Iterable[npt.NDArray[np.uint8]], model: onnx.ModelProto) -> Iterator[dict[str, Array]]:
    """Batches for the graph's input.

    Raises:
        DataError: frames of another size than the graph takes.
    """
    wanted = tuple(dimension.dim_value for dimension in model.graph.input[0].type.tensor_type.shape.dim)[1:]
    rest = iter(frames)
    while batch := list(islice(rest, FRAMES_PER_PASS)):
        for frame in batch:
            if frame.shape != wanted or frame.dtype != np.uint8:
                raise DataError(f"a calibration frame is {frame.dtype} {frame.shape}", allowed=f"uint8 {wanted}")
        yield {"frames": np.stack(batch)}


def _feeds(frames: CalibrationFrames, model: onnx.ModelProto, on_progress: OnProgress) -> Iterator[dict[str, Array]]:
    """Batches for the graph's input.

    Raises:
        DataError: frames of another size than the graph takes, or too few.
    """
    seen = 0
    for feed in feeds_from_frames(frames, model):
        seen += len(feed["frames"])
        on_progress("observing activations", seen, max(frames.count, seen))
        yield feed
    if seen < MIN_CALIBRATION:
        raise DataError(f"{seen} calibration frames", allowed=f"at least {MIN_CALIBRATION}",
                        fix="give more with --calib or --calib-samples")
