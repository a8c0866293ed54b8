"""Tests of FP16 graphs: every type is as declared, and every tensor is cast once.

The numbers are those of float32, rounded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper, shape_inference

from vidrisk.calibration.graph import Net
from vidrisk.calibration.half import half_from_float, round_to_half
from vidrisk.calibration.observers import ranges_from_statistics
from vidrisk.calibration.profiles import PROFILES, ProfileName
from vidrisk.calibration.qdq import qdq_from_float
from vidrisk.calibration.single import single_nodes, types_of
from vidrisk.runtimes.contract.errors import DataError

Make = Callable[..., onnx.ModelProto]
Run = Callable[..., np.ndarray]
IMAGES = np.random.default_rng(0).normal(size=(8, 3, 8, 8)).astype(np.float32)
TOKENS = np.random.default_rng(1).normal(size=(8, 6, 16)).astype(np.float32)
HALF, SINGLE = TensorProto.FLOAT16, TensorProto.FLOAT


def node(kind: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), [output], name=output, **attributes)


def types(model: onnx.ModelProto) -> dict[str, int]:
    """Return the element types by tensor name from strict inference, which rejects nodes of mixed types."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    inferred = types_of(shape_inference.infer_shapes(bare, strict_mode=True, check_type=True))
    assert inferred.items() >= {v.name: v.type.tensor_type.elem_type for v in model.graph.value_info}.items()
    return inferred


def made_by(model: onnx.ModelProto) -> dict[str, set[int]]:
    """Return the set of output types by operator."""
    found, kinds = types(model), {}
    for each in model.graph.node:
        kinds.setdefault(each.op_type, set()).update(found[name] for name in each.output)
    return kinds


def test_a_transformer(make_transformer: Make, run: Run) -> None:
    model = make_transformer()
    half = half_from_float(model)
    onnx.checker.check_model(half, full_check=True)
    kinds = made_by(half)
    assert {kind for kind, made in kinds.items() if made == {SINGLE}} == {"LayerNormalization", "Softmax"}
    assert {kind for kind, made in kinds.items() if made == {HALF}} == {
        "MatMul",
        "Add",
        "Gelu",
        "Mul",
        "Reshape",
        "Transpose",
    }
    assert [v.type.tensor_type.elem_type for v in (*half.graph.input, *half.graph.output)] == [SINGLE, SINGLE]
    exact = run(model, TOKENS)
    for graph in (half, round_to_half(model)):
        assert 0 < np.abs(run(graph, TOKENS) - exact).max() < 5e-3


def test_no_tensor_is_cast_twice(make_transformer: Make) -> None:
    """All seven casts of the transformer read different tensors, and no cast reads another cast.

    The casts are those into and out of the norms, into and out of the softmax, and one of the input for the
    residual sum.
    """
    half = half_from_float(make_transformer())
    casts = [each for each in half.graph.node if each.op_type == "Cast"]
    assert len(casts) == len({each.input[0] for each in casts}) == 7
    made = {each.output[0]: each for each in casts}
    assert not [each for each in casts if each.input[0] in made]


def test_an_output_of_the_graph_that_others_read_keeps_its_name_and_type(make_graph: Make, run: Run) -> None:
    nodes = [
        node("MatMul", "x w", "y"),
        node("Relu", "y", "more"),
        node("Softmax", "y", "p"),
        node("Add", "more p", "z"),
    ]
    model = make_graph(nodes, {"w": np.eye(4, dtype=np.float32)}, ["b", 4], ["b", 4])
    half = half_from_float(model)
    found = types(half)
    assert (found["y"], found["y_half"], found["more"], found["p"]) == (SINGLE, HALF, HALF, SINGLE)
    assert Counter(each.op_type for each in half.graph.node)["Cast"] == 3  # x, y, and p for the sum
    x = np.array([[1, 2, 3, 4]], np.float32)
    np.testing.assert_array_equal(run(half, x), x)


def test_constants_are_converted_once_and_both_kinds_of_readers_have_theirs(make_transformer: Make) -> None:
    model = make_transformer(shared=True)
    half = half_from_float(model, keep_float32=["v/matmul"])
    weights = {t.name: t.data_type for t in half.graph.initializer}
    assert (weights["q.w"], weights["q.w_half"]) == (SINGLE, HALF)
    read = [name for each in half.graph.node for name in each.input]
    assert (read.count("q.w"), read.count("q.w_half")) == (1, 2)
    assert set(weights) <= set(read)
    before = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    np.testing.assert_array_equal(Net(half).array("q.w_half"), before["q.w"].astype(np.float16))


