"""Tests of the Q/DQ graph: 8 bits where the hardware gains from them, in the placement that it needs.

Every engine gives nearly the same answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from vidrisk.calibration.graph import Net
from vidrisk.calibration.observers import Ranges, Statistics, ranges_from_statistics
from vidrisk.calibration.profiles import PROFILES, ProfileName
from vidrisk.calibration.qdq import qdq_from_float, quantizable_nodes, quantization_of, tensors_to_quantize
from vidrisk.runtimes import TensorSpec
from vidrisk.runtimes.contract.errors import DataError
from vidrisk.runtimes.openvino import OpenVinoRunner
from vidrisk.runtimes.ort import OnnxRuntimeRunner

Make = Callable[..., onnx.ModelProto]
Run = Callable[..., np.ndarray]
Quantise = Callable[..., onnx.ModelProto]

IMAGES = np.random.default_rng(0).normal(size=(32, 3, 8, 8)).astype(np.float32)
TOKENS = np.random.default_rng(1).normal(size=(32, 6, 16)).astype(np.float32)
CASES = ["relu", "relu6", "no biases", "transformer"]
KINDS: list[ProfileName] = ["cpu", "cpu7", "tensorrt"]
ENGINES = (OnnxRuntimeRunner, OpenVinoRunner)


@pytest.fixture
def quantise(statistics: Callable[..., dict[str, Statistics]]) -> Quantise:
    def quantise(
        model: onnx.ModelProto, x: np.ndarray, profile: ProfileName, keep_float: Collection[str] = ()
    ) -> onnx.ModelProto:
        ranges = ranges_from_statistics(statistics(model, x), "minmax", symmetric=profile == "tensorrt")
        return qdq_from_float(model, ranges, PROFILES[profile], keep_float=keep_float)

    return quantise


@pytest.fixture(params=CASES)
def case(
    request: pytest.FixtureRequest, make_mobilenet: Make, make_transformer: Make
) -> tuple[onnx.ModelProto, np.ndarray]:
    if request.param == "transformer":
        return make_transformer(), TOKENS
    return make_mobilenet("Clip" if request.param == "relu6" else "Relu", biases=request.param != "no biases"), IMAGES


def node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    found: onnx.NodeProto = next(n for n in model.graph.node if n.name == name)
    return found


def computed(
    engine: type[OnnxRuntimeRunner] | type[OpenVinoRunner], path: Path, x: np.ndarray, shape: Sequence[int | str]
) -> np.ndarray:
    """Return the output that an engine computes from a file with one input and one output of ``shape``."""
    graph = onnx.load(str(path)).graph
    inputs = (TensorSpec(graph.input[0].name, str(x.dtype), ("batch", *x.shape[1:])),)
    outputs = (TensorSpec(graph.output[0].name, "float32", tuple(shape)),)
    return np.asarray(engine(path, inputs, outputs, threads=1).infer({inputs[0].name: x})[outputs[0].name])


def arrays(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def is_dequantised(net: Net, name: str) -> bool:
    return name in net.maker and net.maker[name].op_type == "DequantizeLinear"


def dequantised_slots(net: Net, it: onnx.NodeProto) -> list[int]:
    return [slot for slot, name in enumerate(it.input) if is_dequantised(net, name)]


def operands(net: Net, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Return the integers, scale, zero point and axis of a dequantized initialiser."""
    it = net.maker[name]
    values, scale, zero_point = map(net.array, it.input)
    return values, scale, zero_point, next(a.i for a in it.attribute if a.name == "axis")


# What every graph must be


@pytest.mark.parametrize("profile", KINDS)
def test_the_graph_is_whole(case: tuple[onnx.ModelProto, np.ndarray], quantise: Quantise, profile: ProfileName) -> None:
    model, x = case
    before = model.SerializeToString(deterministic=True)
    first, second = quantise(model, x, profile), quantise(model, x, profile)
    assert model.SerializeToString(deterministic=True) == before
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)
    onnx.checker.check_model(first, full_check=True)
    assert [(o.domain, o.version) for o in first.opset_import] == [("", 20)]  # no vendor operators
    assert list(first.graph.input) == list(model.graph.input)
    assert list(first.graph.output) == list(model.graph.output)
    read = {name for n in first.graph.node for name in n.input}
    assert set(arrays(first)) <= read
    assert [n.name for n in first.graph.node if "antizeLinear" not in n.op_type] == [n.name for n in model.graph.node]
    names = [n.name for n in first.graph.node]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("profile", KINDS)
