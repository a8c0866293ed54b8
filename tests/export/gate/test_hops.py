"""Tests of the gate: it measures the loss of a hop, names the hop, and states how certain the loss is."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidrisk.export.gate import keeper
from vidrisk.export.gate.hops import (
    LOGIT_TOLERANCE,
    MAX_FLIPS,
    few_samples_note,
    float_hop,
    lossy_hop,
    outcome_of,
    training_hop,
)
from vidrisk.export.gate.outputs import Outputs, Validation, outputs_of
from vidrisk.export.gate.report import GateReport, Hop, Lap, Verdict
from vidrisk.runtimes import Contract, FakeRunner, PixelSpec, Target, TimeSpec
from vidrisk.runtimes.contract.errors import DataError
from vidrisk.runtimes.contract.stages import frame_encoder_stages
from vidrisk.runtimes.paired import drop_interval_points, mcnemar_p

SAMPLES, CLASSES = 20, 4
LABELS = ("run", "sit", "跌倒", "wave")
RNG = np.random.default_rng(0)
TRUTH = RNG.integers(0, CLASSES, SAMPLES)
LOGITS = (np.eye(CLASSES)[TRUTH] * 5 + RNG.normal(size=(SAMPLES, CLASSES))).astype(np.float32)
BEFORE = Outputs({"features": RNG.normal(size=(SAMPLES, 6)).astype(np.float32)}, {"action": LOGITS}, 1.0)
VALIDATION = Validation(
    np.zeros((SAMPLES, 1, 2, 2, 3), np.uint8), {"action": TRUTH}, [f"c{i}.mp4" for i in range(SAMPLES)]
)
CONTRACT = Contract(task="action", pixel=PixelSpec(2, 2), targets=(Target(name="action", labels=LABELS),))


def after(logits: np.ndarray) -> Outputs:
    return replace(BEFORE, logits={"action": logits.astype(np.float32)}, ms_per_frame=2.0)


def hop(outputs: Outputs) -> Hop:
    return float_hop("merged → onnx fp32", "fp32", "openvino", BEFORE, outputs, VALIDATION, CONTRACT)


def lossy(before: Outputs, outputs: Outputs, max_drop: float, *, allow_drop: bool = False) -> Hop:
    return lossy_hop(
        "fp32 → int8",
        "int8",
        "openvino",
        before,
        outputs,
        VALIDATION,
        CONTRACT,
        max_drop=max_drop,
        allow_drop=allow_drop,
    )


def samples_of(truth: list[int], labels: tuple[str, ...] = ("ok", "defect")) -> tuple[Validation, Contract]:
    frames = np.zeros((len(truth), 1, 2, 2, 3), np.uint8)
    validation = Validation(frames, {"action": np.array(truth)}, [f"{i}" for i in range(len(truth))])
    return validation, CONTRACT.model_copy(update={"targets": (Target(name="action", labels=labels),)})


def answers(predicted: list[int], classes: int = 2) -> Outputs:
    cuts = {"features": np.zeros((len(predicted), 1), np.float32)}
    return Outputs(cuts, {"action": np.eye(classes, dtype=np.float32)[predicted] * 3}, 1.0)


def test_an_equal_stage_passes() -> None:
    result = hop(after(LOGITS + LOGIT_TOLERANCE["fp32"] / 2))
    assert (result.passed, result.waived, result.reason, result.agreement, result.drop_points) == (
        True,
        False,
        "",
        1.0,
        0.0,
    )
    assert (result.flips, result.flipped) == ((), 0)
    assert (result.name, result.variant, result.runtime, result.ms_per_frame) == (
        "merged → onnx fp32",
        "fp32",
        "openvino",
        2.0,
    )
    assert result.largest_logit_difference == pytest.approx(LOGIT_TOLERANCE["fp32"] / 2, rel=1e-2)
    (change,) = result.changes
    assert change.p_value == 1 and change.interval_points[0] == -change.interval_points[1]
    assert change.ece_after == pytest.approx(change.ece_before, abs=1e-3)


@pytest.mark.parametrize("spoil", ["swapped labels", "zeroed row", "not merged"])
def test_a_spoilt_head_is_refused(spoil: str) -> None:
    logits = LOGITS.copy()
    if spoil == "swapped labels":
        logits = logits[:, ::-1]
    elif spoil == "zeroed row":
        logits[:, 2] = 0
    else:
        logits = logits * 0.9
    result = hop(after(logits))
    assert not result.passed and not result.waived
    assert "logits differ by" in result.reason and "at most 0.001" in result.reason


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_outputs_that_are_not_finite_are_refused_and_never_waived(poison: float) -> None:
    broken = LOGITS.copy()
    broken[3, 1] = poison
    features = BEFORE.cuts["features"].copy()
    features[5, 2] = poison
    moments = len(features) // SAMPLES
    by_name = {logits: VALIDATION.names[place] for logits, place in ((True, 3), (False, 5 // moments))}
    for broken_logits, result in (
        (True, hop(after(broken))),
        (False, hop(replace(BEFORE, cuts={"features": features}))),
        (True, lossy(BEFORE, after(broken), 100.0, allow_drop=True)),
        (True, float_hop("adapter → merged", "merged", "torch", after(broken), BEFORE, VALIDATION, CONTRACT)),
        (True, float_hop("both", "merged", "torch", after(broken), after(broken), VALIDATION, CONTRACT)),
        (True, training_hop(after(broken), VALIDATION, CONTRACT, {"action": 1.0})),
    ):
        assert (result.passed, result.waived) == (False, False)
        assert result.reason == f"outputs are not finite for 1 of {SAMPLES} samples: {by_name[broken_logits]}"


def test_three_samples_without_finite_outputs_are_named() -> None:
    broken = LOGITS.copy()
    broken[2:9, 0] = np.nan
    named = ", ".join(VALIDATION.names[2:5])
    assert hop(after(broken)).reason == f"outputs are not finite for 7 of {SAMPLES} samples: {named}, …"


def test_a_sample_without_a_finite_answer_is_wrong() -> None:
    broken = LOGITS.copy()
    broken[3, 1] = np.nan
    result = hop(after(broken))
    assert result.changes[0].top1_after == pytest.approx(result.changes[0].top1_before - 1 / SAMPLES)
    (flip,) = result.flips
    assert (flip.sample, flip.truth, flip.after) == ("c3.mp4", LABELS[TRUTH[3]], "")
    assert math.isnan(flip.confidence_after) and flip.confidence_before > 0.5


def test_an_undecided_sample_may_fall_either_way_and_is_named() -> None:
    tie, flipped = LOGITS.copy(), LOGITS.copy()
    tie[7], flipped[7] = 0, 0
    tie[7, 0] = flipped[7, 1] = LOGIT_TOLERANCE["fp32"] / 4
    result = float_hop("merged → onnx fp32", "fp32", "onnxruntime", after(tie), after(flipped), VALIDATION, CONTRACT)
    assert result.passed and result.flipped == 1
    assert result.agreement == pytest.approx(1 - 1 / SAMPLES)
    (flip,) = result.flips
    assert (flip.index, flip.sample, flip.target, flip.before, flip.after) == (7, "c7.mp4", "action", "run", "sit")
    assert flip.confidence_before == pytest.approx(0.25, abs=1e-3)


@given(st.sets(st.integers(0, SAMPLES - 1)), st.floats(0, 100), st.booleans())
def test_a_quantised_stage_may_lose_what_it_may_lose(wrong: set[int], max_drop: float, allow_drop: bool) -> None:
    perfect = np.eye(CLASSES)[TRUTH].astype(np.float32)
    spoilt = perfect.copy()
    for i in wrong:
        spoilt[i] = np.roll(perfect[i], 1)
    result = lossy(after(perfect), after(spoilt), max_drop, allow_drop=allow_drop)
    assert result.drop_points == pytest.approx(100 * len(wrong) / SAMPLES)
    over = result.drop_points > max_drop + 1e-9
    assert (result.reason != "") == over
    assert (result.passed, result.waived) == (not over or allow_drop, over and allow_drop)
    assert {flip.sample for flip in result.flips} == {f"c{i}.mp4" for i in wrong} and result.flipped == len(wrong)
    (change,) = result.changes
    assert change.interval_points == drop_interval_points(len(wrong), 0, SAMPLES) and change.p_value == mcnemar_p(
        len(wrong), 0
    )
    assert change.interval_points[0] <= result.drop_points <= change.interval_points[1]
    for label, drop in change.per_class.items():
        members = np.flatnonzero(LABELS.index(label) == TRUTH)
        assert drop == pytest.approx(100 * len(wrong & set(members.tolist())) / len(members))


def test_what_is_lost_and_gained_makes_up_but_is_told() -> None:
    validation, contract = samples_of([0, 0, 1, 1])
    result = lossy_hop(
        "", "int8", "openvino", answers([0, 0, 1, 0]), answers([0, 1, 1, 1]), validation, contract, max_drop=0
    )
    assert result.passed and result.drop_points == 0 and result.agreement == 0.5
    assert result.changes[0].per_class == {"ok": 50.0, "defect": -50.0}
    assert [(flip.before, flip.after, flip.truth) for flip in result.flips] == [
        ("ok", "defect", "ok"),
        ("ok", "defect", "defect"),
    ]


def test_a_class_without_samples_has_no_recall() -> None:
    validation, contract = samples_of([0, 0, 2], ("a", "b", "c"))
    result = lossy_hop(
        "", "int8", "openvino", answers([0, 0, 2], 3), answers([0, 0, 2], 3), validation, contract, max_drop=0
    )
    assert result.changes[0].per_class == {"a": 0.0, "c": 0.0}


def test_one_answer_to_every_sample_is_refused_even_where_it_costs_little() -> None:
    validation, contract = samples_of([0] * 195 + [1] * 5)
    before, same = answers([0] * 195 + [1] * 5), answers([0] * 200)
    for max_drop, allow_drop in ((5.0, False), (0.1, True)):
        result = lossy_hop(
            "", "int8", "openvino", before, same, validation, contract, max_drop=max_drop, allow_drop=allow_drop
        )
        assert (result.passed, result.waived) == (False, False)
        assert result.reason == "action is 'ok' for every sample: the ranges fit no real input"
    # One doubtful sample may turn, and a model that always said so may go on saying it.
    assert lossy_hop("", "int8", "openvino", answers([0] * 199 + [1]), same, validation, contract, max_drop=5.0).passed
    assert lossy_hop("", "int8", "openvino", same, same, validation, contract, max_drop=0.0).passed


def test_the_worst_target_decides() -> None:
    truth = {"defect": np.zeros(4, np.int64), "level": np.zeros(4, np.int64)}
    contract = Contract(
        task="risk", pixel=PixelSpec(2, 2), targets=tuple(Target(name=name, labels=("x", "y")) for name in truth)
    )
    validation = Validation(np.zeros((4, 1, 2, 2, 3), np.uint8), truth, list("abcd"))
    good = np.tile(np.array([[1, 0]], np.float32), (4, 1))
    worse = good.copy()
    worse[0] = [0, 1]
    one = Outputs({"features": np.zeros((4, 2), np.float32)}, {"defect": good, "level": good}, 1.0)
    other = Outputs({"features": np.zeros((4, 2), np.float32)}, {"defect": good, "level": worse}, 1.0)
    both = Outputs({"features": np.zeros((4, 2), np.float32)}, {"defect": worse, "level": worse}, 1.0)
    result = lossy_hop("fp32 → int8", "int8", "onnxruntime", one, other, validation, contract, max_drop=10.0)
    assert not result.passed
    assert result.drop_points == 25
    assert {change.target: change.top1_after for change in result.changes} == {"defect": 1.0, "level": 0.75}
    assert lossy_hop(
        "", "int8", "onnxruntime", other, one, validation, contract, max_drop=0.0
    ).passed  # better is no drop
    result = lossy_hop("", "int8", "onnxruntime", one, both, validation, contract, max_drop=50.0)
    assert (
        result.flipped == 1
        and [flip.target for flip in result.flips] == ["defect", "level"]
        and result.agreement == 0.75
    )


def test_flips_are_counted_all_and_kept_in_part() -> None:
    count = MAX_FLIPS + 50
    validation, contract = samples_of([0, 1] * (count // 2))
    before, turned = answers([0, 1] * (count // 2)), answers([1, 0] * (count // 2))
    result = lossy_hop("", "int8", "openvino", before, turned, validation, contract, max_drop=1)
    assert len(result.flips) == MAX_FLIPS and result.flipped == count


def recorded(correct: int, samples: int, rate: float) -> Hop:
    validation, contract = samples_of([0] * samples)
    return training_hop(answers([0] * correct + [1] * (samples - correct)), validation, contract, {"action": rate})


def test_what_training_recorded_is_found_again() -> None:
    result = recorded(86, 100, 0.881)
    assert (result.passed, result.name, result.variant, result.runtime) == (
        True,
        "training → adapter",
        "trained",
        "torch",
    )
    assert result.drop_points == pytest.approx(2.1)
    (change,) = result.changes
    assert change.interval_points[0] < 2.1 < change.interval_points[1] and change.p_value > 0.1
    assert math.isnan(result.agreement) and math.isnan(change.ece_before) and change.ece_after > 0


@pytest.mark.parametrize(
    ("correct", "samples", "rate", "passed"),
    [
        (12, 100, 0.881, False),  # swapped labels
        (60, 100, 0.881, False),  # other pixels
        (78, 100, 0.881, True),  # an unlucky choice of samples
        (99, 100, 1.0, True),
        (2, 3, 1.0, True),
        (0, 3, 1.0, True),  # one miss, or three samples, refute nothing
        (90, 100, 1.0, False),
        (0, 20, 1.0, False),
        (0, 10, 0.0, True),
        (10, 10, 0.2, True),  # better is no matter
    ],
)
def test_less_than_recorded_is_refused_when_chance_cannot_explain_it(
    correct: int, samples: int, rate: float, passed: bool
) -> None:
    result = recorded(correct, samples, rate)
    assert result.passed == passed
    if not passed:
        assert result.reason == (
            f"top-1 of action is {100 * correct / samples:.1f} %, training recorded {100 * rate:.1f} %: "
            "label order, normalisation or channel order differ"
        )


@pytest.mark.parametrize("rates", [{}, {"level": 0.9}, {"action": math.nan}, {"action": 88.1}])
def test_a_record_that_cannot_be_compared(rates: dict[str, float]) -> None:
    with pytest.raises(DataError, match="training recorded a top-1 of"):
        training_hop(BEFORE, VALIDATION, CONTRACT, rates)


LAPS = [
    Lap("fp32", "openvino", 10.4, 96.2, 100),
    Lap("fp32", "onnxruntime", 14.0, 71.4, 100),
    Lap("mixed", "openvino", 12.1, 82.6, 30),
    Lap("mixed", "onnxruntime", 13.0, 76.9, 30),
]


def confident(samples: int = 60, classes: int = 6, margin: float = 4.0) -> tuple[Outputs, Validation, Contract]:
    """Return outputs, samples and contract of a model that is right on nearly every sample and mostly sure.

    The true classes follow one another in turn.
    """
    rng = np.random.default_rng(1)
    truth = np.arange(samples) % classes
    logits = rng.normal(size=(samples, classes)) + np.eye(classes)[truth] * (margin + rng.exponential(2, (samples, 1)))
    validation, contract = samples_of(truth.tolist(), tuple("abcdef")[:classes])
    cuts = {"features": np.zeros((samples, 1), np.float32)}
    return Outputs(cuts, {"action": logits.astype(np.float32)}, 1.0), validation, contract


def confidence_hop(change: str, temperature: float = 1.0, *, allow_drop: bool = False, budget: float = 5.0) -> Hop:
    before, validation, contract = confident()
    logits = before.logits["action"].copy()
    if change == "logits × 0.3 of samples in half the classes":
        logits[validation.truth["action"] < 3] *= 0.3
    elif change == "logits × 0.3 of half the classes":
        logits[:, :3] *= 0.3
    elif change == "logits × 0.3":
        logits *= 0.3
    elif change == "a little noise":
        logits += np.random.default_rng(2).normal(0, 0.1, logits.shape).astype(np.float32)
    return lossy_hop(
        "fp32 → int8",
        "int8",
        "openvino",
        before,
        replace(before, logits={"action": logits}),
        validation,
        contract,
        max_drop=10,
        max_confidence_drop=budget,
        temperature={"action": temperature},
        allow_drop=allow_drop,
    )


@pytest.mark.parametrize("change", ["logits × 0.3 of samples in half the classes", "logits × 0.3 of half the classes"])
def test_a_collapse_of_confidence_is_refused_although_every_answer_stays(change: str) -> None:
    """A collapse of confidence is refused even where accuracy alone would let the hop pass.

    In ultralytics#24668, top-1 stayed the same while confidences fell from 0.85 to 0.45, so that every threshold
    became useless.
    """
    result = confidence_hop(change)
    assert result.agreement > 0.95 and result.drop_points <= 10  # accuracy alone would let it pass
    assert (
        not result.passed and "the confidence of action" in result.reason and "at most 5 are allowed" in result.reason
    )
    assert result.changes[0].confidence_points > 5
    waived = confidence_hop(change, allow_drop=True)
    assert waived.passed and waived.waived and waived.reason == result.reason


@pytest.mark.parametrize("change", ["nothing", "logits × 0.3", "a little noise"])
@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.5])
def test_what_a_temperature_makes_up_for_is_no_loss(change: str, temperature: float) -> None:
    result = confidence_hop(change, temperature)
    assert result.passed and result.changes[0].confidence_points < 2, result.reason


def test_a_runtime_that_scales_logits_is_judged_at_the_temperature_that_the_variant_ships_with() -> None:
    """A runtime that alone scales the logits is refused, because one temperature ships for all runtimes."""
    before, validation, contract = confident()
    scaled = replace(before, logits={"action": before.logits["action"] * np.float32(0.3)})
    alone, shipped = (
        lossy_hop(
            "",
            "int8",
            "openvino",
            before,
            scaled,
            validation,
            contract,
            max_drop=10,
            max_confidence_drop=5.0,
            matched=matched,
        )
        for matched in (None, {"action": 1.0})
    )
    assert alone.passed and alone.changes[0].confidence_points < 0.1
    assert not shipped.passed and "the confidence of action" in shipped.reason


def test_the_class_whose_confidence_moves_most_is_named() -> None:
    before, validation, contract = confident()
    logits = before.logits["action"].copy()
    logits[validation.truth["action"] == 2] *= 0.25
    result = lossy_hop(
        "",
        "int8",
        "openvino",
        before,
        replace(before, logits={"action": logits}),
        validation,
        contract,
        max_drop=10,
        max_confidence_drop=5.0,
    )
    assert not result.passed and "the confidence of action of 'c' moves by" in result.reason
    after_few = Outputs({"features": before.cuts["features"][:30]}, {"action": logits[:30]}, 1.0)
    few = lossy_hop(
        "",
        "int8",
        "openvino",
        before.at(np.arange(30)),
        after_few,
        validation.at(np.arange(30)),
        contract,
        max_drop=10,
        max_confidence_drop=12.0,
    )
    assert few.passed and few.changes[0].confidence_class == ""  # five samples of a class say little


def test_a_flip_is_a_matter_of_accuracy_not_of_confidence() -> None:
    before, validation, contract = confident()
    logits = before.logits["action"].copy()
    logits[:5] = np.roll(logits[:5], 1, axis=1)
    result = lossy_hop(
        "",
        "int8",
        "openvino",
        before,
        replace(before, logits={"action": logits}),
        validation,
        contract,
        max_drop=10,
        max_confidence_drop=1.0,
    )
    assert result.passed and result.drop_points == pytest.approx(100 * 5 / 60)


def test_a_calibration_error_that_rises_beyond_the_drop_is_refused() -> None:
    """A rise of the calibration error is refused even where accuracy and confidence pass.

    Half of the answers become more confident and half less, without a reason, so that the confidences no longer
    match the accuracy.
    """
    samples, rng = 3000, np.random.default_rng(3)
    truth = (rng.random(samples) < 0.35).astype(np.int64)  # label 0 is right for 65 %
    sure = np.where(rng.random(samples) < 0.5, 0.77, 0.53)
    before, after = (np.log(np.stack([p, 1 - p], axis=1)).astype(np.float32) for p in (np.full(samples, 0.65), sure))
    validation, contract = samples_of(truth.tolist())
    outputs = [
        Outputs({"features": np.zeros((samples, 1), np.float32)}, {"action": logits}, 1.0) for logits in (before, after)
    ]
    result = lossy_hop("", "int8", "openvino", *outputs, validation, contract, max_drop=10, max_confidence_drop=8.0)
    assert result.agreement == 1 and result.changes[0].confidence_points < 8
    assert not result.passed and "the calibration error of action rises from" in result.reason
    few = np.arange(12)  # so few samples do not prove it
    assert lossy_hop(
        "",
        "int8",
        "openvino",
        outputs[0].at(few),
        outputs[1].at(few),
        validation.at(few),
        contract,
        max_drop=10,
        max_confidence_drop=8.0,
    ).passed


def test_an_outcome_says_sample_by_sample_what_a_hop_says_on_the_whole() -> None:
    validation, contract = samples_of([0, 0, 1, 1])
    before, after = answers([0, 0, 1, 0]), answers([0, 1, 1, 1])
    hop = lossy_hop("", "int8", "openvino", before, after, validation, contract, max_drop=100)
    outcome = outcome_of(before, after, validation, contract, hop)
    assert (outcome.kept, outcome.gains) == ("1010", ("=-=+",))
    assert outcome.agreement == hop.agreement and outcome.drop_points == hop.drop_points
    broken = replace(after, logits={"action": after.logits["action"] * np.float32(np.nan)})
    hop = lossy_hop("", "int8", "openvino", before, broken, validation, contract, max_drop=100)
    assert outcome_of(before, broken, validation, contract, hop).drop_points == 100


def test_few_samples_are_said() -> None:
    assert few_samples_note(100, 6) == few_samples_note(2000, 0.3) == ""
    assert (
        few_samples_note(300, 0.3)
        == "with 300 samples, a drop under 2.0 points cannot be told from chance; the budget is 0.3"
    )
    assert few_samples_note(20, 1) == (
        "20 samples are few: one of them is 5.0 points, and a drop under 30.0 points cannot be told "
        "from chance; the budget is 1"
    )
    assert few_samples_note(5, 1) == (
        "5 samples are few: one of them is 20.0 points, and no drop at all can be told from chance; the budget is 1"
    )


@pytest.mark.parametrize(("correct", "passed"), [(90, True), (88, True), (92, True), (87, False), (93, False)])
def test_on_the_very_samples_of_training_chance_explains_nothing(correct: int, passed: bool) -> None:
    validation = Validation(np.zeros((100, 1, 2, 2, 3), np.uint8), {"action": np.zeros(100, np.int64)}, ["x"] * 100)
    outputs = answers([0] * correct + [1] * (100 - correct))
    hop = training_hop(outputs, validation, CONTRACT, {"action": 0.9}, same_samples=True)
    assert hop.passed == passed
    assert training_hop(outputs, validation, CONTRACT, {"action": 0.9}).passed  # on other samples that would be chance


def test_the_report_is_json() -> None:
    broken = LOGITS.copy()
    broken[0] = np.nan
    report = GateReport(
        1.0,
        SAMPLES,
        "few",
        hops=[hop(after(LOGITS)), hop(after(broken))],
        laps=LAPS,
        search=[{"block": "b", "noise_share": np.float32(0.5), "float_ms": math.inf}],
        points=[{"float_blocks": ("a", "b"), "inside": np.bool_(True)}],
        temperature={"fp32": {"action": 1.2}},
        verdicts=[Verdict("fp32", True), Verdict("int8", False, "slow"), Verdict("merged", True, "too")],
    )
    again = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert again["hops"][0]["runtime"] == "openvino" and again["hops"][0]["changes"][0]["target"] == "action"
    assert (
        again["hops"][1]["largest_logit_difference"] is None
        and again["hops"][1]["flips"][0]["confidence_after"] is None
    )
    assert again["search"] == [{"block": "b", "noise_share": 0.5, "float_ms": None}]
    assert again["points"] == [{"float_blocks": ["a", "b"], "inside": True}]
    assert again["note"] == "few" and again["target"] == "cpu" and again["laps"][2]["bytes"] == 30
    assert report.shipped == ("fp32", "merged")


@pytest.mark.parametrize(("count", "truth", "names"), [(2, 2, 3), (2, 3, 2), (0, 0, 0)])
def test_validation_samples_fit_together(count: int, truth: int, names: int) -> None:
    with pytest.raises(DataError, match="equal lengths, at least one sample"):
        Validation(np.zeros((count, 1, 2, 2, 3), np.uint8), {"action": np.zeros(truth, np.int64)}, [""] * names)


@pytest.mark.parametrize("samples", [1, 5, 16, 17, 33])
def test_outputs_come_in_the_order_of_the_samples(samples: int) -> None:
    contract = Contract(
        task="action", pixel=PixelSpec(2, 2), time=TimeSpec(3), targets=(Target(name="action", labels=("a", "b")),)
    )
    stages = frame_encoder_stages(contract, 1)
    encoder = FakeRunner(
        stages[0].inputs,
        stages[0].outputs,
        lambda feed: {"features": feed["frames"].reshape(len(feed["frames"]), -1)[:, :1].astype(np.float32)},
    )
    head = FakeRunner(
        stages[1].inputs, stages[1].outputs, lambda feed: {"action_logits": np.asarray(feed["features"][:, [0, 2], 0])}
    )
    frames = np.zeros((samples, 3, 2, 2, 3), np.uint8)
    frames += np.arange(samples * 3, dtype=np.uint8).reshape(samples, 3, 1, 1, 1)
    outputs = outputs_of({"encoder": encoder, "head": head}, stages, contract, frames)
    assert outputs.cuts["features"][:, 0].tolist() == list(range(samples * 3))
    assert outputs.logits["action"].tolist() == [[3 * i, 3 * i + 2] for i in range(samples)]
    assert outputs.ms_per_frame > 0


@pytest.mark.parametrize(
    ("runtime", "target", "saturates", "expected"),
    [
        ("onnxruntime", "cpu", True, True),
        ("openvino", "cpu", True, True),
        ("onnxruntime-cuda", "cpu", False, False),
        ("openvino", "gpu", False, True),
        ("openvino", "jetson", True, False),
        ("onnxruntime-cuda", "gpu", True, True),
    ],
)
def test_a_runtime_judges_what_it_computes_exactly(
    runtime: str, target: str, saturates: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "saturates_int8", lambda: saturates)
    assert keeper._judges(runtime, target) is expected
