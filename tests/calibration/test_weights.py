"""Tests of 8-bit weights: scales of least error, values on the grid, and biases that take the mean error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from onnx import helper, numpy_helper

from vidrisk.calibration.graph import Net
from vidrisk.calibration.observers import Statistics, ranges_from_statistics
from vidrisk.calibration.profiles import PROFILES
from vidrisk.calibration.qdq import qdq_from_float
from vidrisk.calibration.weights import (
    SMALLEST_SCALE,
    correct_biases,
    integers_from_weight,
    mse_weight_scales,
    plain_weight_scales,
    round_weight,
)

Make = Callable[..., onnx.ModelProto]
Run = Callable[..., np.ndarray]
Observe = Callable[..., dict[str, Statistics]]

WEIGHTS = arrays_of.arrays(
    np.float32,
    arrays_of.array_shapes(min_dims=2, max_dims=4, max_side=6),
    elements=st.floats(-100, 100, width=32) | st.sampled_from([0.0, 1e-40, -1e-30, 1e-20, 1e-10, 1000.0]),
)


def squared_error(weight: np.ndarray, scale: np.ndarray, axis: int) -> np.ndarray:
    """Return the squared error per output channel, in units of the channel's largest weight."""
    exact = np.moveaxis(weight.astype(np.float64), axis, 0).reshape(len(scale), -1)
    on_grid = np.moveaxis(round_weight(weight, scale, axis).astype(np.float64), axis, 0).reshape(len(scale), -1)
    largest = np.maximum(np.abs(exact).max(axis=1, keepdims=True), 1e-17)
    result: np.ndarray = np.square((on_grid - exact) / largest).sum(axis=1)
    return result


@given(weight=WEIGHTS, data=st.data())
def test_plain_scales_hold_every_weight(weight: np.ndarray, data: st.DataObject) -> None:
    axis = data.draw(st.integers(0, weight.ndim - 1))
    scale = plain_weight_scales(weight, axis)
    assert scale.dtype == np.float32
    assert scale.shape == (weight.shape[axis],)
    assert (scale >= np.float32(SMALLEST_SCALE)).all()
    assert (np.moveaxis(np.abs(round_weight(weight, scale, axis) - weight), axis, -1) <= scale * 0.501).all()
    integers = integers_from_weight(weight, scale, axis)
    assert (integers == np.rint(integers)).all()
    assert np.abs(integers).max() <= 127


@given(weight=WEIGHTS, data=st.data())
def test_mse_scales_never_err_more_than_plain_ones(weight: np.ndarray, data: st.DataObject) -> None:
    axis = data.draw(st.integers(0, weight.ndim - 1))
    plain, best = plain_weight_scales(weight, axis), mse_weight_scales(weight, axis)
    assert (best <= plain).all()
    assert (best > 0).all()
    assert (squared_error(weight, best, axis) <= squared_error(weight, plain, axis) * (1 + 1e-4) + 1e-10).all()


@pytest.mark.parametrize("size", [1.0, 1e-12])
def test_mse_scales_clip_a_lonely_outlier(size: float) -> None:
    weight = (np.random.default_rng(0).normal(size=(2, 100_000)) * size).astype(np.float32)
    weight[0, 0] = 10 * size
    plain, best = plain_weight_scales(weight, 0), mse_weight_scales(weight, 0)
    assert best[0] < 0.8 * plain[0]
    assert squared_error(weight, best, 0)[0] < 0.8 * squared_error(weight, plain, 0)[0]


@given(weight=WEIGHTS, scale=st.floats(1e-3, 10))
def test_rounded_weights_lie_on_the_grid(weight: np.ndarray, scale: float) -> None:
    scales = np.full(weight.shape[0], scale, np.float32)
    steps = round_weight(weight, scales, 0).astype(np.float64) / np.float32(scale)
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-4)
    assert np.abs(steps).max() < 127.001
    np.testing.assert_array_equal(
        round_weight(round_weight(weight, scales, 0), scales, 0), round_weight(weight, scales, 0)
    )


# Bias correction


def layer(op: str, *inputs: str, output: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, list(inputs), [output], name=f"layer/{op}", **attributes)


