"""Conversion of a fixed batch axis to a free one, verified by running the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from vidrisk.calibration.files import copy_graph, without_weights
from vidrisk.export.foreign.read import dims_of, graph_inputs
from vidrisk.export.foreign.session import Array, Session, noise
from vidrisk.runtimes.contract.errors import DataError, RuntimeFailure
from vidrisk.runtimes.contract.stages import BATCH

TOLERANCE = 1e-3  # share of the spread between images' answers, for an image alone and among others
ROUNDING = 1e-5  # share of the largest answer: the difference that another order of sums makes
SCALES = ((0.0, 1.0), (-2.0, 2.0), (0.0, 255.0))  # of the pixels that models take
SHAPED = ("Reshape", "Expand", "Concat")
FREE = 0
TRIED_BATCHES = (1, 2, 3, 4, 8)
Shapes = dict[str, tuple[int, ...]]


def with_free_batch(model: onnx.ModelProto, shape: Sequence[int], name: str) -> tuple[onnx.ModelProto, int | None]:
    """Return the model for any number of images, and the number that it was made for, or None if it took any.

    A hard-coded batch occurs in the shapes of Reshape and Expand and in constants that are joined to activations (the
    class token of a transformer); it is assumed to be the first axis, or the first factor of it. Two images at once
    must then give the same as each alone: dark and bright ones, on every scale of pixels.

    Args:
        model: the graph.
        shape: of the input, with the batch of the file (1 if it is free).
        name: of the file, for messages.

    Raises:
        DataError: it still computes something else for two images, or fails.
    """
    batch = _batch_of(model, shape)
    fixed = (batch, *shape[1:])
    result = copy_graph(model)
    if batch != FREE:
        shapes, constants = _static_shapes(result, fixed), _constants(result, fixed)
        _free_shapes(result, shapes, constants)
        _free_joined_constants(result, constants, graph_inputs(model)[0].name, batch)
    _name_batch(result)
    _check_free(model, result, fixed if batch != FREE else tuple(shape), name, was_free=batch == FREE)
    return result, None if batch == FREE else batch


def _batch_of(model: onnx.ModelProto, shape: Sequence[int]) -> int:
    """Return the number of images that a graph is made for; ``FREE`` if it computes one and two alike.

    A free axis is no proof: in many exports, a number was traced behind it.
    """
    (image,) = graph_inputs(model)
    first = dims_of(image)[0]
    if isinstance(first, int):
        return first
    dtype = helper.tensor_dtype_to_np_dtype(image.type.tensor_type.elem_type)
    session = Session(model)
    works = [count for count in TRIED_BATCHES if _runs(session, image.name, noise((count, *shape[1:]), dtype))]
    if not works:
        session.run({image.name: noise(tuple(shape), dtype)})  # raises, with the reason
    return FREE if works == list(TRIED_BATCHES) else works[0]


def _runs(session: Session, name: str, images: Array) -> bool:
    try:
        session.run({name: images})
    except RuntimeFailure:
        return False
    return True


def _static_shapes(model: onnx.ModelProto, shape: Sequence[int]) -> Shapes:
    name = graph_inputs(model)[0].name
    fixed = without_weights(model)
    image = next(value for value in fixed.graph.input if value.name == name)
    for dim, length in zip(image.type.tensor_type.shape.dim, shape, strict=True):
        dim.dim_value = length
    graph = shape_inference.infer_shapes(fixed, data_prop=True).graph
    found = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = dims_of(value)
        if value.type.tensor_type.HasField("shape") and all(isinstance(dim, int) for dim in dims):
            found[value.name] = tuple(int(dim) for dim in dims)
    return found


def _constants(model: onnx.ModelProto, shape: Sequence[int]) -> dict[str, Array]:
    """Return the inputs of Reshape, Expand and Concat that do not depend on the images."""
    (image,) = graph_inputs(model)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    derived: set[str] = set()
    for node in model.graph.node:
        if all(name in constants or name in derived for name in node.input) and not node.op_type.startswith("Random"):
            derived |= set(node.output)
    wanted = sorted({name for node in model.graph.node if node.op_type in SHAPED for name in node.input} & derived)
    if wanted:
        asked = copy_graph(model)
        del asked.graph.output[:]
        asked.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
        dtype = helper.tensor_dtype_to_np_dtype(image.type.tensor_type.elem_type)
        constants |= Session(asked).run({image.name: noise(tuple(shape), dtype)})
    return constants


def _free_shapes(model: onnx.ModelProto, shapes: Shapes, constants: Mapping[str, Array]) -> None:
    """Make Reshape and Expand of activations take their first axis from the batch."""
    for node in model.graph.node:
        if node.op_type not in ("Reshape", "Expand") or node.input[0] in constants or node.input[1] not in constants:
            continue
        known = shapes.get(node.output[0])
        if not known:
            continue
        wanted = np.array([-1, *known[1:]] if node.op_type == "Reshape" else [1, *known[1:]], np.int64)
        key = f"{node.name}.shape"
        model.graph.initializer.append(numpy_helper.from_array(wanted, key))
        node.input[1] = key


def _free_joined_constants(model: onnx.ModelProto, constants: Mapping[str, Array], image: str, batch: int) -> None:
    """Repeat constants for every image if they are joined to activations along an axis other than the batch's."""
    nodes = list(model.graph.node)
    added: list[onnx.NodeProto] = []
    for node in nodes:
        if node.op_type != "Concat" or node.attribute[0].i == 0 or all(name in constants for name in node.input):
            continue
        for slot, name in enumerate(node.input):
            values = constants.get(name)
            if values is None or values.ndim < 2 or values.shape[0] != batch or (values != values[:1]).any():
                continue
            if not added:
                added += _batch_nodes(model, image)
            one, rest, target, free = (f"{node.name}.{slot}.{part}" for part in ("one", "rest", "target", "free"))
            model.graph.initializer.append(numpy_helper.from_array(values[:1].copy(), one))
            model.graph.initializer.append(numpy_helper.from_array(np.array(values.shape[1:], np.int64), rest))
            added.append(helper.make_node("Concat", ["batch.size", rest], [target], name=target, axis=0))
            added.append(helper.make_node("Expand", [one, target], [free], name=free))
            node.input[slot] = free
    if added:
        del model.graph.node[:]
        model.graph.node.extend([*added, *nodes])


