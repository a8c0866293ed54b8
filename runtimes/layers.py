"""Actual precision of the layers of a graph, as reported by each engine for what it executes.

An engine may silently compute in another precision than the one a graph was made for. Only convolutions and matrix
products are counted, since they take most of the time and cause the rounding. A product with packed weights counts by
the width of the weights, since they are what is rounded. TensorRT fuses many operations into one layer, so in its
engines every layer that does more than move data is counted.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

FLOAT32, FLOAT16, INT8, INT4 = "float32", "float16", "int8", "int4"
# Layer types in the inspector's output that only move data.
MOVING = re.compile(r"reformat|noop|constant|shape|shuffle|copy", re.IGNORECASE)

_PRODUCTS = re.compile(r"conv(?!ert)|matmul|gemm|fullyconnected|innerproduct|einsum|attention", re.IGNORECASE)
# How engines write a type → the precision of a layer that takes it. The first pattern that matches counts.
_NAMES = (
    (re.compile(r"bf16|bfloat16", re.IGNORECASE), "bfloat16"),
    (re.compile(r"u?int8|\b[iu]8\b", re.IGNORECASE), INT8),
    (re.compile(r"fp16|float16|half|\bf16\b", re.IGNORECASE), FLOAT16),
    (re.compile(r"fp8|float8", re.IGNORECASE), "float8"),
    (re.compile(r"int4|\b[iu]4\b", re.IGNORECASE), INT4),
    (re.compile(r"fp32|float|\bf32\b", re.IGNORECASE), FLOAT32),
)


@dataclass(frozen=True)
class Layers:
    """Number of layers by the precision they run in, most frequent first.

    Attributes:
        unproved: why the engine's report proves nothing; empty if it does.
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    unproved: str = ""

    def __add__(self, other: Layers) -> Layers:
        """Add the layers of two graphs; if one is unproved, the sum is."""
        counts = Counter(self.counts) + Counter(other.counts)
        return Layers(dict(counts.most_common()), self.unproved or other.unproved)

    def __str__(self) -> str:
        said = ", ".join(f"{name} {count}" for name, count in self.counts.items())
        return (
            f"{said}; not proved: {self.unproved}" if said and self.unproved else said or f"not proved: {self.unproved}"
        )


def layers_from_counts(counts: Counter[str]) -> Layers:
    """Sort the counts; layers of an unknown precision (an empty name) make the result unproved."""
    unproved = "the engine does not say the types of all layers" if counts.pop("", 0) else ""
    return Layers(dict(counts.most_common()), unproved)


def layers_from_profile(events: Iterable[Mapping[str, Any]], provider: str) -> Layers:
    """Count the kernels that ONNX Runtime has run, as its profiler lists them.

    Args:
        events: entries of the profile.
        provider: the intended provider; layers run by another one are listed with its name.
    """
    counts: Counter[str] = Counter()
    fused = False
    for event in events:
        told = event.get("args", {})
        if event.get("cat") != "Node" or not str(event.get("name", "")).endswith("_kernel_time"):
            continue
        kind, where = str(told.get("op_name", "")), str(told.get("provider", ""))
        fused |= kind.startswith("TRTKernel")
        if not _PRODUCTS.search(kind):
            continue
        inputs = told.get("input_type_shape", ())
        types = [name for one in inputs for name in one]
        # Dynamic kernels quantise floats at run time; for the others, the first input is the multiplied one.
        precision = INT8 if kind.startswith("DynamicQuantize") else _precision(types[0] if types else "")
        if kind == "MatMulNBits":
            precision = _find_packed_width(inputs)
        counts[precision if where == provider or not precision else f"{precision} by {where}"] += 1
    if fused:
        return Layers(unproved="TensorRT inside ONNX Runtime does not say how its layers run")
    return layers_from_counts(counts)


def _find_packed_width(inputs: Sequence[Mapping[str, Sequence[int]]]) -> str:
    """Return the width of the weights of a product that ONNX Runtime has prepacked; empty if unknown.

    Prepacked weights are no longer inputs. The shapes of the scales ``(N, groups)`` and of the zero points reveal the
    width, because two 4-bit zero points share a byte; with a single group they do not.
    """
    stored = [shape[1] for one in inputs[1:] for shape in one.values() if len(shape) == 2]
    if len(stored) != 2 or stored[0] < 2:
        return ""
    return INT8 if stored[1] == stored[0] else INT4


def layers_from_openvino(operations: Iterable[Any]) -> Layers:
    """Count the nodes of OpenVINO's execution graph (``CompiledModel.get_runtime_model().get_ops()``)."""
    counts: Counter[str] = Counter()
    for operation in operations:
        told = operation.get_rt_info()
        kind, precision = (
            "" if key not in told else str(getattr(told[key], "value", told[key]))
            for key in ("layerType", "runtimePrecision")
        )
        if _PRODUCTS.search(kind):
            counts[_precision(precision)] += 1
    return layers_from_counts(counts)


def layers_from_inspection(text: str) -> Layers:
    """Count the layers that TensorRT's engine inspector lists as JSON, by the types of their inputs.

    Raises:
        ValueError: ``text`` is not JSON.
    """
    counts: Counter[str] = Counter()
    for layer in computing_layers(json.loads(text)):
        types = [
            str(tensor.get("Format/Datatype", "")) for tensor in layer.get("Inputs", ()) if isinstance(tensor, dict)
        ]
        found = [
            _precision(each) for each in types if "uint8" not in each.lower()
        ]  # uint8 is a picture: weights and activations are signed
        if found:
            counts[INT8 if INT8 in found else found[0]] += 1
    return (
        layers_from_counts(counts)
        if counts
        else Layers(unproved="the engine lists no layers that compute, or only their names")
    )


def computing_layers(inspected: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the layers of an inspected engine that do more than move data; empty if it lists only their names."""
    layers = [layer for layer in inspected.get("Layers", ()) if isinstance(layer, dict)]
    return [layer for layer in layers if not MOVING.search(str(layer.get("LayerType", "")))]


def _precision(text: str) -> str:
    return next((name for pattern, name in _NAMES if pattern.search(text)), "")
