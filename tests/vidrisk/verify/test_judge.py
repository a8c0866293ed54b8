from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vidrisk.runtimes.contract.bundle import Variant
from vidrisk.runtimes.contract.contract import Target
from vidrisk.runtimes.contract.manifest import PRECISIONS
from vidrisk.runtimes.contract.probabilities import probabilities_from_logits
from vidrisk.runtimes.golden import Description, Expected, Golden, Spread, logit_errors
from vidrisk.runtimes.layers import Layers
from vidrisk.verify.judge import ASKED, MOST, TOLERANCES, Answers, Compared, compare_answers, tolerance_of

VARIANTS = ("fp32", "fp16", "int8", "mixed")


def expected_from(
    logits: np.ndarray, temperature: float = 1.0, *, multi_label: bool = False, **spread: Spread
) -> Expected:
    def rows(array: np.ndarray) -> tuple[tuple[float, ...], ...]:
        return tuple(tuple(map(float, row)) for row in array)

    return Expected(
        files={},
        temperature={"a": temperature},
        logits={"a": rows(logits)},
        spread=spread,
        probabilities={"a": rows(probabilities_from_logits(logits, temperature, multi_label=multi_label))},
    )


def judge(
    wanted: np.ndarray,
    found: np.ndarray,
    variant: str = "fp32",
    temperature: float = 1.0,
    stale: float = 1.0,
    *,
    multi_label: bool = False,
) -> Compared:
    told = Description(
        contract="0" * 64,
        runtime="x",
        engine="1",
        samples=len(wanted),
        variants={variant: expected_from(wanted, temperature, multi_label=multi_label)},
    )
    golden = Golden(np.zeros((len(wanted), 1, 1, 1, 3), np.uint8), told)
    return compare_answers(
        Answers({"a": found.astype(np.float32)}, Layers()),
        golden,
        variant,  # type: ignore[arg-type]
        Variant(
            files={},
            precision={"head": variant.partition("-")[0]},
            passed=True,  # type: ignore[dict-item]
            temperature={"a": temperature * stale},
        ),
        [Target(name="a", labels=tuple(map(str, range(wanted.shape[1]))), multi_label=multi_label)],
    )


def logits(low: float = -20, high: float = 20) -> st.SearchStrategy[np.ndarray]:
    shapes = st.tuples(st.integers(1, 12), st.integers(2, 5))
    return shapes.flatmap(lambda shape: hnp.arrays(np.float32, shape, elements=st.floats(low, high, width=32)))


@given(logits(), st.floats(-100, 100), st.sampled_from(VARIANTS), st.floats(0.2, 5))
def test_the_same_answers_are_right_whatever_all_logits_of_a_row_share(
    wanted: np.ndarray, shared: float, variant: str, temperature: float
) -> None:
    wanted[0] = range(wanted.shape[1])  # rows that are all equal have no length to compare with
    found = judge(wanted, wanted + np.float32(shared), variant, temperature)
    assert not found.wrong.any() and found.shift.max() < 1e-3


@given(logits(), st.sampled_from(VARIANTS), st.integers(0, 11), st.sampled_from([np.nan, np.inf, -np.inf]))
def test_an_answer_that_is_not_finite_is_wrong_and_counted(
    wanted: np.ndarray, variant: str, sample: int, value: float
) -> None:
    wanted[0] = range(wanted.shape[1])
    found = wanted.copy()
    found[sample % len(found), 0] = value
    judged = judge(wanted, found, variant)
    assert judged.unanswered.sum() == judged.wrong.sum() == 1 and judged.unanswered[sample % len(found)]
    assert (
        judged.agreement <= 1 - 1 / len(found) and judged.shift[sample % len(found)] == 1 and np.isfinite(judged.mean)
    )


@given(logits(-3, 3), st.floats(0, 2))
def test_another_label_counts_unless_it_was_close(wanted: np.ndarray, moved: float) -> None:
    wanted[0] = range(wanted.shape[1])
    found = wanted.copy()
    found[:, 0] += np.float32(moved)
    judged, tolerance = judge(wanted, found, "int8"), TOLERANCES["int8"]
    probabilities = np.sort(probabilities_from_logits(wanted), axis=1)
    far = probabilities[:, -1] - probabilities[:, -2] > tolerance.largest
    assert judged.wrong[far & (wanted.argmax(1) != found.argmax(1))].all()
    assert judged.wrong[judged.shift > tolerance.largest + 1e-6].all()


def test_a_stale_temperature_is_no_fault_of_the_engine() -> None:
    wanted = np.array([[2.0, 0.0], [0.0, 1.0]], np.float32)
    judged = judge(wanted, wanted, temperature=0.5, stale=4)
    assert not judged.wrong.any() and judged.agreement == 1 and judged.shift.max() > 0.2


