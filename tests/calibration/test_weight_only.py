from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from vidrisk.calibration.files import SHARED_BYTES, fingerprint, is_large, load_graph, save_graph, save_trial
from vidrisk.calibration.graph import Net, attribute
from vidrisk.calibration.nbits import Bits, WeightGrid, pack_weight, weight_from_packed
from vidrisk.calibration.tensors import is_external, size_bytes
from vidrisk.calibration.weight_only import Packing, WeightPacker, packable_nodes
from vidrisk.runtimes import TensorSpec
from vidrisk.runtimes.contract.errors import DataError
from vidrisk.runtimes.layers import INT4, INT8
from vidrisk.runtimes.registry import BUNDLE_RUNTIMES

Floats = npt.NDArray[np.float32]
DEPTH, MIDDLE, WIDTH = 256, 192, 64
BITS: tuple[Bits, ...] = (4, 8)
RUNTIMES = ("onnxruntime", "openvino")
GRIDS = [WeightGrid(bits, group) for bits in BITS for group in (32, 64, 128)]


def random(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def model_of(
    nodes: list[onnx.NodeProto],
    weights: dict[str, npt.NDArray[np.generic]],
    x: tuple[int | str, ...],
    y: tuple[int | str, ...],
    kind: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, kind, shape) for name, shape in (("x", x), ("y", y))]
    graph = helper.make_graph(
        nodes, "g", values[:1], values[1:], [numpy_helper.from_array(values, name) for name, values in weights.items()]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


WEIGHTS = {"up": random(DEPTH, MIDDLE), "down": random(WIDTH, MIDDLE, seed=1), "bias": random(WIDTH, seed=2)}


def mlp() -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["x", "up"], ["h"], name="layers.0/MatMul"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "down", "bias"], ["y"], name="layers.1/Gemm", transB=1),
    ]
    return model_of(nodes, WEIGHTS, ("batch", DEPTH), ("batch", WIDTH))


def rounded(weight: Floats, grid: WeightGrid) -> Floats:
    return weight_from_packed(pack_weight(weight, grid))


def run(
    model: onnx.ModelProto,
    x: Floats,
    path: Path,
    runtime: str = "onnxruntime",
    save: Callable[[onnx.ModelProto, Path], None] = save_graph,
) -> tuple[Floats, str]:
    save(model, path)
    value = model.graph.output[0].type.tensor_type.shape.dim
    y = tuple(axis.dim_param or axis.dim_value for axis in value)
    specs = [TensorSpec("x", "float32", ("batch", *x.shape[1:]))], [TensorSpec("y", "float32", ("batch", *y[1:]))]
    with BUNDLE_RUNTIMES[runtime](path, *specs, threads=1) as runner:
        outputs = [runner.infer({"x": part})["y"] for part in (x, x[:1], x[:3])]  # the batch is dynamic
        for part in outputs[1:]:
            np.testing.assert_allclose(part, outputs[0][: len(part)], rtol=1e-3, atol=1e-3)
        return outputs[0].astype(np.float32), str(runner.layers())


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_a_packed_graph_computes_what_its_rounded_weights_do(grid: WeightGrid, runtime: str, tmp_path: Path) -> None:
    x = random(5, DEPTH, seed=3)
    hidden = np.maximum(x @ rounded(WEIGHTS["up"], grid), 0)
    expected = hidden @ rounded(WEIGHTS["down"].T, grid) + WEIGHTS["bias"]
    found, layers = run(WeightPacker(mlp(), tmp_path).pack(Packing(grid)), x, tmp_path / "m.onnx", runtime)
    # ONNX Runtime rounds activations to 8 bits; OpenVINO may, with VNNI.
    assert np.abs(found - expected).max() < 0.06 * expected.std()
    assert layers == f"{INT4 if grid.bits == 4 else INT8} 2"  # OpenVINO has not unpacked them


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("depth", [24, 100, 200])
def test_a_matrix_that_no_group_divides_is_filled_up(depth: int, bits: Bits, runtime: str, tmp_path: Path) -> None:
    weight, x, grid = random(depth, 40), random(4, 7, depth, seed=1), WeightGrid(bits, 64)
    model = model_of(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weight}, ("batch", 7, depth), ("batch", 7, 40)
    )
    found, _ = run(WeightPacker(model, tmp_path).pack(Packing(grid)), x, tmp_path / "m.onnx", runtime)
    expected = x @ rounded(weight, grid)
    assert np.abs(found - expected).max() < 0.06 * expected.std()


