"""Tests of average precision: equal to scikit-learn's; a change is reported with the probability of chance."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from vidrisk.runtimes.precision import average_precision, mean_precision, precision_drop, precision_interval


@st.composite
def ranked(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Return which samples are positive (at least one), and their scores, many of which are equal."""
    rows = draw(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=1, max_size=40))
    positive = np.array([holds for holds, _ in rows])
    positive[draw(st.integers(0, len(rows) - 1))] = True
    return positive, np.array([score for _, score in rows]) / 6


def several(samples: int, labels: int, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a truth ``(N, C)`` in which every label holds for some samples and not for others.

    Also returns scores that follow it with noise.
    """
    rng = np.random.default_rng(seed)
    truth = (rng.random((samples, labels)) < 0.3).astype(np.int64)
    truth[0], truth[1] = 1, 0
    return truth, truth + noise * rng.normal(size=truth.shape)


@given(ranked())
def test_equal_to_scikit_learn(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    positive, score = drawn
    assert average_precision(positive, score) == pytest.approx(average_precision_score(positive, score), abs=1e-12)


@given(ranked(), st.randoms(use_true_random=False))
def test_neither_the_order_of_samples_nor_the_scale_of_scores_matters(
    drawn: tuple[np.ndarray, np.ndarray], random: object
) -> None:
    positive, score = drawn
    order = np.arange(len(score))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert average_precision(positive[order], np.exp(3 * score[order])) == pytest.approx(
        average_precision(positive, score)
    )


@given(ranked())
def test_a_perfect_ranking_has_one_and_equal_scores_have_the_share_of_positives(
    drawn: tuple[np.ndarray, np.ndarray],
) -> None:
    positive, _ = drawn
    assert average_precision(positive, positive.astype(float)) == 1
    assert average_precision(positive, np.zeros(len(positive))) == pytest.approx(positive.mean())


@settings(deadline=None)
@given(st.integers(2, 40), st.integers(1, 5), st.integers(0, 99))
def test_the_mean_is_over_labels(samples: int, labels: int, seed: int) -> None:
    truth, scores = several(samples, labels, 1.0, seed)
    expected = np.mean([average_precision_score(truth[:, label], scores[:, label]) for label in range(labels)])
    assert mean_precision(scores, truth) == pytest.approx(expected)


def test_labels_of_all_samples_or_none_and_rows_without_labels_count_for_nothing() -> None:
    truth, scores = several(30, 2, 1.0, 0)
    more = np.column_stack([truth, np.ones(30, np.int64), np.zeros(30, np.int64)])
    known = mean_precision(scores, truth)
    assert mean_precision(np.column_stack([scores, scores]), more) == pytest.approx(known)
    unknown = np.concatenate([truth, np.full((9, 2), -1)])
    assert mean_precision(np.concatenate([scores, np.full((9, 2), 5.0)]), unknown) == pytest.approx(known)
    assert precision_interval(np.concatenate([scores, np.full((9, 2), 5.0)]), unknown) == precision_interval(
        scores, truth
    )


def test_where_no_label_tells_samples_apart_there_is_no_figure() -> None:
    scores = np.random.default_rng(0).random((6, 2))
    assert math.isnan(mean_precision(scores, np.ones((6, 2), np.int64)))
    assert all(map(math.isnan, precision_interval(scores, np.zeros((6, 2), np.int64))))
    drop = precision_drop(scores, scores, np.ones((6, 2), np.int64))
    assert math.isnan(drop.before) and drop.p_value == 1


def test_nineteen_of_twenty_intervals_hold_the_precision_of_many_samples() -> None:
    truth, scores = several(60_000, 3, 0.7, 1)
    whole = mean_precision(scores, truth)
    inside = []
    for part in range(60):
        rows = slice(part * 200, part * 200 + 200)
        low, high = precision_interval(scores[rows], truth[rows])
        assert low < mean_precision(scores[rows], truth[rows]) < high
        inside.append(low <= whole <= high)
    assert np.mean(inside) > 0.85


@given(st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_exchanging_the_models_turns_the_drop(seed: int) -> None:
    truth, before = several(50, 3, 0.8, seed)
    after = before + 0.5 * np.random.default_rng(seed + 1).normal(size=before.shape)
    one, other = precision_drop(before, after, truth), precision_drop(after, before, truth)
    assert (
        (one.before, one.after)
        == (other.after, other.before)
        == (mean_precision(before, truth), mean_precision(after, truth))
    )
    assert other.interval_points == pytest.approx((-one.interval_points[1], -one.interval_points[0]))
    assert one.p_value == other.p_value


def test_a_clear_drop_is_beyond_chance_and_none_is_not() -> None:
    truth, good = several(200, 3, 0.4, 2)
    bad = truth + 2 * np.random.default_rng(3).normal(size=truth.shape)
    clear = precision_drop(good, bad, truth)
    assert clear.p_value < 0.01 and clear.interval_points[0] > 10
    assert clear.interval_points[0] < 100 * (clear.before - clear.after) < clear.interval_points[1]
    same = precision_drop(good, good, truth)
    assert (same.before - same.after, same.interval_points, same.p_value) == (0, (0, 0), 1)


def test_models_that_are_equally_good_are_seldom_told_apart() -> None:
    found = []
    for seed in range(60):
        truth, one = several(120, 2, 0.8, 2 * seed)
        other = truth + 0.8 * np.random.default_rng(1000 + seed).normal(size=truth.shape)
        found.append(precision_drop(one, other, truth).p_value < 0.05)
    assert np.mean(found) < 0.15