def test_probabilities_near_one_hide_what_logits_show() -> None:
    wanted = np.array([[40.0, 0.0], [0.0, 40.0]], np.float32)
    judged = judge(wanted, wanted * np.float32(0.5))
    assert judged.shift.max() < 1e-6 and judged.wrong.all() and np.allclose(judged.logit_errors, 0.5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_tolerances_follow_the_spread_of_the_export_up_to_a_limit(variant: str) -> None:
    wanted = np.eye(2, dtype=np.float32)

    def tolerance(largest: float, of_logits: float) -> tuple[float, float]:
        made = tolerance_of(variant, expected_from(wanted, x=Spread(largest=largest, mean=0.0, logits=of_logits)))  # type: ignore[arg-type]
        return made.largest, made.logits

    base = TOLERANCES[variant]
    assert tolerance(0, 0) == (base.largest, base.logits)
    assert tolerance(base.largest, base.logits) == (
        min(2 * base.largest, MOST.largest),
        min(2 * base.logits, MOST.logits),
    )
    assert tolerance(1, 9) == (MOST.largest, MOST.logits)


def test_precisions_with_fewer_bits_may_differ_more() -> None:
    fp32, fp16, int8, mixed = (TOLERANCES[variant] for variant in VARIANTS)
    assert (
        set(TOLERANCES) == set(ASKED) == set(PRECISIONS)
        and TOLERANCES["int4"] == TOLERANCES["int8-weight-only"] == int8
    )
    assert fp32.largest < fp16.largest < int8.largest == mixed.largest and fp32.logits < fp16.logits < int8.logits


@given(logits(), st.floats(0.25, 4))
def test_logit_errors_do_not_depend_on_the_scale(wanted: np.ndarray, scale: float) -> None:
    wanted[0] = range(wanted.shape[1])
    found = wanted[::-1].copy()
    np.testing.assert_allclose(
        logit_errors(found * np.float32(scale), wanted * np.float32(scale)),
        logit_errors(found, wanted),
        rtol=1e-3,
        atol=1e-4,
    )


SEVERAL = np.array([[3, -3, 4], [-3, -3, -4], [3, 3, 4], [-4, 3, -3]], np.float32)


def test_the_same_answers_of_several_labels_are_right() -> None:
    judged = judge(SEVERAL, SEVERAL, temperature=0.7, multi_label=True)
    assert (
        not judged.wrong.any()
        and judged.agreement == 1
        and judged.shift.max() < 1e-6
        and judged.logit_errors.max() == 0
    )


def test_what_all_labels_share_is_a_fault_where_each_is_decided_alone() -> None:
    """A shift of all logits is a fault if each label is decided alone, but not if exactly one label holds.

    The shift changes the sigmoid of each logit, also where it is too near 1 for the change to show.
    """
    sure = np.array([[40, 38, 39], [39, 40, 38]], np.float32)
    moved = judge(sure, sure - 30, multi_label=True)
    assert moved.wrong.all() and moved.shift.max() < 0.005 and (moved.logit_errors > 0.5).all()
    assert not judge(sure, sure - 30).wrong.any()
    assert judge(SEVERAL, SEVERAL + 2, multi_label=True).shift.min() > 0.03


def test_a_target_of_one_label_is_judged() -> None:
    one = SEVERAL[:, :1]
    assert not judge(one, one, multi_label=True).wrong.any()
    judged = judge(one, -one, multi_label=True)
    assert judged.wrong.all() and judged.agreement == 0 and judged.logit_errors == pytest.approx(2, rel=0.3)


@pytest.mark.parametrize("sample", range(4))
def test_one_label_that_turns_is_another_answer(sample: int) -> None:
    found = SEVERAL.copy()
    found[sample, 1] *= -1
    judged = judge(SEVERAL, found, "int8", multi_label=True)
    assert np.flatnonzero(judged.wrong).tolist() == [sample] and judged.agreement == pytest.approx(0.75)


def test_a_label_that_was_undecided_may_turn() -> None:
    near = SEVERAL.copy()
    near[1, 0] = 0.005
    found = near.copy()
    found[1, 0] = -0.005
    judged = judge(near, found, multi_label=True)
    assert not judged.wrong.any() and judged.agreement == pytest.approx(0.75)


def test_an_answer_of_several_labels_that_is_not_finite_is_wrong() -> None:
    found = SEVERAL.copy()
    found[2, 0] = np.nan
    judged = judge(SEVERAL, found, multi_label=True)
    assert (
        np.flatnonzero(judged.wrong).tolist() == np.flatnonzero(judged.unanswered).tolist() == [2]
        and judged.shift[2] == 1
    )
