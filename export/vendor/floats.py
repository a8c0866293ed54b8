"""Replacement of a graph's byte input by float pixels, after its normalisation if that can be identified."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from vidrisk.calibration.files import copy_graph
from vidrisk.export.foreign.read import graph_inputs, prune
from vidrisk.export.foreign.session import Array, Session
from vidrisk.runtimes.contract.specs import PixelSpec
from vidrisk.runtimes.contract.stages import PIXELS

INPUT = "image"
SAME = 1e-4
PLAIN = ("Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Identity", "Mul", "Add", "Sub", "Div")
Frames = npt.NDArray[np.uint8]


def take_float_pixels(model: onnx.ModelProto, shape: tuple[int, ...], spec: PixelSpec) -> bool:
    """Replace the byte input by ``image``, in place; return whether its values are normalised.

    Otherwise they are RGB from 0 to 255.

    Args:
        model: the graph.
        shape: of ``image``: (1, 3, H, W) for one frame, (1, n, 3, H, W) for n.
        spec: the normalisation.
    """
    is_normalised = _take_normalised(model, shape, spec)
    if not is_normalised:
        _take_values(model, shape)
    return is_normalised


def _take_normalised(model: onnx.ModelProto, shape: tuple[int, ...], spec: PixelSpec) -> bool:
    """Make a graph begin after its normalisation, in place; return whether that could be identified."""
    dims = _pixel_dims(model)
    frames = np.random.default_rng(0).integers(0, 256, dims, dtype=np.uint8)
    planes = np.moveaxis((frames / 255.0 - spec.mean) / spec.std, -1, -3)
    chain = _chain(model)
    values = _values(model, chain, frames) if chain else {}
    cut = next(
        (
            name
            for name in reversed(chain)
            if values[name].size == planes.size
            and (
                values[name].shape[-3:] == planes.shape[-3:]
                and np.allclose(values[name].reshape(planes.shape), planes, atol=SAME)
            )
        ),
        None,
    )
    if cut is None:
        return False
    maker = next(node for node in model.graph.node if cut in node.output)
    maker.CopyFrom(_reshape(model, INPUT, cut, values[cut].shape))
    _replace_pixels(model, shape)
    return True


def _take_values(model: onnx.ModelProto, shape: tuple[int, ...]) -> None:
    """Make a graph take its bytes as floats, channels first, in place."""
    dims = _pixel_dims(model)
    axes = list(range(len(shape)))
    moved, order = f"{INPUT}.moved", [*axes[:-3], *axes[-2:], axes[-3]]
    nodes = [
        helper.make_node("Transpose", [INPUT], [moved], name=moved, perm=order),
        _reshape(model, moved, PIXELS, dims),
        *model.graph.node,
    ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    _replace_pixels(model, shape)


def _replace_pixels(model: onnx.ModelProto, shape: tuple[int, ...]) -> None:
    """Replace the pixels among a graph's inputs by ``image``, in place."""
    others = [value for value in graph_inputs(model) if value.name != PIXELS]
    del model.graph.input[:], model.graph.value_info[:]
    model.graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, shape))
    model.graph.input.extend(others)
    prune(model)


def _reshape(model: onnx.ModelProto, source: str, output: str, shape: Sequence[int]) -> onnx.NodeProto:
    target = numpy_helper.from_array(np.array(shape, np.int64), f"{INPUT}.shape")
    model.graph.initializer.append(target)
    return helper.make_node("Reshape", [source, target.name], [output], name=f"{INPUT}.reshape")


def _pixel_dims(model: onnx.ModelProto) -> tuple[int, ...]:
    pixels = next(value for value in model.graph.input if value.name == PIXELS)
    return tuple(dim.dim_value for dim in pixels.type.tensor_type.shape.dim)


def _chain(model: onnx.ModelProto) -> list[str]:
    """Return the chain of tensors from the frames on.

    It continues while each tensor has a single reader, whose other inputs are constants.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    name, chain = PIXELS, list[str]()
    while True:
        readers = [node for node in model.graph.node if name in node.input]
        if (
            len(readers) != 1
            or any(other != name and other not in constants for other in readers[0].input)
            or (readers[0].op_type not in PLAIN)
        ):
            return chain
        name = readers[0].output[0]
        chain.append(name)


def _values(model: onnx.ModelProto, names: Sequence[str], frames: Frames) -> dict[str, Array]:
    asked = copy_graph(model)
    pixels = [value for value in model.graph.input if value.name == PIXELS]
    del asked.graph.output[:], asked.graph.input[:]
    asked.graph.input.extend(pixels)
    asked.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    prune(asked)
    return Session(asked).run({PIXELS: frames})
