"""Tests that probes equal the logistic regressions of scikit-learn.

An out-of-fold probability comes from a probe that was not fitted on the fold of the sample.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss as their_log_loss

from vidrisk.runtimes import Target
from vidrisk.runtimes.contract.probabilities import probabilities_from_logits
from vidrisk.train import probe
from vidrisk.train.probe import DECAYS, Probe, fit_probe, log_loss, probabilities_out_of_fold, probe_inputs

LABELS = ("a", "b", "c", "d")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Run Torch with one thread for the test.

    For probes of so few samples, several threads take longer than one, especially on a busy machine.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def one_of(classes: int) -> Target:
    return Target(name="action", labels=LABELS[:classes])


ANY = Target(name="defect", labels=LABELS[:3], multi_label=True)


def drawn(samples: int, width: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return features of very different scales, and labels that depend on them with noise; every label occurs."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(samples, width)) * np.exp(rng.normal(size=width)) + rng.normal(size=width) * 5
    logits = features @ rng.normal(size=(width, classes)) / np.sqrt(width) + rng.normal(size=(samples, classes))
    truth = logits.argmax(axis=1)
    truth[:classes] = range(classes)
    return features.astype(np.float32), truth.astype(np.int64)


def standardised(fitted: Probe, features: np.ndarray) -> np.ndarray:
    return ((torch.from_numpy(features) - fitted.mean) / fitted.deviation).numpy().astype(np.float64)


@settings(max_examples=20, deadline=None)
@given(
    st.integers(12, 60),
    st.sampled_from([3, 8, 90]),
    st.integers(2, 4),
    st.sampled_from([1.0, 0.1, 0.01]),
    st.integers(0, 99),
)
def test_equal_to_scikit_learn(samples: int, width: int, classes: int, decay: float, seed: int) -> None:
    features, truth = drawn(samples, width, classes, seed)
    fitted = fit_probe(features, truth, one_of(classes), decay)
    inputs = standardised(fitted, features)
    # With two classes it has one vector of weights, and we have one for each, opposite and half as long.
    theirs = LogisticRegression(C=(2 if classes == 2 else 1) / (samples * decay), tol=1e-8, max_iter=5000).fit(
        inputs, truth
    )
    assert fitted.probabilities(features) == pytest.approx(theirs.predict_proba(inputs), abs=3e-3)


@pytest.mark.parametrize("width", [6, 120])
def test_several_labels_are_regressions_of_their_own(width: int) -> None:
    features, first = drawn(80, width, 2, 0)
    truth = np.stack([first, drawn(80, width, 2, 1)[1], np.arange(80) % 3 == 0], axis=1).astype(np.int64)
    fitted = fit_probe(features, truth, ANY, 0.05)
    inputs, found = standardised(fitted, features), fitted.probabilities(features)
    for label in range(3):
        theirs = LogisticRegression(C=1 / (80 * 3 * 0.05), tol=1e-8, max_iter=5000).fit(inputs, truth[:, label])
        assert found[:, label] == pytest.approx(theirs.predict_proba(inputs)[:, 1], abs=3e-3)


@settings(max_examples=10, deadline=None)
@given(
    st.integers(5, 40), st.integers(50, 200), st.integers(2, 4), st.sampled_from([1.0, 0.1, 0.01]), st.integers(0, 99)
)
def test_a_rotation_into_the_space_of_the_samples_has_the_same_optimum(
    samples: int, width: int, classes: int, decay: float, seed: int
) -> None:
    features, truth = drawn(samples, width, classes, seed)
    rotated = fit_probe(features, truth, one_of(classes), decay)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "MOST_ROTATED", 0)
        plain = fit_probe(features, truth, one_of(classes), decay)
    others = np.random.default_rng(seed + 1).normal(size=(20, width)).astype(np.float32) * 3
    assert rotated.weights.shape == plain.weights.shape == (classes, width)
    assert rotated.probabilities(others) == pytest.approx(plain.probabilities(others), abs=5e-3)


@settings(max_examples=10, deadline=None)
@given(st.integers(12, 60), st.sampled_from([3, 90]), st.booleans(), st.integers(1, 7), st.integers(0, 99))
def test_many_samples_are_read_piece_by_piece_and_nothing_else_changes(
    samples: int, width: int, multi_label: bool, rows: int, seed: int
) -> None:
    features, truth = drawn(samples, width, 3, seed)
    target = ANY if multi_label else one_of(3)
    truth = np.eye(3, dtype=np.int64)[truth] if multi_label else truth
    folds = np.arange(samples) % 3
    few = (
        fit_probe(features, truth, target, 0.1),
        probabilities_out_of_fold(features, truth, target, folds.tolist(), [0.1])[0],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "MOST_ROTATED", 0)
        patch.setattr(probe, "PIECE_BYTES", 4 * rows * width)
        assert len([*probe_inputs(features).pieces(np.arange(samples))]) == -(-samples // rows)
        many = (
            fit_probe(features, truth, target, 0.1),
            probabilities_out_of_fold(features, truth, target, folds.tolist(), [0.1])[0],
        )
    assert many[0].probabilities(features) == pytest.approx(few[0].probabilities(features), abs=5e-3)
    assert many[1] == pytest.approx(few[1], abs=5e-3)


def test_features_that_are_the_same_in_all_samples_say_how_often_each_label_is() -> None:
    for width in (2, 40):
        fitted = fit_probe(np.ones((8, width), np.float32), np.array([0, 0, 0, 1, 0, 1, 0, 0]), one_of(2), 0.1)
        assert fitted.probabilities(np.ones((1, width), np.float32))[0] == pytest.approx([0.75, 0.25], abs=1e-3)


def test_samples_that_are_not_labelled_are_not_learnt_from() -> None:
    features, truth = drawn(40, 5, 3, 0)
    more = np.concatenate([features, np.full((7, 5), 99, np.float32)])
    known = fit_probe(features, truth, one_of(3), 0.1)
    assert torch.equal(fit_probe(more, np.concatenate([truth, np.full(7, -1)]), one_of(3), 0.1).weights, known.weights)
    several = (np.random.default_rng(0).random((40, 3)) < 0.4).astype(np.int64)
    known = fit_probe(features, several, ANY, 0.1)
    assert torch.equal(fit_probe(more, np.concatenate([several, np.full((7, 3), -1)]), ANY, 0.1).weights, known.weights)


def test_nobody_is_asked_about_what_it_has_learnt_from() -> None:
    """A probe cannot predict random labels out of fold, although it can memorise them."""
    rng = np.random.default_rng(0)
    features, truth = rng.normal(size=(60, 200)).astype(np.float32), rng.integers(0, 2, 60)
    by_heart = fit_probe(features, truth, one_of(2), 0.001).probabilities(features)
    assert (by_heart.argmax(axis=1) == truth).all()
    told, decay = probabilities_out_of_fold(features, truth, one_of(2), [place % 5 for place in range(60)])
    assert (told.argmax(axis=1) == truth).mean() < 0.7 and decay == max(DECAYS)


def test_each_fold_is_asked_the_probe_of_the_others_and_the_best_decay_is_taken() -> None:
    features, truth = drawn(60, 8, 3, 2)
    folds = np.arange(60) % 3
    told, decay = probabilities_out_of_fold(features, truth, one_of(3), folds.tolist())
    inputs, others = probe_inputs(features), np.flatnonzero(folds != 1)
    weights, bias = probe._minimise(inputs, others, truth[others], one_of(3), decay)
    expected = torch.from_numpy(inputs.rows[folds == 1]) @ weights.T + bias
    assert np.array_equal(told[folds == 1], probabilities_from_logits(expected.numpy(), multi_label=False))
    losses = {
        each: log_loss(
            probabilities_out_of_fold(features, truth, one_of(3), folds.tolist(), [each])[0], truth, one_of(3)
        )
        for each in DECAYS
    }
    assert losses[decay] == min(losses.values())


def test_the_loss_is_that_of_scikit_learn_over_what_is_labelled() -> None:
    rng = np.random.default_rng(0)
    sure = rng.dirichlet(np.ones(3), 20).astype(np.float32)
    truth = rng.integers(0, 3, 20)
    truth[:3] = range(3)
    unlabelled = np.concatenate([truth, [-1, -1]])
    assert log_loss(np.concatenate([sure, sure[:2]]), unlabelled, one_of(3)) == pytest.approx(
        their_log_loss(truth, sure), rel=1e-5
    )
    several, each = rng.integers(0, 2, (20, 3)), rng.random((20, 3)).astype(np.float32)
    expected = np.mean([their_log_loss(several[:, label], each[:, label], labels=[0, 1]) for label in range(3)])
    assert log_loss(each, several, ANY) == pytest.approx(expected, rel=1e-5)
    assert log_loss(np.eye(3, dtype=np.float32), np.array([1, 1, 2]), one_of(3)) < 20  # finite, however wrong