def test_one_pair_per_tensor(
    case: tuple[onnx.ModelProto, np.ndarray], quantise: Quantise, profile: ProfileName
) -> None:
    model, x = case
    quantised = quantise(model, x, profile)
    pairs = [n for n in quantised.graph.node if n.op_type == "QuantizeLinear"]
    assert len({n.input[0] for n in pairs}) == len(pairs)
    net = Net(quantised)
    for pair in pairs:
        (back,) = net.readers[pair.output[0]]
        assert back.op_type == "DequantizeLinear"
        assert list(back.input[1:]) == list(pair.input[1:])
        assert net.readers[back.output[0]]  # somebody reads what was rounded


@pytest.mark.parametrize("profile", KINDS)
def test_the_tensors_said_to_be_read_suffice(
    case: tuple[onnx.ModelProto, np.ndarray], statistics: Callable[..., dict[str, Statistics]], profile: ProfileName
) -> None:
    model, x = case
    ranges = ranges_from_statistics(statistics(model, x), "minmax", symmetric=profile == "tensorrt")
    wanted = tensors_to_quantize(Net(model))
    assert wanted < set(ranges)
    few = qdq_from_float(model, {name: ranges[name] for name in wanted}, PROFILES[profile])
    assert few == qdq_from_float(model, ranges, PROFILES[profile])


@pytest.mark.parametrize("profile", KINDS)
def test_every_engine_computes_nearly_what_float_does(
    case: tuple[onnx.ModelProto, np.ndarray], quantise: Quantise, profile: ProfileName, tmp_path: Path
) -> None:
    model, x = case
    onnx.save_model(model, str(tmp_path / "float.onnx"))
    onnx.save_model(quantise(model, x, profile), str(tmp_path / "int8.onnx"))
    shape = [d.dim_param or d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim]
    exact = computed(OnnxRuntimeRunner, tmp_path / "float.onnx", x, shape)
    results = [computed(engine, tmp_path / "int8.onnx", x, shape) for engine in ENGINES]
    for result in results:
        assert np.abs(result - exact).max() > 0  # it is quantised
        assert np.sqrt(np.square(result - exact).mean()) < 0.05 * exact.std()  # 8 bits through a handful of layers
    assert np.sqrt(np.square(results[0] - results[1]).mean()) < 0.03 * exact.std()


def test_quantised_graphs_are_refused(make_mobilenet: Make, quantise: Quantise) -> None:
    with pytest.raises(DataError, match="already quantised; fix: export from the floating-point run"):
        qdq_from_float(quantise(make_mobilenet(), IMAGES, "cpu"), {}, PROFILES["cpu"])


# The cpu profile


def test_cpu_activations_are_u8_and_weights_s8_per_channel(
    case: tuple[onnx.ModelProto, np.ndarray], quantise: Quantise
) -> None:
    model, x = case
    net, source = Net(quantise(model, x, "cpu")), Net(model)
    zero_points = [net.array(n.input[2]) for n in net.nodes if n.op_type == "QuantizeLinear"]
    assert {z.dtype for z in zero_points} == {np.dtype(np.uint8)}
    assert any(z > 0 for z in zero_points)
    weighted = [n for n in source.nodes if source.is_weighted(n)]
    assert len(weighted) == 6
    for original in weighted:
        it = node(net.model, original.name)
        values, scale, zero_point, axis = operands(net, it.input[1])
        weight = source.array(original.input[1])
        assert values.dtype == zero_point.dtype == np.int8
        assert not zero_point.any()
        assert axis == source.output_axis(original)
        assert scale.shape == zero_point.shape == (weight.shape[axis],)
        along = scale.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
        np.testing.assert_array_less(np.abs(values * along - weight), along * 0.501 + np.zeros_like(weight))
        assert (np.abs(values).max(axis=tuple(i for i in range(weight.ndim) if i != axis)) == 127).all()


