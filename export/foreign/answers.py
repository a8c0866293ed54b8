"""Mapping of a graph's outputs to targets, and their conversion to logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx

from vidrisk.export.foreign.ranges import PASSED, UNBOUNDED, ranges_of
from vidrisk.export.foreign.session import Session, noise
from vidrisk.runtimes.contract.errors import DataError

Scale = Literal["logits", "probabilities", "binary logits", "binary probability"]
Gives = Literal["logits", "probabilities"]  # what a labels file may declare of an output
SMALLEST = 1e-12  # smallest probability that a logarithm is taken of
DETECTION = {"NonMaxSuppression", "RoiAlign", "TopK", "EfficientNMS_TRT", "BatchedNMS_TRT"}


@dataclass(frozen=True)
class Answer:
    """Location of the logits of one target.

    Attributes:
        output: tensor of the graph, (N, C) or (N, C, 1, 1).
        labels: in the order of its columns.
        scale: ``logits``; ``probabilities``, whose logarithm is equivalent; or one column for two labels, which has
            only the second label's logit relative to the first, or its probability.
    """

    output: str
    labels: tuple[str, ...]
    scale: Scale

    def __str__(self) -> str:
        return f"{self.output} ({len(self.labels)} {self.scale})"

    def logits(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return logits ``float32 (N, C)`` from the output's values (N, columns)."""
        wide = values.astype(np.float64)
        if self.scale.endswith(("probabilities", "probability")):
            wide = (
                np.log(np.maximum(wide, SMALLEST))
                if self.scale == "probabilities"
                else (np.log(np.maximum(wide, SMALLEST)) - np.log(np.maximum(1 - wide, SMALLEST)))
            )
        if self.scale.startswith("binary"):
            wide = np.concatenate([np.zeros_like(wide), wide], axis=1)
        return wide.astype(np.float32)


def find_answers(
    model: onnx.ModelProto,
    image: str,
    shape: Sequence[int],
    dtype: str,
    labels: Mapping[str, Sequence[str]],
    named: Mapping[str, str],
    gives: Mapping[str, Gives],
    file: str,
) -> dict[str, Answer]:
    """Return the answer to each target, found by running the graph once.

    Softmax at the end of a graph is cut off in place (the graph's output is then the softmax's input). A single column
    is a probability if operators keep it in 0–1, or if ``gives`` says so: logits of a small model may lie there by
    chance.

    Args:
        model: the graph, modified in place.
        image: name of the input.
        shape: of the input, for the trial run.
        dtype: of the input, for the trial run.
        labels: per target name.
        named: output per target name, if given.
        gives: ``logits`` or ``probabilities`` per target name, if given.
        file: the name, for messages.

    Raises:
        DataError: not a classifier, or outputs that match neither the labels nor their declaration.
    """
    outputs = Session(model).run({image: noise(tuple(shape), dtype)})
    sizes = {name: _columns(values, shape[0]) for name, values in outputs.items()}
    sizes = {name: size for name, size in sizes.items() if size}
    if not sizes:
        raise DataError(
            _what_it_is(model, outputs, file),
            allowed="a classifier, with outputs (batch, classes)",
            fix="export the classifier alone, without the parts that find boxes or masks",
        )
    found: dict[str, str] = {}
    for target, names in labels.items():
        output = named.get(target) or _output_of(target, len(names), sizes, len(labels), found.values(), file)
        if output not in sizes:
            raise DataError(
                f"{file} has no output {output!r} of shape (batch, classes) for {target}", allowed=", ".join(sizes)
            )
        if sizes[output] != len(names) and not (sizes[output] == 1 and len(names) == 2):
            raise DataError(
                f"output {output!r} of {file} has {sizes[output]} columns, and {target} {len(names)} labels",
                allowed="one label per column, in their order",
                fix="correct the labels",
            )
        found[target] = output
    return {
        target: _answer(model, output, tuple(labels[target]), outputs[output], gives.get(target), file)
        for target, output in found.items()
    }


