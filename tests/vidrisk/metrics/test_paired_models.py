"""Tests of comparing two models on the same samples.

They cover differences beyond chance, undecided differences, and the number of samples that would decide.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidrisk.metrics.paired_models import compare_answers, compare_scores
from vidrisk.runtimes.paired import mcnemar_p

bools = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=80)


@given(bools)
def test_exchanging_the_models_turns_the_verdict(rows: list[tuple[bool, bool]]) -> None:
    first, second = (np.array(side) for side in zip(*rows, strict=True))
    one, other = compare_answers(first, second), compare_answers(second, first)
    assert {one.verdict, other.verdict} in ({"undecided"}, {"better", "worse"})
    assert one.p_value == other.p_value == mcnemar_p(int((first & ~second).sum()), int((~first & second).sum()))
    low, high = one.interval_points
    assert low <= 100 * (one.second - one.first) <= high
    assert other.interval_points == pytest.approx((-high, -low))


def test_a_clear_gain_is_better_and_a_small_one_says_how_many_samples_would_decide() -> None:
    first = np.array([True] * 70 + [False] * 30)
    clear = compare_answers(first, np.array([True] * 95 + [False] * 5))
    assert (clear.verdict, clear.test, clear.groups) == ("better", "McNemar", None)
    second = first.copy()
    second[[0, 70, 71]] = False, True, True
    small = compare_answers(first, second)
    assert (
        small.verdict == "undecided" and small.samples_to_decide is not None and 1500 < small.samples_to_decide < 4000
    )
    assert compare_answers(first, first).samples_to_decide is None


def test_the_number_of_samples_is_that_which_decides_four_times_of_five() -> None:
    rng = np.random.default_rng(0)

    def drawn(samples: int) -> tuple[np.ndarray, np.ndarray]:
        kind = rng.choice(4, samples, p=(0.6, 0.2, 0.05, 0.15))  # both right, both wrong, lost, gained
        return np.isin(kind, (0, 2)), np.isin(kind, (0, 3))

    needed = compare_answers(*drawn(20_000)).samples_to_decide
    assert needed is not None
    decided = [compare_answers(*drawn(needed)).verdict == "better" for _ in range(300)]
    assert 0.7 < np.mean(decided) < 0.9


def test_samples_of_one_group_are_no_independent_evidence() -> None:
    """A gain that is the same in all 40 clips of one scene counts as one piece of evidence."""
    first, second = np.zeros(80, bool), np.array([True] * 40 + [False] * 40)
    groups = [f"scene {place // 10}" for place in range(80)]
    assert compare_answers(first, second).verdict == "better"
    one_scene = ["a"] * 40 + [f"b{place}" for place in range(40)]
    grouped = compare_answers(first, second, one_scene)
    assert (grouped.verdict, grouped.test, grouped.groups) == ("undecided", "bootstrap", 41)
    assert compare_answers(first, second, groups).groups == 8
    assert compare_answers(first, second, [None] * 80).test == "McNemar"


@pytest.mark.parametrize("measure", ["macro_f1", "mean_average_precision"])
def test_scores_are_compared_by_a_paired_bootstrap(measure: str) -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 3, 200)
    good = np.eye(3)[truth] * 1.5 + rng.random((200, 3))
    bad = np.eye(3)[truth] * 0.2 + rng.random((200, 3))
    found = compare_scores(measure, truth, bad, good)  # type: ignore[arg-type]
    assert found is not None and found.samples_to_decide is not None
    assert found.verdict == "better" and found.second > found.first
    assert found.samples_to_decide < 200
    same = compare_scores(measure, truth, good, good)  # type: ignore[arg-type]
    assert same is not None and same.verdict == "undecided" and same.samples_to_decide is None


def test_of_several_labels_what_is_decided_and_how_it_is_ranked() -> None:
    rng = np.random.default_rng(2)
    truth = (rng.random((150, 4)) < 0.3).astype(int)
    good, bad = truth + 0.3 * rng.normal(size=truth.shape), truth + 2 * rng.normal(size=truth.shape)
    ranked = compare_scores("mean_average_precision", truth, bad, good)
    decided = compare_scores("macro_f1", truth, (good > 0.5).astype(float), (bad > 0.5).astype(float))
    assert ranked is not None and decided is not None and (ranked.verdict, decided.verdict) == ("better", "worse")


@pytest.mark.parametrize("truth", [np.zeros(30, int), np.ones((30, 3), int), np.zeros((30, 3), int)])
def test_samples_that_are_all_alike_give_no_precision(truth: np.ndarray) -> None:
    rng = np.random.default_rng(3)
    assert compare_scores("mean_average_precision", truth, rng.random((30, 3)), rng.random((30, 3))) is None


def test_where_nothing_holds_and_nothing_is_decided_there_is_no_f1() -> None:
    nothing = np.zeros((30, 3))
    assert compare_scores("macro_f1", nothing.astype(int), nothing, nothing) is None
    found = compare_scores("macro_f1", nothing.astype(int), nothing, np.ones((30, 3)))
    assert found is None  # the first has none to compare with
