"""Float graph + ranges → explicit Q/DQ graph (ONNX QuantizeLinear/DequantizeLinear), by onnxruntime's quantiser.

The result is the one INT8 file that every engine reads: activations asymmetric uint8, weights symmetric int8 per channel,
biases int32. LayerNorm, Softmax and GELU stay in floating point.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from vidrisk.calibration.observers import Ranges
from vidrisk.runtimes.errors import DataError

log = logging.getLogger(__name__)

QUANTISED_OPS = ("Conv", "MatMul", "Gemm", "Add", "Clip", "Relu")


def float_islands(model: onnx.ModelProto) -> list[tuple[str, list[str]]]:
    """Sets of nodes worth leaving in floating point, from none to many: (description, node names).

    The loss of INT8 sits in few places: the first layers, whose few channels differ most in range, then depthwise
    convolutions and products of two activations, which have no weights to carry per-channel scales.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    weighted = [node for node in model.graph.node if node.op_type in ("Conv", "MatMul", "Gemm")]
    first = [node.name for node in weighted[:3]]
    fragile = [node.name for node in weighted if _is_depthwise(node) or node.input[1] not in weights]
    return [("all", []), ("first three layers in float", first),
            ("first three layers, depthwise and attention products in float", [*first, *fragile])]


def _is_depthwise(node: onnx.NodeProto) -> bool:
    return any(attribute.name == "group" and attribute.i > 1 for attribute in node.attribute)


def quantised_from_float(model: onnx.ModelProto, ranges: Ranges, *, keep_float: Sequence[str] = ()) -> onnx.ModelProto:
    """Insert Q/DQ pairs around the operators that gain from INT8.

    Args:
        model: the float graph, left untouched.
        ranges: smallest and largest value per activation, from ``observed_ranges``.
        keep_float: names of nodes to leave in floating point.

    Raises:
        DataError: the graph is quantised already.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph.node):
        raise DataError("the graph is quantised already", fix="export from the floating-point run")
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    data = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    options: dict[str, Any] = {"ActivationSymmetric": False, "WeightSymmetric": True}
    quantiser: Any = QDQQuantizer(
        copy, per_channel=True, reduce_range=False, weight_qType=QuantType.QInt8, activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, data), nodes_to_quantize=[], nodes_to_exclude=list(keep_float),
        op_types_to_quantize=list(QUANTISED_OPS), extra_options=options)
    quantiser.quantize_model()
    quantiser.model.topological_sort()
    result: onnx.ModelProto = quantiser.model.model
    onnx.checker.check_model(result)
    return result
