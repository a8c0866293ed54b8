"""Tests of the recipe: steps that gain are kept, all others are left out, and every trial is reported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest

from vidrisk.calibration.graph import Net
from vidrisk.calibration.histogram import Method
from vidrisk.calibration.journal import Journal
from vidrisk.calibration.migration import equalize_layers
from vidrisk.calibration.observers import Statistics
from vidrisk.calibration.profiles import PROFILES, ProfileName
from vidrisk.calibration.recipe import STEPS, Observed, Quantizer, Recipe, Trial, choose_int8_recipe, weight_scales
from vidrisk.calibration.weights import mse_weight_scales, plain_weight_scales

Make = Callable[..., onnx.ModelProto]
Run = Callable[..., np.ndarray]
Observe = Callable[..., dict[str, Statistics]]

IMAGES = np.random.default_rng(0).normal(0.3, 1, (32, 3, 8, 8)).astype(np.float32)
RECIPES = [Recipe(*parts) for parts in product([False, True], get_args(Method), [False, True], [False, True])]
TRIALS = 1 + sum(map(len, STEPS))


class Named:
    """A stand-in for a quantizer whose graphs carry the recipe in their name and nothing else."""

    def quantize(self, recipe: Recipe) -> onnx.ModelProto:
        return onnx.ModelProto(graph=onnx.GraphProto(name=str(recipe)))


def silent(done: int, total: int) -> None:
    pass


def chosen_by(
    gains: dict[str, float], journal: Journal | None = None, on_trial: Callable[[int, int], None] = silent
) -> list[Trial]:
    """Return the trials where every part of a recipe's name adds its gain in decibels to 20."""

    def sqnr_db(model: onnx.ModelProto) -> float:
        return 20 + sum(gains.get(part, 0) for part in model.graph.name.split(", "))

    named: Any = Named()
    return choose_int8_recipe(named, sqnr_db, journal or Journal(), on_trial)


def choice(trials: list[Trial]) -> Recipe:
    (chosen,) = [trial.recipe for trial in trials if trial.chosen]
    return chosen


def test_every_recipe_has_its_own_name() -> None:
    assert len({str(recipe) for recipe in RECIPES}) == len(RECIPES) == 32
    assert str(Recipe()) == "minmax"
    assert str(Recipe(True, "mse", True, True)) == "mse, migrated, MSE weights, corrected biases"


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ({}, Recipe()),
        (
            {"migrated": -3, "percentile": -1, "entropy": -2, "mse": -1, "MSE weights": -1, "corrected biases": -1},
            Recipe(),
        ),
        ({"migrated": 0.05, "mse": 0.09, "corrected biases": 0.1}, Recipe()),  # not worth it
        ({"migrated": 6}, Recipe(migrated=True)),
        ({"percentile": 1, "entropy": 3, "mse": 2}, Recipe(method="entropy")),
        ({"migrated": -1, "mse": 2, "MSE weights": -0.5, "corrected biases": 1}, Recipe(method="mse", corrected=True)),
        (
            {"migrated": 1, "percentile": 1, "MSE weights": 1, "corrected biases": 1},
            Recipe(True, "percentile", True, True),
        ),
        ({"mse": float("inf")}, Recipe(method="mse")),
        ({"minmax": float("nan")}, Recipe()),
    ],
)
def test_steps_that_gain_are_kept(gains: dict[str, float], expected: Recipe) -> None:
    assert choice(chosen_by(gains)) == expected


def test_trials_come_in_the_order_in_which_they_were_tried() -> None:
    trials = chosen_by({"migrated": 1, "entropy": 1, "corrected biases": -1})
    kept = Recipe(migrated=True, method="entropy")
    assert [trial.recipe for trial in trials] == [
        Recipe(),
        Recipe(migrated=True),
        *(Recipe(True, method) for method in ("percentile", "entropy", "mse")),
        replace(kept, mse_weights=True),
        replace(kept, corrected=True),
    ]
    assert [trial.chosen for trial in trials] == [trial.recipe == kept for trial in trials]
    assert [trial.sqnr_db for trial in trials] == [20, 21, 21, 22, 21, 22, 21]


