"""Tests of multi-label targets in the gate: they are judged by mAP.

A loss of mAP is refused, and so are decisions that collapse.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from vidrisk.export.gate.coverage import fit_coverage, fit_decision
from vidrisk.export.gate.hops import float_hop, lossy_hop, outcome_of, training_hop
from vidrisk.export.gate.outputs import Outputs, Validation
from vidrisk.export.gate.report import Hop
from vidrisk.export.gate.selection import SEPARATE_FROM, separate_samples
from vidrisk.runtimes import Contract, PixelSpec, Target
from vidrisk.runtimes.contract.errors import DataError
from vidrisk.runtimes.precision import mean_precision

LABELS = ("crack", "rust", "wet")
DEFECT = Target(name="defect", labels=LABELS, multi_label=True)
LEVEL = Target(name="level", labels=("low", "high"), ordered=True)
SAMPLES = 120
RNG = np.random.default_rng(0)
TRUTH = (RNG.random((SAMPLES, len(LABELS))) < 0.4).astype(np.int64)
LOGITS = ((TRUTH * 2 - 1) * 2 + RNG.normal(size=TRUTH.shape)).astype(np.float32)
LEVELS = RNG.integers(0, 2, SAMPLES)
LEVEL_LOGITS = (np.eye(2)[LEVELS] * 4).astype(np.float32)


def judged(truth: np.ndarray, *, level: np.ndarray | None = None) -> tuple[Validation, Contract]:
    targets = (DEFECT,) if level is None else (DEFECT, LEVEL)
    known = {"defect": truth} | ({} if level is None else {"level": level})
    validation = Validation(
        np.zeros((len(truth), 1, 2, 2, 3), np.uint8), known, [f"{i}.png" for i in range(len(truth))]
    )
    return validation, Contract(task="risk", pixel=PixelSpec(2, 2), targets=targets)


def outputs(logits: np.ndarray, level: np.ndarray | None = None) -> Outputs:
    found = {"defect": logits.astype(np.float32)} | ({} if level is None else {"level": level})
    return Outputs({}, found, 1.0)


def lossy(
    after: np.ndarray,
    *,
    before: np.ndarray = LOGITS,
    truth: np.ndarray = TRUTH,
    max_drop: float = 2.0,
    max_confidence_drop: float = 100.0,
    allow_drop: bool = False,
) -> Hop:
    validation, contract = judged(truth)
    return lossy_hop(
        "fp32 → int8",
        "int8",
        "openvino",
        outputs(before),
        outputs(after),
        validation,
        contract,
        max_drop=max_drop,
        max_confidence_drop=max_confidence_drop,
        allow_drop=allow_drop,
    )


def noisy(noise: float, logits: np.ndarray = LOGITS) -> np.ndarray:
    return logits + noise * np.random.default_rng(1).normal(size=logits.shape)


def test_a_hop_that_keeps_the_precision_passes() -> None:
    hop = lossy(noisy(0.05), max_confidence_drop=5.0)
    (change,) = hop.changes
    assert hop.passed and hop.reason == "" and abs(hop.drop_points) < 2
    assert change.measure == "mAP" and change.map_before == pytest.approx(mean_precision(LOGITS, TRUTH))
    assert change.interval_points[0] <= change.drop_points <= change.interval_points[1] and change.confidence_points < 5


@pytest.mark.parametrize("allow_drop", [False, True])
def test_a_hop_that_loses_precision_is_refused_or_waived(allow_drop: bool) -> None:
    hop = lossy(noisy(3.0), allow_drop=allow_drop)
    (change,) = hop.changes
    drop = 100 * (mean_precision(LOGITS, TRUTH) - mean_precision(noisy(3.0), TRUTH))
    assert drop > 5 and hop.drop_points == change.drop_points == pytest.approx(
        drop, abs=0.5
    )  # sigmoids of float32 have more ties
    assert (hop.passed, hop.waived) == (allow_drop, allow_drop)
    assert hop.reason.startswith(f"mAP falls by {hop.drop_points:.2f} points, at most 2 is allowed")
    assert change.p_value < 0.05 and hop.flipped == len(hop.flips) > 10


def test_one_label_that_turns_shows_in_its_own_recall() -> None:
    after = LOGITS.copy()
    after[:, 1] *= -1
    hop = lossy(after)
    (change,) = hop.changes
    assert (
        not hop.passed and change.per_class["rust"] > 80 and change.per_class["crack"] == change.per_class["wet"] == 0
    )


@pytest.mark.parametrize(("shift", "answer"), [(-20, "none"), (20, "crack + rust + wet")])
def test_decisions_that_collapse_are_refused_although_the_ranking_stays(shift: float, answer: str) -> None:
    """A bias of all logits is refused where it gives every sample the same answer.

    The average precision does not change with such a bias, but every threshold would be useless.
    """
    after = LOGITS.astype(np.float64) / 100 + shift
    for allow_drop in (False, True):
        hop = lossy(after, max_drop=100.0, allow_drop=allow_drop)
        assert (hop.passed, hop.waived) == (False, False)
        assert hop.reason == f"defect is {answer!r} for every sample: the ranges fit no real input"


def test_confidence_is_judged_by_the_labels_that_hold() -> None:
    assert lossy(LOGITS + 0.1, max_confidence_drop=5.0).passed
    spread = LOGITS.copy()
    spread[:60] += np.where(spread[:60] > 0, 3, 0).astype(np.float32)
    hop = lossy(spread, max_confidence_drop=5.0)
    assert not hop.passed and "the confidence of defect" in hop.reason and hop.changes[0].confidence_points > 5


def test_samples_without_labels_count_for_nothing() -> None:
    truth = np.concatenate([TRUTH, np.full((30, 3), -1)])
    before, after = (
        np.concatenate([logits, np.random.default_rng(2).normal(size=(30, 3))]) for logits in (LOGITS, noisy(1.0))
    )
    after[SAMPLES:] *= -1
    (known,), (change,) = lossy(noisy(1.0)).changes, lossy(after, before=before, truth=truth).changes
    # The temperature that matches the logits is fitted to all samples, and moves probabilities alone.
    for field in ("top1_before", "drop_points", "interval_points", "p_value", "map_before", "map_after"):
        assert getattr(change, field) == pytest.approx(getattr(known, field), abs=1e-6), field


def test_where_no_label_tells_samples_apart_whole_answers_are_judged() -> None:
    truth = np.ones((SAMPLES, 3), np.int64)
    good = np.full((SAMPLES, 3), 3, np.float32)
    bad = good.copy()
    bad[:30, 0] = -3
    hop = lossy(bad, before=good, truth=truth)
    (change,) = hop.changes
    assert not hop.passed and hop.drop_points == 25 and "top-1 falls by 25.00 points" in hop.reason
    assert (
        change.measure == "top-1"
        and math.isnan(change.map_before)
        and change.per_class == {"crack": 25, "rust": 0, "wet": 0}
    )


def test_a_target_without_a_precision_hides_no_loss_of_another() -> None:
    validation, contract = judged(np.ones((SAMPLES, 3), np.int64), level=LEVELS)
    good = np.full((SAMPLES, 3), 3, np.float32)
    after = outputs(good, LEVEL_LOGITS[::-1].copy())
    hop = lossy_hop(
        "",
        "int8",
        "openvino",
        outputs(good, LEVEL_LOGITS),
        after,
        validation,
        contract,
        max_drop=5,
        max_confidence_drop=100,
    )
    assert not hop.passed and hop.drop_points > 20 and "top-1 falls by" in hop.reason


def test_a_target_that_nobody_has_labelled_cannot_be_judged() -> None:
    with pytest.raises(
        DataError, match="no validation sample is labelled for level; allowed: at least one for each target"
    ):
        judged(TRUTH, level=np.full(SAMPLES, -1))
    judged(TRUTH, level=np.where(np.arange(SAMPLES) == 7, 1, -1))


def test_a_float_hop_is_judged_by_logits_alone() -> None:
    validation, contract = judged(TRUTH)

    def hop(after: np.ndarray) -> Hop:
        return float_hop("merged → onnx", "fp32", "openvino", outputs(LOGITS), outputs(after), validation, contract)

    assert hop(LOGITS + 5e-4).passed and not hop(LOGITS + 5e-3).passed
    broken = LOGITS.copy()
    broken[3, 0] = np.nan
    assert hop(broken).reason == f"outputs are not finite for 1 of {SAMPLES} samples: 3.png"


def recorded(rate: float, logits: np.ndarray = LOGITS, truth: np.ndarray = TRUTH) -> Hop:
    validation, contract = judged(truth)
    return training_hop(outputs(logits), validation, contract, {"defect": rate})


def test_the_precision_that_training_recorded_is_found_again() -> None:
    found = mean_precision(1 / (1 + np.exp(-LOGITS)), TRUTH)
    assert recorded(found).passed and recorded(found - 0.3).passed  # better is no matter
    (change,) = recorded(found).changes
    assert (
        change.map_before == found
        and change.map_after == pytest.approx(found, abs=1e-6)
        and abs(change.drop_points) < 1e-3
    )
    swapped = recorded(found, LOGITS[:, ::-1])
    assert not swapped.passed
    left = swapped.changes[0].map_after
    assert swapped.reason == (
        f"mAP of defect is {100 * left:.1f} %, training recorded {100 * found:.1f} %: "
        "label order, normalisation or channel order differ"
    )


def test_a_record_without_a_precision_says_what_is_missing() -> None:
    with pytest.raises(
        DataError, match=r"training could not measure the mAP of 'defect'.*fix: give other labelled data as val"
    ):
        recorded(math.nan)
    with pytest.raises(DataError, match="training recorded a top-1 of 88"):
        recorded(88.0)


def test_a_search_sees_whole_answers_sample_by_sample() -> None:
    validation, contract = judged(np.concatenate([TRUTH[:-1], [[-1, -1, -1]]]))
    perfect = ((TRUTH * 2 - 1) * 3).astype(np.float32)
    after = perfect.copy()
    after[[0, SAMPLES - 1], 0] *= -1
    hop = lossy_hop("", "int8", "openvino", outputs(perfect), outputs(after), validation, contract, max_drop=50)
    outcome = outcome_of(outputs(perfect), outputs(after), validation, contract, hop)
    assert outcome.kept == "0" + "1" * (SAMPLES - 2) + "0" and outcome.gains == ("-" + "=" * (SAMPLES - 1),)


def test_the_thresholds_that_ship_are_those_of_each_variant() -> None:
    validation, contract = judged(TRUTH, level=LEVELS)
    found = {"fp32": outputs(LOGITS, LEVEL_LOGITS), "int8": outputs(LOGITS - 2, LEVEL_LOGITS)}
    temperature = {name: {"defect": 1.0, "level": 1.0} for name in found}
    decided = fit_decision(found, temperature, validation, contract)
    assert {name: set(each) for name, each in decided.items()} == {"fp32": {"defect"}, "int8": {"defect"}}
    assert all(decided["int8"]["defect"][label] < decided["fp32"]["defect"][label] for label in LABELS)
    fits = fit_coverage(found, temperature, validation, contract, 0.9)
    assert "any number of its labels may hold" in fits["fp32"]["defect"].reason and fits["fp32"]["level"].groups


def test_samples_are_separated_so_that_either_part_has_labels_of_each_target() -> None:
    count = SEPARATE_FROM + 100
    truth = np.tile(TRUTH, (3, 1))[:count]
    for labelled, separate in ((range(60), True), ([5], False)):
        level = np.full(count, -1)
        level[list(labelled)] = np.arange(len(labelled)) % 2
        validation, _ = judged(truth, level=level)
        parts = separate_samples(validation)
        assert parts.is_separate == separate
        validation.at(parts.choosing), validation.at(parts.judging)
