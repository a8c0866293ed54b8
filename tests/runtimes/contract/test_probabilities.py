"""Tests of probabilities: they equal a softmax in double precision for any logits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.special import softmax

from vidrisk.runtimes.contract.probabilities import expected_calibration_error, probabilities_from_logits

LOGITS = arrays.arrays(
    np.float32, st.tuples(st.integers(1, 6), st.integers(1, 5)), elements=st.floats(-1e4, 1e4, width=32)
)


@given(LOGITS, st.floats(0.05, 20))
def test_equal_to_a_softmax_in_double_precision(logits: npt.NDArray[np.float32], temperature: float) -> None:
    ours = probabilities_from_logits(logits, temperature)
    assert ours.dtype == np.float32 and ours.shape == logits.shape
    np.testing.assert_allclose(ours, softmax(logits.astype(np.float64) / temperature, axis=1), rtol=1e-6, atol=1e-30)
    np.testing.assert_allclose(ours.sum(axis=1), 1, rtol=1e-5)


def test_large_logits_do_not_overflow() -> None:
    assert probabilities_from_logits(np.array([[3e38, -3e38], [0, 0]], np.float32)).tolist() == [[1, 0], [0.5, 0.5]]


def test_a_temperature_flattens_and_keeps_the_order() -> None:
    logits = np.array([[0, 1, 3]], np.float32)
    sharp, plain, flat = (probabilities_from_logits(logits, temperature)[0] for temperature in (0.5, 1, 4))
    assert sharp[2] > plain[2] > flat[2] > flat[1] > flat[0]


def test_ece_by_hand() -> None:
    # bin (14/15, 1]: confidence .95, always right; (8/15, 9/15]: .6, wrong; (9/15, 10/15]: .65, wrong
    confidence, correct = np.array([0.95, 0.95, 0.6, 0.65]), np.array([True, True, False, False])
    assert expected_calibration_error(confidence, correct) == pytest.approx((2 * 0.05 + 0.6 + 0.65) / 4)
    # in one bin the errors make up for one another: mean confidence .7875, accuracy .5
    assert expected_calibration_error(confidence, correct, bins=1) == pytest.approx(0.2875)


@pytest.mark.parametrize(
    ("confidence", "correct", "ece"), [(0.0, False, 0), (1.0, True, 0), (1.0, False, 1), (1 / 15, False, 1 / 15)]
)
def test_the_ends_of_the_bins(confidence: float, correct: bool, ece: float) -> None:
    assert expected_calibration_error(np.array([confidence]), np.array([correct])) == pytest.approx(ece)