def test_named_nodes_stay_in_float32(make_transformer: Make) -> None:
    half = half_from_float(make_transformer(), ["fc1/matmul", "fc1/add", "fc1/act"])
    found = types(half)
    assert [found[name] for name in ("fc1.m", "fc1", "fc1.a")] == [SINGLE] * 3
    assert found["fc2.m"] == HALF and found["fc1.a_half"] == HALF
    assert not [
        each for each in half.graph.node if each.op_type == "Cast" and each.input[0] in ("fc1.m", "fc1", "norm2")
    ]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(st.integers(0, 30)))
def test_whatever_stays_the_types_are_sound(make_transformer: Make, run: Run, chosen: set[int]) -> None:
    model = make_transformer()
    nodes = list(model.graph.node)
    names = [nodes[i].name for i in chosen if i < len(nodes)]
    half, rounded = half_from_float(model, names), round_to_half(model, names)
    found = types(half)
    for name in names:
        kept = next(each for each in half.graph.node if each.name == name)
        assert all(found[tensor] != HALF for tensor in (*kept.input, *kept.output))
    exact = run(model, TOKENS)
    assert np.abs(run(half, TOKENS) - exact).max() < 5e-3 > np.abs(run(rounded, TOKENS) - exact).max()


def test_all_in_float32_changes_nothing(make_transformer: Make, run: Run) -> None:
    model = make_transformer()
    every = [each.name for each in model.graph.node]
    for graph in (half_from_float(model, every), round_to_half(model, every)):
        assert [each.op_type for each in graph.graph.node] == [each.op_type for each in model.graph.node]
        np.testing.assert_array_equal(run(graph, TOKENS), run(model, TOKENS))


def test_shapes_are_read_of_either_type(make_graph: Make, run: Run) -> None:
    """Shape and IsNaN read either type without a cast; a comparison needs two tensors of the same type."""
    nodes = [
        node("MatMul", "x w", "m"),
        node("Shape", "m", "shape"),
        node("IsNaN", "m", "broken"),
        node("Softmax", "m", "p"),
        node("Where", "broken x m", "mended"),
        node("Greater", "p mended", "more"),
        node("Cast", "more", "float", to=SINGLE),
        node("Expand", "float shape", "e"),
        node("Add", "e p", "y"),
    ]
    model = make_graph(nodes, {"w": np.eye(4, dtype=np.float32)}, ["b", 4], ["b", 4])
    half = half_from_float(model)
    found = types(half)
    assert found["float"] == HALF  # of a truth value, FP16 at once
    assert [each.input[0] for each in half.graph.node if each.op_type in ("Shape", "IsNaN")] == ["m", "m"]
    x = np.array([[1, 2, 3, 4], [-4, 0, 0, 4]], np.float32)
    np.testing.assert_allclose(run(half, x), run(model, x), atol=2e-3)


# What FP16 rounds, and where it ends


def test_only_the_rounding_graph_shows_on_a_processor_what_overflows(make_graph: Make, run: Run) -> None:
    nodes = [node("MatMul", "x w", "m"), node("Mul", "m small", "y")]
    weights = {"w": np.eye(4, dtype=np.float32) * 1000, "small": np.array(2**-10, np.float32)}
    model = make_graph(nodes, weights, ["b", 4], ["b", 4])
    x = np.array([[1, 10, 65, 66]], np.float32)
    assert np.isfinite(run(half_from_float(model), x)).all()  # 66,000 is beyond FP16, and nobody notices
    assert np.isfinite(run(round_to_half(model), x)).tolist() == [[True, True, True, False]]
    assert np.isfinite(run(round_to_half(model, ["m", "y"]), x)).all()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32 - 1))
def test_every_tensor_is_rounded_as_numpy_rounds(make_graph: Make, run: Run, seed: int) -> None:
    rng = np.random.default_rng(seed)
    gain, bias, x = (rng.normal(0, 30, size).astype(np.float32) for size in (4, 4, (3, 4)))
    nodes = [node("Mul", "x gain", "scaled"), node("Add", "scaled bias", "y")]
    model = make_graph(nodes, {"gain": gain, "bias": bias}, ["b", 4], ["b", 4])

    def half(values: np.ndarray) -> np.ndarray:
        return values.astype(np.float16).astype(np.float32)

    np.testing.assert_array_equal(run(round_to_half(model), x), half(half(half(x) * half(gain)) + half(bias)))


# Q/DQ


@pytest.fixture
def quantise(statistics: Callable[..., Any]) -> Callable[..., onnx.ModelProto]:
    def quantise(model: onnx.ModelProto, x: np.ndarray, profile: ProfileName = "tensorrt") -> onnx.ModelProto:
        ranges = ranges_from_statistics(statistics(model, x), "minmax", symmetric=profile == "tensorrt")
        return qdq_from_float(model, ranges, PROFILES[profile])

    return quantise


