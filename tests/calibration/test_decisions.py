"""Tests of label thresholds: each has the highest F1 and lies midway between probabilities that occur."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from vidrisk.calibration.decisions import OWN_POSITIVES, fit_decisions
from vidrisk.runtimes.contract.contract import DECISION


def drawn(samples: int, labels: int, seed: int, levels: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities in ``levels`` steps, and a truth drawn from their squares."""
    rng = np.random.default_rng(seed)
    probabilities = rng.integers(1, levels, (samples, labels)) / levels
    return probabilities, (rng.random((samples, labels)) < probabilities**2).astype(np.int64)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 60), st.integers(0, 999), st.sampled_from([4, 1000]))
def test_no_other_threshold_has_a_higher_f1(samples: int, seed: int, levels: int) -> None:
    probabilities, truth = drawn(samples, 1, seed, levels)
    truth[:OWN_POSITIVES] = 1
    (threshold,) = fit_decisions(probabilities, truth)
    every = [f1_score(truth[:, 0], probabilities[:, 0] >= other) for other in np.unique(probabilities)]
    assert f1_score(truth[:, 0], probabilities[:, 0] >= threshold) == pytest.approx(max(every))
    assert 0 < threshold < 1 and np.abs(probabilities - threshold).min() > 1e-6


@settings(deadline=None, max_examples=40)
@given(st.integers(20, 60), st.integers(0, 999))
def test_every_frequent_label_has_a_threshold_of_its_own(samples: int, seed: int) -> None:
    probabilities, truth = drawn(samples, 3, seed)
    truth[:OWN_POSITIVES] = 1
    alone = [float(fit_decisions(probabilities[:, [label]], truth[:, [label]])[0]) for label in range(3)]
    assert fit_decisions(probabilities, truth).tolist() == alone


def test_a_threshold_lies_in_the_middle() -> None:
    probabilities = np.array([[0.9], [0.8], [0.7], [0.65], [0.6], [0.2], [0.1]])
    truth = np.array([[1], [1], [1], [1], [1], [0], [0]])
    assert fit_decisions(probabilities, truth) == pytest.approx([0.4])
    assert fit_decisions(probabilities, np.ones((7, 1), np.int64)) == pytest.approx(
        [0.05]
    )  # all hold: half the least of them


def test_rare_labels_share_the_threshold_of_all_decisions() -> None:
    rng = np.random.default_rng(0)
    truth = np.zeros((100, 3), np.int64)
    truth[:40, 0], truth[: OWN_POSITIVES - 1, 1] = 1, 1
    probabilities = np.clip(np.array([0.5, 0.3, 0.3]) + 0.3 * truth + 0.05 * rng.normal(size=truth.shape), 0.01, 0.99)
    found = fit_decisions(probabilities, truth)
    shared = float(fit_decisions(probabilities.reshape(-1, 1), truth.reshape(-1, 1))[0])
    assert found[1] == found[2] == shared and found[0] != shared


def test_rows_that_are_not_labelled_or_not_finite_are_left_out() -> None:
    probabilities, truth = drawn(50, 2, 1)
    truth[:OWN_POSITIVES] = 1
    more = np.concatenate([probabilities, np.full((60, 2), 0.6), [[np.nan, 0.5]]])
    unlabelled, none_holds = (np.concatenate([truth, np.full((60, 2), value), [[1, 0]]]) for value in (-1, 0))
    assert fit_decisions(more, unlabelled).tolist() == fit_decisions(probabilities, truth).tolist()
    assert (fit_decisions(more, none_holds) > 0.6).all()  # had they been labelled


@pytest.mark.parametrize("truth", [np.zeros((4, 2), np.int64), np.full((4, 2), -1)])
def test_where_nothing_holds_a_label_holds_from_a_half_on(truth: np.ndarray) -> None:
    assert fit_decisions(np.full((4, 2), 0.7), truth).tolist() == [DECISION, DECISION]