IMAGE, VECTOR, TOKENS = (8, 6, 6), (8,), (5, 8)
LAYERS: dict[str, tuple[list[onnx.NodeProto], tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {
    "convolution": ([layer("Conv", "x", "w", "b")], (6, 8, 3, 3), IMAGE, (6, 4, 4)),
    "pointwise": ([layer("Conv", "x", "w", "b")], (6, 8, 1, 1), IMAGE, (6, 6, 6)),
    "depthwise": ([layer("Conv", "x", "w", "b", group=8)], (8, 1, 3, 3), IMAGE, (8, 4, 4)),
    "grouped": ([layer("Conv", "x", "w", "b", group=2)], (6, 4, 3, 3), IMAGE, (6, 4, 4)),
    "linear": ([layer("Gemm", "x", "w", "b", transB=1)], (6, 8), VECTOR, (6,)),
    "linear, transposed": ([layer("Gemm", "x", "w", "b")], (8, 6), VECTOR, (6,)),
    "square, transposed": ([layer("Gemm", "x", "w", "b")], (8, 8), VECTOR, (8,)),
    "product and sum": ([layer("MatMul", "x", "w", output="m"), layer("Add", "m", "b")], (8, 6), TOKENS, (5, 6)),
    "sum and product": ([layer("MatMul", "x", "w", output="m"), layer("Add", "b", "m")], (8, 6), TOKENS, (5, 6)),
}


def samples(shape: tuple[int, ...]) -> np.ndarray:
    """Return inputs whose channels have different means.

    Every pixel of a channel has its own mean, too, so borders matter.
    """
    values = np.random.default_rng(3).normal(1.5, 1, (64, *shape))
    at = (1, -1, 1, 1) if len(shape) == 3 else (-1,)
    return (values * np.linspace(-1, 2, 8).reshape(at)).astype(np.float32)


def built(make_graph: Make, name: str) -> tuple[onnx.ModelProto, np.ndarray, int]:
    """Return a model with the named layer, its inputs, and the channel axis of its output."""
    nodes, dims, shape, out = LAYERS[name]
    rng = np.random.default_rng(4)
    axis = 1 if len(out) == 3 else len(out)
    weights = {"w": rng.normal(size=dims).astype(np.float32), "b": rng.normal(size=out[axis - 1]).astype(np.float32)}
    return make_graph(nodes, weights, ["batch", *shape], ["batch", *out]), samples(shape), axis


def coarse_scales(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Return weight scales that are eight times coarser than needed, so that rounding matters."""
    net = Net(model)
    return {
        n.input[1]: plain_weight_scales(net.array(n.input[1]), net.output_axis(n)) * 8
        for n in net.nodes
        if net.is_weighted(n)
    }


def arrays(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def with_rounded_weights(model: onnx.ModelProto, scales: dict[str, np.ndarray]) -> onnx.ModelProto:
    net = Net(model)
    for n in net.nodes:
        if net.is_weighted(n):
            net.set_array(n.input[1], round_weight(net.array(n.input[1]), scales[n.input[1]], net.output_axis(n)))
    return net.model


def channel_means(values: np.ndarray, axis: int) -> np.ndarray:
    return np.asarray(values.mean(axis=tuple(i for i in range(values.ndim) if i != axis)))


@pytest.mark.parametrize("name", LAYERS)
def test_the_float_graph_shifts_by_exactly_the_mean_rounding_error(
    make_graph: Make, run: Run, statistics: Observe, name: str
) -> None:
    model, x, axis = built(make_graph, name)
    if x.ndim == 4:
        x[:] = x.mean(axis=(0, 2, 3), keepdims=True)  # so that what lies under a kernel has the mean of its channel
    scales = coarse_scales(model)
    corrected = correct_biases(model, statistics(model, x), scales)
    shift = run(corrected, x) - run(model, x)
    error = channel_means(run(with_rounded_weights(model, scales), x) - run(model, x), axis)
    assert np.abs(error).max() > 0.05
    np.testing.assert_allclose(channel_means(shift, axis), -error, atol=1e-4)
    flat = np.moveaxis(shift, axis, -1).reshape(-1, len(error))
    np.testing.assert_allclose(
        flat, np.broadcast_to(flat[0], flat.shape), atol=1e-4
    )  # the same for every input: it is a bias
    np.testing.assert_array_equal(arrays(corrected)["w"], arrays(model)["w"])


@pytest.mark.parametrize("name", LAYERS)
def test_mean_outputs_come_closer_to_float(make_graph: Make, run: Run, statistics: Observe, name: str) -> None:
    model, x, axis = built(make_graph, name)
    found, scales = statistics(model, x), coarse_scales(model)
    ranges = ranges_from_statistics(found, "minmax", symmetric=False)

    def error(source: onnx.ModelProto) -> np.ndarray:
        quantised = qdq_from_float(source, ranges, PROFILES["cpu"], weight_scales=scales)
        return np.asarray(np.abs(channel_means(run(quantised, x) - run(model, x), axis)))

    plain, corrected = error(model), error(correct_biases(model, found, scales))
    assert plain.max() > 0.05
    assert corrected.max() < 0.15 * plain.max()
    assert (corrected <= plain + 0.02 * plain.max()).all()  # in every channel


@pytest.mark.parametrize("name", LAYERS)
def test_layers_kept_in_float_are_untouched(make_graph: Make, statistics: Observe, name: str) -> None:
    model, x, _ = built(make_graph, name)
    before = model.SerializeToString(deterministic=True)
    kept = correct_biases(model, statistics(model, x), coarse_scales(model), [LAYERS[name][0][0].name])
    assert kept.SerializeToString(deterministic=True) == before
    assert model.SerializeToString(deterministic=True) == before


def test_a_whole_network_comes_closer(make_mobilenet: Make, run: Run, statistics: Observe) -> None:
    model = make_mobilenet(spread=4)
    x = np.random.default_rng(5).normal(0.5, 1, (64, 3, 8, 8)).astype(np.float32)
    found, scales = statistics(model, x), coarse_scales(model)
    exact = run(model, x)
    plain, corrected = (
        np.abs((run(with_rounded_weights(m, scales), x) - exact).mean(axis=0)).max()
        for m in (model, correct_biases(model, found, scales))
    )
    assert corrected < 0.75 * plain


def test_a_shared_bias_is_corrected_for_one_layer_alone(make_transformer: Make, statistics: Observe) -> None:
    model = make_transformer(shared=True)
    x = np.random.default_rng(6).normal(0.5, 1, (16, 6, 16)).astype(np.float32)
    corrected = correct_biases(model, statistics(model, x), coarse_scales(model), ["k/matmul"])
    biases = {
        n.name: arrays(corrected)[n.input[1]] for n in corrected.graph.node if n.name in ("q/add", "k/add", "v/add")
    }
    np.testing.assert_array_equal(biases["k/add"], arrays(model)["q.b"])
    np.testing.assert_array_equal(biases["q/add"], biases["v/add"])  # same weight, same input
    assert np.abs(biases["q/add"] - biases["k/add"]).max() > 1e-3


UNKNOWN: dict[str, tuple[list[onnx.NodeProto], tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {
    "no bias": ([layer("Conv", "x", "w")], (6, 8, 1, 1), IMAGE, (6, 6, 6)),
    "no sum": ([layer("MatMul", "x", "w")], (8, 6), TOKENS, (5, 6)),
    "along a line": ([layer("Conv", "x", "w", "b")], (6, 8, 1), (8, 8), (6, 8)),
    "in space": ([layer("Conv", "x", "w", "b")], (6, 8, 1, 1, 1), (8, 2, 4, 8), (6, 2, 4, 8)),
    "last axis of images": (
        [layer("MatMul", "x", "w", output="m"), layer("Add", "m", "b")],
        (8, 6),
        (3, 4, 8),
        (3, 4, 6),
    ),
    "a stack of matrices": (
        [layer("MatMul", "x", "w", output="m"), layer("Add", "m", "b")],
        (3, 8, 8),
        (3, 5, 8),
        (3, 5, 8),
    ),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_layers_whose_mean_input_is_not_known_are_left_alone(make_graph: Make, statistics: Observe, name: str) -> None:
    """Layers stay unchanged where the statistics do not give the mean of their input.

    Statistics follow axis 1 for rank 4 and the last axis otherwise; they cannot correct any other layer.
    """
    nodes, dims, shape, out = UNKNOWN[name]
    rng = np.random.default_rng(7)
    outputs = dims[-1] if nodes[0].op_type == "MatMul" else dims[0]
    weights = {"w": rng.normal(size=dims).astype(np.float32), "b": rng.normal(size=outputs).astype(np.float32)}
    read = {i for n in nodes for i in n.input}
    used = {n: w for n, w in weights.items() if n in read}
    model = make_graph(nodes, used, ["batch", *shape], ["batch", *out])
    x = rng.normal(1, 1, (16, *shape)).astype(np.float32)
    corrected = correct_biases(model, statistics(model, x), coarse_scales(model))
    assert corrected.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)