def integers(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if t.data_type == TensorProto.INT8}


@pytest.mark.parametrize("kind", ["convolutions", "transformer"])
def test_integers_and_scales_stay_the_same_numbers(
    make_mobilenet: Make, make_transformer: Make, run: Run, quantise: Callable[..., onnx.ModelProto], kind: str
) -> None:
    model, x = (make_mobilenet("Clip"), IMAGES) if kind == "convolutions" else (make_transformer(), TOKENS)
    quantised = quantise(model, x)
    half = half_from_float(quantised)
    onnx.checker.check_model(half, full_check=True)
    kinds = made_by(half)
    assert kinds["DequantizeLinear"] == {HALF} and kinds["QuantizeLinear"] == {TensorProto.INT8}
    before, after = integers(quantised), integers(half)
    assert before.keys() == after.keys() and all((before[name] == after[name]).all() for name in before)
    net, typed = Net(quantised), Net(half)
    scales = {each.input[1].removesuffix("_half") for each in half.graph.node if each.op_type.endswith("uantizeLinear")}
    for name in scales:
        held = [typed.array(each) for each in (name, f"{name}_half") if each in typed.weights]
        assert held and all((each == net.array(name)).all() for each in held)
    exact, eight = run(model, x), run(quantised, x)
    error = np.sqrt(np.square(eight - exact).mean())
    for graph in (half, round_to_half(quantised)):  # an integer more or less here and there
        assert np.sqrt(np.square(run(graph, x) - eight).mean()) < error


def test_a_quantiser_reads_float32_where_that_is_made(
    make_transformer: Make, quantise: Callable[..., onnx.ModelProto]
) -> None:
    """A quantizer after a norm reads float32: the value is rounded once, to 8 bits, and not to FP16 first."""
    half = half_from_float(quantise(make_transformer(), TOKENS))
    found = types(half)
    quantiser = next(each for each in half.graph.node if each.op_type == "QuantizeLinear" and each.input[0] == "norm1")
    assert found[quantiser.input[1]] == SINGLE
    dequantiser = next(each for each in half.graph.node if each.input[0] == quantiser.output[0])
    assert found[dequantiser.input[1]] == HALF


def test_weights_of_a_layer_in_float32_are_dequantised_to_float32(
    make_transformer: Make, quantise: Callable[..., onnx.ModelProto]
) -> None:
    half = half_from_float(quantise(make_transformer(), TOKENS), ["q/matmul"])
    found = types(half)
    matmul = next(each for each in half.graph.node if each.name == "q/matmul")
    assert [found[name] for name in (*matmul.input, *matmul.output)] == [SINGLE] * 3
    assert found["k/matmul_weight_dequantized"] == HALF


def test_scales_that_fp16_does_not_hold_stay_float32(
    make_mobilenet: Make, quantise: Callable[..., onnx.ModelProto]
) -> None:
    quantised = quantise(make_mobilenet(), IMAGES, "cpu")
    half = half_from_float(quantised)
    found = types(half)
    scales = {each.input[1] for each in half.graph.node if each.op_type.endswith("uantizeLinear")}
    assert {found[name] for name in scales} == {SINGLE}
    assert integers(quantised).keys() == integers(half).keys()


# Bad input


def test_old_opsets_and_nested_graphs_are_refused(make_graph: Make) -> None:
    model = make_graph([node("Relu", "x", "y")], {}, ["b", 4], ["b", 4])
    model.opset_import[0].version = 18
    with pytest.raises(
        DataError, match="a graph of opset 18 cannot be typed FP16; allowed: 19 or later; fix: export it again"
    ):
        half_from_float(model)
    body = helper.make_graph(
        [node("Relu", "x", "inner")], "then", [], [helper.make_tensor_value_info("inner", SINGLE, None)]
    )
    branch = helper.make_node("If", ["flag"], ["y"], name="choice", then_branch=body, else_branch=body)
    nested = make_graph([branch], {"flag": np.array(True)}, ["b", 4], ["b", 4])
    with pytest.raises(DataError, match=r"a graph with branches or loops \(choice\)"):
        round_to_half(nested)


def test_the_model_that_is_given_stays_as_it_is(exported_vit: onnx.ModelProto) -> None:
    before = exported_vit.SerializeToString(deterministic=True)
    half = half_from_float(exported_vit)
    assert exported_vit.SerializeToString(deterministic=True) == before
    assert set(single_nodes(Net(half), types_of(half)))  # names are those of before, so that a second look finds them
    session = onnxruntime.InferenceSession(half.SerializeToString(), providers=["CPUExecutionProvider"])
    frames = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    assert session.run(None, {"frames": frames})[0].dtype == np.float32
