"""Hand-made graphs and a sealed bundle, written without torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from vidrisk.runtimes import Bundle, Contract, Manifest, PixelSpec, Stage, Target, TimeSpec, Variant, write_bundle
from vidrisk.runtimes.contract.stages import frame_encoder_stages

SIDE, WIDTH, FRAMES = 8, 6, 4


@pytest.fixture(scope="session")
def contract() -> Contract:
    pixel = PixelSpec(SIDE, SIDE, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return Contract(
        task="action",
        pixel=pixel,
        time=TimeSpec(FRAMES),
        targets=(Target(name="action", labels=("run", "sit", "fall")),),
    )


@pytest.fixture(scope="session")
def graphs(contract: Contract) -> dict[str, Stage]:
    encoder, head = frame_encoder_stages(contract, WIDTH)
    return {
        "encoder": encoder.model_copy(update={"macs": SIDE * SIDE * 3 * WIDTH}),
        "head": head.model_copy(update={"macs": WIDTH * 3}),
    }


def save(path: Path, nodes: list[onnx.NodeProto], graph: Stage, weights: dict[str, np.ndarray]) -> Path:
    infos = [
        [
            helper.make_tensor_value_info(s.name, helper.np_dtype_to_tensor_dtype(np.dtype(s.dtype)), s.shape)
            for s in specs
        ]
        for specs in (graph.inputs, graph.outputs)
    ]
    made = helper.make_graph(
        nodes, "graph", *infos, initializer=[numpy_helper.from_array(w, n) for n, w in weights.items()]
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, str(path))
    return path


@pytest.fixture(scope="session")
def encoder_weights() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(SIDE * SIDE * 3, WIDTH)).astype(np.float32)


@pytest.fixture(scope="session")
def onnx_files(
    tmp_path_factory: pytest.TempPathFactory, graphs: dict[str, Stage], encoder_weights: np.ndarray
) -> dict[str, Path]:
    """Write ``encoder`` (frames / 255 times a matrix) and ``head`` (the mean over time times a matrix)."""
    folder = tmp_path_factory.mktemp("onnx")
    flatten = [
        helper.make_node("Cast", ["frames"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"]),
        helper.make_node("Div", ["flat", "scale"], ["pixels"]),
        helper.make_node("MatMul", ["pixels", "weights"], ["features"]),
    ]
    average = [
        helper.make_node("ReduceMean", ["features", "axes"], ["summary"], keepdims=0),
        helper.make_node("MatMul", ["summary", "weights"], ["action_logits"]),
    ]
    classifier = np.random.default_rng(1).normal(size=(WIDTH, 3)).astype(np.float32)
    return {
        "encoder": save(
            folder / "encoder.onnx",
            flatten,
            graphs["encoder"],
            {"weights": encoder_weights, "scale": np.array(255, np.float32)},
        ),
        "head": save(folder / "head.onnx", average, graphs["head"], {"weights": classifier, "axes": np.array([1])}),
    }


@pytest.fixture
def make_bundle(
    tmp_path: Path, contract: Contract, graphs: dict[str, Stage], onnx_files: dict[str, Path]
) -> Callable[..., Bundle]:
    """Write a bundle whose variants all hold the same graphs; ``refused`` ones did not pass the gate."""

    def make(
        name: str = "a.bundle", variants: tuple[str, ...] = ("fp32", "int8"), refused: tuple[str, ...] = ()
    ) -> Bundle:
        described = {
            v: Variant(
                files={"encoder": f"encoder.{v}.onnx", "head": "head.fp32.onnx"},
                precision={"encoder": v.partition("-")[0], "head": "fp32"},
                passed=v not in refused,
                gate={"agreement": 1.0},
                temperature={"action": 1.5},
            )
            for v in variants
        }
        files = {f"encoder.{v}.onnx": onnx_files["encoder"] for v in variants} | {"head.fp32.onnx": onnx_files["head"]}
        manifest = Manifest(
            contract=contract, stages=tuple(graphs.values()), variants=described, files={}, made_with={"vidrisk": "0"}
        )
        return write_bundle(tmp_path / name, manifest, files)

    return make
