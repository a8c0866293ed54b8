"""Streaming observers, which see activations batch by batch and keep only their statistics."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from vidrisk.calibration.files import graph_source
from vidrisk.calibration.graph import FloatArray
from vidrisk.calibration.histogram import Floats, Histogram, Method, range_from_histogram
from vidrisk.runtimes.contract.errors import DataError, RuntimeFailure
from vidrisk.runtimes.runner import Array

Ranges = dict[str, tuple[float, float]]


@dataclass(frozen=True, eq=False)
class Statistics:
    """Statistics that calibration keeps of one activation.

    Channels lie along axis 1 for rank 4 (images) and along the last axis otherwise.

    Attributes:
        histogram: of all values.
        channel_largest: float64 (C,), the largest magnitude.
        channel_mean: float64 (C,).
    """

    histogram: Histogram
    channel_largest: Floats
    channel_mean: Floats

    def __repr__(self) -> str:
        return f"Statistics([{self.histogram.low:g}, {self.histogram.high:g}], {len(self.channel_mean)} channels)"


def observe_statistics(
    model: onnx.ModelProto, batches: Iterable[Mapping[str, Array]], *, names: Collection[str] | None = None
) -> dict[str, Statistics]:
    """Run calibration batches through a float model and return the statistics of its activations.

    Memory holds the requested activations of one batch at a time, whatever the number of batches; it depends on the
    batch size.

    Args:
        model: the float graph.
        batches: feeds of the graph's inputs.
        names: the requested activations; None for all of them (``activation_names``).

    Raises:
        DataError: no batch, or activations that are not finite.
        RuntimeFailure: ONNX Runtime rejects the graph or a feed.
    """
    wanted = [name for name in activation_names(model) if names is None or name in names]
    inputs = [name for name in wanted if name in {value.name for value in model.graph.input}]
    made = [name for name in wanted if name not in inputs]
    session = open_watching_session(model, made)
    observers = {name: _Observer() for name in wanted}
    seen = False
    for feed in batches:
        seen = True
        _observe(observers, fetch(session, made, feed) | {name: feed[name] for name in inputs})
    if not seen:
        raise DataError("no calibration sample", allowed="at least one batch")
    return {name: observer.statistics() for name, observer in observers.items() if observer.histogram.count}


def ranges_from_statistics(statistics: Mapping[str, Statistics], method: Method, *, symmetric: bool) -> Ranges:
    """Return the range that 8 bits should cover, for every activation; that of a constant has zero width."""
    return {name: range_from_histogram(s.histogram, method, symmetric=symmetric) for name, s in statistics.items()}


def activation_names(model: onnx.ModelProto) -> list[str]:
    """Return the names of float tensors that nodes produce, and of float inputs, but not of weights."""
    typed = {
        value.name: value.type.tensor_type.elem_type
        for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)
    }
    produced = [name for node in model.graph.node for name in node.output]
    names = [*(value.name for value in model.graph.input), *produced]
    return [name for name in names if typed.get(name) == onnx.TensorProto.FLOAT]


class _Observer:
    """Accumulator for the statistics of one activation."""

    def __init__(self) -> None:
        self.histogram = Histogram()
        self.largest: Floats = np.zeros(1)
        self.total: Floats = np.zeros(1)

    def observe(self, name: str, values: Array) -> None:
        lined = _by_channel(values)
        largest = np.maximum(lined.max(axis=2).max(axis=0), -lined.min(axis=2).min(axis=0)).astype(np.float64)
        if not np.isfinite(largest).all():
            raise DataError(
                f"activation {name} is not finite on the calibration data",
                fix="look for a broken sample or weights with NaN",
            )
        total = lined.sum(axis=2).sum(axis=0, dtype=np.float64)
        if not self.histogram.count:
            self.largest, self.total = np.zeros_like(largest), np.zeros_like(total)
        elif len(largest) != len(self.largest):  # a batch or a length lies along that axis: all values are one channel
            largest, total = largest.max(keepdims=True), total.sum(keepdims=True)
            self.largest, self.total = self.largest.max(keepdims=True), self.total.sum(keepdims=True)
        self.largest = np.maximum(self.largest, largest)
        self.total = self.total + total
        self.histogram.observe(values)

    def statistics(self) -> Statistics:
        return Statistics(self.histogram, self.largest, self.total * len(self.total) / self.histogram.count)


def _observe(observers: Mapping[str, _Observer], activations: dict[str, Array]) -> None:
    """Pass each observer its activation, and release it."""
    for name, observer in observers.items():
        values = activations.pop(name)
        if values.size:
            observer.observe(name, values)


def _by_channel(values: Array) -> FloatArray:
    """View float activations as (outer, channels, inner)."""
    if values.ndim == 4:
        return values.reshape(*values.shape[:2], -1).astype(np.float32, copy=False)
    return values.reshape(-1, values.shape[-1] if values.ndim > 1 else 1, 1).astype(np.float32, copy=False)


def open_watching_session(model: onnx.ModelProto, made: Collection[str]) -> Any:
    """Create a session that returns the float tensors ``made`` as outputs.

    Raises:
        RuntimeFailure: ONNX Runtime rejects the graph.
    """
    import onnxruntime

    options: Any = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Without fusion: a fused node would hide the observed tensor.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    outputs = model.graph.output
    known = [value.name for value in outputs]
    outputs.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in made if name not in known
    )
    try:  # on the model itself: a copy of its weights would be large
        with graph_source(model) as source:
            return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a dozen types of its own, without a common base
        raise RuntimeFailure(f"ONNX Runtime refused the graph to be calibrated: {error}") from error
    finally:
        del outputs[len(known) :]


def fetch(session: Any, made: Sequence[str], feed: Mapping[str, Array]) -> dict[str, Array]:
    """Run a session and return the tensors ``made`` by name.

    Raises:
        RuntimeFailure: ONNX Runtime rejects the feed.
    """
    if not made:  # an empty list would fetch every output
        return {}
    try:
        return dict(zip(made, session.run([*made], dict(feed)), strict=True))
    except Exception as error:
        raise RuntimeFailure(f"ONNX Runtime failed while calibrating: {error}") from error
