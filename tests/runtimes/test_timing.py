"""Tests of timing: runners run in turns after a warm-up, and the median counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
import pytest

from vidrisk.runtimes import FakeRunner, TensorSpec
from vidrisk.runtimes.contract.errors import RuntimeFailure
from vidrisk.runtimes.runner import Array, Arrays
from vidrisk.runtimes.timing import seconds_in_turns

X = (TensorSpec("x", "float32", ("batch", 2)),)
Y = (TensorSpec("y", "float32", ("batch", 2)),)
FEED = {"x": np.ones((3, 2), np.float32)}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return a clock that only advances when the returned function is called."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def let_pass(seconds: float) -> None:
        now[0] += seconds

    return let_pass


class Recorded:
    """Runners that record their calls, and take the given seconds, call by call."""

    def __init__(self, clock: Callable[[float], None]) -> None:
        self.calls: list[str] = []
        self.clock = clock

    def runner(self, name: str, *seconds: float) -> FakeRunner:
        left = list(seconds)

        def infer(feed: Mapping[str, Array]) -> Arrays:
            self.calls.append(name)
            assert feed["x"] is FEED["x"]
            self.clock(left.pop(0))
            return {"y": feed["x"]}

        return FakeRunner(X, Y, infer)


def test_in_turns_of_two_calls_each(clock: Callable[[float], None]) -> None:
    recorded = Recorded(clock)
    runners = {"a": recorded.runner("a", *[1] * 8), "b": recorded.runner("b", *[1] * 8)}
    seconds_in_turns(runners, FEED, 3)
    assert recorded.calls == ["a", "a", "b", "b"] * 4


def test_first_calls_do_not_count_and_one_busy_moment_does_not_either(clock: Callable[[float], None]) -> None:
    recorded = Recorded(clock)
    slow = [100, 90, *(seconds for counted in (3, 3.5, 50, 2.5, 3) for seconds in (70, counted))]
    quick = [100, 90, *(seconds for counted in (1, 1, 1, 40, 1) for seconds in (70, counted))]
    runners = {"slow": recorded.runner("slow", *slow), "quick": recorded.runner("quick", *quick)}
    found = seconds_in_turns(runners, FEED, 5)
    assert found == {"slow": pytest.approx(3), "quick": pytest.approx(1)}
    assert list(found) == ["slow", "quick"]


def test_keys_of_any_kind(clock: Callable[[float], None]) -> None:
    recorded = Recorded(clock)
    runners = {
        ("int8", "openvino"): recorded.runner("a", 9, 9, 9, 2),
        ("fp32", "openvino"): recorded.runner("b", 9, 9, 9, 4),
    }
    assert seconds_in_turns(runners, FEED, 1) == {("int8", "openvino"): 2, ("fp32", "openvino"): 4}


def test_real_time_is_seconds() -> None:
    def infer(feed: Mapping[str, Array]) -> Arrays:
        time.sleep(0.01)
        return {"y": feed["x"]}

    found = seconds_in_turns({"a": FakeRunner(X, Y, infer)}, FEED, 3)
    assert 0.009 < found["a"] < 5


def test_nothing_to_time() -> None:
    assert seconds_in_turns({}, FEED, 3) == {}


def test_a_failing_engine_is_not_hidden() -> None:
    closed = FakeRunner(X, Y, lambda feed: {"y": feed["x"]})
    closed.close()
    with pytest.raises(RuntimeFailure, match="closed"):
        seconds_in_turns({"a": closed}, FEED, 3)
