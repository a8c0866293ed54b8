"""Tests of the migration of range from activations into weights.

The function stays the same, the channels become level, and nothing else changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from vidrisk.calibration.migration import LIMIT, equalize_layers, smooth_activations
from vidrisk.calibration.observers import Statistics, ranges_from_statistics
from vidrisk.calibration.profiles import PROFILES
from vidrisk.calibration.qdq import qdq_from_float

Make = Callable[..., onnx.ModelProto]
Run = Callable[..., np.ndarray]
Observe = Callable[..., dict[str, Statistics]]

IMAGES = np.random.default_rng(0).normal(size=(16, 3, 8, 8)).astype(np.float32)
TOKENS = np.random.default_rng(1).normal(size=(16, 6, 16)).astype(np.float32)
OUTLIERS = np.where(np.isin(np.arange(16), [1, 5, 10, 11]), 50, 1)  # 4 of 16 channels of a layer norm, 50 times larger


def assert_same_function(
    run: Run, model: onnx.ModelProto, other: onnx.ModelProto, x: np.ndarray, name: str = "y"
) -> None:
    before, after = run(model, x, name), run(other, x, name)
    assert before.std() > 0
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5 * np.abs(before).max())


def ratio(*statistics: Statistics) -> float:
    """Return the ratio of the largest to the smallest channel over tensors that share their scales.

    Channels that are always zero are left out.
    """
    largest = np.max([each.channel_largest for each in statistics], axis=0)
    largest = largest[largest > 0]
    return float(largest.max() / largest.min())


def arrays(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def changed(model: onnx.ModelProto, other: onnx.ModelProto) -> set[str]:
    """Return the names of the weights that differ, including weights that only one of the models has."""
    before, after = arrays(model), arrays(other)
    return {
        name
        for name in before.keys() | after.keys()
        if name not in before or name not in after or not np.array_equal(before[name], after[name])
    }


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    spread=st.sampled_from([1.0, 30.0, 1000.0]),
    biases=st.booleans(),
    dead=st.sets(st.integers(0, 15), max_size=3),
)
def test_equalising_keeps_the_function_and_levels_the_channels(
    make_mobilenet: Make, run: Run, statistics: Observe, seed: int, spread: float, biases: bool, dead: set[int]
) -> None:
    model = make_mobilenet(seed=seed, spread=spread, biases=biases, dead=sorted(dead))
    before = statistics(model, IMAGES)
    equalised = equalize_layers(model, before)
    onnx.checker.check_model(equalised)
    assert_same_function(run, model, equalised, IMAGES)
    after = statistics(equalised, IMAGES)
    if max(ratio(before[name]) for name in ("expand.a", "depthwise.a")) > LIMIT:
        return  # channels as good as dead are not brought all the way up
    assert ratio(after["expand.a"]) < 1.001  # read by the depthwise convolution alone: all channels alike
    activation, weight = (
        after["depthwise.a"].channel_largest,
        np.abs(arrays(equalised)["project.w"]).max(axis=(0, 2, 3)),
    )
    alive = activation > 0
    shares = activation[alive] / weight[alive]  # α = ½: activation and weight share a channel's range alike
    np.testing.assert_allclose(shares, shares.mean(), rtol=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_equalising_levels_the_residual_stream(make_mobilenet: Make, statistics: Observe, seed: int) -> None:
    model = make_mobilenet(seed=seed, spread=1000)
    before = statistics(model, IMAGES)
    after = statistics(equalize_layers(model, before), IMAGES)
    assert ratio(after["stem.a"], after["sum"]) < 0.5 * ratio(before["stem.a"], before["sum"])


def test_equalising_touches_the_convolutions_and_nothing_else(make_mobilenet: Make, statistics: Observe) -> None:
    model = make_mobilenet(spread=100)
    before = model.SerializeToString(deterministic=True)
    equalised = equalize_layers(model, statistics(model, IMAGES))
    assert model.SerializeToString(deterministic=True) == before
    # stem and project write the residual stream, expand and last read it; last's output is averaged, so its bias is
    # safe.
    both = {f"{name}.{part}" for name in ("stem", "expand", "depthwise", "project") for part in "wb"}
    assert changed(model, equalised) == both | {"last.w"}
    assert list(equalised.graph.node) == list(model.graph.node)


def test_the_residual_stream_has_one_scale(make_mobilenet: Make, statistics: Observe) -> None:
    model = make_mobilenet(spread=100)
    equalised = equalize_layers(model, statistics(model, IMAGES))
    before, after = arrays(model), arrays(equalised)
    scale = before["stem.b"] / after["stem.b"]
    assert np.ptp(np.log(scale)) > 0.5
    np.testing.assert_allclose(before["project.b"] / after["project.b"], scale, rtol=1e-5)
    np.testing.assert_allclose((after["last.w"] / before["last.w"])[0, :, 0, 0], scale, rtol=1e-5)


def test_relu6_lets_nothing_pass(make_mobilenet: Make, statistics: Observe) -> None:
    model = make_mobilenet("Clip", spread=100)
    assert changed(model, equalize_layers(model, statistics(model, IMAGES))) == set()


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    outlier=st.sampled_from([1.0, 50.0, 1000.0]),
    channels=st.sets(st.integers(0, 15), max_size=4),
    activation=st.sampled_from(["Gelu", "Relu"]),
    shared=st.booleans(),
)
def test_smoothing_keeps_the_function_and_levels_the_channels(
    make_transformer: Make,
    run: Run,
    statistics: Observe,
    seed: int,
    outlier: float,
    channels: set[int],
    activation: str,
    shared: bool,
) -> None:
    gains = np.where(np.isin(np.arange(16), list(channels)), outlier, 1)
    model = make_transformer(gains, seed=seed, activation=activation, shared=shared)
    before = statistics(model, TOKENS)
    smoothed = smooth_activations(model, before)
    onnx.checker.check_model(smoothed)
    assert_same_function(run, model, smoothed, TOKENS)
    if channels and outlier > 1:
        after = statistics(smoothed, TOKENS)
        assert max(ratio(after[name]) for name in ("norm1", "norm2")) < 0.5 * ratio(before["norm1"])
    both = equalize_layers(smoothed, statistics(smoothed, TOKENS))
    assert_same_function(run, model, both, TOKENS)


def test_smoothing_touches_norms_and_their_linear_readers_alone(make_transformer: Make, statistics: Observe) -> None:
    model = make_transformer(OUTLIERS)
    smoothed = smooth_activations(model, statistics(model, TOKENS))
    assert changed(model, smoothed) == {"norm1.g", "norm1.b", "norm2.g", "norm2.b", "q.w", "k.w", "v.w", "fc1.w"}


@pytest.mark.parametrize(("activation", "expected"), [("Gelu", set()), ("Relu", {"fc1.w", "fc1.b", "fc2.w"})])
def test_equalising_a_transformer_passes_relu_but_not_gelu(
    make_transformer: Make, statistics: Observe, activation: str, expected: set[str]
) -> None:
    """Equalising changes the MLP of a transformer with Relu, and nothing in one with Gelu.

    Neither the residual stream, which layer norms read, nor tensors that are reshaped into heads can be scaled.
    """
    model = make_transformer(OUTLIERS, activation=activation)
    assert changed(model, equalize_layers(model, statistics(model, TOKENS))) == expected


def test_shared_weights_are_changed_for_one_reader_alone(make_transformer: Make, run: Run, statistics: Observe) -> None:
    """Smoothing a norm keeps an initialiser that the norm shares with a bias elsewhere.

    Exporters write equal constants as one initialiser.
    """
    model = make_transformer(OUTLIERS, activation="Relu")
    for node in model.graph.node:
        if node.name in ("norm1/norm", "norm2/norm"):
            node.input[2] = "out.b"
    smoothed = smooth_activations(model, statistics(model, TOKENS))
    assert_same_function(run, model, smoothed, TOKENS)
    np.testing.assert_array_equal(arrays(smoothed)["out.b"], arrays(model)["out.b"])


def test_a_norm_without_shift(make_transformer: Make, run: Run, statistics: Observe) -> None:
    model = make_transformer(OUTLIERS)
    next(node for node in model.graph.node if node.name == "norm1/norm").input.pop()
    smoothed = smooth_activations(model, statistics(model, TOKENS))
    assert "norm1.g" in changed(model, smoothed)
    assert_same_function(run, model, smoothed, TOKENS)


@pytest.mark.parametrize("watched", ["norm1", "fc1.a"])
def test_graph_outputs_keep_their_values(make_transformer: Make, run: Run, statistics: Observe, watched: str) -> None:
    model = make_transformer(OUTLIERS, activation="Relu")
    model.graph.output.append(helper.make_tensor_value_info(watched, onnx.TensorProto.FLOAT, None))
    found = statistics(model, TOKENS)
    migrated = equalize_layers(smooth_activations(model, found), found)
    assert_same_function(run, model, migrated, TOKENS, watched)
    assert_same_function(run, model, migrated, TOKENS)
    assert not changed(model, migrated) & ({"norm1.g", "q.w"} if watched == "norm1" else {"fc1.b", "fc2.w"})


GAINS = np.geomspace(1, 100, 8, dtype=np.float32).reshape(-1, 1, 1, 1)
W = np.random.default_rng(7).normal(size=(8, 8, 1, 1)).astype(np.float32) * GAINS
B = np.linspace(-1, 1, 8, dtype=np.float32)
SQUARE = np.random.default_rng(2).normal(size=(16, 8, 8, 8)).astype(np.float32)


def node(op: str, inputs: Sequence[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, list(inputs), [output], name=f"{output}/{op}", **attributes)


UNSAFE: dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray]]] = {
    "a grouped reader": (
        [node("Conv", ["x", "w", "b"], "a"), node("Conv", ["a", "grouped"], "y", group=4)],
        {"grouped": W[:, :2]},
    ),
    "several kernels per channel": (
        [node("Conv", ["x", "w", "b"], "a"), node("Conv", ["a", "grouped"], "y", group=8)],
        {"grouped": np.concatenate([W[:, :1], W[:, 1:2]])},
    ),
    "a sum with the graph's input": (
        [node("Conv", ["x", "w", "b"], "a"), node("Add", ["x", "a"], "s"), node("Conv", ["s", "w2"], "y")],
        {},
    ),
    "a sum with the second output of a node": (
        [
            node("Conv", ["x", "w", "b"], "a"),
            helper.make_node("Split", ["x", "parts"], ["none", "all"], name="split", axis=1),
            node("Add", ["all", "a"], "s"),
            node("Conv", ["s", "w2"], "y"),
        ],
        {"parts": np.array([0, 8])},
    ),
    "a constant along the width": (
        [node("Conv", ["x", "w"], "a"), node("Add", ["a", "b"], "s"), node("Conv", ["s", "w2"], "y")],
        {},
    ),
    "one constant for all channels": (
        [node("Conv", ["x", "w"], "a"), node("Add", ["a", "one"], "s"), node("Conv", ["s", "w2"], "y")],
        {"one": np.array([0.7], np.float32)},
    ),
    "a matrix along the width": (
        [node("Conv", ["x", "w", "b"], "a"), node("MatMul", ["a", "square"], "y")],
        {"square": W[:, :, 0, 0]},
    ),
    "a linear layer on images": (
        [node("MatMul", ["x", "square"], "a"), node("Relu", ["a"], "r"), node("Conv", ["r", "w2"], "y")],
        {"square": W[:, :, 0, 0]},
    ),
    "a bias that is computed": (
        [
            node("ReduceMean", ["x", "all_but_channels"], "bias", keepdims=0),
            node("Conv", ["x", "w", "bias"], "a"),
            node("Conv", ["a", "w2"], "y"),
        ],
        {"all_but_channels": np.array([0, 2, 3])},
    ),
    "a relu that leaks": (
        [node("Conv", ["x", "w", "b"], "a"), node("PRelu", ["a", "slope"], "r"), node("Conv", ["r", "w2"], "y")],
        {"slope": np.array([0.1], np.float32)},
    ),
    "a product": (
        [node("Conv", ["x", "w", "b"], "a"), node("Mul", ["a", "a"], "r"), node("Conv", ["r", "w2"], "y")],
        {},
    ),
}


@pytest.mark.parametrize("case", UNSAFE)
def test_what_cannot_be_scaled_is_left_alone(make_graph: Make, run: Run, statistics: Observe, case: str) -> None:
    nodes, weights = UNSAFE[case]
    read = {name for n in nodes for name in n.input}
    every = {"w": W, "b": B, "w2": W[::-1].copy()} | weights
    out: list[int | str] = ["batch", *run_shape(nodes, every)]
    model = make_graph(nodes, {name: w for name, w in every.items() if name in read}, ["batch", 8, 8, 8], out)
    found = statistics(model, SQUARE)
    migrated = equalize_layers(smooth_activations(model, found), found)
    assert_same_function(run, model, migrated, SQUARE)
    assert changed(model, migrated) == set()


def run_shape(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray]) -> tuple[int, int, int]:
    last = nodes[-1]
    return (len(weights[last.input[1]]) if last.op_type == "Conv" else 8, 8, 8)


@pytest.mark.parametrize("transposed", [0, 1])
def test_linear_layers_of_either_layout(make_graph: Make, run: Run, statistics: Observe, transposed: int) -> None:
    square = W[:, :, 0, 0] if transposed else W[:, :, 0, 0].T.copy()
    nodes = [
        node("Gemm", ["x", "w", "b"], "a", transB=transposed),
        node("Relu", ["a"], "r"),
        node("Gemm", ["r", "w2", "b"], "y", transB=transposed),
    ]
    model = make_graph(nodes, {"w": square, "b": B, "w2": square[::-1].copy()}, ["batch", 8], ["batch", 8])
    x = SQUARE[:, :, 0, 0]
    found = statistics(model, x)
    equalised = equalize_layers(model, found)
    assert_same_function(run, model, equalised, x)
    assert ratio(statistics(equalised, x)["r"]) < 0.5 * ratio(found["r"])
    np.testing.assert_array_equal(arrays(equalised)["b"], B)  # y's bias: the shared one was duplicated


@pytest.mark.parametrize("constant", ["(1, N)", "()", "(1,)"])
def test_biases_of_other_shapes(make_graph: Make, run: Run, statistics: Observe, constant: str) -> None:
    """A Gemm whose bias is broadcast may be scaled or left alone, but its result stays the same."""
    b = {"(1, N)": B[None], "()": np.array(0.3, np.float32), "(1,)": np.array([0.3], np.float32)}[constant]
    nodes = [node("Gemm", ["x", "w", "b"], "a", transB=1), node("Relu", ["a"], "r"), node("Gemm", ["r", "w2"], "y")]
    model = make_graph(nodes, {"w": W[:, :, 0, 0], "b": b, "w2": W[::-1, :, 0, 0].copy()}, ["batch", 8], ["batch", 8])
    x = SQUARE[:, :, 0, 0]
    assert_same_function(run, model, equalize_layers(model, statistics(model, x)), x)


def test_norms_over_images_are_left_alone(make_graph: Make, run: Run, statistics: Observe) -> None:
    """A norm over the last axis of a rank-4 tensor keeps its function.

    Channels of rank-4 tensors lie along axis 1, so the statistics of the norm's channels are not known.
    """
    gain = np.geomspace(1, 100, 6, dtype=np.float32)
    nodes = [node("LayerNormalization", ["x", "g"], "n"), node("MatMul", ["n", "w"], "y")]
    weights = {"g": gain, "w": np.random.default_rng(3).normal(size=(6, 4)).astype(np.float32)}
    model = make_graph(nodes, weights, ["batch", 8, 5, 6], ["batch", 8, 5, 4])
    x = np.random.default_rng(4).normal(size=(4, 8, 5, 6)).astype(np.float32)
    smoothed = smooth_activations(model, statistics(model, x))
    assert_same_function(run, model, smoothed, x)


def test_statistics_of_other_length_are_left_alone(make_transformer: Make, run: Run, statistics: Observe) -> None:
    model = make_transformer(OUTLIERS)
    found = statistics(model, TOKENS)
    short = Statistics(found["norm1"].histogram, np.ones(1), np.ones(1))
    smoothed = smooth_activations(model, found | {"norm1": short})
    assert changed(model, smoothed) == {"norm2.g", "norm2.b", "fc1.w"}
    assert_same_function(run, model, smoothed, TOKENS)


def test_dead_channels_are_left_as_they_are(make_mobilenet: Make, statistics: Observe) -> None:
    model = make_mobilenet(spread=100, dead=[0, 7])
    after, before = (arrays(m)["depthwise.w"] for m in (equalize_layers(model, statistics(model, IMAGES)), model))
    scale = (after / before).reshape(16, -1)
    np.testing.assert_allclose(scale, scale[:, :1].repeat(9, axis=1), rtol=1e-5)


def test_outlier_channels_break_plain_int8_and_not_the_smoothed_one(
    make_transformer: Make, run: Run, statistics: Observe
) -> None:
    calm, model = make_transformer(), make_transformer(OUTLIERS)
    exact = run(model, TOKENS)
    np.testing.assert_allclose(run(calm, TOKENS), exact, atol=1e-5)  # an equivalent network

    def error(float_model: onnx.ModelProto) -> float:
        ranges = ranges_from_statistics(statistics(float_model, TOKENS), "minmax", symmetric=False)
        quantised = qdq_from_float(float_model, ranges, PROFILES["cpu"])
        return float(np.sqrt(np.square(run(quantised, TOKENS) - exact).mean()) / exact.std())

    smoothed = smooth_activations(model, statistics(model, TOKENS))
    plain, ours, undisturbed = error(model), error(smoothed), error(calm)
    assert plain > 5 * undisturbed
    assert ours < 1.5 * undisturbed


@pytest.mark.slow
def test_an_exported_transformer_keeps_its_function(exported_vit: onnx.ModelProto) -> None:
    import onnxruntime

    from vidrisk.calibration.observers import observe_statistics

    frames = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3)).astype(np.uint8)
    smoothed = smooth_activations(exported_vit, observe_statistics(exported_vit, [{"frames": frames}]))
    sessions = [
        onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"])
        for m in (exported_vit, smoothed)
    ]
    results = [session.run(None, {"frames": frames})[0] for session in sessions]
    np.testing.assert_allclose(results[1], results[0], rtol=0, atol=1e-5 * np.abs(results[0]).max())
    norms = {n.name for n in exported_vit.graph.node if n.op_type == "LayerNormalization" and "layernorm_" in n.name}
    scaled = {
        n.name
        for n in smoothed.graph.node
        if n.op_type == "LayerNormalization" and not np.array_equal(arrays(smoothed)[n.input[1]], np.ones(64))
    }
    assert len(norms) == 6  # before attention and before the MLP of each layer; the last norm feeds the output
    assert scaled == norms
