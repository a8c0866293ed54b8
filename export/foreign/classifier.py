"""Reader of foreign ONNX classifiers: one image input, answers of the labels' sizes, or a one-line error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import onnx
from onnx import helper

from vidrisk.calibration.files import copy_graph
from vidrisk.export.foreign.answers import Answer, Gives, find_answers
from vidrisk.export.foreign.batch import with_free_batch
from vidrisk.export.foreign.read import MIN_OPSET, dims_of, graph_inputs, prune, read_model
from vidrisk.export.foreign.session import Computes, Session
from vidrisk.runtimes.contract.errors import DataError, SettingsError
from vidrisk.runtimes.contract.specs import MAX_SIDE_PX

Layout = Literal["nchw", "nhwc"]
DTYPES = {"float32": np.float32, "uint8": np.uint8}
MAX_CHANNELS = 3


@dataclass(frozen=True)
class ImageInput:
    """The single input of a classifier.

    Attributes:
        layout: ``nchw`` or ``nhwc``.
        dtype: ``float32`` or ``uint8``.
        channels: 3, or 1 for grey images.
        height, width: in pixels.
    """

    name: str
    layout: Layout
    dtype: str
    channels: int
    height: int
    width: int

    def shape(self, batch: int) -> tuple[int, int, int, int]:
        """Return the shape of ``batch`` images."""
        if self.layout == "nchw":
            return (batch, self.channels, self.height, self.width)
        return (batch, self.height, self.width, self.channels)

    def __repr__(self) -> str:
        return f"ImageInput({self.name}: {self.dtype}[{self.layout} {self.channels}x{self.height}x{self.width}])"


class Asked(Protocol):
    """A classifier that can be run: its input, the location of its answers, and a session."""

    @property
    def name(self) -> str: ...

    @property
    def image(self) -> ImageInput: ...

    @property
    def answers(self) -> Mapping[str, Answer]: ...

    @property
    def pixel_file(self) -> str:
        """The file that describes what the classifier does to pixels, for messages."""

    def session(self) -> Computes: ...


@dataclass(frozen=True, repr=False)
class ForeignClassifier:
    """A classifier as a graph in float32 with a free batch.

    Attributes:
        model: the graph; names of nodes and weights are the file's.
        image: its input.
        answers: per target name, the location of its logits.
        name: of the file.
        was_fixed: the number of images that the file was made for; None if it takes any. A free batch axis is no proof:
            a number may be traced behind it.
    """

    model: onnx.ModelProto
    image: ImageInput
    answers: Mapping[str, Answer]
    name: str
    was_fixed: int | None = None

    @property
    def pixel_file(self) -> str:
        """The file that describes the pixels that it takes, for messages."""
        return "the pixel file"

    def session(self) -> Session:
        """Return the graph in ONNX Runtime."""
        return Session(self.model)

    def __repr__(self) -> str:
        return f"ForeignClassifier({self.name}: {self.image!r} -> {', '.join(map(str, self.answers.values()))})"


def read_classifier(
    path: Path,
    labels: Mapping[str, Sequence[str]],
    *,
    size: tuple[int, int] | None = None,
    outputs: Mapping[str, str] | None = None,
    gives: Mapping[str, Gives] | None = None,
    least_opset: int = MIN_OPSET,
) -> ForeignClassifier:
    """Read an ONNX classifier of images.

    Args:
        path: the file.
        labels: per target name, in the order of the model's outputs.
        size: height and width in pixels, for a model that takes any.
        outputs: per target name, the model's output, if the sizes are ambiguous.
        gives: per target name, whether that is logits or probabilities, if the graph does not show it.
        least_opset: older graphs are converted.

    Raises:
        DataError: not a classifier of images, or one whose outputs do not match the labels.
        RuntimeFailure: ONNX Runtime cannot compute it.
        SettingsError: a size that the model does not accept.
    """
    model = read_model(path, least_opset)
    image = find_image_input(model, path.name, size)
    (value,) = graph_inputs(model)
    first = dims_of(value)[0]
    batch = first if isinstance(first, int) else 1
    sized = with_size(model, image)
    free, was_fixed = with_free_batch(sized, image.shape(batch), path.name)
    answers = find_answers(free, image.name, image.shape(2), image.dtype, labels, outputs or {}, gives or {}, path.name)
    _keep_answers(free, answers)
    return ForeignClassifier(free, image, answers, path.name, was_fixed)


def find_image_input(model: onnx.ModelProto, name: str, size: tuple[int, int] | None) -> ImageInput:
    """Return the single image input of a graph.

    Raises:
        DataError: there are several inputs, or the input is not an image.
        SettingsError: a free size is missing, or the given one does not fit the graph or is out of range.
    """
    values = graph_inputs(model)
    if len(values) != 1:
        raise DataError(
            f"{name} has {len(values)} inputs: {', '.join(value.name for value in values)}",
            allowed="one, an image",
            fix="export the image classifier alone",
        )
    (value,) = values
    dims = dims_of(value)
    described = f"input {value.name!r} of {name}"
    dtype = str(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
    if dtype not in DTYPES:
        raise DataError(
            f"{described} is {dtype}", allowed="float32, float16, uint8", fix="export it with an image input"
        )
    if len(dims) != 4:
        raise DataError(
            f"{described} has {len(dims)} axes: {_format_dims(dims)}",
            allowed="four: (batch, 3, height, width) or (batch, height, width, 3)",
            fix="export a classifier of single images",
        )
    layout, channels = _layout(dims, described)
    height, width = _size(dims[2:] if layout == "nchw" else dims[1:3], described, size)
    return ImageInput(value.name, layout, dtype, channels, height, width)


def _layout(dims: Sequence[int | str], described: str) -> tuple[Layout, int]:
    first, last = dims[1], dims[3]
    if first in (1, MAX_CHANNELS):
        return "nchw", int(first)
    if last in (1, MAX_CHANNELS):
        return "nhwc", int(last)
    raise DataError(
        f"{described} has no axis of 3 channels: {_format_dims(dims)}",
        allowed="RGB or BGR images, or grey ones",
        fix="export it with a fixed number of channels",
    )


def _size(dims: Sequence[int | str], described: str, size: tuple[int, int] | None) -> tuple[int, int]:
    fixed = [dim for dim in dims if isinstance(dim, int)]
    if len(fixed) < 2 and size is None:
        raise SettingsError(
            f"{described} takes images of any size: {_format_dims(dims)}",
            allowed=f"1 to {MAX_SIDE_PX} pixels",
            fix="state the size that it was trained with: height and width in a pixel file",
        )
    height, width = size or (int(fixed[0]), int(fixed[1]))
    if not (0 < height <= MAX_SIDE_PX and 0 < width <= MAX_SIDE_PX):
        raise SettingsError(
            f"{described} of {height}x{width} pixels",
            allowed=f"1 to {MAX_SIDE_PX} pixels",
            fix="correct height and width in the pixel file" if size else "export it for smaller images",
        )
    if any(isinstance(dim, int) and dim != given for dim, given in zip(dims, (height, width), strict=True)):
        raise SettingsError(
            f"a size of {height}x{width}",
            allowed=f"{_format_dims(dims)}: what {described} takes",
            fix="leave height and width out",
        )
    return height, width


def _format_dims(dims: Sequence[int | str]) -> str:
    return f"[{', '.join(str(dim) or '?' for dim in dims)}]"


def with_size(model: onnx.ModelProto, image: ImageInput) -> onnx.ModelProto:
    """Return the model for images of one size."""
    (value,) = graph_inputs(model)
    dims = value.type.tensor_type.shape.dim
    if all(dim.dim_value == length for dim, length in zip(dims[1:], image.shape(1)[1:], strict=False)):
        return model
    result = copy_graph(model)
    (value,) = graph_inputs(result)
    for dim, length in zip(list(value.type.tensor_type.shape.dim)[1:], image.shape(1)[1:], strict=True):
        dim.dim_value = length
    return result


def _keep_answers(model: onnx.ModelProto, answers: Mapping[str, Answer]) -> None:
    """Make a graph output only the answers, in place."""
    wanted = list(dict.fromkeys(answer.output for answer in answers.values()))
    del model.graph.output[:]
    model.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in wanted)
    prune(model)


def logits_of(classifier: Asked, session: Computes, images: Any) -> dict[str, Any]:
    """Return a classifier's answers to images, as logits per target.

    Args:
        classifier: the classifier.
        session: that runs it.
        images: in the model's own layout and scale.
    """
    outputs = session.run({classifier.image.name: images})
    return {
        target: answer.logits(outputs[answer.output].reshape(len(images), prod(outputs[answer.output].shape[1:])))
        for target, answer in classifier.answers.items()
    }