def test_only_what_the_operator_needs_changes(tmp_path: Path) -> None:
    model = mlp()
    before = fingerprint(model)
    packed = WeightPacker(model, tmp_path).pack(Packing(WeightGrid(4, 64)))
    assert fingerprint(model) == before
    nodes = list(packed.graph.node)
    assert [(node.op_type, node.name) for node in nodes] == [
        ("MatMulNBits", "layers.0/MatMul"),
        ("Relu", "Relu_1"),
        ("MatMulNBits", "layers.1/Gemm"),
        ("Add", "layers.1/Gemm_bias"),
    ]
    assert {a.name: a.i for a in nodes[2].attribute} == {
        "K": MIDDLE,
        "N": WIDTH,
        "bits": 4,
        "block_size": 64,
        "accuracy_level": 4,
    }
    assert {opset.domain: opset.version for opset in packed.opset_import} == {"": 20, "com.microsoft": 1}
    assert packed.ir_version == 10
    assert not {tensor.name for tensor in packed.graph.initializer} & {"up", "down"}
    assert list(packed.graph.input) == list(model.graph.input) and list(packed.graph.output) == list(model.graph.output)


def test_named_nodes_keep_their_weights(tmp_path: Path) -> None:
    packer, grid = WeightPacker(mlp(), tmp_path), WeightGrid(4, 32)
    assert packer.nodes == ("layers.0/MatMul", "layers.1/Gemm")
    x = random(5, DEPTH, seed=3)
    expected = np.maximum(x @ WEIGHTS["up"], 0) @ rounded(WEIGHTS["down"].T, grid) + WEIGHTS["bias"]
    found, layers = run(packer.pack(Packing(grid), {"layers.0/MatMul"}), x, tmp_path / "m.onnx")
    assert np.abs(found - expected).max() < 0.06 * expected.std() and layers == "float32 1, int4 1"
    exact, layers = run(packer.pack(Packing(grid), packer.nodes), x, tmp_path / "m.onnx")
    np.testing.assert_allclose(
        exact, np.maximum(x @ WEIGHTS["up"], 0) @ WEIGHTS["down"].T + WEIGHTS["bias"], rtol=1e-3, atol=1e-3
    )
    assert layers == "float32 2"


def test_kinds_of_layers_may_be_wider(tmp_path: Path) -> None:
    names = [f"model.layers.{i}.mlp.{kind}/MatMul" for i in (0, 11) for kind in ("up", "down")]
    tensors = ["x", "a", "b", "c", "y"]
    nodes = [
        helper.make_node("MatMul", [tensors[i], f"w{i}"], [tensors[i + 1]], name=name) for i, name in enumerate(names)
    ]
    weights = {f"w{i}": random(64, 64, seed=i) for i in range(4)}
    packer = WeightPacker(model_of(nodes, weights, ("batch", 64), ("batch", 64)), tmp_path)
    kind = "model.layers.*.mlp.down"
    assert packer.kinds == {"model.layers.*.mlp.up": (names[0], names[2]), kind: (names[1], names[3])}
    packing = Packing(WeightGrid(4, 32), (kind,))
    model = packer.pack(packing, {names[2]})
    widths = [attribute(node, "bits", 32) for node in model.graph.node]
    assert widths == [4, 8, 32, 8] and packer.size_bytes(packing, {names[2]}) == sum(
        map(size_bytes, model.graph.initializer)
    )
    assert (str(packing), str(Packing(packing.grid))) == (
        f"int4 weights in groups of 32, int8 in {kind}",
        "int4 weights in groups of 32",
    )


