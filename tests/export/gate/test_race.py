"""Tests of the speed comparison: a variant is called faster beyond chance, or not at all."""

from __future__ import annotations

import numpy as np
import pytest

from vidrisk.export.gate.race import _is_decided, speed_refusal, speeds_from_turns
from vidrisk.export.gate.report import GateReport, Lap, Speed


def turns(ratio: float, noise: float = 0.0, rounds: int = 11, seed: int = 0) -> dict[tuple[str, str], list[float]]:
    """Return the seconds of every turn by variant and runtime.

    fp32 takes 10 ms on OpenVINO and 14 ms on ONNX Runtime; INT8 takes ``ratio`` times 10 ms and 16 ms. Busy
    moments slow all of them alike; noise affects each alone.
    """
    rng = np.random.default_rng(seed)
    busy = rng.exponential(0.5, rounds) + 1

    def seconds(middle: float) -> list[float]:
        return (busy * middle * np.exp(rng.normal(0, noise, rounds))).tolist()

    return {
        ("fp32", "openvino"): seconds(0.010),
        ("fp32", "onnxruntime"): seconds(0.014),
        ("int8", "openvino"): seconds(0.010 * ratio),
        ("int8", "onnxruntime"): seconds(0.016 * ratio),
    }


def report(ratio: float, noise: float = 0.0, target: str = "cpu") -> GateReport:
    return GateReport(1.0, 60, target=target, speeds=speeds_from_turns(turns(ratio, noise)))


def test_each_runs_on_its_best_runtime() -> None:
    found = turns(0.5)
    found["fp32", "onnxruntime"] = [each / 4 for each in found["fp32", "onnxruntime"]]
    (speed,) = speeds_from_turns(found)
    assert (speed.variant, speed.runtime, speed.float_runtime, speed.turns) == ("int8", "openvino", "onnxruntime", 11)
    assert (speed.low, speed.ratio, speed.high) == pytest.approx((0.7, 0.7, 0.7))


def test_a_gpu_does_not_race_for_processors() -> None:
    found = turns(0.5)
    found["int8", "onnxruntime-cuda"] = [1e-6] * 11
    assert speeds_from_turns(found)[0].runtime == "openvino"


@pytest.mark.parametrize("ratio", [1.0, 1.3])
def test_what_is_not_faster_is_not_worth_its_loss(ratio: float) -> None:
    reason = speed_refusal(report(ratio), "int8")
    assert reason.startswith(f"int8 is not faster than floating point: {1 / ratio:.2f} × its speed (95 % interval ")
    assert "int8 on openvino, fp32 on openvino" in reason
    assert speed_refusal(report(ratio, target="jetson"), "int8") == ""  # it runs elsewhere
    assert speed_refusal(report(ratio), "fp32") == ""


@pytest.mark.parametrize("precision", ["int4", "int8-weight-only"])
@pytest.mark.parametrize(
    ("ratio", "size", "refused"), [(0.5, 90, False), (1.0, 90, False), (1.3, 90, True), (1.3, 50, False)]
)
def test_packed_weights_must_not_be_slower_unless_they_are_small(
    precision: str, ratio: float, size: int, refused: bool
) -> None:
    """Packed weights are worth their loss if they are not slower, or if they have half the size.

    Floating point ships together with them.
    """
    found = report(ratio)
    found.laps = [Lap("fp32", "openvino", 10.0, 100.0, 100), Lap("int8", "openvino", 10.0 * ratio, 100.0 / ratio, size)]
    found.precision = {"fp32": {"text": "fp32", "head": "fp32"}, "int8": {"text": precision, "head": "fp32"}}
    reason = speed_refusal(found, "int8")
    assert (
        bool(reason) == refused == ("int8 is slower than floating point, and 90 % as large: 0.77 × its speed" in reason)
    )
    found.precision["int8"]["text"] = "int8"
    assert bool(speed_refusal(found, "int8")) == (ratio > 0.5)


def test_what_is_faster_is() -> None:
    assert speed_refusal(report(0.9), "int8") == "" == speed_refusal(report(0.5, noise=0.1), "int8")


def test_noise_alone_does_not_make_a_variant_faster() -> None:
    """A variant of equal speed is rarely called faster.

    Of 200 comparisons with 10 % noise, about one in forty calls it faster, as a 95 % interval may.
    """
    faster = sum(speeds_from_turns(turns(1.0, 0.1, seed=seed))[0].is_faster for seed in range(200))
    assert faster <= 12


def test_turns_are_enough_when_chance_can_no_longer_have_decided() -> None:
    def speed(low: float, high: float) -> Speed:
        return Speed("int8", "openvino", "openvino", (low + high) / 2, low, high, 11)

    assert _is_decided(speed(1.2, 1.4)) and _is_decided(speed(0.7, 0.9)) and _is_decided(speed(0.98, 1.02))
    assert not _is_decided(speed(0.9, 1.2)) and not _is_decided(speed(0.98, 1.1))
