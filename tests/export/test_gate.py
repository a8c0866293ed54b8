"""The gate sees what a hop lost, and says which hop it was."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidrisk.export.gate import (
    LOGIT_TOLERANCE,
    GateReport,
    Hop,
    Outputs,
    Validation,
    few_samples_note,
    float_hop,
    int8_hop,
    outputs_of,
)
from vidrisk.runtimes import Contract, FakeRunner, PixelSpec, Target, TimeSpec
from vidrisk.runtimes.errors import DataError

SAMPLES, CLASSES = 20, 4
RNG = np.random.default_rng(0)
TRUTH = RNG.integers(0, CLASSES, SAMPLES)
LOGITS = (np.eye(CLASSES)[TRUTH] * 5 + RNG.normal(size=(SAMPLES, CLASSES))).astype(np.float32)
BEFORE = Outputs(RNG.normal(size=(SAMPLES, 6)).astype(np.float32), {"action": LOGITS}, 1.0)
VALIDATION = Validation(np.zeros((SAMPLES, 1, 2, 2, 3), np.uint8), {"action": TRUTH}, [f"c{i}.mp4" for i in range(SAMPLES)])


def after(logits: np.ndarray) -> Outputs:
    return replace(BEFORE, logits={"action": logits.astype(np.float32)}, ms_per_frame=2.0)


def hop(outputs: Outputs) -> Hop:
    return float_hop("merged → onnx fp32", "fp32", "openvino", BEFORE, outputs, VALIDATION)


def test_an_equal_stage_passes() -> None:
    result = hop(after(LOGITS + LOGIT_TOLERANCE / 2))
    assert (result.passed, result.reason, result.agreement, result.drop_points, result.flipped) == (True, "", 1.0, 0.0, [])
    assert (result.name, result.variant, result.runtime, result.ms_per_frame) == ("merged → onnx fp32", "fp32", "openvino", 2.0)
    assert result.largest_logit_difference == pytest.approx(LOGIT_TOLERANCE / 2, rel=1e-2)


def test_a_swapped_head_is_refused() -> None:
    result = hop(after(LOGITS[:, ::-1]))
    assert not result.passed
    assert "logits differ by" in result.reason
    assert result.agreement < 0.5
    assert result.top1_after["action"] < result.top1_before["action"]


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_outputs_that_are_not_finite_are_refused(poison: float) -> None:
    broken = LOGITS.copy()
    broken[3, 1] = poison
    for result in (
        hop(after(broken)),
        int8_hop("fp32 → int8", "openvino", BEFORE, after(broken), VALIDATION, 100.0),
        float_hop("adapter → merged", "merged", "torch", after(broken), BEFORE, VALIDATION),
        float_hop("both", "merged", "torch", after(broken), after(broken), VALIDATION),
    ):
        assert not result.passed
        assert result.reason == "outputs are not finite"


def test_an_undecided_sample_may_fall_either_way_and_is_named() -> None:
    tie, flipped = LOGITS.copy(), LOGITS.copy()
    tie[7], flipped[7] = 0, 0
    tie[7, 0] = flipped[7, 1] = LOGIT_TOLERANCE / 4
    result = float_hop("merged → onnx fp32", "fp32", "onnxruntime", after(tie), after(flipped), VALIDATION)
    assert result.passed
    assert result.flipped == ["c7.mp4"]
    assert result.agreement == pytest.approx(1 - 1 / SAMPLES)


@given(st.sets(st.integers(0, SAMPLES - 1)), st.floats(0, 100))
def test_int8_may_lose_what_it_may_lose(wrong: set[int], max_drop: float) -> None:
    perfect = np.eye(CLASSES)[TRUTH].astype(np.float32)
    spoilt = perfect.copy()
    for i in wrong:
        spoilt[i] = np.roll(perfect[i], 1)
    result = int8_hop("fp32 → int8", "onnxruntime", after(perfect), after(spoilt), VALIDATION, max_drop)
    lost = 100 * len(wrong) / SAMPLES
    assert result.drop_points == pytest.approx(lost)
    assert result.passed == (result.drop_points <= max_drop + 1e-9)
    assert bool(result.reason) != result.passed
    assert set(result.flipped) == {f"c{i}.mp4" for i in wrong}


def test_the_worst_target_decides() -> None:
    truth = {"defect": np.zeros(4, np.int64), "level": np.zeros(4, np.int64)}
    validation = Validation(np.zeros((4, 1, 2, 2, 3), np.uint8), truth, list("abcd"))
    good = np.tile(np.array([[1, 0]], np.float32), (4, 1))
    worse = good.copy()
    worse[0] = [0, 1]
    one = Outputs(np.zeros((4, 2), np.float32), {"defect": good, "level": good}, 1.0)
    other = Outputs(np.zeros((4, 2), np.float32), {"defect": good, "level": worse}, 1.0)
    result = int8_hop("fp32 → int8", "onnxruntime", one, other, validation, 10.0)
    assert not result.passed
    assert result.drop_points == 25
    assert result.top1_after == {"defect": 1.0, "level": 0.75}
    assert int8_hop("fp32 → int8", "onnxruntime", other, one, validation, 0.0).passed  # better is no drop


def test_few_samples_are_said() -> None:
    assert few_samples_note(100) == ""
    assert few_samples_note(20) == "20 samples are few: one of them is 5.0 points, so smaller drops cannot be seen"


def test_the_report_is_json() -> None:
    report = GateReport(1.0, SAMPLES, [hop(after(LOGITS))], note="few")
    again = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert again["hops"][0]["runtime"] == "openvino"
    assert again["note"] == "few"


@pytest.mark.parametrize(("count", "truth", "names"), [(2, 2, 3), (2, 3, 2), (0, 0, 0)])
def test_validation_samples_fit_together(count: int, truth: int, names: int) -> None:
    with pytest.raises(DataError, match="equal lengths, at least one sample"):
        Validation(np.zeros((count, 1, 2, 2, 3), np.uint8), {"action": np.zeros(truth, np.int64)}, [""] * names)


@pytest.mark.parametrize("samples", [1, 5, 16, 17, 33])
def test_outputs_come_in_the_order_of_the_samples(samples: int) -> None:
    contract = Contract(
        task="action", pixel=PixelSpec(2, 2), time=TimeSpec(3), targets=(Target(name="action", labels=("a", "b")),)
    )
    encoder = FakeRunner(
        contract.encoder_inputs(),
        contract.encoder_outputs(1),
        lambda feed: {"features": feed["frames"].reshape(len(feed["frames"]), -1)[:, :1].astype(np.float32)},
    )
    head = FakeRunner(
        contract.head_inputs(1),
        contract.head_outputs(),
        lambda feed: {"action_logits": np.asarray(feed["features"][:, [0, 2], 0])},
    )
    frames = np.zeros((samples, 3, 2, 2, 3), np.uint8)
    frames += np.arange(samples * 3, dtype=np.uint8).reshape(samples, 3, 1, 1, 1)
    outputs = outputs_of(encoder, head, contract, frames)
    assert outputs.features[:, 0].tolist() == list(range(samples * 3))
    assert outputs.logits["action"].tolist() == [[3 * i, 3 * i + 2] for i in range(samples)]
    assert outputs.ms_per_frame > 0