def _columns(values: npt.NDArray[Any], batch: int) -> int:
    """Return C of (N, C) or (N, C, 1, …); 0 for other shapes."""
    if values.ndim < 2 or values.shape[0] != batch or values.dtype.kind != "f" or prod(values.shape[2:]) != 1:
        return 0
    return int(values.shape[1])


def _what_it_is(model: onnx.ModelProto, outputs: Mapping[str, npt.NDArray[Any]], file: str) -> str:
    shapes = ", ".join(f"{name} {list(values.shape)}" for name, values in outputs.items())
    if any(node.op_type in DETECTION for node in model.graph.node) or any(
        values.ndim == 3 for values in outputs.values()
    ):
        return f"{file} looks like a detector: it gives {shapes}"
    if any(values.ndim == 4 for values in outputs.values()):
        return f"{file} looks like a segmenter or a feature extractor: it gives {shapes}"
    return f"{file} is no classifier: it gives {shapes}"


def _output_of(target: str, count: int, sizes: Mapping[str, int], targets: int, taken: Any, file: str) -> str:
    for name in (target, f"{target}_logits"):
        if name in sizes:
            return name
    fitting = [name for name, size in sizes.items() if size == count and name not in taken]
    fitting = fitting or [name for name, size in sizes.items() if size == 1 and count == 2 and name not in taken]
    if len(fitting) == 1:
        return fitting[0]
    described = ", ".join(f"{name} ({size})" for name, size in sizes.items())
    if fitting:
        raise DataError(
            f"{target} has {count} labels, and {file} several outputs of that size: {', '.join(fitting)}",
            fix="name the output of each target in the labels file",
        )
    hint = (
        "an embedding needs a head: vidrisk train"
        if targets == 1 and max(sizes.values()) > count
        else "correct the labels"
    )
    raise DataError(
        f"{target} has {count} labels, and no output of {file} has as many columns: {described}",
        allowed="one label per column, in their order",
        fix=hint,
    )


def _answer(
    model: onnx.ModelProto,
    output: str,
    labels: tuple[str, ...],
    values: npt.NDArray[Any],
    gives: Gives | None,
    file: str,
) -> Answer:
    source, activation = _activation_before(model, output)
    columns = values.reshape(len(values), -1)
    is_binary = columns.shape[1] == 1
    if activation == "Sigmoid" and is_binary:
        return Answer(source, labels, "binary logits")
    if activation == "Softmax" and not is_binary:
        return Answer(source, labels, "logits")
    if activation == "Sigmoid":
        raise DataError(
            f"output {output!r} of {file} gives every label a probability of its own (Sigmoid)",
            allowed="labels of which one is true (softmax, or logits)",
            fix="give one output of two labels per question",
        )
    is_inside = bool((columns >= 0).all() and (columns <= 1).all())
    if gives == "probabilities" and not is_inside:
        raise DataError(
            f"output {output!r} of {file} is declared to give probabilities, but gives {columns.min():.3g} to "
            f"{columns.max():.3g}",
            allowed="numbers from 0 to 1",
            fix="declare that it gives logits",
        )
    if gives is None:
        low, high = ranges_of(model).get(output, UNBOUNDED)
        sums_to_one = is_inside and np.allclose(columns.sum(axis=1), 1, atol=1e-3)
        gives = "probabilities" if (low >= 0 and high <= 1 if is_binary else sums_to_one) else "logits"
    if is_binary:
        return Answer(output, labels, "binary probability" if gives == "probabilities" else "binary logits")
    return Answer(output, labels, gives)


def _activation_before(model: onnx.ModelProto, output: str) -> tuple[str, str]:
    """Return the tensor before the softmax or sigmoid that an output comes from, and its operator.

    Without either, this is the output itself.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    node = makers.get(output)
    while node is not None and node.op_type in PASSED:
        node = makers.get(node.input[0])
    if node is None or node.op_type not in ("Softmax", "Sigmoid"):
        return output, ""
    return node.input[0], node.op_type
