"""From the float ONNX encoder to the quantised one: observe, choose a recipe, search the precision of every block."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import onnx

from vidrisk import __version__
from vidrisk.calibration.blocks import blocks_from_net
from vidrisk.calibration.cache import key_of, load_statistics, save_statistics
from vidrisk.calibration.graph import Net, checked_float
from vidrisk.calibration.histogram import BINS
from vidrisk.calibration.journal import Journal
from vidrisk.calibration.migration import equalised_from_float, migrated_tensors, smoothed_from_float
from vidrisk.calibration.observers import observed_statistics, ranges_from_statistics
from vidrisk.calibration.profiles import Profile
from vidrisk.calibration.qdq import quantised_tensors
from vidrisk.calibration.recipe import Observed, Quantiser, Trial, chosen_recipe
from vidrisk.calibration.search import Budget, OnProgress, Search, searched_precision
from vidrisk.export.judge import SearchJudge
from vidrisk.runtimes.errors import DataError

log = logging.getLogger(__name__)

FRAMES_PER_PASS = 4  # activations of so many frames are in memory at once
MIN_CALIBRATION = 16


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
        migrated: the float graph that the quantised one was made from, when the recipe migrates range; it must compute the same.
    """

    model: onnx.ModelProto
    migrated: onnx.ModelProto | None
    trials: tuple[Trial, ...]
    search: Search


def quantised_encoder(model: onnx.ModelProto, frames: CalibrationFrames, profile: Profile, judge: SearchJudge, budget: Budget,
                      cache: Path, on_progress: OnProgress) -> Quantised:
    """The fastest quantised encoder inside the budget; outside of it, the one that agrees best.

    Args:
        cache: folder where measurements stay for the next export of the same model with the same data.

    Raises:
        DataError: the graph is quantised already, frames that do not fit it, or fewer than 16.
    """
    checked_float(model)
    key = _key(model, frames)
    tensors = quantised_tensors(Net(model))
    plain = _observed(model, tensors, frames, cache, f"{key}-plain", on_progress)
    quantiser = Quantiser(plain, _migrated(plain, tensors, frames, cache, f"{key}-migrated", on_progress), profile)
    settings = {"vidrisk": __version__, "profile": profile.name, "runtime": judge.runtime, "samples": judge.stages.digest}
    journal = Journal(cache / f"{key_of(key.encode(), [], settings)}.jsonl")
    trials = chosen_recipe(quantiser, judge.sqnr_db, journal, lambda done, total: on_progress("choosing a recipe", done, total))
    recipe = next(trial.recipe for trial in trials if trial.chosen)
    search = searched_precision(lambda kept: quantiser.quantised(recipe, kept), blocks_from_net(Net(model)), judge, budget, journal,
                                on_progress)
    kept = [node for block in search.best.float_blocks for node in blocks_from_net(Net(model))[block]]
    equal = quantiser.migrated.model if recipe.migrated else None
    return Quantised(quantiser.quantised(recipe, kept), equal, tuple(trials), search)


def layer_ranges(model: onnx.ModelProto, frames: CalibrationFrames, profile: Profile, cache: Path,
                 on_progress: OnProgress) -> dict[str, tuple[float, float]]:
    """Ranges of the inputs of weighted layers, by the path of the module that each comes from."""
    net = Net(model)
    observed = _observed(model, quantised_tensors(net), frames, cache, _key(model, frames) + "-plain", on_progress)
    ranges = ranges_from_statistics(observed.statistics, "minmax", symmetric=profile.symmetric)
    return {node.name.partition("/")[0]: ranges[node.input[0]] for node in net.nodes if net.is_weighted(node)}


def _key(model: onnx.ModelProto, frames: CalibrationFrames) -> str:
    settings = {"bins": BINS, "tensors": sorted(quantised_tensors(Net(model)))}
    return key_of(model.SerializeToString(deterministic=True), [frames.digest.encode()], settings)


def _observed(model: onnx.ModelProto, tensors: set[str], frames: CalibrationFrames, cache: Path, key: str,
              on_progress: OnProgress) -> Observed:
    statistics = load_statistics(cache, key)
    if statistics is None:
        statistics = observed_statistics(model, _feeds(frames, model, on_progress), names=tensors)
        save_statistics(cache, key, statistics)
    return Observed(model, statistics)


def _migrated(plain: Observed, tensors: set[str], frames: CalibrationFrames, cache: Path, key: str,
              on_progress: OnProgress) -> Observed:
    """The same function with range moved into the weights. Only what changed is observed again."""
    model = equalised_from_float(smoothed_from_float(plain.model, plain.statistics), plain.statistics)
    changed = tensors & migrated_tensors(plain.model)
    if not changed:
        return plain
    return Observed(model, plain.statistics | _observed(model, changed, frames, cache, key, on_progress).statistics)


def _feeds(frames: CalibrationFrames, model: onnx.ModelProto,
           on_progress: OnProgress) -> Iterator[dict[str, npt.NDArray[np.uint8]]]:
    """Batches for the graph's input.

    Raises:
        DataError: frames of another size than the graph takes, or too few.
    """
    wanted = tuple(dimension.dim_value for dimension in model.graph.input[0].type.tensor_type.shape.dim)[1:]
    batch: list[npt.NDArray[np.uint8]] = []
    seen = 0
    for frame in frames:
        if frame.shape != wanted or frame.dtype != np.uint8:
            raise DataError(f"a calibration frame is {frame.dtype} {frame.shape}", allowed=f"uint8 {wanted}")
        batch.append(frame)
        seen += 1
        if len(batch) == FRAMES_PER_PASS:
            on_progress("observing activations", seen, max(frames.count, seen))
            yield {"frames": np.stack(batch)}
            batch = []
    if seen < MIN_CALIBRATION:
        raise DataError(f"{seen} calibration frames", allowed=f"at least {MIN_CALIBRATION}",
                        fix="give more with --calib or --calib-samples")
    if batch:
        yield {"frames": np.stack(batch)}
