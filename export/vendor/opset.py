"""Conversion of graphs to the opset that all other toolchains read."""

from __future__ import annotations

import logging
import math

import onnx
from onnx import TensorProto, helper

from vidrisk.calibration.files import check_graph, copy_graph
from vidrisk.export.foreign.read import opset_of
from vidrisk.export.foreign.session import Session
from vidrisk.runtimes.contract.errors import RuntimeFailure

log = logging.getLogger(__name__)

OPSET = 17  # the newest that all of them read


def lower_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model in opset 17 if possible; otherwise warn and keep its opset."""
    result = copy_graph(model)
    del result.opset_import[:]
    result.opset_import.append(helper.make_opsetid("", OPSET))
    _split_gelu(result)
    _list_axes(result)
    del result.graph.value_info[:]
    try:
        check_graph(result)
        Session(result)
    except (onnx.checker.ValidationError, RuntimeFailure) as error:
        log.warning("the model stays in opset %d: %s", opset_of(model), str(error).strip().splitlines()[0])
        return model
    return result


def _list_axes(model: onnx.ModelProto) -> None:
    """Write the axes of reductions as attributes, as before opset 18, in place."""
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if not node.op_type.startswith("Reduce") or node.op_type == "ReduceSum" or len(node.input) < 2:
            continue
        if node.input[1] in constants:
            kept = [attribute for attribute in node.attribute if attribute.name != "noop_with_empty_axes"]
            del node.attribute[:]
            node.attribute.extend(kept)
            node.attribute.append(helper.make_attribute("axes", [int(axis) for axis in constants[node.input[1]]]))
            del node.input[1]


def _split_gelu(model: onnx.ModelProto) -> None:
    """Write Gelu, an operator of opset 20, as x / 2 * (1 + erf(x / sqrt(2))), in place."""
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        exact = not any(a.name == "approximate" and a.s != b"none" for a in node.attribute)
        if node.op_type != "Gelu" or node.domain or not exact:
            nodes.append(node)
            continue
        root, one, half = (f"{node.name}.{key}" for key in ("root", "one", "half"))
        for key, value in ((root, math.sqrt(0.5)), (one, 1.0), (half, 0.5)):
            model.graph.initializer.append(helper.make_tensor(key, TensorProto.FLOAT, [], [value]))
        (x,), steps = node.input, [f"{node.name}.{step}" for step in ("scaled", "erf", "plus", "halved")]
        nodes += [
            helper.make_node("Mul", [x, root], [steps[0]], name=steps[0]),
            helper.make_node("Erf", steps[:1], [steps[1]], name=steps[1]),
            helper.make_node("Add", [steps[1], one], [steps[2]], name=steps[2]),
            helper.make_node("Mul", [x, half], [steps[3]], name=steps[3]),
            helper.make_node("Mul", [steps[3], steps[2]], list(node.output), name=node.name),
        ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
