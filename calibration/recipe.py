"""Quantisation recipes for ranges, weight scales and biases, and the choice of the best one by measuring."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import numpy as np
import onnx

from vidrisk.calibration.graph import FloatArray, Net
from vidrisk.calibration.histogram import Method
from vidrisk.calibration.journal import Journal
from vidrisk.calibration.observers import Ranges, Statistics, ranges_from_statistics
from vidrisk.calibration.profiles import Profile
from vidrisk.calibration.qdq import qdq_from_float
from vidrisk.calibration.weights import correct_biases, mse_weight_scales, plain_weight_scales

Scales = dict[str, FloatArray]  # per output channel, by weight name
Way = TypeVar("Way")
WORTH_DB = 0.1  # a step that gains less is left out


@dataclass(frozen=True)
class Recipe:
    """Choices for the steps in these modules; the default is plain min-max INT8.

    Attributes:
        migrated: range is moved from activations into weights (``migration``).
        method: of the activation ranges (``histogram``).
        mse_weights: weight scales minimise the squared error instead of covering the largest weight (``weights``).
        corrected: biases absorb the mean error of rounded weights (``weights``).
    """

    migrated: bool = False
    method: Method = "minmax"
    mse_weights: bool = False
    corrected: bool = False

    def __str__(self) -> str:
        parts = [
            self.method,
            "migrated" if self.migrated else "",
            "MSE weights" if self.mse_weights else "",
            "corrected biases" if self.corrected else "",
        ]
        return ", ".join(part for part in parts if part)


STEPS: tuple[tuple[dict[str, Any], ...], ...] = (
    ({"migrated": True},),
    ({"method": "percentile"}, {"method": "entropy"}, {"method": "mse"}),
    ({"mse_weights": True},),
    ({"corrected": True},),
)


@dataclass(frozen=True)
class Observed:
    """A float graph and the statistics of its activations."""

    model: onnx.ModelProto
    statistics: dict[str, Statistics]


@dataclass(frozen=True)
class Quantizer:
    """Factory of quantised graphs of one model for one profile.

    Attributes:
        plain: the graph as exported.
        migrated: the same function with range moved into the weights.
    """

    plain: Observed
    migrated: Observed
    profile: Profile
    _known: dict[tuple[bool, Method, bool], tuple[Ranges, Scales]] = field(default_factory=dict, init=False, repr=False)

    def quantize(self, recipe: Recipe, keep_float: Collection[str] = ()) -> onnx.ModelProto:
        """Return the Q/DQ graph; nodes named in ``keep_float`` stay in floating point."""
        observed = self.migrated if recipe.migrated else self.plain
        ranges, scales = self._ranges_and_scales(observed, recipe)
        model = observed.model
        if recipe.corrected:
            model = correct_biases(model, observed.statistics, scales, keep_float, self.profile.largest_weight)
        return qdq_from_float(model, ranges, self.profile, keep_float=keep_float, weight_scales=scales)

    def _ranges_and_scales(self, observed: Observed, recipe: Recipe) -> tuple[Ranges, Scales]:
        """Return cached ranges and scales: a search requests dozens of graphs that share them."""
        key = (recipe.migrated, recipe.method, recipe.mse_weights)
        if key not in self._known:
            ranges = ranges_from_statistics(observed.statistics, recipe.method, symmetric=self.profile.symmetric)
            self._known[key] = ranges, weight_scales(observed.model, self.profile, mse=recipe.mse_weights)
        return self._known[key]


def weight_scales(model: onnx.ModelProto, profile: Profile, *, mse: bool) -> Scales:
    """Return scales per output channel by weight name, as the profile's engines store them."""
    net = Net(model)
    choose = mse_weight_scales if mse else plain_weight_scales
    chosen = {
        node.input[1]: choose(net.array(node.input[1]), net.output_axis(node), profile.largest_weight)
        for node in net.nodes
        if net.is_weighted(node)
    }
    return {name: np.asarray(profile.round_scales(scales), np.float32) for name, scales in chosen.items()}


@dataclass(frozen=True)
class Trial(Generic[Way]):
    """One way to quantise, and the signal-to-noise ratio of the quantised features, in decibels."""

    recipe: Way
    sqnr_db: float
    chosen: bool = False


def choose_int8_recipe(
    quantizer: Quantizer,
    sqnr_db: Callable[[onnx.ModelProto], float],
    journal: Journal,
    on_trial: Callable[[int, int], None],
) -> list[Trial[Recipe]]:
    """Try the steps one after the other, and keep each one that gains.

    Returns:
        All trials in order; one is ``chosen``.
    """

    def run_trial(recipe: Recipe) -> Trial[Recipe]:
        on_trial(len(trials), 1 + sum(map(len, STEPS)))
        trials.append(Trial(recipe, journal.value(f"recipe {recipe}", lambda: sqnr_db(quantizer.quantize(recipe)))))
        return trials[-1]

    trials: list[Trial[Recipe]] = []
    best = run_trial(Recipe())
    for alternatives in STEPS:
        found = [run_trial(replace(best.recipe, **step)) for step in alternatives]
        better = max(found, key=lambda trial: trial.sqnr_db)
        if better.sqnr_db > best.sqnr_db + WORTH_DB:
            best = better
    return [replace(trial, chosen=trial == best) for trial in trials]
