"""Fixtures that build graphs of the quantized kinds: most by hand, one exported by torch.

ONNX Runtime is included for comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, shape_inference

from vidrisk.calibration.observers import Statistics, observe_statistics
from vidrisk.runtimes.ort import EXACT_SUMS

Values = npt.NDArray[np.float32]


def made(
    nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], shape: list[int | str], out: list[int | str]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        initializer=[numpy_helper.from_array(w.astype(w.dtype), n) for n, w in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    inferred: onnx.ModelProto = shape_inference.infer_shapes(model, strict_mode=True)
    return inferred


def normal(seed: int, *shape: int) -> np.ndarray:
    values: np.ndarray = (np.random.default_rng(seed).normal(size=shape) / np.sqrt(np.prod(shape[1:]) or 1)).astype(
        np.float32
    )
    return values


@pytest.fixture(scope="session")
def make_graph() -> Callable[..., onnx.ModelProto]:
    """Return a function that builds a checked model from nodes, weights and the shapes of ``x`` and ``y``."""
    return made


@pytest.fixture(scope="session")
def run() -> Callable[..., Values]:
    """Return a function that runs a model on ``x`` and returns ``y`` or the named tensor.

    ONNX Runtime computes the result on one thread.
    """

    def run(model: onnx.ModelProto, x: Values, name: str = "y") -> Values:
        import onnxruntime

        watched = onnx.ModelProto()
        watched.CopyFrom(model)
        if name not in {value.name for value in watched.graph.output}:
            watched.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry(*EXACT_SUMS)
        session = onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
        result: Values = session.run([name], {"x": x})[0]
        return result

    return run


@pytest.fixture(scope="session")
def statistics() -> Callable[..., dict[str, Statistics]]:
    """Return a function that observes the statistics of a model's activations for ``x`` in two batches."""

    def observe(model: onnx.ModelProto, x: Values) -> dict[str, Statistics]:
        return observe_statistics(model, [{"x": half} for half in np.array_split(x, 2)])

    return observe


@pytest.fixture(scope="session")
def cnn() -> onnx.ModelProto:
    """Return a convolutional network with input ``x (N, 3, 8, 8)`` and output ``y (N, 5)``.

    Its layers are Conv → Relu → depthwise Conv → pointwise Conv → Conv → average → Gemm.
    """
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], name="stem", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], name="depthwise", group=8),
        helper.make_node("Conv", ["c2", "w3"], ["c3"], name="pointwise"),
        helper.make_node("Conv", ["c3", "w4"], ["c4"], name="last"),
        helper.make_node("ReduceMean", ["c4", "axes"], ["m"], name="mean", keepdims=0),
        helper.make_node("Gemm", ["m", "w5", "b5"], ["y"], name="classifier"),
    ]
    weights = {
        "w1": normal(1, 8, 3, 3, 3),
        "b1": normal(2, 8),
        "w2": normal(3, 8, 1, 3, 3),
        "w3": normal(4, 8, 8, 1, 1),
        "w4": normal(5, 8, 8, 1, 1),
        "axes": np.array([2, 3]),
        "w5": normal(6, 8, 5) * 3,
        "b5": normal(7, 5),
    }
    return made(nodes, weights, ["batch", 3, 8, 8], ["batch", 5])


@pytest.fixture(scope="session")
def attention() -> onnx.ModelProto:
    """Return ``softmax(q kᵀ) v`` and a LayerNorm, with input ``x (N, 4, 16)`` and output ``y (N, 4, 16)``."""
    nodes = [
        *(helper.make_node("MatMul", ["x", f"w{n}"], [n], name=f"project_{n}") for n in "qkv"),
        helper.make_node("Transpose", ["k"], ["kt"], name="transpose", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "kt"], ["scores"], name="scores"),
        helper.make_node("Softmax", ["scores"], ["p"], name="softmax"),
        helper.make_node("MatMul", ["p", "v"], ["mixed"], name="mix"),
        helper.make_node("Add", ["mixed", "x"], ["sum"], name="add"),
        helper.make_node("LayerNormalization", ["sum", "g"], ["y"], name="norm"),
    ]
    weights = {f"w{n}": normal(i, 16, 16) for i, n in enumerate("qkv")} | {"g": np.ones(16, np.float32)}
    return made(nodes, weights, ["batch", 4, 16], ["batch", 4, 16])