def test_progress_counts_every_trial() -> None:
    seen: list[tuple[int, int]] = []
    chosen_by({"mse": 1}, on_trial=lambda done, total: seen.append((done, total)))
    assert seen == [(done, TRIALS) for done in range(TRIALS)]


def test_trials_are_not_measured_twice(tmp_path: Path) -> None:
    first = chosen_by({"mse": 1, "corrected biases": 2}, Journal(tmp_path / "j.jsonl"))

    def must_not_measure(model: onnx.ModelProto) -> float:
        raise AssertionError(model.graph.name)

    named: Any = Named()
    assert choose_int8_recipe(named, must_not_measure, Journal(tmp_path / "j.jsonl"), silent) == first


# With real graphs


@pytest.fixture
def quantiser_of(statistics: Observe) -> Callable[[onnx.ModelProto, ProfileName], Quantizer]:
    def make(model: onnx.ModelProto, profile: ProfileName) -> Quantizer:
        found = statistics(model, IMAGES)
        migrated = equalize_layers(model, found)
        return Quantizer(Observed(model, found), Observed(migrated, statistics(migrated, IMAGES)), PROFILES[profile])

    return make


@pytest.mark.parametrize("profile", ["cpu", "tensorrt"])
@pytest.mark.parametrize("spread", [1.0, 30.0])
def test_the_chosen_recipe_is_better_than_plain_int8(
    make_mobilenet: Make, run: Run, quantiser_of: Callable[..., Quantizer], profile: ProfileName, spread: float
) -> None:
    model = make_mobilenet(spread=spread, seed=1)
    quantizer = quantiser_of(model, profile)
    exact = run(model, IMAGES)

    def sqnr_db(quantised: onnx.ModelProto) -> float:
        return float(10 * np.log10(np.square(exact).mean() / np.square(run(quantised, IMAGES) - exact).mean()))

    trials = choose_int8_recipe(quantizer, sqnr_db, Journal(), silent)
    best = next(trial for trial in trials if trial.chosen)
    assert best.sqnr_db >= trials[0].sqnr_db > 15
    assert best.sqnr_db == pytest.approx(sqnr_db(quantizer.quantize(best.recipe)))
    assert best.sqnr_db > max(trial.sqnr_db for trial in trials) - 0.2
    if spread > 1:
        assert best.recipe.migrated
        assert best.sqnr_db > trials[0].sqnr_db + 1


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_every_recipe_makes_a_graph_that_keeps_what_it_is_told(
    make_mobilenet: Make, run: Run, quantiser_of: Callable[..., Quantizer], recipe: Recipe
) -> None:
    model = make_mobilenet(spread=4)
    quantizer = quantiser_of(model, "cpu")
    before = [
        observed.model.SerializeToString(deterministic=True) for observed in (quantizer.plain, quantizer.migrated)
    ]
    quantised = quantizer.quantize(recipe, ["stem/conv", "last/conv"])
    for name in ("stem/conv", "last/conv"):
        it = next(n for n in quantised.graph.node if n.name == name)
        source = Net((quantizer.migrated if recipe.migrated else quantizer.plain).model)
        for slot in (1, 2):
            np.testing.assert_array_equal(Net(quantised).array(it.input[slot]), source.array(it.input[slot]))
    assert [o.model.SerializeToString(deterministic=True) for o in (quantizer.plain, quantizer.migrated)] == before
    exact = run(model, IMAGES)
    assert np.sqrt(np.square(run(quantised, IMAGES) - exact).mean()) < 0.1 * exact.std()


def test_weight_scales_are_by_weight_and_output_channel(make_mobilenet: Make) -> None:
    model = make_mobilenet()
    plain, best = (weight_scales(model, PROFILES["cpu"], mse=mse) for mse in (False, True))
    assert {name: scale.shape for name, scale in plain.items()} == {
        "stem.w": (8,),
        "expand.w": (16,),
        "depthwise.w": (16,),
        "project.w": (8,),
        "last.w": (12,),
        "head.w": (5,),
    }
    net = Net(model)
    for name, axis in (("depthwise.w", 0), ("head.w", 0)):
        np.testing.assert_array_equal(plain[name], plain_weight_scales(net.array(name), axis))
        np.testing.assert_array_equal(best[name], mse_weight_scales(net.array(name), axis))
