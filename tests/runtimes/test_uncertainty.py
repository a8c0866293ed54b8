"""Tests of the rule for uncertainty: an answer is certain if it is the only label that cannot be excluded."""

from __future__ import annotations

import numpy as np
import pytest

from vidrisk.runtimes import Target, Variant
from vidrisk.runtimes.uncertainty import (
    OLD_BUNDLE,
    Uncertainty,
    certain_rows,
    is_uncertain,
    label_sets,
    uncertainty_from_variant,
)

DEFECT = Target(name="defect", labels=("scratch", "crack", "ok"))
LEVEL = Target(name="level", labels=("low", "high"), ordered=True)


@pytest.mark.parametrize(
    ("row", "thresholds", "inside", "certain"),
    [
        ((0.8, 0.15, 0.05), (0.3, 0.3, 0.3), [0], True),
        ((0.5, 0.4, 0.1), (0.3, 0.3, 0.3), [0, 1], False),  # undecided between two
        ((0.4, 0.35, 0.25), (0.5, 0.5, 0.5), [], False),  # less sure than usual
        ((0.5, 0.4, 0.1), (0.6, 0.3, 0.3), [1], False),  # another label alone is no support for the answer
        ((0.3, 0.3, 0.4), (0.3, 0.3, 0.3), [0, 1, 2], False),  # at the threshold is inside
        ((1.0, 0.0, 0.0), (1.0, 1.0, 1.0), [0], True),
        ((1.0, 0.0, 0.0), (0.0, 0.0, 0.0), [0, 1, 2], False),  # 0 excludes nothing
        ((float("nan"),) * 3, (0.3, 0.3, 0.3), [], False),
    ],
)
def test_an_answer_is_certain_where_it_is_alone_in_its_set(
    row: tuple[float, ...], thresholds: tuple[float, ...], inside: list[int], certain: bool
) -> None:
    probabilities = np.array([row])
    sets = label_sets(probabilities, np.array(thresholds))
    assert np.flatnonzero(sets[0]).tolist() == inside
    assert certain_rows(probabilities, sets).tolist() == [certain]


def test_candidates_come_with_the_most_probable_first() -> None:
    knows = Uncertainty(0.9, {"defect": (0.1, 0.1, 0.5)}, {"level": "no"})
    scores = {"defect": np.array([0.2, 0.5, 0.3], np.float32), "level": np.array([0.5, 0.5], np.float32)}
    assert knows.candidates((DEFECT, LEVEL), scores) == {"defect": ["crack", "scratch"]}


@pytest.mark.parametrize(
    ("candidates", "uncertain"),
    [
        ({}, None),
        ({"defect": ["crack"]}, False),
        ({"defect": ["crack"], "level": ["high"]}, False),
        ({"defect": ["crack"], "level": ["high", "low"]}, True),  # any target
        ({"defect": [], "level": ["high"]}, True),
        ({"defect": ["ok"]}, True),
    ],
)
def test_a_prediction_is_uncertain_where_any_target_is(
    candidates: dict[str, list[str]], uncertain: bool | None
) -> None:
    assert is_uncertain(candidates, {"defect": "crack", "level": "high"}) is uncertain


def test_thresholds_are_read_from_a_variant() -> None:
    variant = Variant(
        files={},
        passed=True,
        threshold={"defect": 0.2},
        label_threshold={"defect": {"crack": 0.4}},
        coverage=0.9,
        no_threshold={"level": "too few"},
    )
    assert uncertainty_from_variant(variant, (DEFECT, LEVEL)) == Uncertainty(
        0.9, {"defect": (0.2, 0.4, 0.2)}, {"level": "too few"}
    )
    old = uncertainty_from_variant(Variant(files={}, passed=True), (DEFECT, LEVEL))
    assert old == Uncertainty(None, {}, {"defect": OLD_BUNDLE, "level": OLD_BUNDLE})