def test_cpu_biases_are_int32_in_units_of_the_accumulator(make_mobilenet: Make, quantise: Quantise) -> None:
    model = make_mobilenet()
    net, weights = Net(quantise(model, IMAGES, "cpu")), arrays(model)
    for name in ("stem/conv", "depthwise/conv", "head/gemm"):
        it = node(net.model, name)
        values, scale, zero_point, _ = operands(net, it.input[2])
        input_scale = net.array(net.maker[it.input[0]].input[1])
        assert values.dtype == zero_point.dtype == np.int32
        np.testing.assert_allclose(scale, input_scale * operands(net, it.input[1])[1], rtol=1e-6)
        np.testing.assert_allclose(values * scale, weights[node(model, name).input[2]], atol=0.51 * scale.max())


def optimised(model: onnx.ModelProto, path: Path) -> Counter[str]:
    """Count the operators of the graph that ONNX Runtime creates from a model before it runs it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(n.op_type for n in onnx.load(str(path)).graph.node)


@pytest.mark.parametrize("activation", ["Relu", "Clip"])
def test_cpu_graphs_run_in_integer_kernels(
    make_mobilenet: Make, quantise: Quantise, tmp_path: Path, activation: str
) -> None:
    """All convolutions of a CPU graph run in integer kernels, including the last one.

    ONNX Runtime multiplies integers only where the result is read in 8 bits, so the average reads 8 bits.
    """
    found = optimised(quantise(make_mobilenet(activation), IMAGES, "cpu"), tmp_path / "o.onnx")
    assert found == {
        "QuantizeLinear": 2,
        "QLinearConv": 5,
        "QLinearAdd": 1,
        "DequantizeLinear": 1,
        "ReduceMean": 1,
        "QGemm": 1,
    }


def test_cpu_transformers_run_in_integer_kernels(make_transformer: Make, quantise: Quantise, tmp_path: Path) -> None:
    found = optimised(quantise(make_transformer(), TOKENS, "cpu"), tmp_path / "o.onnx")
    assert (
        found["MatMulIntegerToFloat"] + found["QLinearMatMul"] == 8
    )  # q, k, v, out, both layers of the MLP, both products
    assert not found.keys() & {"MatMul", "Gemm", "DequantizeLinear"}
    assert found["BiasGelu"] == found["Softmax"] == 1


def test_openvino_multiplies_integers(make_mobilenet: Make, quantise: Quantise, tmp_path: Path) -> None:
    import openvino as ov

    onnx.save_model(quantise(make_mobilenet(), IMAGES, "cpu"), str(tmp_path / "int8.onnx"))
    compiled = ov.Core().compile_model(str(tmp_path / "int8.onnx"), "CPU", {"INFERENCE_NUM_THREADS": 1})
    found = [
        {key: op.get_rt_info()[key].astype(str) for key in ("layerType", "runtimePrecision")}
        for op in compiled.get_runtime_model().get_ops()
    ]
    kernels = [info["runtimePrecision"] for info in found if info["layerType"] in ("Convolution", "FullyConnected")]
    assert len(kernels) == 6
    assert set(kernels) <= {"u8", "i8"}


# The tensorrt profile


def test_tensorrt_takes_symmetric_int8_alone(case: tuple[onnx.ModelProto, np.ndarray], quantise: Quantise) -> None:
    model, x = case
    quantised = quantise(model, x, "tensorrt")
    net = Net(quantised)
    for n in net.nodes:
        if n.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero_point = net.array(n.input[2])
            assert zero_point.dtype == np.int8
            assert not zero_point.any()
    for n in net.nodes:  # biases stay as they are
        if n.op_type in ("Conv", "Gemm") and len(n.input) > 2:
            np.testing.assert_array_equal(net.array(n.input[2]), Net(model).array(node(model, n.name).input[2]))


def test_tensorrt_fuses_the_sum_into_the_convolution(make_mobilenet: Make, quantise: Quantise) -> None:
    model = make_mobilenet()
    net = Net(quantise(model, IMAGES, "tensorrt"))
    it = node(net.model, "sum/add")
    assert list(it.input) == ["project", "stem.a_dequantized"]
    both = Net(quantise(model, IMAGES, "cpu"))
    assert dequantised_slots(both, node(both.model, "sum/add")) == [0, 1]


def test_tensorrt_fuses_one_convolution_per_sum(make_graph: Make, quantise: Quantise) -> None:
    """Where two convolutions are added, one of them takes the sum into its kernel.

    The result of the other convolution is an input of that kernel.
    """
    w = np.random.default_rng(5).normal(size=(3, 3, 1, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="a"),
        helper.make_node("Conv", ["x", "w"], ["b"], name="b"),
        helper.make_node("Add", ["a", "b"], ["s"], name="s"),
        helper.make_node("Conv", ["s", "w"], ["y"], name="last"),
    ]
    model = make_graph(nodes, {"w": w}, ["batch", 3, 8, 8], ["batch", 3, 8, 8])
    net = Net(quantise(model, IMAGES, "tensorrt"))
    assert len(dequantised_slots(net, node(net.model, "s"))) == 1


def test_a_result_with_two_readers_does_not_fuse(make_graph: Make, quantise: Quantise) -> None:
    w = np.random.default_rng(5).normal(size=(3, 3, 1, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="a"),
        helper.make_node("Conv", ["a", "w"], ["b"], name="b"),
        helper.make_node("Add", ["a", "b"], ["s"], name="s"),
        helper.make_node("Conv", ["s", "w"], ["y"], name="last"),
    ]
    model = make_graph(nodes, {"w": w}, ["batch", 3, 8, 8], ["batch", 3, 8, 8])
    net = Net(quantise(model, IMAGES, "tensorrt"))
    assert list(node(net.model, "s").input) == ["a_dequantized", "b"]


@pytest.mark.parametrize("profile", KINDS)
def test_norm_softmax_and_gelu_stay_in_float(make_transformer: Make, quantise: Quantise, profile: ProfileName) -> None:
    net = Net(quantise(make_transformer(), TOKENS, profile))
    tender = [n for n in net.nodes if n.op_type in ("LayerNormalization", "Softmax", "Gelu", "Add", "Mul")]
    assert len(tender) == 3 + 1 + 1 + 8 + 1
    assert all(dequantised_slots(net, n) == [] for n in tender)  # biases and the residual stream, too
    products = [n for n in net.nodes if n.op_type == "MatMul"]
    assert all(dequantised_slots(net, n) == [0, 1] for n in products)
    if profile == "tensorrt":
        assert {net.array(n.input[2]).dtype for n in net.nodes if n.op_type == "QuantizeLinear"} == {np.dtype(np.int8)}


# Nodes kept in float


@pytest.mark.parametrize("profile", KINDS)
def test_kept_nodes_are_untouched(
    case: tuple[onnx.ModelProto, np.ndarray], quantise: Quantise, profile: ProfileName
) -> None:
    model, x = case
    names = [n.name for n in quantizable_nodes(Net(model))]
    for name in names:
        quantised = quantise(model, x, profile, [name])
        assert node(quantised, name) == node(model, name)
        assert all(
            np.array_equal(arrays(quantised)[i], arrays(model)[i])
            for i in node(model, name).input
            if i in arrays(model)
        )
        onnx.checker.check_model(quantised, full_check=True)
    everything = quantise(model, x, profile, names)
    assert everything.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)


def test_a_kept_node_reads_what_was_not_rounded(make_mobilenet: Make, quantise: Quantise) -> None:
    quantised = quantise(make_mobilenet(), IMAGES, "cpu", ["expand/conv"])
    assert node(quantised, "expand/conv").input[0] == "stem.a"
    assert node(quantised, "sum/add").input[1] == "stem.a_dequantized"


def test_a_kept_convolution_is_averaged_in_float(make_mobilenet: Make, quantise: Quantise) -> None:
    assert node(quantise(make_mobilenet(), IMAGES, "cpu"), "mean/mean").input[0] == "last.a_dequantized"
    assert node(quantise(make_mobilenet(), IMAGES, "cpu", ["last/conv"]), "mean/mean").input[0] == "last.a"
    assert node(quantise(make_mobilenet(), IMAGES, "tensorrt"), "mean/mean").input[0] == "last.a"


# Odd ranges and weights


@pytest.mark.parametrize(
    ("low", "high", "cpu", "tensorrt"),
    [
        (0.0, 255.0, (1.0, 0), (255 / 127, 0)),
        (-1.0, 1.55, (0.01, 100), (1.55 / 127, 0)),
        (-2.55, 0.0, (0.01, 255), (2.55 / 127, 0)),
        (2.0, 5.1, (0.02, 0), (5.1 / 127, 0)),  # widened to hold zero
        (-5.1, -2.0, (0.02, 255), (5.1 / 127, 0)),
        (3.0, 3.0, (3 / 255, 0), (3 / 127, 0)),  # constant
        (-3.0, -3.0, (3 / 255, 255), (3 / 127, 0)),
        (0.0, 0.0, (1.0, 0), (1.0, 0)),
        (0.0, 1e-44, (1.0, 0), (1.0, 0)),  # no float32 can hold the scale
        (-1e-42, 0.0, (1.0, 0), (1.0, 0)),
    ],
)
def test_scale_and_zero_point(low: float, high: float, cpu: tuple[float, int], tensorrt: tuple[float, int]) -> None:
    assert quantization_of(low, high, PROFILES["cpu"]) == pytest.approx(cpu)
    scale, zero_point = quantization_of(low, high, PROFILES["tensorrt"])
    assert (scale, zero_point) == (pytest.approx(tensorrt[0], rel=1e-3), tensorrt[1])
    assert scale == np.float16(scale) >= tensorrt[0]  # FP16 holds it, and the whole range fits


@pytest.mark.parametrize("profile", KINDS)
@pytest.mark.parametrize("level", [0.0, 3.0, -3.0, 1e-43])
def test_constant_activations(
    make_mobilenet: Make, run: Run, quantise: Quantise, profile: ProfileName, level: float
) -> None:
    model = make_mobilenet()
    x = np.full_like(IMAGES, level)
    exact, result = run(model, x), run(quantise(model, x, profile), x)
    assert np.isfinite(result).all()
    np.testing.assert_allclose(result, exact, atol=0.05 * np.abs(exact).max())


@pytest.mark.parametrize("profile", KINDS)
@pytest.mark.parametrize("tiny", [0.0, 1e-44, 1e-40, 1e-35])
def test_dead_channels(make_mobilenet: Make, run: Run, quantise: Quantise, profile: ProfileName, tiny: float) -> None:
    """Channels whose weights have decayed to nothing, as in trained networks, get no scale of zero."""
    model = make_mobilenet()
    for name in ("expand.w", "expand.b", "depthwise.w"):
        tensor = next(t for t in model.graph.initializer if t.name == name)
        values = numpy_helper.to_array(tensor).copy()
        values[:3] = np.float32(tiny) if name.endswith("w") else 0
        tensor.CopyFrom(numpy_helper.from_array(values, name))
    quantised = quantise(model, IMAGES, profile)
    least = np.finfo(np.float32).tiny
    assert all((w >= least).all() for name, w in arrays(quantised).items() if name.endswith("_scale"))
    exact, result = run(model, IMAGES), run(quantised, IMAGES)
    assert np.sqrt(np.square(result - exact).mean()) < 0.05 * exact.std()


@pytest.mark.parametrize("factor", [0.4, 0.9, 1.0, 1.1, 3.0, 1000.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_bias_too_big_for_its_weights_stays_exact(make_graph: Make, tmp_path: Path, factor: float, sign: int) -> None:
    """The sum of a large bias and the products does not overflow the 32-bit accumulator."""
    w = np.full((2, 8, 3, 3), sign, np.float32)
    w[1] *= np.linspace(-1, 1, 72).reshape(8, 3, 3)
    unit = 1 / 255 / 127
    bias = np.array([sign * factor * 2**31 * unit, 0.5], np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], name="conv"),
        helper.make_node("Conv", ["c", "same"], ["y"], name="reader"),
    ]
    same = np.eye(2, dtype=np.float32).reshape(2, 2, 1, 1)
    model = make_graph(nodes, {"w": w, "b": bias, "same": same}, ["batch", 8, 3, 3], ["batch", 2, 1, 1])
    x = np.linspace(0, 1, 2 * 72, dtype=np.float32).reshape(2, 8, 3, 3)
    x[1] = 1
    exact = (x[:, None] * w).sum(axis=(2, 3, 4)) + bias
    ranges: Ranges = {"x": (0.0, 1.0), "c": (float(exact.min()), float(exact.max()))}
    quantised = qdq_from_float(model, ranges, PROFILES["cpu"])
    values, scale, _, _ = operands(Net(quantised), node(quantised, "conv").input[2])
    np.testing.assert_allclose(values * scale.astype(np.float64), bias, rtol=1e-6, atol=unit)
    weights, weight_scale, _, _ = operands(Net(quantised), node(quantised, "conv").input[1])
    accumulated = np.abs(values.astype(np.int64)) + 255 * np.abs(weights.astype(np.int64)).sum(axis=(1, 2, 3))
    assert accumulated.max() < 2**31
    assert weight_scale[1] == pytest.approx(1 / 127)  # only the channel that needs it is coarser
    onnx.save_model(quantised, str(tmp_path / "q.onnx"))
    assert optimised(quantised, tmp_path / "o.onnx")["QLinearConv"] == 1
    for engine in ENGINES:
        result = computed(engine, tmp_path / "q.onnx", x, ("batch", 2, 1, 1))[:, :, 0, 0]
        np.testing.assert_allclose(result[:, 0], exact[:, 0], rtol=0.6 / 255)  # half a step of the result


def test_a_layer_on_a_constant(make_graph: Make, run: Run, quantise: Quantise) -> None:
    """A product of two constants is not quantized.

    Exporters may leave such a product, for example a learned query times a weight.
    """
    rng = np.random.default_rng(6)
    weights = {name: rng.normal(size=(16, 16)).astype(np.float32) for name in ("query", "w", "w2")}
    nodes = [
        helper.make_node("MatMul", ["query", "w"], ["q"], name="constant"),
        helper.make_node("MatMul", ["x", "w2"], ["a"], name="a"),
        helper.make_node("MatMul", ["a", "q"], ["y"], name="product"),
    ]
    model = make_graph(nodes, weights, ["batch", 6, 16], ["batch", 6, 16])
    quantised = quantise(model, TOKENS, "cpu")
    assert node(quantised, "constant") == node(model, "constant")
    exact = run(model, TOKENS)
    assert np.sqrt(np.square(run(quantised, TOKENS) - exact).mean()) < 0.03 * exact.std()


@pytest.mark.parametrize("profile", KINDS)
def test_shared_weights_get_their_own_scales(
    make_transformer: Make, run: Run, quantise: Quantise, profile: ProfileName
) -> None:
    model = make_transformer(shared=True)
    quantised = quantise(model, TOKENS, profile)
    exact = run(model, TOKENS)
    assert np.sqrt(np.square(run(quantised, TOKENS) - exact).mean()) < 0.05 * exact.std()


@pytest.mark.slow
@pytest.mark.parametrize("profile", KINDS)
def test_an_exported_transformer(exported_vit: onnx.ModelProto, profile: ProfileName, tmp_path: Path) -> None:
    from vidrisk.calibration.observers import observe_statistics

    frames = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3)).astype(np.uint8)
    found = observe_statistics(exported_vit, [{"frames": frames}])
    ranges = ranges_from_statistics(found, "minmax", symmetric=profile == "tensorrt")
    quantised = qdq_from_float(exported_vit, ranges, PROFILES[profile])
    net = Net(quantised)
    assert [o.version for o in quantised.opset_import if o.domain == ""] <= [20]
    assert all(dequantised_slots(net, n) == [0, 1] for n in net.nodes if n.op_type == "MatMul")
    assert sum(n.op_type == "MatMul" for n in net.nodes) == 3 * 8
    onnx.save_model(exported_vit, str(tmp_path / "float.onnx"))
    onnx.save_model(quantised, str(tmp_path / "int8.onnx"))
    exact = computed(OnnxRuntimeRunner, tmp_path / "float.onnx", frames, ("batch", 64))
    for engine in ENGINES:
        result = computed(engine, tmp_path / "int8.onnx", frames, ("batch", 64))
        assert np.sqrt(np.square(result - exact).mean()) < 0.1 * exact.std()
