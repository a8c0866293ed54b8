"""Tests of the search: it finds a point within the budget from which no block can return to 8 bits.

The search spends no more than its limits allow.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from vidrisk.calibration.blocks import Blocks, blocks_from_net
from vidrisk.calibration.graph import Net
from vidrisk.calibration.journal import Journal
from vidrisk.calibration.observers import Statistics
from vidrisk.calibration.points import BETTER, FASTEST, Budget, Outcome
from vidrisk.calibration.profiles import PROFILES
from vidrisk.calibration.recipe import Observed, Quantizer, Recipe
from vidrisk.calibration.search import MAX_RETURNS, MEASURING, Search, search_precision
from vidrisk.runtimes import TensorSpec
from vidrisk.runtimes.contract.progress import OnProgress
from vidrisk.runtimes.ort import OnnxRuntimeRunner
from vidrisk.runtimes.timing import turns_of

NEVER = 1e9
SAMPLES = 1000


def quiet(what: str, done: int, total: int) -> None:
    pass


def named(keep_float: Collection[str]) -> onnx.ModelProto:
    """Return a stand-in for a quantized graph that holds only the names of the nodes kept in float."""
    return onnx.ModelProto(graph=onnx.GraphProto(name=json.dumps(sorted(keep_float))))


@dataclass
class Additive:
    """A judge for which every block in 8 bits adds its noise, and every block in float adds its time.

    Noise is given in thousandths, time in thousandths of a millisecond.
    """

    blocks: Blocks
    noise: dict[str, int]
    cost: dict[str, int]
    calls: list[str] = field(default_factory=list)
    seconds_per_call: float = 0
    clock: Callable[[float], None] = lambda seconds: None

    def _int8(self, model: onnx.ModelProto) -> list[str]:
        kept = set(json.loads(model.graph.name))
        for nodes in self.blocks.values():
            assert kept.issuperset(nodes) or not kept.intersection(nodes)  # a block moves as one
        return [block for block, nodes in self.blocks.items() if not kept.intersection(nodes)]

    def _called(self, what: str) -> None:
        self.calls.append(what)
        self.clock(self.seconds_per_call)

    def total(self, float_blocks: Collection[str]) -> int:
        return sum(self.noise[block] for block in self.blocks if block not in float_blocks)

    def probe(self, model: onnx.ModelProto) -> tuple[float, float]:
        self._called("probe")
        (alone,) = self._int8(model)
        return self.noise[alone] / 1000, self.noise[alone] / 2000

    def outcome(self, model: onnx.ModelProto) -> Outcome:
        """Return an outcome that loses one prediction in a thousand, a correct one, per unit of noise."""
        self._called("outcome")
        noise = min(sum(self.noise[block] for block in self._int8(model)), SAMPLES)
        return Outcome("0" * noise + "1" * (SAMPLES - noise), ("-" * noise + "=" * (SAMPLES - noise),))

    def seconds(self, models: Sequence[onnx.ModelProto | None], rounds: int) -> list[list[float]]:
        self._called("seconds")
        every = [[] if model is None else self._int8(model) for model in models]
        slower = 1 + 1e-6 * 500 * len(self.blocks)
        return [
            [slower if model is None else 1 + sum(self.cost[b] for b in self.blocks if b not in int8) / 1e6] * rounds
            for model, int8 in zip(models, every, strict=True)
        ]


def judge_of(noise: Sequence[int], cost: Sequence[int] | None = None, **settings: Any) -> Additive:
    blocks: Blocks = {f"b{i}": (f"b{i}/conv", f"b{i}/sum") for i in range(len(noise))}
    costs = cost or [100] * len(noise)
    return Additive(blocks, dict(zip(blocks, noise, strict=True)), dict(zip(blocks, costs, strict=True)), **settings)


def search(
    judge: Additive,
    allowed_noise: int,
    *,
    seconds: float = NEVER,
    journal: Journal | None = None,
    on_progress: OnProgress = quiet,
) -> Search:
    budget = Budget((allowed_noise + 0.5) / 10, min_agreement=0, seconds=seconds, is_strict=True)
    return search_precision(named, judge.blocks, judge, budget, journal or Journal(), on_progress)


CASES = st.lists(st.tuples(st.integers(0, 100), st.integers(-20, 300)), min_size=1, max_size=MAX_RETURNS)


@given(case=CASES, allowed=st.integers(0, 300))
def test_the_point_is_inside_and_no_block_can_return(case: list[tuple[int, int]], allowed: int) -> None:
    """The chosen point is within the budget, and returning any block to 8 bits would exceed it.

    Blocks that are no slower in floating point may stay there.
    """
    judge = judge_of([noise for noise, _ in case], [cost for _, cost in case])
    found = search(judge, allowed)
    best = found.best
    assert best.inside == (min(judge.noise.values()) <= allowed)  # if no single block can be in 8 bits, nothing can
    if best.inside:
        assert judge.total(best.float_blocks) <= allowed
        for block in best.float_blocks:
            assert judge.total(set(best.float_blocks) - {block}) > allowed or min(cost for _, cost in case) <= 0, block
    assert best in found.points
    assert all(point.float_blocks != tuple(judge.blocks) for point in found.points)  # that would be no quantised model
    assert judge.calls.count("probe") <= len(case)
    assert len(found.points) <= judge.calls.count("outcome") <= 2 + int(np.log2(len(case)) + 1) + MAX_RETURNS
    assert search(judge_of([n for n, _ in case], [c for _, c in case]), allowed) == found  # deterministic


def test_8_bits_everywhere_is_judged_first_and_may_be_enough() -> None:
    judge = judge_of([5] * 6)
    found = search(judge, 30)
    assert judge.calls == ["outcome"]
    assert (found.best.float_blocks, found.rows, len(found.points)) == ((), (), 1)
    assert found.best.outcome.agreement == pytest.approx(0.97)


def test_the_block_that_does_the_harm_goes_into_float() -> None:
    found = search(judge_of([1, 2, 90, 1, 3, 1, 2, 1, 1, 4]), 20)
    assert found.best.float_blocks == ("b2",)
    assert [row.precision for row in found.rows] == ["int8", "int8", "float"] + ["int8"] * 7


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_block_whose_answers_are_not_finite_goes_into_float_first(poison: float) -> None:
    class Broken(Additive):
        def probe(self, model: onnx.ModelProto) -> tuple[float, float]:
            noise, shift = super().probe(model)
            return (poison, poison) if noise == 90 else (noise, shift)

    whole = judge_of([1, 2, 90, 1, 80, 1])
    found = search(Broken(whole.blocks, whole.noise, whole.cost), 90)
    assert found.best.float_blocks == ("b2",)
    assert all(np.isfinite([row.noise_share, row.probability_shift]).all() for row in found.rows)


def test_of_two_that_do_the_same_harm_the_cheaper_one_goes() -> None:
    judge = judge_of([40, 1, 40, 1], [500, 10, 20, 10])
    assert search(judge, 50).best.float_blocks == ("b2",)


def test_a_block_that_was_not_needed_after_all_returns() -> None:
    judge = judge_of([10, 100, 1], [10, 200, 10])  # the first removes most noise per millisecond, but not enough
    found = search(judge, 15)
    assert found.best.float_blocks == ("b1",)
    assert ("b0", "b1") in [point.float_blocks for point in found.points]


def test_rows_say_what_each_block_costs_and_saves() -> None:
    found = search(judge_of([10, 60, 30], [50, 100, 0]), 50)
    assert [(row.block, row.nodes) for row in found.rows] == [("b0", 2), ("b1", 2), ("b2", 2)]
    assert [row.noise_share for row in found.rows] == pytest.approx([0.1, 0.6, 0.3])
    assert [row.probability_shift for row in found.rows] == pytest.approx([0.005, 0.03, 0.015])
    assert [row.float_ms for row in found.rows] == pytest.approx([0.05, 0.1, 0.001])  # nothing is for free


def test_a_block_that_is_quicker_in_float_costs_as_good_as_nothing() -> None:
    found = search(judge_of([40, 40, 1], [100, -500, 100]), 50)
    assert found.best.float_blocks == ("b1",)
    assert all(row.float_ms > 0 for row in found.rows)


def test_agreement_counts_as_accuracy_does() -> None:
    judge = judge_of([100, 10, 10])
    budget = Budget(max_drop=100, min_agreement=0.98, seconds=NEVER)
    found = search_precision(named, judge.blocks, judge, budget, Journal(), quiet)
    assert found.best.float_blocks == ("b0",) and found.best.outcome.agreement == pytest.approx(0.98)


class Hopeless(Additive):
    """A judge that agrees better the more blocks stay in float, but never reaches the budget."""

    def outcome(self, model: onnx.ModelProto) -> Outcome:
        kept = super().outcome(model).kept
        return Outcome("0" * 500 + kept[:500], (("-" if self.drops else "=") * SAMPLES,), 0.0)

    drops = True


@pytest.mark.parametrize(("noise", "expected"), [([1, 1, 1, 1], ()), ([10, 20, 30, 40], ("b1", "b2", "b3"))])
def test_an_aim_out_of_reach_gives_a_slower_point_only_where_it_agrees_better_beyond_chance(
    noise: list[int], expected: tuple[str, ...]
) -> None:
    judge = judge_of(noise)
    hopeless = Hopeless(judge.blocks, judge.noise, judge.cost)
    hopeless.drops = False
    found = search_precision(named, judge.blocks, hopeless, Budget(100, 0.99, NEVER), Journal(), quiet)
    assert (found.best.float_blocks, found.best.admissible, found.best.inside) == (expected, True, False)
    assert found.reason == (BETTER if expected else FASTEST)


def test_a_point_that_is_no_faster_than_floating_point_is_not_taken_for_its_agreement() -> None:
    """A faster point is preferred to one that agrees better but is no faster than floating point.

    More blocks in float agree better, but floating point as a whole is as fast. The faster point within the
    budget stays.
    """
    judge = judge_of([30, 30, 30], [100, 5000, 5000])
    found = search_precision(named, judge.blocks, judge, Budget(100, 0.99, NEVER), Journal(), quiet)
    assert not any(point.is_faster_than_float for point in found.points if len(point.float_blocks) == 2)
    assert found.best.is_faster_than_float and not found.best.inside


def test_a_budget_out_of_reach_gives_the_best_point() -> None:
    judge = judge_of([10, 20, 30, 40])
    hopeless = Hopeless(judge.blocks, judge.noise, judge.cost)
    found = search(hopeless, 5)
    assert not found.best.inside and not found.best.admissible
    assert (
        found.best.outcome.agreement
        == max(p.outcome.agreement for p in found.points)
        > found.points[0].outcome.agreement
    )
    assert 0 < len(found.best.float_blocks) < 4
    assert not any(point.inside for point in found.points)


def test_a_point_that_others_refused_is_not_taken_again() -> None:
    judge = judge_of([1, 2, 90, 1])
    first = search(judge, 100)
    assert first.best.float_blocks == ()
    again = search_precision(
        named, judge.blocks, judge, Budget(100, 0.9, NEVER, is_strict=True), Journal(), quiet, {()}
    )
    assert again.best.float_blocks and again.best.inside
    assert not next(point for point in again.points if not point.float_blocks).admissible


def test_no_blocks_at_all() -> None:
    judge = Hopeless({}, {}, {})
    found = search(judge, 5)
    assert (found.best.float_blocks, found.best.inside, found.rows) == ((), False, ())


# Time, journal, progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return a function that lets seconds pass; otherwise time stands still."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def let_pass(seconds: float) -> None:
        now[0] += seconds

    return let_pass


@pytest.mark.parametrize("seconds", range(30))
def test_no_measurement_begins_when_time_is_over(clock: Callable[[float], None], seconds: int) -> None:
    judge = judge_of([40, 30, 50, 20, 60, 10], seconds_per_call=1, clock=clock)
    found = search(judge, 45, seconds=seconds)
    # A measurement of a block is a probe and a timing; one that has begun is finished.
    assert len(judge.calls) <= max(seconds, 1) + 1
    assert found.best.inside == any(point.inside for point in found.points)
    assert found.best in found.points and len(found.rows) == 6
    if seconds >= 25:
        assert found.best.inside


def test_blocks_that_time_did_not_suffice_for_are_taken_for_harmless(
    clock: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    judge = judge_of([40, 30, 50], seconds_per_call=1, clock=clock)
    found = search(judge, 10, seconds=4.5 / MEASURING)
    assert [row.noise_share for row in found.rows] == pytest.approx([4 / 7, 3 / 7, 0])
    assert "out of time after 2 of 3 blocks" in caplog.text


def test_a_second_search_measures_nothing(tmp_path: Path) -> None:
    first = search(judge_of([40, 30, 50, 20, 60, 10]), 45, journal=Journal(tmp_path / "j.jsonl"))
    judge = judge_of([0] * 6)  # another outcome, were it asked
    assert search(judge, 45, journal=Journal(tmp_path / "j.jsonl")) == first
    assert judge.calls == []


@pytest.mark.parametrize("stop", range(1, 18))
def test_an_interrupted_search_goes_on(tmp_path: Path, stop: int) -> None:
    def interrupt(seconds: float) -> None:
        if len(judge.calls) == stop:
            raise KeyboardInterrupt

    whole = judge_of([40, 30, 50, 20, 60, 10])
    expected = search(whole, 45)
    judge = judge_of([40, 30, 50, 20, 60, 10], clock=interrupt)
    with pytest.raises(KeyboardInterrupt):
        search(judge, 45, journal=Journal(tmp_path / "j.jsonl"))
    resumed = judge_of([40, 30, 50, 20, 60, 10])
    assert search(resumed, 45, journal=Journal(tmp_path / "j.jsonl")) == expected
    assert len(resumed.calls) <= len(whole.calls) - stop + 2  # the one interrupted, with the probe that belongs to it


def test_progress(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    search(judge_of([40, 30, 50, 20, 60, 10]), 45, on_progress=lambda *step: seen.append(step))
    assert all(0 <= done < total for _, done, total in seen)
    assert [step for step in seen if step[0] == "measuring each block"] == [
        ("measuring each block", done, 6) for done in range(6)
    ]
    tries = [done for what, done, _ in seen if what == "trying mixed precision"]
    assert tries == list(range(len(tries)))
    assert len(tries) > 3


# With real graphs


BLOCKS, BROKEN = 8, 4
INPUTS = np.random.default_rng(4).normal(size=(200, 3, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def chain(run: Callable[..., np.ndarray]) -> onnx.ModelProto:
    """Return a chain of eight convolutions with one outlier channel before the convolution with index 4.

    This channel is 2,000 times larger than the others, and the weights that read it are 2,000 times smaller.
    The classifier is centred on ``INPUTS``, so that all four classes occur.
    """
    rng = np.random.default_rng(3)
    nodes, weights = [], {"axes": np.array([2, 3])}
    source = "x"
    for i in range(BLOCKS):
        wide = 3 if i == 0 else 12
        weights[f"w{i}"] = rng.normal(0, (2 / (9 * wide)) ** 0.5, (12, wide, 3, 3)).astype(np.float32)
        weights[f"b{i}"] = rng.normal(0, 0.1, 12).astype(np.float32)
        nodes += [
            helper.make_node("Conv", [source, f"w{i}", f"b{i}"], [f"c{i}"], name=f"net.blocks.{i}/conv", pads=[1] * 4),
            helper.make_node("Relu", [f"c{i}"], [f"r{i}"], name=f"net.blocks.{i}/relu"),
        ]
        source = f"r{i}"
    weights[f"w{BROKEN - 1}"][0] *= 2000
    weights[f"b{BROKEN - 1}"][0] *= 2000
    weights[f"w{BROKEN}"][:, 0] /= 2000
    nodes += [
        helper.make_node("ReduceMean", [source, "axes"], ["mean"], name="net.pool/mean", keepdims=0),
        helper.make_node("Gemm", ["mean", "wh", "bh"], ["y"], name="net.head/gemm"),
    ]
    weights |= {"wh": rng.normal(size=(12, 4)).astype(np.float32), "bh": np.zeros(4, np.float32)}
    tensors = [onnx.numpy_helper.from_array(w, name) for name, w in weights.items()]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [value("x", 1, ["batch", 3, 8, 8])], [value("y", 1, ["batch", 4])], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    net = Net(onnx.shape_inference.infer_shapes(model, strict_mode=True))
    net.set_array("bh", -run(model, INPUTS).mean(axis=0))
    return net.model


class EngineJudge:
    """A judge that runs every graph in ONNX Runtime, on inputs whose true class comes from the float graph."""

    def __init__(self, model: onnx.ModelProto, folder: Path, x: np.ndarray) -> None:
        self.model, self.folder, self.x = model, folder, x
        self.exact = self._run(model, x)

    def _runner(self, model: onnx.ModelProto) -> OnnxRuntimeRunner:
        path = self.folder / f"{len(list(self.folder.iterdir()))}.onnx"
        onnx.save_model(model, str(path))
        specs = (TensorSpec("x", "float32", ("batch", 3, 8, 8)),), (TensorSpec("y", "float32", ("batch", 4)),)
        return OnnxRuntimeRunner(path, *specs, threads=1)

    def _run(self, model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
        return np.asarray(self._runner(model).infer({"x": x})["y"])

    def probe(self, model: onnx.ModelProto) -> tuple[float, float]:
        error = float(np.square(self._run(model, self.x[:32]) - self.exact[:32]).mean())
        return error, min(error, 1.0)

    def outcome(self, model: onnx.ModelProto) -> Outcome:
        kept = self._run(model, self.x).argmax(axis=1) == self.exact.argmax(axis=1)
        return Outcome("".join(np.where(kept, "1", "0")), ("".join(np.where(kept, "=", "-")),))

    def seconds(self, models: Sequence[onnx.ModelProto | None], rounds: int) -> list[list[float]]:
        runners = {i: self._runner(self.model if model is None else model) for i, model in enumerate(models)}
        return list(turns_of(runners, {"x": self.x[:32]}, rounds).values())


def test_the_one_outlier_block_of_a_real_network_stays_in_float(
    chain: onnx.ModelProto, statistics: Callable[..., dict[str, Statistics]], tmp_path: Path
) -> None:
    observed = Observed(chain, statistics(chain, INPUTS))
    quantizer = Quantizer(observed, observed, PROFILES["cpu"])
    blocks = blocks_from_net(Net(chain))
    assert list(blocks) == [*(f"net.blocks.{i}" for i in range(BLOCKS)), "net.head"]
    judge = EngineJudge(chain, tmp_path, INPUTS)
    assert len(set(judge.exact.argmax(axis=1))) == 4
    found = search_precision(
        lambda kept: quantizer.quantize(Recipe(), kept),
        blocks,
        judge,
        Budget(max_drop=5, min_agreement=0.95, seconds=60),
        Journal(),
        quiet,
    )
    assert found.points[0].outcome.agreement < 0.8  # plain INT8 breaks
    assert found.best.inside
    assert f"net.blocks.{BROKEN}" in found.best.float_blocks
    # The bisection comes down to this block alone; which of the points inside is faster is for the clock to say.
    assert (f"net.blocks.{BROKEN}",) in {point.float_blocks for point in found.points if point.inside}
    shares = {row.block: row.noise_share for row in found.rows}
    assert max(shares, key=shares.__getitem__) == f"net.blocks.{BROKEN}"
    assert shares[f"net.blocks.{BROKEN}"] > 0.8
