"""The Q/DQ graph: INT8 where it pays, floating point where asked, and the same answers in every engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from vidrisk.calibration import float_islands, observed_ranges, quantised_from_float
from vidrisk.runtimes import TensorSpec
from vidrisk.runtimes.errors import DataError
from vidrisk.runtimes.openvino import OpenVinoRunner
from vidrisk.runtimes.ort import OnnxRuntimeRunner

INPUTS = {
    "cnn": np.random.default_rng(0).normal(size=(32, 3, 8, 8)).astype(np.float32),
    "attention": np.random.default_rng(1).normal(size=(32, 4, 16)).astype(np.float32),
}


@pytest.fixture(params=["cnn", "attention"])
def case(request: pytest.FixtureRequest) -> tuple[onnx.ModelProto, np.ndarray]:
    return request.getfixturevalue(request.param), INPUTS[request.param]


def quantised(model: onnx.ModelProto, samples: np.ndarray, keep_float: list[str] | None = None) -> onnx.ModelProto:
    ranges = observed_ranges(model, [{"x": samples[:16]}, {"x": samples[16:]}])
    return quantised_from_float(model, ranges, keep_float=keep_float or [])


def node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(n for n in model.graph.node if n.name == name)


def is_quantised(model: onnx.ModelProto, name: str) -> bool:
    producers = {output: n.op_type for n in model.graph.node for output in n.output}
    return all(producers.get(i) == "DequantizeLinear" for i in node(model, name).input[:2])


def test_weights_are_int8_symmetric_per_channel(cnn: onnx.ModelProto) -> None:
    model = quantised(cnn, INPUTS["cnn"])
    tensors = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    producer = {output: n for n in model.graph.node for output in n.output}
    for name, channels in (("stem", 8), ("depthwise", 8), ("pointwise", 8), ("last", 8)):
        values, scale, zero = (tensors[i] for i in producer[node(model, name).input[1]].input)
        assert values.dtype == np.int8
        assert scale.shape == (channels,)
        assert not zero.any()
        original = numpy_helper.to_array(next(t for t in cnn.graph.initializer if t.name == node(cnn, name).input[1]))
        np.testing.assert_allclose(values * scale.reshape(-1, 1, 1, 1), original, atol=scale.max() * 0.51)
    activation = producer[node(model, "stem").input[0]]
    assert tensors[activation.input[2]].dtype == np.uint8
    bias = producer[node(model, "stem").input[2]]
    assert tensors[bias.input[0]].dtype == np.int32


def test_softmax_and_layer_norm_stay_in_float(attention: onnx.ModelProto) -> None:
    model = quantised(attention, INPUTS["attention"])
    assert {n.op_type for n in model.graph.node} >= {"QuantizeLinear", "DequantizeLinear", "Softmax", "LayerNormalization"}
    assert is_quantised(model, "scores")
    assert is_quantised(model, "project_q")


def test_parity_with_float_in_every_engine(case: tuple[onnx.ModelProto, np.ndarray], tmp_path: Path) -> None:
    model, samples = case
    onnx.save_model(model, str(tmp_path / "float.onnx"))
    onnx.save_model(quantised(model, samples), str(tmp_path / "int8.onnx"))
    shape = [d.dim_param or d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim]
    specs = ((TensorSpec("x", "float32", ("batch", *samples.shape[1:])),), (TensorSpec("y", "float32", tuple(shape)),))
    exact = OnnxRuntimeRunner(tmp_path / "float.onnx", *specs).infer({"x": samples})["y"]
    results = [
        engine(tmp_path / "int8.onnx", *specs).infer({"x": samples})["y"] for engine in (OnnxRuntimeRunner, OpenVinoRunner)
    ]
    spread = float(exact.std())
    for result in results:
        assert np.abs(result - exact).max() > 0  # it is quantised
        assert np.sqrt(np.mean((result - exact) ** 2)) < 0.05 * spread  # 8 bits through a handful of layers
    assert np.sqrt(np.mean((results[0] - results[1]) ** 2)) < 0.02 * spread


def test_opset_and_tensors_stay(case: tuple[onnx.ModelProto, np.ndarray]) -> None:
    model, samples = case
    result = quantised(model, samples)
    assert [o.version for o in result.opset_import if o.domain in ("", "ai.onnx")] == [20]
    assert {o.domain for o in result.opset_import} <= {"", "ai.onnx"}  # no vendor operators
    assert list(result.graph.input) == list(model.graph.input)
    assert list(result.graph.output) == list(model.graph.output)


def test_the_float_model_is_left_untouched_and_results_repeat(cnn: onnx.ModelProto) -> None:
    before = cnn.SerializeToString(deterministic=True)
    first, second = quantised(cnn, INPUTS["cnn"]), quantised(cnn, INPUTS["cnn"])
    assert cnn.SerializeToString(deterministic=True) == before
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)


def test_quantised_models_are_refused(cnn: onnx.ModelProto) -> None:
    with pytest.raises(DataError, match="quantised already; fix: export from the floating-point run"):
        quantised_from_float(quantised(cnn, INPUTS["cnn"]), {})


def test_kept_nodes_stay_in_float(cnn: onnx.ModelProto) -> None:
    model = quantised(cnn, INPUTS["cnn"], ["stem", "depthwise"])
    kept = {n.name: is_quantised(model, n.name) for n in model.graph.node if n.op_type == "Conv"}
    assert kept == {"stem": False, "depthwise": False, "pointwise": True, "last": True}
    assert "w1" in {t.name for t in model.graph.initializer}


def test_float_islands_grow(cnn: onnx.ModelProto, attention: onnx.ModelProto) -> None:
    assert [set(names) for _, names in float_islands(cnn)] == [
        set(),
        {"stem", "depthwise", "pointwise"},
        {"stem", "depthwise", "pointwise"},
    ]
    assert [set(names) for _, names in float_islands(attention)] == [
        set(),
        {"project_q", "project_k", "project_v"},
        {"project_q", "project_k", "project_v", "scores", "mix"},
    ]
    for model, samples in ((cnn, INPUTS["cnn"]), (attention, INPUTS["attention"])):
        for _, names in float_islands(model):
            result = quantised(model, samples, names)
            assert not any(is_quantised(result, name) for name in names)
