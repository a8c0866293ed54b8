"""Streaming ranges equal those of everything at once, in the memory of one batch."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidrisk.calibration import observed_ranges
from vidrisk.calibration.observers import activation_names
from vidrisk.runtimes.errors import DataError, RuntimeFailure, UnreadableError

SAMPLES = np.random.default_rng(0).normal(size=(24, 3, 8, 8)).astype(np.float32)


@pytest.fixture(scope="session")
def reference(cnn: onnx.ModelProto) -> dict[str, tuple[float, float]]:
    """Every activation of all samples, kept whole, and its range taken by numpy."""
    names = [name for node in cnn.graph.node for name in node.output]
    model = onnx.ModelProto()
    model.CopyFrom(cnn)
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    arrays = dict(zip(names, session.run(names, {"x": SAMPLES}), strict=True)) | {"x": SAMPLES}
    return {name: (float(a.min()), float(a.max())) for name, a in arrays.items()}


@settings(max_examples=15, deadline=None)
@given(cuts=st.sets(st.integers(1, 23), max_size=6), order=st.permutations(range(24)))
def test_ranges_do_not_depend_on_batches(
    cnn: onnx.ModelProto, reference: dict[str, tuple[float, float]], cuts: set[int], order: list[int]
) -> None:
    batches = np.split(SAMPLES[order], sorted(cuts))
    found = observed_ranges(cnn, ({"x": batch} for batch in batches))
    assert set(found) == set(reference)
    for name, (low, high) in reference.items():
        np.testing.assert_allclose(found[name], (low, high), rtol=1e-5, atol=1e-6, err_msg=name)


def test_activations_are_inputs_and_what_nodes_make(cnn: onnx.ModelProto) -> None:
    assert activation_names(cnn) == ["x", "c1", "r1", "c2", "c3", "c4", "m", "y"]


def test_the_model_is_left_as_it_is(cnn: onnx.ModelProto) -> None:
    before = cnn.SerializeToString(deterministic=True)
    observed_ranges(cnn, [{"x": SAMPLES}])
    assert cnn.SerializeToString(deterministic=True) == before


def test_no_batch_is_refused(cnn: onnx.ModelProto) -> None:
    with pytest.raises(DataError, match="no calibration sample; allowed: at least one batch"):
        observed_ranges(cnn, [])


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(cnn: onnx.ModelProto, poison: float) -> None:
    bad = SAMPLES.copy()
    bad[3, 0, 0, 0] = poison
    with pytest.raises(DataError, match="activation x is not finite"):
        observed_ranges(cnn, [{"x": SAMPLES[:2]}, {"x": bad}])


def test_weights_that_are_not_finite_are_found(cnn: onnx.ModelProto) -> None:
    broken = onnx.ModelProto()
    broken.CopyFrom(cnn)
    weight = next(t for t in broken.graph.initializer if t.name == "w3")
    values = onnx.numpy_helper.to_array(weight).copy()
    values[0] = np.nan
    weight.CopyFrom(onnx.numpy_helper.from_array(values, "w3"))
    with pytest.raises(DataError, match="activation c3 is not finite"):
        observed_ranges(broken, [{"x": SAMPLES}])


def test_a_feed_that_does_not_fit_is_one_line(cnn: onnx.ModelProto) -> None:
    with pytest.raises(RuntimeFailure, match="ONNX Runtime failed while calibrating") as caught:
        observed_ranges(cnn, [{"x": SAMPLES[:, :2]}])
    assert len(str(caught.value).splitlines()) == 1


def test_errors_of_the_samples_stay_what_they_are(cnn: onnx.ModelProto) -> None:
    def batches() -> Iterator[dict[str, np.ndarray]]:
        yield {"x": SAMPLES}
        raise UnreadableError("a.mp4 ends early")

    with pytest.raises(UnreadableError, match="ends early"):
        observed_ranges(cnn, batches())


def test_memory_does_not_grow_with_samples(cnn: onnx.ModelProto) -> None:
    def peak(count: int) -> int:
        tracemalloc.start()
        observed_ranges(cnn, ({"x": SAMPLES[:8]} for _ in range(count)))
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(2)  # imports and first allocations
    few, many = peak(4), peak(200)
    batch = SAMPLES[:8].nbytes
    assert few > 2 * batch  # activations are seen by the tracer at all
    assert many < few + 4 * batch  # keeping everything would take 196 batches of eight activations more
