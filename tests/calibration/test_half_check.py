"""Tests of the FP16 check: it finds the nodes that FP16 cannot compute and leaves the others alone.

It holds no more than a few frames in memory.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import helper

from vidrisk.calibration.half import round_to_half
from vidrisk.calibration.half_check import (
    HEADROOM,
    LARGEST_HALF,
    MIN_COSINE,
    Feeds,
    check_half,
    keep_large_values,
    largest_magnitudes,
    worst_cosine,
)
from vidrisk.calibration.observers import observe_statistics

Make = Callable[..., onnx.ModelProto]
Run = Callable[..., np.ndarray]


def feeds(*shape: int, count: int = 3, seed: int = 0) -> Feeds:
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(size=shape).astype(np.float32)} for _ in range(count)]


def node(kind: str, inputs: str, output: str, name: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), [output], name=name, **attributes)


def test_magnitudes_are_those_that_were_observed(make_mobilenet: Make) -> None:
    model, data = make_mobilenet("Clip"), feeds(2, 3, 8, 8)
    found = largest_magnitudes(model, data)
    observed = observe_statistics(model, data)
    assert found.keys() == observed.keys() - {"x"}
    for name, largest in found.items():
        assert largest == pytest.approx(float(observed[name].channel_largest.max()), rel=1e-5)


def test_nothing_need_stay_in_float32_where_fp16_is_enough(make_transformer: Make) -> None:
    done: list[tuple[str, int, int]] = []
    check = check_half(make_transformer(), feeds(2, 6, 16), lambda *step: done.append(step))
    assert check.kept == () == tuple(check.keep_float32)
    assert 0.9999 < check.cosine < 1 > min(check.blocks.values()) > 0.9999
    assert list(check.blocks)[:2] == ["norm1", "q"]
    assert [what for what, at, _ in done if at == 0] == [
        "searching for large values",
        "checking every block in FP16",
        "comparing FP16 with float32",
    ]
    assert all(0 <= at < total in (3, 6) for _, at, total in done)


@pytest.fixture
def loud(make_graph: Make) -> Callable[[float], onnx.ModelProto]:
    """Return a function that builds a graph of three blocks with values of up to ``largest``.

    The second block produces these values, and the third block divides them by ``largest``.
    """

    def make(largest: float) -> onnx.ModelProto:
        rng = np.random.default_rng(3)
        weights = {
            "a": rng.normal(size=(8, 8)).astype(np.float32),
            "b": np.eye(8, dtype=np.float32) * 4,
            "gain": np.array(largest, np.float32),
            "least": np.array(1 / largest, np.float32),
        }
        nodes = [
            node("MatMul", "x a", "first", "layers.0/matmul"),
            node("Clip", "first low high", "clipped", "layers.0/clip"),
            node("Mul", "clipped gain", "raised", "layers.1/raise"),
            node("Relu", "raised", "large", "layers.1/relu"),
            node("Mul", "large least", "small", "layers.2/lower"),
            node("MatMul", "small b", "y", "layers.2/matmul"),
        ]
        return make_graph(
            nodes, weights | {"low": np.array(-1, np.float32), "high": np.array(1, np.float32)}, ["n", 8], ["n", 8]
        )

    return make


@pytest.mark.parametrize("largest", [0.9 * LARGEST_HALF / HEADROOM, 1.1 * LARGEST_HALF / HEADROOM, 1e6])
def test_values_near_the_end_of_fp16_keep_their_makers_and_readers(
    loud: Callable[[float], onnx.ModelProto], run: Run, largest: float
) -> None:
    model, data = loud(largest), feeds(4, 8)
    check = check_half(model, data)
    assert check.cosine >= MIN_COSINE
    if largest < LARGEST_HALF / HEADROOM:
        assert not check.kept
        return
    # A factor that FP16 does not hold at all has kept its node in float32 before anybody has looked at the values.
    raising = ("layers.1/raise",) if largest < LARGEST_HALF else ()
    assert [(one.block, one.nodes) for one in check.kept] == [
        ("layers.1", (*raising, "layers.1/relu")),
        ("layers.2", ("layers.2/lower",)),
    ]
    assert all(one.reason == f"values up to {largest:.3g}; the limit of FP16 is 65504" for one in check.kept)
    x = np.concatenate([feed["x"] for feed in data])
    assert np.isfinite(run(round_to_half(model, check.keep_float32), x)).all()


def test_without_a_look_at_the_values_they_overflow(loud: Callable[[float], onnx.ModelProto], run: Run) -> None:
    assert not np.isfinite(run(round_to_half(loud(6e4 * 1.2)), feeds(4, 8)[0]["x"])).all()


def cancelling(make_graph: Make, *, in_layer: int) -> onnx.ModelProto:
    """Return a graph of four layers, of which ``in_layer`` adds a large number and subtracts it again.

    In FP16, this loses the precision of all other values.
    """
    weights: dict[str, Any] = {"much": np.array(150, np.float32)}
    nodes, last = [], "x"
    for layer in range(4):
        weights[f"w{layer}"] = np.random.default_rng(layer).normal(0, 0.35, (8, 8)).astype(np.float32)
        nodes.append(node("MatMul", f"{last} w{layer}", f"m{layer}", f"layers.{layer}/matmul"))
        last = f"m{layer}"
        if layer == in_layer:
            nodes.append(node("Add", f"{last} much", "high", f"layers.{layer}/add"))
            nodes.append(node("Sub", "high much", "back", f"layers.{layer}/sub"))
            last = "back"
    nodes[-1].output[0] = "y"
    return make_graph(nodes, weights, ["n", 8], ["n", 8])


@pytest.mark.parametrize("layer", range(4))
def test_the_block_that_spoils_the_features_is_found(make_graph: Make, layer: int) -> None:
    check = check_half(cancelling(make_graph, in_layer=layer), feeds(16, 8))
    assert [one.block for one in check.kept] == [f"layers.{layer}"]
    assert check.kept[0].reason == f"cosine {check.blocks[f'layers.{layer}']:.5f}"
    assert [block for block, cosine in check.blocks.items() if cosine < MIN_COSINE] == [f"layers.{layer}"]
    assert check.cosine >= MIN_COSINE


def test_it_ends_when_nothing_is_left_to_keep(make_graph: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from vidrisk.calibration import half_check

    monkeypatch.setattr(half_check, "MIN_COSINE", 2.0)  # what no graph can have
    model = cancelling(make_graph, in_layer=1)
    check = check_half(model, feeds(4, 8))
    assert check.kept[0].block == "layers.1"
    assert sorted(one.block for one in check.kept) == [f"layers.{layer}" for layer in range(4)]
    assert check.keep_float32 == {each.name for each in model.graph.node}
    assert check.cosine == pytest.approx(1)


def test_many_small_losses_add_up(make_graph: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where small losses add up, the worst blocks stay in float32 until the whole graph passes.

    No block fails alone.
    """
    from vidrisk.calibration import half_check

    model, data = cancelling(make_graph, in_layer=9), feeds(16, 8)
    alone = check_half(model, data)
    assert not alone.kept
    monkeypatch.setattr(half_check, "MIN_COSINE", (alone.cosine + min(alone.blocks.values())) / 2)
    check = check_half(model, data)
    assert 0 < len(check.kept) < 4
    assert check.cosine >= half_check.MIN_COSINE > alone.cosine
    assert check.kept[0].block == min(alone.blocks, key=lambda block: alone.blocks[block])


