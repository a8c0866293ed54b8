"""Tests of the samples that choose and that judge, and of the optimism where both are the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidrisk.calibration.points import Budget, Outcome, Point
from vidrisk.export.gate.outputs import Outputs, Validation
from vidrisk.export.gate.selection import SEPARATE_FROM, agreement_aim, estimate_optimism, separate_samples


def validation_of(truth: np.ndarray) -> Validation:
    samples = len(truth)
    frames = (np.arange(samples) % 256).astype(np.uint8).reshape(-1, 1, 1, 1, 1).repeat(3, axis=4)
    return Validation(frames, {"action": truth.astype(np.int64)}, [str(i) for i in range(samples)])


@settings(max_examples=30, deadline=None)
@given(st.integers(SEPARATE_FROM, 700), st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_no_sample_chooses_and_judges_where_there_are_enough(samples: int, classes: int, seed: int) -> None:
    truth = np.random.default_rng(seed).integers(0, classes, samples)
    parts = separate_samples(validation_of(truth))
    assert parts.is_separate
    assert sorted([*parts.choosing, *parts.judging]) == list(range(samples))
    assert abs(len(parts.choosing) - samples / 3) <= 1
    for label in range(classes):
        assert abs((truth[parts.choosing] == label).sum() - (truth == label).sum() / 3) < 2  # every class has its share
    again = separate_samples(validation_of(truth))
    assert (parts.choosing == again.choosing).all() and (parts.judging == again.judging).all()


def test_few_samples_do_both() -> None:
    parts = separate_samples(validation_of(np.arange(SEPARATE_FROM - 1) % 2))
    assert (
        not parts.is_separate and (parts.choosing == parts.judging).all() and len(parts.choosing) == SEPARATE_FROM - 1
    )


def test_rows_of_samples_and_of_outputs_belong_together() -> None:
    validation = validation_of(np.arange(6) % 2)
    numbers = np.arange(12, dtype=np.float32)
    outputs = Outputs({"features": numbers.reshape(12, 1)}, {"action": numbers.reshape(6, 2)}, 1.0)
    rows = np.array([4, 1])
    assert validation.at(rows).names == ["4", "1"] and validation.at(rows).frames[:, 0, 0, 0, 0].tolist() == [4, 1]
    assert outputs.at(rows).cuts["features"][:, 0].tolist() == [8, 9, 2, 3]  # two moments of each
    assert outputs.at(rows).logits["action"].tolist() == [[8, 9], [2, 3]]


@pytest.mark.parametrize(("max_drop", "aim"), [(0, 0.985), (1, 0.985), (1.5, 0.985), (2, 0.98), (10, 0.9), (100, 0)])
def test_whoever_allows_a_larger_drop_allows_as_many_changes(max_drop: float, aim: float) -> None:
    assert agreement_aim(max_drop) == pytest.approx(aim)


def points(samples: int, count: int, seed: int = 0) -> tuple[Point, ...]:
    """Return points that are equally good, so that chance decides which of them looks best."""
    rng, budget = np.random.default_rng(seed), Budget(1.0, 0.985, 0)
    found = []
    for i in range(count):
        gains = Outcome(
            "".join(rng.choice(["0", "1"], samples, p=[0.1, 0.9])),
            ("".join(rng.choice(["-", "=", "+"], samples, p=[0.05, 0.9, 0.05])),),
        )
        within = gains.is_within(budget)
        found.append(Point(tuple(f"b{j}" for j in range(i)), gains, within, within and gains.reaches_aim(budget)))
    return tuple(found)


def test_the_best_looking_of_many_equal_points_looks_too_good() -> None:
    few, many = (
        np.mean(
            [
                estimate_optimism(points(60, count, seed), Budget(1.0, 0.985, 0, is_strict=True)) or 0.0
                for seed in range(4)
            ]
        )
        for count in (2, 12)
    )
    assert many > 0.5 > -0.1 < few < many


@pytest.mark.parametrize("samples", [60, 150])
def test_one_point_alone_was_not_chosen(samples: int) -> None:
    assert estimate_optimism(points(samples, 1), Budget(1.0, 0.985, 0)) is None
