"""Tests of the streaming statistics: they equal those of all data at once, in the memory of one batch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from vidrisk.calibration.histogram import Histogram, Method, range_from_histogram
from vidrisk.calibration.observers import Statistics, activation_names, observe_statistics, ranges_from_statistics
from vidrisk.runtimes.contract.errors import DataError, RuntimeFailure, UnreadableError

SAMPLES = np.random.default_rng(0).normal(size=(24, 3, 8, 8)).astype(np.float32)


def every_activation(model: onnx.ModelProto, feed: np.ndarray) -> dict[str, np.ndarray]:
    """Return every activation of a model as a whole array by tensor name."""
    names = [name for node in model.graph.node for name in node.output]
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(names, {"x": feed}), strict=True)) | {"x": feed}


@pytest.fixture(scope="session")
def reference(cnn: onnx.ModelProto) -> dict[str, np.ndarray]:
    return every_activation(cnn, SAMPLES)


@settings(max_examples=15, deadline=None)
@given(cuts=st.sets(st.integers(1, 23), max_size=6), order=st.permutations(range(24)))
def test_statistics_do_not_depend_on_batches(
    cnn: onnx.ModelProto, reference: dict[str, np.ndarray], cuts: set[int], order: list[int]
) -> None:
    batches = np.split(SAMPLES[order], sorted(cuts))
    found = observe_statistics(cnn, ({"x": batch} for batch in batches))
    assert set(found) == set(reference)
    for name, values in reference.items():
        others = tuple(axis for axis in range(values.ndim) if axis != 1)  # all of rank 4 or 2
        statistics = found[name]
        ends = statistics.histogram.low, statistics.histogram.high
        pairs: list[tuple[Any, Any]] = [
            (ends, (values.min(), values.max())),
            (statistics.channel_largest, np.abs(values).max(others)),
            (statistics.channel_mean, values.mean(others, dtype=np.float64)),
        ]
        for ours, expected in pairs:  # the engine rounds differently from batch to batch
            np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6, err_msg=name)
        assert statistics.histogram.count == values.size


def test_the_histogram_is_that_of_every_value(cnn: onnx.ModelProto, reference: dict[str, np.ndarray]) -> None:
    found = observe_statistics(cnn, [{"x": SAMPLES}])
    for name, values in reference.items():
        whole = Histogram()
        whole.observe(values)
        assert found[name].histogram.counts.tolist() == whole.counts.tolist(), name


def test_channels_of_tokens_lie_last(attention: onnx.ModelProto) -> None:
    tokens = np.random.default_rng(1).normal(size=(6, 4, 16)).astype(np.float32) * np.arange(16, dtype=np.float32)
    found = observe_statistics(attention, [{"x": tokens[:4]}, {"x": tokens[4:]}])
    np.testing.assert_array_equal(found["x"].channel_largest, np.abs(tokens).max((0, 1)))
    np.testing.assert_allclose(found["x"].channel_mean, tokens.mean((0, 1), dtype=np.float64), rtol=1e-12, atol=1e-12)
    assert repr(found["x"]) == f"Statistics([{tokens.min():g}, {tokens.max():g}], 16 channels)"


def small(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    """Build a model that passes ``x (N, D)`` through the given float nodes to ``y``."""
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "d"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_an_axis_that_varies_counts_as_one_channel() -> None:
    model = small(helper.make_node("Transpose", ["x"], ["y"]))
    batches = [np.full((n, 2), n, np.float32) for n in (3, 1, 4)]
    statistics = observe_statistics(model, [{"x": batch} for batch in batches])["y"]
    assert statistics.channel_largest.tolist() == [4]
    assert statistics.channel_mean == pytest.approx(np.concatenate(batches).mean())


def test_empty_activations_are_left_out() -> None:
    model = small(helper.make_node("Relu", ["x"], ["y"]))
    some, none = np.ones((2, 3), np.float32), np.ones((0, 3), np.float32)
    assert observe_statistics(model, [{"x": none}, {"x": some}])["y"].histogram.count == 6
    assert observe_statistics(model, [{"x": none}]) == {}


def test_a_constant_activation_is_legal() -> None:
    found = observe_statistics(small(helper.make_node("Relu", ["x"], ["y"])), [{"x": np.full((2, 3), -1, np.float32)}])
    assert ranges_from_statistics(found, "mse", symmetric=False) == {"x": (-1, -1), "y": (0, 0)}


@pytest.mark.parametrize("names", [["c2", "r1"], ["x"], ["x", "y"]])
def test_names_choose_the_activations(cnn: onnx.ModelProto, names: list[str]) -> None:
    everything = observe_statistics(cnn, [{"x": SAMPLES}])
    found = observe_statistics(cnn, [{"x": SAMPLES}], names=names)
    assert set(found) == set(names)
    for name in names:
        assert found[name].histogram.counts.tolist() == everything[name].histogram.counts.tolist()


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy", "mse"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_ranges_are_those_of_the_histograms(cnn: onnx.ModelProto, method: Method, symmetric: bool) -> None:
    found: dict[str, Statistics] = observe_statistics(cnn, [{"x": SAMPLES}])
    ranges = ranges_from_statistics(found, method, symmetric=symmetric)
    assert ranges == {
        name: range_from_histogram(one.histogram, method, symmetric=symmetric) for name, one in found.items()
    }


def test_activations_are_inputs_and_what_nodes_make(cnn: onnx.ModelProto) -> None:
    assert activation_names(cnn) == ["x", "c1", "r1", "c2", "c3", "c4", "m", "y"]


def test_the_model_is_left_as_it_is(cnn: onnx.ModelProto) -> None:
    before = cnn.SerializeToString(deterministic=True)
    observe_statistics(cnn, [{"x": SAMPLES}])
    assert cnn.SerializeToString(deterministic=True) == before


def test_no_batch_is_refused(cnn: onnx.ModelProto) -> None:
    with pytest.raises(DataError, match="no calibration sample; allowed: at least one batch"):
        observe_statistics(cnn, [])


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(cnn: onnx.ModelProto, poison: float) -> None:
    bad = SAMPLES.copy()
    bad[3, 0, 0, 0] = poison
    with pytest.raises(DataError, match="activation x is not finite"):
        observe_statistics(cnn, [{"x": SAMPLES[:2]}, {"x": bad}])


def test_weights_that_are_not_finite_are_found(cnn: onnx.ModelProto) -> None:
    broken = onnx.ModelProto()
    broken.CopyFrom(cnn)
    weight = next(t for t in broken.graph.initializer if t.name == "w3")
    values = onnx.numpy_helper.to_array(weight).copy()
    values[0] = np.nan
    weight.CopyFrom(onnx.numpy_helper.from_array(values, "w3"))
    with pytest.raises(DataError, match="activation c3 is not finite"):
        observe_statistics(broken, [{"x": SAMPLES}])


def test_a_feed_that_does_not_fit_is_one_line(cnn: onnx.ModelProto) -> None:
    with pytest.raises(RuntimeFailure, match="ONNX Runtime failed while calibrating") as caught:
        observe_statistics(cnn, [{"x": SAMPLES[:, :2]}])
    assert len(str(caught.value).splitlines()) == 1


def test_errors_of_the_samples_stay_what_they_are(cnn: onnx.ModelProto) -> None:
    def batches() -> Iterator[dict[str, np.ndarray]]:
        yield {"x": SAMPLES}
        raise UnreadableError("a.mp4 ends early")

    with pytest.raises(UnreadableError, match="ends early"):
        observe_statistics(cnn, batches())


OBSERVE = """
import re, sys
from pathlib import Path
import numpy as np, onnx
from vidrisk.calibration.observers import observe_statistics

