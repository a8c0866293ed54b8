"""Tests of the recipe search: 4 bits where they suffice, then 8 bits for the most costly, floating point last."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gate_cases import World, changed_graph, make_world

from vidrisk.export.text.field_judge import FieldJudge
from vidrisk.export.text.limits import FieldLimits, TokenLimits
from vidrisk.export.text.packing import INT4, INT8, pack_text
from vidrisk.export.text.recipe_search import SearchOptions, choose_recipe
from vidrisk.runtimes.contract.errors import SettingsError

HARD = "model.layers.*.attn.o_proj"


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Return a model whose attention output projections have weights that 4 bits cannot represent.

    The weights of one in sixteen inputs are twelve times as large.
    """
    world = make_world(tmp_path, 8)
    changed_graph(world.graph, world.graph, ".*o_proj.weight", _with_outliers)
    return world


def _with_outliers(weight: np.ndarray) -> np.ndarray:
    rows = np.arange(len(weight)) % 16 == 0
    return np.where(rows[:, None], 12 * weight, weight).astype(np.float32)


def chosen(world: World, **options: object) -> tuple[object, str, list[str]]:
    found = choose_recipe(world.graph, world.embeddings, world.samples, SearchOptions(threads=1, **options))  # type: ignore[arg-type]
    assert [trial.chosen for trial in found.trials].count(True) == (found.recipe is not None)
    assert not [path for path in world.folder.iterdir() if path.name.startswith(".")]
    return found.recipe, found.precision, [trial.recipe for trial in found.trials]


def test_4_bits_are_taken_where_they_are_inside(world: World) -> None:
    assert chosen(world, limits=TokenLimits(kl=10)) == (INT4, "int4", [str(INT4)])


def test_floating_point_is_last(world: World) -> None:
    assert chosen(world, limits=TokenLimits(kl=1e-9)) == (None, "fp32", [str(INT4), str(INT8)])


def test_the_kind_that_costs_most_is_widened_alone(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="vidrisk.export.text.recipe_search")
    narrow = choose_recipe(world.graph, world.embeddings, world.samples, SearchOptions(limits=TokenLimits(kl=1e-9)))
    int4, int8 = (trial.tokens.kl for trial in narrow.trials)
    between = TokenLimits(kl=int8 + 0.7 * (int4 - int8))
    recipe, precision, tried = chosen(world, limits=between)
    assert precision == "int4" and getattr(recipe, "packing").wide == ("lm_head", HARD) and tried[-1] == str(recipe)  # noqa: B009
    assert "inside the limits" in caplog.text
    assert chosen(world, limits=between, seconds=0) == (INT8, "int8-weight-only", [str(INT4), str(INT8)])


def test_a_rise_of_perplexity_has_a_limit_of_its_own(world: World) -> None:
    wide = TokenLimits(kl=10)
    found = choose_recipe(world.graph, world.embeddings, world.samples, SearchOptions(limits=wide))
    assert found.tokens is not None
    rise = found.tokens.perplexity_rise
    assert chosen(world, limits=wide, max_perplexity_rise=rise + 0.01)[0] == INT4
    tight = choose_recipe(
        world.graph, world.embeddings, world.samples, SearchOptions(limits=wide, max_perplexity_rise=rise - 1e-4)
    )
    assert tight.recipe != INT4 and "perplexity of the reference answers rises by" in tight.trials[0].reason


def test_a_judge_of_fields_has_the_last_word(world: World) -> None:
    lax = replace(world.options, max_drop=100, fields=FieldLimits(agreement=0.0, length_drift=9))
    judge = FieldJudge(world.graph, world.samples, lax)
    found = choose_recipe(
        world.graph, world.embeddings, world.samples, SearchOptions(limits=TokenLimits(kl=10)), judge=judge
    )
    assert found.recipe == INT4
    pack_text(world.graph, world.file("same.onnx"), INT8)
    assert judge(world.file("same.onnx")) == ""
    found = choose_recipe(
        world.graph,
        world.embeddings,
        world.samples,
        SearchOptions(limits=TokenLimits(kl=10)),
        judge=lambda graph: "the level changes",
    )
    assert found.recipe is None and [trial.reason for trial in found.trials] == ["the level changes"] * 2
    with pytest.raises(SettingsError, match="without a form"):
        FieldJudge(world.graph, world.samples, replace(lax, form=None))


def test_no_samples_choose_nothing(world: World) -> None:
    with pytest.raises(SettingsError, match="no sample to choose a recipe by"):
        choose_recipe(world.graph, world.embeddings, [])
