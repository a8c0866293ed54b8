"""Tests of the temperature fit: it agrees with an independent minimiser.

The temperature is 1 where the samples do not determine it.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from vidrisk.calibration.temperature import MAX_TEMPERATURE, MIN_TEMPERATURE, fit_temperature, match_temperature
from vidrisk.runtimes.contract.probabilities import expected_calibration_error, probabilities_from_logits


def likelihood_loss(log_temperature: float, logits: np.ndarray, truth: np.ndarray) -> float:
    return float(
        -log_softmax(logits.astype(np.float64) / np.exp(log_temperature), axis=1)[np.arange(len(truth)), truth].mean()
    )


def drawn(samples: int, classes: int, sharpness: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return logits made ``sharpness`` times too sharp, and a truth drawn from their original probabilities."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(samples, classes)) * 2
    uniform = rng.random((samples, 1))
    truth = (
        (probabilities_from_logits(logits.astype(np.float32)).cumsum(axis=1) < uniform)
        .sum(axis=1)
        .clip(max=classes - 1)
    )
    return (logits * sharpness).astype(np.float32), truth.astype(np.int64)


@settings(max_examples=60, deadline=None)
@given(st.integers(10, 120), st.integers(2, 7), st.floats(0.1, 10), st.integers(0, 2**32 - 1))
def test_equal_to_scipy(samples: int, classes: int, sharpness: float, seed: int) -> None:
    logits, truth = drawn(samples, classes, sharpness, seed)
    if len(np.unique(truth)) < 2 or (logits.argmax(1) == truth).all():
        assert fit_temperature(logits, truth) == 1
        return
    ends = np.log([MIN_TEMPERATURE, MAX_TEMPERATURE])
    theirs = minimize_scalar(
        likelihood_loss, bounds=ends, args=(logits, truth), method="bounded", options={"xatol": 1e-7}
    )
    ours = fit_temperature(logits, truth)
    assert MIN_TEMPERATURE <= ours <= MAX_TEMPERATURE
    assert likelihood_loss(np.log(ours), logits, truth) <= theirs.fun + 1e-6
    # Near the ends the minimum is flat; between them both must be at the same place.
    if 0.1 < np.exp(theirs.x) < 5:
        assert ours == pytest.approx(np.exp(theirs.x), rel=1e-2)


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 4.0])
def test_it_undoes_what_made_a_model_too_sure(sharpness: float) -> None:
    logits, truth = drawn(4000, 5, sharpness, 7)
    temperature = fit_temperature(logits, truth)
    assert temperature == pytest.approx(sharpness, rel=0.06)
    errors = []
    for each in (1.0, temperature):
        probabilities = probabilities_from_logits(logits, each)
        errors.append(expected_calibration_error(probabilities.max(axis=1), probabilities.argmax(axis=1) == truth))
    assert errors[1] < 0.03 and (sharpness == 1 or errors[1] < errors[0] / 3)


def test_a_model_that_is_wrong_and_sure_of_it_is_made_as_unsure_as_allowed() -> None:
    logits = np.eye(2, dtype=np.float32)[np.arange(40) % 2] * 8
    assert fit_temperature(logits, 1 - np.arange(40) % 2) == pytest.approx(MAX_TEMPERATURE)


def test_samples_without_finite_logits_say_nothing() -> None:
    rng = np.random.default_rng(5)
    truth = rng.integers(0, 3, 200)
    logits = (2 * np.eye(3)[truth] + rng.normal(size=(200, 3))).astype(np.float32)
    broken, labels = np.concatenate([logits, np.full((3, 3), np.nan, np.float32)]), np.concatenate([truth, [0, 1, 2]])
    broken[201, 0], broken[202] = np.inf, (0, -np.inf, 1)
    assert fit_temperature(broken, labels) == fit_temperature(logits, truth)


@pytest.mark.parametrize(
    ("samples", "truth"),
    [
        (9, [0, 1] * 4 + [0]),  # too few
        (12, [0] * 12),  # one class
        (12, [0, 1] * 6),  # all right: no temperature is low enough
    ],
)
def test_samples_that_cannot_say(samples: int, truth: list[int]) -> None:
    logits = np.eye(2, dtype=np.float32)[np.arange(samples) % 2]
    assert fit_temperature(logits, np.array(truth)) == 1


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(2, 7), st.floats(0.3, 4), st.floats(0.3, 4), st.integers(0, 2**32 - 1))
def test_a_common_scale_is_undone(samples: int, classes: int, scale: float, temperature: float, seed: int) -> None:
    logits = np.random.default_rng(seed).normal(size=(samples, classes)).astype(np.float32) * 3
    wanted = probabilities_from_logits(logits, temperature)
    found = match_temperature((logits * scale).astype(np.float32), wanted)
    assert np.abs(probabilities_from_logits(logits * np.float32(scale), found) - wanted).max() < 1e-3


def test_rows_that_say_nothing_are_left_out_of_a_match() -> None:
    logits = np.array([[2, 0], [np.nan, 1], [0, 3]], np.float32)
    wanted = probabilities_from_logits(np.array([[1, 0], [9, 0], [0, 1.5]], np.float32))
    assert match_temperature(logits, wanted) == pytest.approx(2, rel=1e-3)
    assert match_temperature(logits[1:2], wanted[1:2]) == 1 == match_temperature(np.ones((3, 2), np.float32), wanted)


def several(samples: int, labels: int, sharpness: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return scaled logits of independent labels, and a truth drawn from their original probabilities."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(samples, labels)) * 2
    truth = rng.random((samples, labels)) < 1 / (1 + np.exp(-logits))
    return (logits * sharpness).astype(np.float32), truth.astype(np.int64)


def binary_loss(log_temperature: float, logits: np.ndarray, truth: np.ndarray) -> float:
    scaled = logits.astype(np.float64) / np.exp(log_temperature)
    return float((np.logaddexp(0, scaled) - truth * scaled).mean())


@settings(max_examples=40, deadline=None)
@given(st.integers(10, 60), st.integers(1, 5), st.floats(0.2, 6), st.integers(0, 2**32 - 1))
def test_several_labels_equal_to_scipy(samples: int, labels: int, sharpness: float, seed: int) -> None:
    logits, truth = several(samples, labels, sharpness, seed)
    if len(np.unique(truth)) < 2 or ((logits > 0) == truth).all():
        assert fit_temperature(logits, truth) == 1
        return
    ends = np.log([MIN_TEMPERATURE, MAX_TEMPERATURE])
    theirs = minimize_scalar(binary_loss, bounds=ends, args=(logits, truth), method="bounded", options={"xatol": 1e-7})
    assert binary_loss(np.log(fit_temperature(logits, truth)), logits, truth) <= theirs.fun + 1e-6


@pytest.mark.parametrize("sharpness", [0.4, 1.0, 3.0])
def test_several_labels_are_made_as_sure_as_they_are_right(sharpness: float) -> None:
    logits, truth = several(2000, 4, sharpness, 3)
    assert fit_temperature(logits, truth) == pytest.approx(sharpness, rel=0.06)
    unlabelled = np.concatenate([truth, np.full((500, 4), -1)])
    more = np.concatenate([logits, np.random.default_rng(4).normal(size=(500, 4)).astype(np.float32) * 9])
    assert fit_temperature(more, unlabelled) == fit_temperature(logits, truth)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 5), st.floats(0.3, 4), st.floats(0.3, 4), st.integers(0, 2**32 - 1))
def test_a_common_scale_of_several_labels_is_undone(
    samples: int, labels: int, scale: float, temperature: float, seed: int
) -> None:
    logits = np.random.default_rng(seed).normal(size=(samples, labels)).astype(np.float32) * 3
    wanted = probabilities_from_logits(logits, temperature, multi_label=True)
    scaled = (logits * np.float32(scale)).astype(np.float32)
    found = match_temperature(scaled, wanted, multi_label=True)
    assert np.abs(probabilities_from_logits(scaled, found, multi_label=True) - wanted).max() < 1e-3