def _batch_nodes(model: onnx.ModelProto, image: str) -> list[onnx.NodeProto]:
    """Return nodes that compute the number of images, ``batch.size``, as a tensor with one element."""
    for key, value in (("batch.begin", 0), ("batch.end", 1)):
        model.graph.initializer.append(helper.make_tensor(key, TensorProto.INT64, [1], [value]))
    return [
        helper.make_node("Shape", [image], ["batch.shape"], name="batch.shape"),
        helper.make_node("Slice", ["batch.shape", "batch.begin", "batch.end"], ["batch.size"], name="batch.size"),
    ]


def _name_batch(model: onnx.ModelProto) -> None:
    for value in (*graph_inputs(model), *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        if len(dims):
            dims[0].dim_param = BATCH  # replaces a length


def _check_free(
    before: onnx.ModelProto, after: onnx.ModelProto, shape: Sequence[int], name: str, *, was_free: bool
) -> None:
    (image,) = graph_inputs(after)
    dtype = helper.tensor_dtype_to_np_dtype(image.type.tensor_type.elem_type)
    try:
        own, free = Session(before), Session(after)
        for low, high in SCALES if dtype != np.uint8 else SCALES[-1:]:
            third = (high - low) / 3
            several = [noise(tuple(shape), dtype, *ends) for ends in ((low, low + third), (high - third, high))]
            alone = [own.run({image.name: one}) for one in several]
            together = free.run({image.name: np.concatenate(several)})
            for key, values in together.items():
                expected = np.concatenate([one[key] for one in alone]) if alone[0][key].ndim else np.zeros(0)
                if values.shape != expected.shape or not _is_same(values, expected):
                    raise _refusal(
                        name, shape[0], f"output {key} of two images is not that of each alone", is_joined=was_free
                    )
    except RuntimeFailure as error:
        raise _refusal(name, shape[0], str(error)) from error


def _is_same(values: Array, expected: Array) -> bool:
    """Return whether answers (images, …) are the same apart from rounding.

    A value that is not a number (a root of pixels below 0) must stay one.
    """
    is_number = np.isfinite(expected)
    most = np.where(is_number, expected, -np.inf).max(axis=0, initial=-np.inf)
    spread = float((most - np.where(is_number, expected, np.inf).min(axis=0, initial=np.inf)).max(initial=0))
    largest = float(np.abs(expected[is_number]).max(initial=0))
    return np.allclose(values, expected, rtol=0, atol=TOLERANCE * spread + ROUNDING * largest, equal_nan=True)


def _refusal(name: str, batch: int, reason: str, *, is_joined: bool = False) -> DataError:
    return DataError(
        f"{name} computes batches of {batch} image{'s' * (batch > 1)} only: {reason}",
        fix="export it in eval mode, where no image's answer depends on another image"
        if is_joined
        else "export it with a free batch axis (dynamic_axes or dynamic_shapes of torch.onnx.export)",
    )
