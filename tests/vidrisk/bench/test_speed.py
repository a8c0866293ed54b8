from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
from colour import ACTION

from vidrisk.bench.alone import Candidate, Footprint
from vidrisk.bench.speed import BATCHES, Throughput, clip_latencies, frame_latencies, seconds_in_turns, throughputs
from vidrisk.inference.model import Classifier
from vidrisk.runtimes.contract.errors import RuntimeFailure
from vidrisk.runtimes.contract.stages import frame_encoder_stages
from vidrisk.runtimes.runner import Array, Arrays, FakeRunner

A, B = Candidate("onnxruntime", "fp32"), Candidate("openvino", "int8")
SMALL = Footprint(10**6, 1000)


def classifier_of(encode_s: Callable[[int], float], most: int = 1000) -> Classifier:
    """Return a classifier whose encoder takes ``encode_s(count)`` seconds and refuses more than ``most`` frames."""

    def encode(feed: Mapping[str, Array]) -> Arrays:
        count = len(feed["frames"])
        if count > most:
            raise RuntimeFailure(f"no memory for {count} frames")
        time.sleep(encode_s(count))
        return {"features": np.zeros((count, 3), np.float32)}

    def judge(feed: Mapping[str, Array]) -> Arrays:
        return {"action_logits": np.zeros((len(feed["features"]), 3), np.float32)}

    stages = frame_encoder_stages(ACTION, 3)
    runners = [
        FakeRunner(stage.inputs, stage.outputs, function)
        for stage, function in zip(stages, (encode, judge), strict=True)
    ]
    return Classifier(stages, runners, ACTION, variant="fp32", provenance={"digest": ""})


def throughputs_of(classifiers: dict[Candidate, Classifier], **footprints: Footprint) -> dict[Candidate, Throughput]:
    told: list[tuple[str, int, int]] = []
    found = throughputs(
        classifiers, {c: footprints.get(c.runtime, SMALL) for c in classifiers}, lambda *progress: told.append(progress)
    )
    assert [what for what, _, _ in told] == ["best batch sizes"] * len(classifiers) + ["throughput"]
    return found


def test_calls_come_in_turns_and_short_ones_twice() -> None:
    log: list[str] = []

    def call(name: str, call_s: float) -> Callable[[], None]:
        def made() -> None:
            log.append(name)
            time.sleep(call_s)

        return made

    calls = {"quick": call("quick", 0.0), "slow": call("slow", 0.06)}
    seconds = seconds_in_turns(calls, {"quick": 0.001, "slow": 0.06}, least=2, most=3, budget_s=60)
    assert log == 3 * ["quick", "quick", "slow"]
    assert [len(times_s) for times_s in seconds.values()] == [3, 3]
    assert min(seconds["slow"]) >= 0.06 > max(seconds["quick"])


@pytest.mark.parametrize(("budget_s", "rounds"), [(0.0, 2), (1e9, 5)])
def test_rounds_fit_into_the_budget(budget_s: float, rounds: int) -> None:
    seconds = seconds_in_turns({"a": lambda: time.sleep(0.001)}, {"a": 0.001}, least=2, most=5, budget_s=budget_s)
    assert len(seconds["a"]) == rounds


def test_latency_of_a_frame_and_of_a_clip() -> None:
    classifiers = {A: classifier_of(lambda count: 0.002 * count)}
    frame, clip = frame_latencies(classifiers)[A], clip_latencies(classifiers)[A]
    assert frame.rounds == clip.rounds == 40
    assert 2 <= frame.p50_ms <= frame.p95_ms and 2 * ACTION.frames <= clip.p50_ms <= clip.p95_ms


def test_batches_grow_while_they_pay() -> None:
    found = throughputs_of({A: classifier_of(lambda count: 0.01), B: classifier_of(lambda count: 0.03 * count)})
    assert tuple(found[A].frames_per_s) == BATCHES and found[A].best_batch == 64 and found[A].stopped == ""
    assert len(found[B].frames_per_s) < len(BATCHES) and found[B].stopped == "larger batches are not faster"
    assert found[B].best_frames_per_s == max(found[B].frames_per_s.values()) <= 34


def test_batches_stop_where_memory_does() -> None:
    classifiers = {A: classifier_of(lambda count: 0.001), B: classifier_of(lambda count: 0.001, most=4)}
    found = throughputs_of(classifiers, onnxruntime=replace(SMALL, bytes_per_frame=1 << 50))
    assert list(found[A].frames_per_s) == [1] and found[A].stopped.startswith("memory is short")
    assert list(found[B].frames_per_s) == [1, 4] and found[B].stopped == "no memory for 8 frames"


def test_an_encoder_that_fails_at_once_is_an_error() -> None:
    with pytest.raises(RuntimeFailure, match="no memory for 1 frames"):
        throughputs_of({A: classifier_of(lambda count: 0.0, most=0)})


def test_no_model_with_a_stage_per_frame_has_no_latency_of_one() -> None:
    assert seconds_in_turns({}, {}, least=20, most=40, budget_s=6) == {}
    assert frame_latencies({}) == {}