def peak_mb():  # ru_maxrss would begin with the peak of the process that forked this one
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024

model = onnx.load(sys.argv[1])
frames = np.random.default_rng(0).normal(size=(8, 3, 8, 8)).astype(np.float32)
observe_statistics(model, [{"x": frames[:0]}])
before = peak_mb()
observe_statistics(model, ({"x": frames} for _ in range(int(sys.argv[2]) // 8)))
print(before, peak_mb())
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_samples(cnn: onnx.ModelProto, tmp_path: Path) -> None:
    """The peak memory does not grow with the number of samples.

    The graph is upsampled: the activations of 8 samples take 90 MB, and those of 256 would take 2.8 GB.
    """
    model = onnx.ModelProto()
    model.CopyFrom(cnn)
    del model.graph.value_info[:]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 1, 32, 32], np.float32), "scales"))
    model.graph.node[0].input[0] = "large"
    model.graph.node.insert(0, helper.make_node("Resize", ["x", "", "scales"], ["large"], mode="nearest"))
    onnx.save(onnx.shape_inference.infer_shapes(model), tmp_path / "large.onnx")

    def peak_mb(samples: int) -> tuple[int, int]:
        command = [sys.executable, "-c", OBSERVE, str(tmp_path / "large.onnx"), str(samples)]
        before, peak = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout.split()
        return int(before), int(peak)

    before, few = peak_mb(32)
    _, many = peak_mb(256)
    assert few > before + 45  # the activations are there at all
    assert many <= 1.1 * few