def test_a_weight_of_several_nodes_is_packed_once_and_stays_for_those_that_keep_it(tmp_path: Path) -> None:
    square = random(128, 128)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="first"),
        helper.make_node("MatMul", ["a", "w"], ["b"], name="second"),
        helper.make_node("Gemm", ["b", "w"], ["y"], name="tied", transB=1),
    ]
    packer = WeightPacker(model_of(nodes, {"w": square}, ("batch", 128), ("batch", 128)), tmp_path)
    grid = WeightGrid(8, 32)
    for kept in ((), ("second",), ("first", "second"), ("first", "second", "tied")):
        model = packer.pack(Packing(grid), kept)
        names = [tensor.name for tensor in model.graph.initializer]
        assert len(names) == len(set(names)) == (3 if len(kept) < 2 else 0) + (3 if len(kept) < 3 else 0) + bool(kept)
        assert packer.size_bytes(Packing(grid), kept) == sum(map(size_bytes, model.graph.initializer))
    x = random(4, 128, seed=1)
    once = rounded(square, grid)
    expected = x @ once @ once @ rounded(square.T, grid)
    found, _ = run(packer.pack(Packing(grid)), x, tmp_path / "m.onnx")
    assert np.abs(found - expected).max() < 0.06 * expected.std()


def test_kinds_that_end_alike_are_told_apart() -> None:
    kinds = "decoder.layers.*.mlp.down", "encoder.layers.*.mlp.down"
    assert len({str(Packing(WeightGrid(4, 32), wide)) for wide in ((), kinds[:1], kinds[1:], kinds)}) == 4


def test_a_weight_that_others_read_stays_and_counts(tmp_path: Path) -> None:
    """A weight that other nodes read, or that is an output, stays in the graph and counts for its size.

    An embedding shares the weight of a product, one matrix is also added, and one is an output. A weight that no
    node reads is dropped.
    """
    nodes = [
        helper.make_node("Gather", ["tied", "ids"], ["x0"], name="embedding"),
        helper.make_node("Add", ["x", "x0"], ["x1"]),
        helper.make_node("MatMul", ["x1", "tied"], ["a"], name="head"),
        helper.make_node("Gemm", ["a", "added", "added"], ["b"], name="added"),
        helper.make_node("MatMul", ["b", "shown"], ["c"], name="shown"),
        helper.make_node("MatMul", ["c", "gone"], ["y"], name="gone"),
    ]
    weights: dict[str, npt.NDArray[np.generic]] = {
        name: random(64, 64, seed=i) for i, name in enumerate(("tied", "added", "shown", "gone", "unread"))
    }
    model = model_of(nodes, {**weights, "ids": np.arange(64)}, (64, 64), (64, 64))
    model.graph.output.append(helper.make_tensor_value_info("shown", TensorProto.FLOAT, (64, 64)))
    packer = WeightPacker(model, tmp_path)
    assert packer.nodes == ("head", "added", "shown", "gone")
    for kept in ((), ("head",), ("gone",), packer.nodes):
        packed = packer.pack(Packing(WeightGrid(4, 32)), kept).graph.initializer
        left = {tensor.name for tensor in packed} & set(weights)
        assert left == {"tied", "added", "shown"} | ({"gone"} & set(kept))
        assert packer.size_bytes(Packing(WeightGrid(4, 32)), kept) == sum(map(size_bytes, packed))


