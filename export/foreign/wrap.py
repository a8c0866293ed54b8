"""A foreign classifier behind our contract: ``frames: uint8 (batch, T, height, width, 3)`` in, logits per target out.

frames → Cast → one image after the other → the model's layout → value * scale + shift → channel order → the model's own
nodes → logits, the mean over the T frames
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from vidrisk.calibration.files import check_graph, copy_graph, without_weights
from vidrisk.export.foreign.answers import SMALLEST
from vidrisk.export.foreign.classifier import ForeignClassifier
from vidrisk.export.foreign.pixels import GREY, ForeignPixels, scale_and_shift
from vidrisk.export.foreign.read import opset_of
from vidrisk.export.foreign.session import Session
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.runtimes.contract.specs import TensorSpec
from vidrisk.runtimes.contract.stages import BATCH, PIXELS, Stage

STAGE = "classifier"
MAX_IR_VERSION = 10
LAYOUT_OPERATORS = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Slice", "Flatten")


def classifier_stage(contract: Contract) -> Stage:
    """Return the single stage of a foreign classifier."""
    frames = TensorSpec(PIXELS, "uint8", (BATCH, contract.frames, *contract.pixel.frame_shape))
    return Stage(name=STAGE, per="window", inputs=(frames,), outputs=contract.answers())


def wrap_classifier(classifier: ForeignClassifier, pixels: ForeignPixels, contract: Contract) -> onnx.ModelProto:
    """Return the classifier as the graph of ``classifier_stage``; its own nodes keep names and weights."""
    model = copy_graph(classifier.model)
    stage = classifier_stage(contract)
    _rename(model, {spec.name for spec in (*stage.inputs, *stage.outputs)})
    image = model.graph.input[0].name
    builder = _Builder(model)
    _read_pixels(builder, classifier, pixels, image)
    own = list(model.graph.node)
    before = builder.take()
    outputs = {old: new.name for old, new in zip(_sources(classifier), model.graph.output, strict=True)}
    for target in contract.targets:
        _answer(builder, classifier, outputs, target.name, target.labels, contract.frames)
    del model.graph.node[:]
    model.graph.node.extend([*before, *own, *builder.take()])
    del model.graph.input[:], model.graph.output[:]
    model.graph.input.extend(_value(spec) for spec in stage.inputs)
    model.graph.output.extend(_value(spec) for spec in stage.outputs)
    model.ir_version = min(model.ir_version, MAX_IR_VERSION)
    check_graph(model)
    _type_tensors(model)
    return model


def _type_tensors(model: onnx.ModelProto) -> None:
    """Write the types and shapes of tensors into a graph, in place, for calibration to find the float ones.

    ONNX Runtime supplies what onnx cannot infer (after operators of com.microsoft).
    """
    inferred = shape_inference.infer_shapes(without_weights(model), data_prop=True).graph
    model.graph.value_info.extend(inferred.value_info)
    known = {value.name for value in (*inferred.value_info, *inferred.output)}
    unknown = [name for node in model.graph.node for name in node.output if name and name not in known]
    if not unknown:
        return
    asked = copy_graph(model)
    asked.graph.output.extend(onnx.ValueInfoProto(name=name) for name in unknown)
    for name in Session(asked).floats.intersection(unknown):
        model.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))


def _sources(classifier: ForeignClassifier) -> list[str]:
    return [value.name for value in classifier.model.graph.output]


class _Builder:
    """Builder that adds nodes and constants to a graph."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model, self.opset = model, opset_of(model)
        self._nodes: list[onnx.NodeProto] = []

    def node(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        name = f"contract/{operator.lower()}.{output}"
        self._nodes.append(helper.make_node(operator, list(inputs), [output], name=name, **attributes))
        return output

    def constant(self, name: str, values: Any, dtype: Any = np.int64) -> str:
        self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def mean(self, source: str, axis: int, output: str) -> str:
        if self.opset < 18:
            return self.node("ReduceMean", [source], output, axes=[axis], keepdims=0)
        return self.node("ReduceMean", [source, self.constant(f"{output}.axes", [axis])], output, keepdims=0)

    def take(self) -> list[onnx.NodeProto]:
        nodes, self._nodes = self._nodes, []
        return nodes


def _read_pixels(add: _Builder, classifier: ForeignClassifier, pixels: ForeignPixels, image: str) -> None:
    """Add the nodes from frames to the model's own input tensor."""
    taken, spec = classifier.image, pixels.spec
    value = add.node("Cast", [PIXELS], "contract.floats", to=TensorProto.FLOAT)
    value = add.node("Reshape", [value, add.constant("contract.shape", [-1, *spec.frame_shape])], "contract.images")
    axis = 3
    if taken.layout == "nchw":
        value, axis = add.node("Transpose", [value], "contract.planes", perm=[0, 3, 1, 2]), 1
    along = [1, 1, 1, 1]
    along[axis] = 3
    is_bytes = taken.dtype == "uint8"
    scale, shift = scale_and_shift(spec)
    if not is_bytes and (scale != 1).any():
        value = add.node(
            "Mul", [value, add.constant("contract.scale", scale.reshape(along), np.float32)], "contract.scaled"
        )
    if not is_bytes and shift.any():
        value = add.node(
            "Add", [value, add.constant("contract.shift", shift.reshape(along), np.float32)], "contract.normalised"
        )
    if pixels.channels == "bgr":
        value = add.node("Gather", [value, add.constant("contract.order", [2, 1, 0])], "contract.bgr", axis=axis)
    if pixels.channels == "grey":
        weights = add.constant("contract.weights", np.reshape(GREY, along), np.float32)
        value = add.node("Mul", [value, weights], "contract.weighted")
        value = add.node("ReduceSum", [value, add.constant("contract.axis", [axis])], "contract.grey", keepdims=1)
    if is_bytes and not _casts_first(add.model, image):
        add.node("Cast", [value], image, to=TensorProto.UINT8)
    else:
        add.node("Identity", [value], image)


def _casts_first(model: onnx.ModelProto, image: str) -> bool:
    """Return whether bytes are only rearranged before they are cast, so that floats can replace them.

    TensorRT supports bytes only as input of a Cast, which is ours.
    """
    waiting, seen = [image], set()
    while waiting:
        name = waiting.pop()
        seen.add(name)
        for node in model.graph.node:
            if name not in node.input:
                continue
            if node.op_type in LAYOUT_OPERATORS and list(node.input).index(name) == 0:
                waiting += [output for output in node.output if output not in seen]
            elif not (node.op_type == "Cast" and node.attribute[0].i == TensorProto.FLOAT):
                return False
    return True


def _answer(
    add: _Builder,
    classifier: ForeignClassifier,
    outputs: dict[str, str],
    target: str,
    labels: Sequence[str],
    frames: int,
) -> None:
    """Add the nodes from an output of the model to the logits of a target."""
    answer = classifier.answers[target]
    columns = 1 if answer.scale.startswith("binary") else len(answer.labels)
    value = add.node(
        "Reshape", [outputs[answer.output], add.constant(f"{target}.shape", [-1, columns])], f"{target}.columns"
    )
    if not answer.scale.endswith("logits"):
        value = _logarithm(add, value, target, odds=answer.scale.startswith("binary"))
    if answer.scale.startswith("binary"):
        value = add.node("Mul", [value, add.constant(f"{target}.second", [[0.0, 1.0]], np.float32)], f"{target}.both")
    order = [answer.labels.index(label) for label in labels]
    if order != sorted(order):
        value = add.node("Gather", [value, add.constant(f"{target}.order", order)], f"{target}.ordered", axis=1)
    if frames > 1:
        shape = add.constant(f"{target}.frames", [-1, frames, len(labels)])
        value = add.mean(add.node("Reshape", [value, shape], f"{target}.by_frame"), 1, f"{target}.mean")
    add.node("Identity", [value], f"{target}_logits")


def _logarithm(add: _Builder, value: str, target: str, *, odds: bool) -> str:
    """Return logarithms of probabilities, or of their odds."""
    least = add.constant(f"{target}.least", SMALLEST, np.float32)
    logs = add.node("Log", [add.node("Max", [value, least], f"{target}.probabilities")], f"{target}.log")
    if not odds:
        return logs
    rest = add.node("Sub", [add.constant(f"{target}.one", 1.0, np.float32), value], f"{target}.rest")
    rest = add.node("Log", [add.node("Max", [rest, least], f"{target}.rest_probabilities")], f"{target}.log_rest")
    return add.node("Sub", [logs, rest], f"{target}.log_odds")


def _rename(model: onnx.ModelProto, reserved: set[str]) -> None:
    """Rename tensors of the model that have reserved names, in place."""
    graph = model.graph
    used = {name for node in graph.node for name in (*node.input, *node.output)} | {value.name for value in graph.input}
    for name in reserved & used:
        new = f"{name}.own"
        for node in graph.node:
            for names in (node.input, node.output):
                for slot, each in enumerate(names):
                    if each == name:
                        names[slot] = new
        for item in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
            if item.name == name:
                item.name = new


def _value(spec: TensorSpec) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(
        spec.name, helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype)), list(spec.shape)
    )
