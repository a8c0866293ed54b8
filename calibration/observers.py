"""Streaming observers: activations pass by batch by batch, and only their ranges are kept."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx

from vidrisk.runtimes.errors import DataError, RuntimeFailure, VidriskError
from vidrisk.runtimes.runner import Array, Arrays

log = logging.getLogger(__name__)

Ranges = dict[str, tuple[float, float]]


class MinMax:
    """Smallest and largest value seen."""

    def __init__(self) -> None:
        self.low, self.high = np.inf, -np.inf

    def observe(self, values: Array) -> None:
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))

    def range(self) -> tuple[float, float]:
        return self.low, self.high


def observed_ranges(model: onnx.ModelProto, batches: Iterable[Mapping[str, Array]]) -> Ranges:
    """Run calibration batches through a float model and return the range of every float tensor between its nodes.

    Memory holds one batch of activations at a time, whatever the number of samples.

    Args:
        model: the float graph.
        batches: feeds of the graph's inputs.

    Raises:
        DataError: no batch, or activations that are not finite.
    """
    names = activation_names(model)
    observers = {name: MinMax() for name in names}
    seen = False
    for activations in _activations(model, names, batches):
        seen = True
        for name, values in activations.items():
            if not np.isfinite(values).all():
                raise DataError(f"activation {name} is not finite on the calibration data",
                                fix="look for a broken sample or weights with NaN")
            observers[name].observe(values)
    if not seen:
        raise DataError("no calibration sample", allowed="at least one batch")
    return {name: observer.range() for name, observer in observers.items()}


def activation_names(model: onnx.ModelProto) -> list[str]:
    """Float tensors that nodes produce, and float inputs; weights are not among them."""
    typed = {value.name: value.type.tensor_type.elem_type
             for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)}
    produced = [name for node in model.graph.node for name in node.output]
    names = [*(value.name for value in model.graph.input), *produced]
    return [name for name in names if typed.get(name) == onnx.TensorProto.FLOAT]


def _activations(model: onnx.ModelProto, names: list[str], batches: Iterable[Mapping[str, Array]]) -> Iterator[Arrays]:
    import onnxruntime

    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    known = {value.name for value in watched.graph.output}
    inputs = {value.name for value in watched.graph.input}
    wanted = [name for name in names if name not in inputs]
    watched.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
                                for name in wanted if name not in known)
    options: Any = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Without fusion: a fused node would hide the tensor that is to be observed.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for feed in batches:
            values = session.run(wanted, dict(feed))
            yield {**{name: feed[name] for name in names if name in inputs}, **dict(zip(wanted, values, strict=True))}
    except VidriskError:
        raise
    except Exception as error:  # onnxruntime raises a dozen types of its own, without a common base
        raise RuntimeFailure(f"ONNX Runtime failed while calibrating: {error}") from error