def test_an_unnamed_product_is_not_taken_for_the_node_of_its_number(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "up"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"], name="MatMul_2"),
        helper.make_node("MatMul", ["b", "w"], ["y"]),
    ]
    packer = WeightPacker(
        model_of(nodes, {"up": random(64, 64), "w": random(64, 64)}, ("batch", 64), ("batch", 64)), tmp_path
    )
    packed = packer.pack(Packing(WeightGrid(4, 32)))
    assert [node.op_type for node in packed.graph.node] == ["MatMulNBits", "Relu", "MatMulNBits"]


def test_products_of_one_name_are_told_apart(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"], name="mm"),
        helper.make_node("MatMul", ["h", "b"], ["y"], name="mm"),
    ]
    packer = WeightPacker(
        model_of(nodes, {"a": random(64, 64), "b": random(64, 64)}, ("batch", 64), ("batch", 64)), tmp_path
    )
    assert [node.op_type for node in packer.pack(Packing(WeightGrid(4, 32)), {"mm_1"}).graph.node] == [
        "MatMulNBits",
        "MatMul",
    ]


def test_a_number_in_the_name_of_a_layer_is_part_of_its_kind(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"], name="layers.3.mlp.fc1/MatMul"),
        helper.make_node("MatMul", ["h", "b"], ["y"], name="layers.3.mlp.fc2/MatMul"),
    ]
    packer = WeightPacker(
        model_of(nodes, {"a": random(64, 64), "b": random(64, 64)}, ("batch", 64), ("batch", 64)), tmp_path
    )
    packed = packer.pack(Packing(WeightGrid(4, 32), ("layers.*.mlp.fc2",)))
    assert [attribute(node, "bits", 0) for node in packed.graph.node] == [4, 8]


@pytest.mark.parametrize(
    ("node", "weight", "shape"),
    [
        (helper.make_node("MatMul", ["x", "w"], ["y"]), random(2, 64, 64), (2, 3, 64)),  # a matrix per row of the batch
        (helper.make_node("MatMul", ["w", "x"], ["y"]), random(64, 64), (64, 64)),  # from the other side
        (helper.make_node("MatMul", ["x", "w"], ["y"]), random(64, 64), (64,)),  # a vector
        (helper.make_node("MatMul", ["x", "x"], ["y"]), random(64, 64), (64, 64)),  # of activations
        (helper.make_node("Gemm", ["x", "w"], ["y"], transA=1), random(64, 64), (64, 64)),
        (helper.make_node("Gemm", ["x", "w"], ["y"], alpha=0.5), random(64, 64), (64, 64)),
        (helper.make_node("Conv", ["x", "w"], ["y"]), random(8, 64, 1, 1), (1, 64, 8, 8)),
    ],
)
def test_other_products_are_left_alone(
    node: onnx.NodeProto, weight: Floats, shape: tuple[int, ...], tmp_path: Path
) -> None:
    model = model_of([node], {"w": weight}, shape, ("a",))
    assert packable_nodes(Net(model)) == []
    packed = WeightPacker(model, tmp_path).pack(Packing(WeightGrid(4, 32)))
    assert [one.op_type for one in packed.graph.node] == [node.op_type]


def test_weights_in_fp16_are_left_alone() -> None:
    model = model_of(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"w": random(64, 64).astype(np.float16)},
        ("batch", 64),
        ("batch", 64),
        TensorProto.FLOAT16,
    )
    assert packable_nodes(Net(model)) == []


def test_refuses_a_graph_that_is_packed_already_and_weights_that_are_not_finite(tmp_path: Path) -> None:
    packed = WeightPacker(mlp(), tmp_path).pack(Packing(WeightGrid(4, 32)))
    with pytest.raises(DataError, match="already quantised"):
        WeightPacker(packed, tmp_path)
    broken = model_of(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"w": np.full((64, 64), np.inf, np.float32)},
        ("batch", 64),
        ("batch", 64),
    )
    with pytest.raises(DataError, match="weight w has values that are not finite"):
        WeightPacker(broken, tmp_path).pack(Packing(WeightGrid(4, 32)))