@pytest.fixture(scope="session")
def make_mobilenet() -> Callable[..., onnx.ModelProto]:
    """Return a function that builds an inverted residual between a stem and a classifier.

    The input is ``x (N, 3, 8, 8)``, the output is ``y (N, 5)``:

        stem → act ─┬─ expand → act → depthwise → act → project ─ Add ─ last → act → average → classifier
                    └──────────────────────────────────────────────┘

    Args:
        activation: ``Relu`` or ``Clip`` (between 0 and 6).
        spread: output channels of every convolution are scaled by random factors between 1 and ``spread``.
        biases: whether the convolutions have biases.
        dead: output channels of ``expand`` whose weights and biases are zero.
    """

    def make(
        activation: str = "Relu", *, seed: int = 0, spread: float = 1.0, biases: bool = True, dead: Sequence[int] = ()
    ) -> onnx.ModelProto:
        rng = np.random.default_rng(seed)
        weights: dict[str, np.ndarray] = {
            "axes": np.array([2, 3]),
            "zero": np.array(0, np.float32),
            "six": np.array(6, np.float32),
        }
        nodes = []

        def conv(name: str, source: str, out: int, per_group: int, side: int, **attributes: Any) -> None:
            gain = spread ** rng.uniform(size=(out, 1, 1, 1)).astype(np.float32)
            weights[f"{name}.w"] = normal(int(rng.integers(1 << 30)), out, per_group, side, side) * gain * 2
            weights[f"{name}.b"] = normal(int(rng.integers(1 << 30)), out) * gain.ravel()
            inputs = [source, f"{name}.w", f"{name}.b"] if biases else [source, f"{name}.w"]
            nodes.append(
                helper.make_node("Conv", inputs, [name], name=f"{name}/conv", pads=[side // 2] * 4, **attributes)
            )

        def act(source: str) -> None:
            inputs = [source, "zero", "six"] if activation == "Clip" else [source]
            nodes.append(helper.make_node(activation, inputs, [f"{source}.a"], name=f"{source}/act"))

        conv("stem", "x", 8, 3, 3)
        act("stem")
        conv("expand", "stem.a", 16, 8, 1)
        act("expand")
        conv("depthwise", "expand.a", 16, 1, 3, group=16)
        act("depthwise")
        conv("project", "depthwise.a", 8, 16, 1)
        nodes.append(helper.make_node("Add", ["project", "stem.a"], ["sum"], name="sum/add"))
        conv("last", "sum", 12, 8, 1)
        act("last")
        nodes.append(helper.make_node("ReduceMean", ["last.a", "axes"], ["mean"], name="mean/mean", keepdims=0))
        nodes.append(helper.make_node("Gemm", ["mean", "head.w", "head.b"], ["y"], name="head/gemm", transB=1))
        weights |= {"head.w": normal(seed + 1, 5, 12), "head.b": normal(seed + 2, 5)}
        for channel in dead:
            weights["expand.w"][channel] = weights["expand.b"][channel] = 0
        read = {name for node in nodes for name in node.input}
        return made(nodes, {name: w for name, w in weights.items() if name in read}, ["batch", 3, 8, 8], ["batch", 5])

    return make


@pytest.fixture(scope="session")
def make_transformer() -> Callable[..., onnx.ModelProto]:
    """Return a function that builds a transformer block of width 16 with two heads and a final norm.

    The input is ``x (N, 6, 16)``, the output is ``y (N, 6, 16)``.

    Args:
        gains: factors of the channels of both inner layer norms. The weights that read the norms are divided by
            the same factors, so that the function does not depend on them.
        activation: activation of the MLP, ``Gelu`` or ``Relu``.
        shared: whether q, k and v read the same weight and the same bias.
    """

    def make(
        gains: np.ndarray | None = None, *, seed: int = 0, activation: str = "Gelu", shared: bool = False
    ) -> onnx.ModelProto:
        gain = np.ones(16, np.float32) if gains is None else gains.astype(np.float32)
        rng = np.random.default_rng(seed)

        def linear(name: str, source: str, out: int, wide: int = 16) -> None:
            own = "q" if shared and name in "qkv" else name
            if own == name:
                weights[f"{name}.w"] = (rng.normal(size=(wide, out)) / np.sqrt(wide)).astype(np.float32)
                if source.startswith("norm"):
                    weights[f"{name}.w"] /= gain[:, None]
                weights[f"{name}.b"] = rng.normal(0, 0.3, out).astype(np.float32)
            nodes.append(helper.make_node("MatMul", [source, f"{own}.w"], [f"{name}.m"], name=f"{name}/matmul"))
            nodes.append(helper.make_node("Add", [f"{name}.m", f"{own}.b"], [name], name=f"{name}/add"))

        def norm(name: str, source: str, gain: np.ndarray) -> None:
            weights[f"{name}.g"] = (rng.uniform(0.5, 1.5, 16) * gain).astype(np.float32)
            weights[f"{name}.b"] = (rng.normal(0, 0.2, 16) * gain).astype(np.float32)
            inputs = [source, f"{name}.g", f"{name}.b"]
            nodes.append(helper.make_node("LayerNormalization", inputs, [name], name=f"{name}/norm", axis=-1))

        weights: dict[str, np.ndarray] = {
            "heads": np.array([0, 0, 2, 8]),
            "merged": np.array([0, 0, 16]),
            "root": np.array(8**-0.5, np.float32),
        }
        nodes: list[onnx.NodeProto] = []
        norm("norm1", "x", gain)
        for name, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
            linear(name, "norm1", 16)
            nodes.append(helper.make_node("Reshape", [name, "heads"], [f"{name}.r"], name=f"{name}/reshape"))
            nodes.append(
                helper.make_node("Transpose", [f"{name}.r"], [f"{name}.h"], name=f"{name}/transpose", perm=perm)
            )
        nodes += [
            helper.make_node("MatMul", ["q.h", "k.h"], ["scores"], name="attention/scores"),
            helper.make_node("Mul", ["scores", "root"], ["scaled"], name="attention/mul"),
            helper.make_node("Softmax", ["scaled"], ["p"], name="attention/softmax", axis=-1),
            helper.make_node("MatMul", ["p", "v.h"], ["mixed"], name="attention/mix"),
            helper.make_node("Transpose", ["mixed"], ["mixed.t"], name="attention/transpose", perm=[0, 2, 1, 3]),
            helper.make_node("Reshape", ["mixed.t", "merged"], ["mixed.r"], name="attention/reshape"),
        ]
        linear("out", "mixed.r", 16)
        nodes.append(helper.make_node("Add", ["x", "out"], ["sum1"], name="sum1/add"))
        norm("norm2", "sum1", gain)
        linear("fc1", "norm2", 32)
        nodes.append(helper.make_node(activation, ["fc1"], ["fc1.a"], name="fc1/act"))
        linear("fc2", "fc1.a", 16, 32)
        nodes.append(helper.make_node("Add", ["sum1", "fc2"], ["sum2"], name="sum2/add"))
        norm("norm3", "sum2", np.ones(16))
        nodes[-1].output[0] = "y"
        return made(nodes, weights, ["batch", 6, 16], ["batch", 6, 16])

    return make


@pytest.fixture(scope="session")
def exported_vit(adapted_encoder: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    """Return the graph of a ViT with three layers, as the exporter writes it.

    The input is ``frames uint8 (N, 64, 64, 3)``, the output is ``features (N, 64)``.
    """
    import torch

    from vidrisk.export.convert.graphs import export_onnx
    from vidrisk.export.convert.merge import merge_trained
    from vidrisk.runtimes import TensorSpec

    path: Path = tmp_path_factory.mktemp("vit") / "vit.onnx"
    module: Any = merge_trained(adapted_encoder("vit"))
    inputs = (TensorSpec("frames", "uint8", ("batch", 64, 64, 3)),)
    outputs = (TensorSpec("features", "float32", ("batch", module.width)),)
    export_onnx(module, (torch.zeros(2, 64, 64, 3, dtype=torch.uint8),), inputs, outputs, path)
    return onnx.load(str(path))
