"""Tests of both sides of a hop: their answers for every kind of target, and which answers are right."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidrisk.calibration.decisions import fit_decisions
from vidrisk.export.gate.sides import NOT_FINITE, Sides
from vidrisk.runtimes import Target

ONE = Target(name="defect", labels=("crack", "rust", "sound"))
ANY = Target(name="defect", labels=("crack", "rust", "wet"), multi_label=True)
TRUTH = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 1]] * 5)
LOGITS = ((TRUTH * 2 - 1) * 3).astype(np.float32)


def turned(sample: int, label: int) -> np.ndarray:
    """Return logits in which the answer of one sample to one label is inverted."""
    logits = LOGITS.copy()
    logits[sample, label] *= -1
    return logits


def test_an_answer_of_several_labels_is_right_as_a_whole() -> None:
    sides = Sides.of(ANY, LOGITS, turned(1, 2), TRUTH)
    assert sides.answers_before.tolist() == TRUTH.tolist() and sides.right_before.all()
    assert np.flatnonzero(sides.changed).tolist() == np.flatnonzero(~sides.right_after).tolist() == [1]
    assert sides.answer_before(1)[0] == "crack + rust" and sides.answer_after(1)[0] == "crack + rust + wet"
    assert sides.answer_after(2)[0] == sides.truth_of(2) == "none" and sides.truth_of(3) == "rust + wet"


def test_confidence_is_that_of_the_least_sure_label() -> None:
    logits = LOGITS.copy()
    logits[0] = 2, -1, -4
    assert Sides.of(ANY, logits, LOGITS, TRUTH).answer_before(0)[1] == pytest.approx(1 / (1 + math.exp(-1)))


def test_both_sides_are_decided_at_the_thresholds_of_the_side_before() -> None:
    lower = LOGITS - 2.5  # every probability of what holds is 0.62, of what does not 0.004
    sides = Sides.of(ANY, lower, LOGITS, TRUTH)
    assert sides.decision.tolist() == fit_decisions(sides.sure_before, TRUTH).tolist()
    assert sides.right_before.all() and sides.right_after.all() and not sides.changed.any()
    far = Sides.of(ANY, LOGITS, lower - 2, TRUTH)  # 0.18 is under the 0.5 that suits the side before
    assert far.right_before.all() and far.answers_after.sum() == 0


def test_each_side_has_its_own_temperature() -> None:
    sides = Sides.of(ANY, LOGITS, LOGITS * 4, TRUTH, temperature=2.0, matched=8.0)
    assert np.allclose(sides.sure_before, sides.sure_after) and sides.sure_before.max() == pytest.approx(
        1 / (1 + math.exp(-1.5))
    )


@pytest.mark.parametrize("target", [ONE, ANY])
def test_samples_that_nobody_has_labelled_are_never_right_and_have_no_words(target: Target) -> None:
    truth = TRUTH.copy() if target.multi_label else np.zeros(len(TRUTH), np.int64)
    truth[4:6] = -1
    after = LOGITS.copy()
    after[4] *= -1
    sides = Sides.of(target, LOGITS, after, truth)
    assert np.flatnonzero(~sides.labelled).tolist() == [4, 5]
    assert not sides.right_before[4:6].any() and not sides.right_after[4:6].any()
    assert sides.truth_of(4) == "" and sides.truth_of(0) == "crack"
    assert sides.changed[4] and not sides.changed[5]  # whether an answer changes needs no label


@pytest.mark.parametrize("target", [ONE, ANY])
@given(st.sampled_from([np.nan, np.inf, -np.inf]), st.integers(0, 2))
def test_answers_that_are_not_finite_are_none_and_never_right(target: Target, value: float, label: int) -> None:
    logits = LOGITS.copy()
    logits[3, label] = value
    truth = TRUTH if target.multi_label else LOGITS.argmax(axis=1)
    sides = Sides.of(target, LOGITS, logits, truth)
    assert (sides.answers_after[3] == NOT_FINITE).all() and not sides.right_after[3] and sides.changed[3]
    assert sides.answer_after(3)[0] == "" and math.isnan(sides.answer_after(3)[1])
    assert (sides.answers_after == NOT_FINITE).any(axis=1).sum() == 1


def test_one_of_several_labels_is_the_most_probable_one() -> None:
    logits = np.array([[3, 1, 0], [0, 1, 3]], np.float32)
    sides = Sides.of(ONE, logits, logits[::-1], np.array([0, 0]))
    assert sides.answers_before.tolist() == [[0], [2]] and sides.right_before.tolist() == [True, False]
    assert sides.answer_before(0) == ("crack", pytest.approx(math.exp(3) / (math.exp(3) + math.e + 1)))
    assert sides.answer_after(0)[0] == "sound" and sides.truth_of(1) == "crack" and not len(sides.decision)
