"""A real bundle of a few hundred bytes that knows colours, for what wants a bundle and no training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from colour import ACTION
from onnx import TensorProto, helper, numpy_helper

from vidrisk.runtimes import Bundle, Graph, Manifest, TensorSpec, Variant, write_bundle

OPSET, IR_VERSION = 20, 10


def write_colour_bundle(root: Path) -> Bundle:
    """Label: the dominant colour of a 32x32 clip or photo, as ``colour.colour_classifier`` says it."""
    encoder = Graph(inputs=ACTION.encoder_inputs(), outputs=ACTION.encoder_outputs(3))
    head = Graph(inputs=ACTION.head_inputs(3), outputs=ACTION.head_outputs())
    root.parent.mkdir(parents=True, exist_ok=True)
    files = {
        "encoder.fp32.onnx": _saved(root.with_name(f"{root.name}.encoder.onnx"), encoder, [
            helper.make_node("Cast", ["frames"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["float", "axes"], ["features"], keepdims=0)], {"axes": np.array([1, 2])}),
        "head.fp32.onnx": _saved(root.with_name(f"{root.name}.head.onnx"), head, [
            helper.make_node("ReduceMean", ["features", "axes"], ["mean"], keepdims=0),
            helper.make_node("Div", ["mean", "scale"], ["action_logits"])],
            {"axes": np.array([1]), "scale": np.array(32, np.float32)}),
    }
    variant = Variant(files={"encoder": "encoder.fp32.onnx", "head": "head.fp32.onnx"}, passed=True, threshold={"action": 0.4})
    manifest = Manifest(contract=ACTION, graphs={"encoder": encoder, "head": head}, variants={"fp32": variant}, files={},
                        made_with={"vidrisk": "0"})
    bundle = write_bundle(root, manifest, files)
    for path in files.values():
        path.unlink()
    return bundle


def _saved(path: Path, graph: Graph, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> Path:
    def described(specs: tuple[TensorSpec, ...]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(s.name, helper.np_dtype_to_tensor_dtype(np.dtype(s.dtype)), s.shape) for s in specs]

    made = helper.make_graph(nodes, "colours", described(graph.inputs), described(graph.outputs),
                             initializer=[numpy_helper.from_array(value, name) for name, value in constants.items()])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, str(path))
    return path