def test_memory_does_not_grow_with_the_frames(make_graph: Make) -> None:
    """A check of forty feeds, with activations of 1 MB per feed, needs no more memory than one of four."""
    wide = 1 << 15
    nodes = [
        node("Mul", "x gain", "a", "layers.0/mul"),
        node("Relu", "a", "b", "layers.1/relu"),
        node("Neg", "b", "y", "layers.2/neg"),
    ]
    model = make_graph(nodes, {"gain": np.ones(wide, np.float32)}, ["n", wide], ["n", wide])
    one = np.ones((8, wide), np.float32)
    peaks = []
    for count in (4, 40):
        tracemalloc.start()
        check_half(model, [{"x": one}] * count)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.1 + 1e5


def test_quantised_graphs_are_looked_at_by_their_own_values(loud: Callable[[float], onnx.ModelProto]) -> None:
    from vidrisk.calibration.observers import ranges_from_statistics
    from vidrisk.calibration.profiles import PROFILES
    from vidrisk.calibration.qdq import qdq_from_float

    model, data = loud(5e4), feeds(4, 8)
    ranges = ranges_from_statistics(observe_statistics(model, data), "minmax", symmetric=True)
    kept = keep_large_values(qdq_from_float(model, ranges, PROFILES["tensorrt"]), data)
    assert {name for one in kept for name in one.nodes} >= {"layers.1/raise", "layers.1/relu", "layers.2/lower"}
    assert "layers.0/matmul" not in {name for one in kept for name in one.nodes}


rows = arrays.arrays(np.float32, (3, 2, 4), elements=st.sampled_from([-100, -0.5, 0, 1e-3, 7]))


@given(rows, st.floats(0.125, 8, width=16))
def test_cosines_do_not_mind_scale(values: np.ndarray, scale: float) -> None:
    assert worst_cosine(values, values * np.float32(scale)) == pytest.approx(1)


def test_cosines_of_odd_rows() -> None:
    zero, one, other = np.zeros((1, 2)), np.array([[1.0, 0]]), np.array([[0, 1.0]])
    assert worst_cosine(zero, zero) == 1
    assert worst_cosine(zero, one) == 0 == worst_cosine(one, other)
    assert worst_cosine(one, -one) == -1 == worst_cosine(one, one + np.inf) == worst_cosine(one * np.nan, one)
    assert worst_cosine(np.concatenate([one, one]), np.concatenate([one, other])) == 0  # the worst of them