def test_weights_go_from_file_to_file_one_after_the_other(tmp_path: Path) -> None:
    side, count = 768, 8
    nodes = [
        helper.make_node("MatMul", ["x" if i == 0 else f"h{i}", f"w{i}"], ["y" if i == count - 1 else f"h{i + 1}"])
        for i in range(count)
    ]
    save_graph(
        model_of(nodes, {f"w{i}": random(side, side, seed=i) for i in range(count)}, ("batch", side), ("batch", side)),
        tmp_path / "float.onnx",
    )
    model = load_graph(tmp_path / "float.onnx", tmp_path / "weights")
    packer = WeightPacker(model, tmp_path / "weights")
    tracemalloc.start()
    first = packer.pack(Packing(WeightGrid(8, 64)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    every, one = 4 * count * side**2, 4 * side**2
    assert peak < one + 12 * 2**20 < every
    assert all(is_external(tensor) for tensor in first.graph.initializer if size_bytes(tensor) > SHARED_BYTES)
    assert first.ByteSize() < count * SHARED_BYTES
    written = sorted(file.name for file in (tmp_path / "weights").iterdir())
    kept = packer.pack(Packing(WeightGrid(8, 64)), packer.nodes[:3])
    assert sorted(file.name for file in (tmp_path / "weights").iterdir()) == written  # nothing is packed again
    x = random(3, side, seed=99)
    large = np.float32(np.sqrt(side))
    for graph, kept_count in ((first, 0), (kept, 3)):
        expected = x
        for i in range(count):
            weight = random(side, side, seed=i)
            expected = expected @ (weight if i < kept_count else rounded(weight, WeightGrid(8, 64)))
        found, _ = run(graph, x, tmp_path / "packed.onnx")
        assert np.abs(found - expected).max() / large**count < 0.2


def test_a_graph_too_large_for_one_file_becomes_one_that_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidrisk.calibration.files.MAX_INLINE_BYTES", 2**17)
    save_graph(mlp(), tmp_path / "float.onnx")
    assert (tmp_path / "float.onnx.data").is_file()
    model = load_graph(tmp_path / "float.onnx", tmp_path / "weights")
    packed = WeightPacker(model, tmp_path / "weights").pack(Packing(WeightGrid(4, 32)))
    assert is_large(model) and not is_large(packed)
    x = random(5, DEPTH, seed=3)
    exact = np.maximum(x @ WEIGHTS["up"], 0) @ WEIGHTS["down"].T + WEIGHTS["bias"]
    for runtime in RUNTIMES:
        found, _ = run(packed, x, tmp_path / "packed.onnx", runtime)
        assert np.square(found - exact).mean() < 0.03 * np.square(exact).mean()
        assert not (tmp_path / "packed.onnx.data").exists()


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("bits", BITS)
def test_runtimes_read_packed_weights_that_lie_in_files(
    bits: Bits, runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both runtimes read packed weights from separate files.

    The files are those of a graph that is too large for one file, and those that the trials of a search share.
    """
    grid, x = WeightGrid(bits, 64), random(5, 512, seed=3)
    weight = random(512, 256)
    model = model_of([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weight}, ("batch", 512), ("batch", 256))
    packed = WeightPacker(model, tmp_path / "weights").pack(Packing(grid))
    assert is_external(packed.graph.initializer[0])
    expected = x @ rounded(weight, grid)
    monkeypatch.setattr("vidrisk.calibration.files.MAX_INLINE_BYTES", 2**14)
    for path, save in ((tmp_path / "large.onnx", save_graph), (tmp_path / "trials" / "trial.onnx", save_trial)):
        path.parent.mkdir(exist_ok=True)
        found, layers = run(packed, x, path, runtime, save)
        assert np.abs(found - expected).max() < 0.06 * expected.std() and layers == f"int{bits} 1"
    assert (tmp_path / "large.onnx.data").is_file() and any((tmp_path / "trials").glob("*.bin"))
