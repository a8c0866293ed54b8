"""Tests of confident learning: it finds labels that were changed to a wrong class, and counts them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidrisk.metrics.label_errors import find_label_errors
from vidrisk.runtimes.contract.errors import SpecError


def noisy(
    samples: int, classes: int, wrong: float, seed: int, sharpness: float = 4.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return given labels, the probabilities of a good model, and a mask of the labels that were changed."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, classes, samples)
    turned = rng.random(samples) < wrong
    given = np.where(turned, (true + rng.integers(1, classes, samples)) % classes, true)
    logits = rng.normal(size=(samples, classes)) + sharpness * (np.arange(classes) == true[:, None])
    powers = np.exp(logits)
    return given, powers / powers.sum(axis=1, keepdims=True), turned


@pytest.mark.parametrize("classes", [2, 5])
def test_turned_labels_are_the_most_suspected(classes: int) -> None:
    given, probabilities, turned = noisy(1000, classes, 0.05, 0)
    found = find_label_errors(given, probabilities)
    tenth = found.order[:100]
    assert turned[tenth].sum() / turned.sum() > 0.9
    assert 0.03 < found.share < 0.08 and found.confident_joint.sum() <= 1000
    suspected = np.flatnonzero(found.suspected)
    assert turned[suspected].mean() > 0.7


@given(st.integers(2, 60), st.integers(2, 5), st.integers(0, 99))
def test_every_sample_is_ranked_once_by_its_margin(samples: int, classes: int, seed: int) -> None:
    labels, probabilities, _ = noisy(samples, classes, 0.2, seed)
    found = find_label_errors(labels, probabilities)
    assert sorted(found.order) == list(range(samples)) and (np.diff(found.margin[found.order]) >= 0).all()
    assert (np.abs(found.margin) <= 1).all() and (found.likely != labels).all()


def test_a_clean_and_sure_model_suspects_nothing() -> None:
    labels = np.arange(40) % 4
    assert not find_label_errors(labels, np.eye(4)[labels] * 0.96 + 0.01).suspected.any()


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SpecError, match=r"truth \(3,\) and probabilities \(2, 2\)"):
        find_label_errors(np.zeros(3, int), np.full((2, 2), 0.5))
