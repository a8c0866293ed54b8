"""Tests of the settings that a search tries.

The default comes first, settings that the user chose stay unchanged, and the same seed gives the same trials.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidrisk.models.config import TrainConfig, config_from_options
from vidrisk.models.given_settings import collect_given_names
from vidrisk.runtimes.contract.contract import Target
from vidrisk.runtimes.contract.errors import SettingsError
from vidrisk.train.tune_space import (
    BLOCKS,
    KIND,
    PAIRS,
    RATE,
    VALUES,
    Tuning,
    config_with,
    draw_trials,
    simplicity_of,
    space_of,
    tuning_from_options,
    value_of,
)

TARGETS = [Target(name="action", labels=("a", "b"))]
NAMES = [KIND, "augment", *VALUES]
CLIPS = TrainConfig(augment=("flip", "zoom", "light", "still"), head={"kind": "motion"})
PHOTOS = TrainConfig(augment=())


def test_clips_and_photos_have_heads_of_their_own() -> None:
    clips = space_of(CLIPS, TARGETS, (), sees_order=True)
    assert clips[KIND] == ["motion", "segments", "linear", "transformer"] and clips[BLOCKS] == [5, 0, 2]
    assert clips["augment"] == [CLIPS.augment, (), ("flip",), (*CLIPS.augment, "erase", "colour")]
    photos = space_of(PHOTOS, TARGETS, (), sees_order=False)
    assert photos[KIND] == ["linear", "mlp"] and photos["augment"] == [(), ("flip",), ("erase", "colour")]
    assert set(photos) == set(NAMES) and set(clips) == {*NAMES, PAIRS} and clips[PAIRS] == [False, True]
    assert PAIRS not in space_of(config_with(CLIPS, {"frames": 5}), TARGETS, (), sees_order=True)


def test_what_cannot_be_mirrored_is_not_flipped() -> None:
    lonely = [Target(name="action", labels=("turn left", "stop"))]
    assert ("flip",) not in space_of(PHOTOS, lonely, (), sees_order=False)["augment"]


def test_a_transformer_whose_heads_do_not_divide_it_is_not_tried() -> None:
    config = config_with(CLIPS, {"head.heads": 7})
    assert "transformer" not in space_of(config, TARGETS, (), sees_order=True)[KIND]


@given(st.sets(st.sampled_from(NAMES), max_size=len(NAMES) - 1), st.integers(2, 60), st.integers(0, 5))
def test_trials_differ_and_leave_alone_what_was_chosen(fixed: set[str], count: int, seed: int) -> None:
    if fixed == set(NAMES) - {RATE}:
        return
    space = space_of(CLIPS, TARGETS, fixed, sees_order=True)
    trials = draw_trials(space, count, seed)
    assert trials == draw_trials(space, count, seed) and len(trials) <= count
    assert trials[0].settings == {} and [trial.number for trial in trials] == [*range(len(trials))]
    configs = [config_with(CLIPS, trial.settings) for trial in trials]
    assert len({config.model_dump_json() for config in configs}) == len(trials)
    for trial, config in zip(trials, configs, strict=True):
        assert TrainConfig.model_validate(config.model_dump()) == config
        assert not fixed & set(trial.settings) and len(trial.settings) <= 4
        assert all(value_of(config, name) == value_of(CLIPS, name) for name in fixed)
        assert not (config.lora.last_blocks == 0 and RATE in trial.settings)


def test_a_small_space_has_fewer_trials() -> None:
    space = space_of(PHOTOS, TARGETS, [name for name in NAMES if name != KIND], sees_order=False)
    assert [trial.settings for trial in draw_trials(space, 9, 0)] == [{}, {KIND: "mlp"}]


@pytest.mark.parametrize("fixed", [[*NAMES, PAIRS], ["head", "lora", "optim", "augment", PAIRS]])
def test_with_all_chosen_there_is_nothing_to_search(fixed: list[str]) -> None:
    with pytest.raises(SettingsError, match="every setting already chosen"):
        space_of(CLIPS, TARGETS, fixed, sees_order=True)


@pytest.mark.parametrize("fixed", [BLOCKS, "lora"])
def test_a_learning_rate_of_lora_is_not_searched_without_lora(fixed: str) -> None:
    space = space_of(config_with(CLIPS, {BLOCKS: 0}), TARGETS, [fixed], sees_order=True)
    assert RATE not in space and not any(RATE in trial.settings for trial in draw_trials(space, 40, 0))


def test_trained_blocks_count_first_then_the_head_then_epochs() -> None:
    order = [
        {BLOCKS: 0, KIND: "transformer"},
        {BLOCKS: 2, KIND: "linear", "optim.epochs": 20},
        {BLOCKS: 2, KIND: "motion"},
        {BLOCKS: 2, KIND: "segments", "optim.epochs": 5},
        {BLOCKS: 2, KIND: "segments"},
        {BLOCKS: 5, KIND: "auto"},
        {BLOCKS: None, KIND: "linear"},
    ]
    found = [simplicity_of(config_with(CLIPS, settings)) for settings in order]
    assert found == sorted(found) and len(set(found)) == len(found)


def test_names_of_settings_come_from_files_and_assignments(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("optim: {epochs: 3, patience: null}\naugment: [flip]\n", encoding="utf-8")
    assert collect_given_names(tmp_path / "c.yaml", ["head.kind = mlp"], ["seed"]) == {
        "optim.epochs",
        "optim.patience",
        "augment",
        "head.kind",
        "seed",
    }
    assert collect_given_names(None, ["optim={epochs: 3}"]) == {"optim"}
    config = config_from_options(None, ["optim={epochs: 3}"])
    assert "optim.epochs" not in space_of(config_with(config, {"augment": ()}), TARGETS, {"optim"}, sees_order=False)


@pytest.mark.parametrize(
    ("trials", "minutes", "words"),
    [
        (1, None, "tune=1; allowed: 2 to 200 trials"),
        (201, None, "tune=201"),
        (5, -1.0, "tune_minutes=-1.0; allowed: a number from 0"),
        ("5", None, "tune='5'; allowed: 2 to 200 trials"),
        (5.5, None, "tune=5.5; allowed: 2 to 200 trials"),
        (True, None, "tune=True"),
        (5, "60", "tune_minutes='60'; allowed: a number from 0"),
        (5, True, "tune_minutes=True"),
        (5, float("nan"), "tune_minutes=nan"),
        (None, 3.0, "tune_minutes without tune; fix: add tune"),
    ],
)
def test_trials_and_minutes_that_are_no_numbers_in_range_are_refused(trials: Any, minutes: Any, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        tuning_from_options(trials, minutes, ())


def test_without_trials_there_is_no_search() -> None:
    assert tuning_from_options(None, None, ["seed"]) is None
    assert tuning_from_options(3, 1.5, ["seed"]) == Tuning(3, 1.5, frozenset(["seed"]))
