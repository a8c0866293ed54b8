"""Conversion of a model's stages to plain graphs: float32, batch 1, channels first, no bytes.

Normalisation is left to the toolchain if it can be cut off. A graph of a clip that only averages the answers to its
frames becomes the graph of one frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from vidrisk.calibration.files import check_graph, copy_graph
from vidrisk.export.foreign.read import prune
from vidrisk.export.foreign.session import Array, Session, simplify
from vidrisk.export.vendor.floats import INPUT, SAME, Frames, take_float_pixels
from vidrisk.export.vendor.join import Part, join_stages, split_stages
from vidrisk.export.vendor.opset import lower_opset
from vidrisk.runtimes.chain import run_stages
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.runtimes.contract.errors import RuntimeFailure, SettingsError
from vidrisk.runtimes.contract.specs import PixelSpec
from vidrisk.runtimes.contract.stages import PIXELS, Stage
from vidrisk.runtimes.ort import OnnxRuntimeRunner

RESERVED = (INPUT, "pixels")  # file names
REORDERING = ("Identity", "Gather", "GatherND", "Transpose")  # operators that reorder labels after a mean
CHECKED_WINDOWS = 2


@dataclass(frozen=True)
class PlainGraph:
    """A graph in the form that other toolchains read.

    Attributes:
        name: of the stages in it, joined by ``-``.
        model: takes float32 ``image`` (1, 3, H, W) for one frame or (1, n, 3, H, W) for n, and outputs of earlier
            graphs.
        frames: number of frames that one run covers, n.
        inputs: shapes by name, all with a batch of 1.
        outputs: shapes by name, all with a batch of 1.
        is_normalised: ``image`` is normalised; otherwise it has RGB values from 0 to 255.
        is_averaged: it answers per frame, and the answer to a window is the mean over its frames.
    """

    name: str
    model: onnx.ModelProto
    frames: int
    inputs: Mapping[str, tuple[int, ...]]
    outputs: Mapping[str, tuple[int, ...]]
    is_normalised: bool = False
    is_averaged: bool = False

    @property
    def takes_picture(self) -> bool:
        """Whether its only input is one frame."""
        return self.frames == 1 and set(self.inputs) == {INPUT}

    def feed(self, pixels: Frames, known: Mapping[str, Array], spec: PixelSpec) -> dict[str, Array]:
        """Return the inputs of all its runs, by name, a row each.

        Args:
            pixels: ``uint8 (n, H, W, 3)``, n frames of a whole number of runs.
            known: outputs of earlier graphs for these frames, a row for each of their runs.
            spec: the normalisation.
        """
        count = len(pixels) // self.frames
        return {
            name: self._image(pixels, spec) if name == INPUT else known[name].reshape(count, *shape[1:])
            for name, shape in self.inputs.items()
        }

    def _image(self, pixels: Frames, spec: PixelSpec) -> Array:
        planes = np.empty((len(pixels), 3, spec.height, spec.width), np.float32)
        for frame, plane in zip(pixels, planes, strict=True):
            plane[:] = np.moveaxis((frame / 255.0 - spec.mean) / spec.std if self.is_normalised else frame, -1, 0)
        return planes.reshape(-1, *self.inputs[INPUT][1:])

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Compute the outputs, a row per run.

        Raises:
            RuntimeFailure: ONNX Runtime rejects the graph, or fails.
        """
        session, count = Session(self.model), len(next(iter(feed.values())))
        rows = [session.run({name: array[row : row + 1] for name, array in feed.items()}) for row in range(count)]
        return {name: np.concatenate([row[name] for row in rows]) for name in session.outputs}


def plain_graphs(stages: Sequence[Stage], files: Mapping[str, Path], contract: Contract) -> list[PlainGraph]:
    """Make a plain graph of each group of stages that run equally often.

    This is one graph for photos, and several in sequence for most models of clips.

    Args:
        stages: of the model, in order.
        files: float graphs, by stage.
        contract: pixels and answers of the model.

    Raises:
        SettingsError: the model has constants.
        DataError: the graphs cannot be converted to a common opset.
        RuntimeFailure: a plain graph computes something else than its stages.
    """
    if any(stage.constants for stage in stages):
        raise SettingsError(
            "a model with constants beside its graphs, for a vendor's toolchain",
            allowed="graphs with pixels as their only input",
        )
    for spec in (spec for stage in stages for spec in stage.outputs):
        if spec.name in RESERVED or "/" in spec.name:
            raise SettingsError(
                f"an output {spec.name!r} of a stage, for a vendor's toolchain",
                allowed=f"valid file names, except {' and '.join(RESERVED)}",
                fix="rename it",
            )
    shape = (CHECKED_WINDOWS * contract.frames, *contract.pixel.frame_shape)
    pixels = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    with ExitStack() as stack:
        runners = [
            stack.enter_context(OnnxRuntimeRunner(files[stage.name], stage.inputs, stage.outputs)) for stage in stages
        ]
        known = run_stages(stages, runners, pixels)
    result = []
    for part in split_stages(stages, contract.frames):
        joined = join_stages(
            part, {stage.name: lower_opset(onnx.load(str(files[stage.name]))) for stage in part.stages}
        )
        of_frame = _graph_of_frame(part, joined, contract)
        if of_frame is not None and _computes(of_frame, pixels, known, contract):
            result.append(of_frame)
            continue
        result.append(_plain_graph(part, joined, contract))
        if not _computes(result[-1], pixels, known, contract):
            raise RuntimeFailure(
                f"the plain graph of {part.name} computes something else than its stages",
                fix="report it with the model",
            )
    return result


def _computes(graph: PlainGraph, pixels: Frames, known: Mapping[str, Array], contract: Contract) -> bool:
    """Return whether a plain graph reproduces the outputs of the stages."""
    found = graph.run(graph.feed(pixels, known, contract.pixel))
    if graph.is_averaged:
        found = {name: rows.reshape(CHECKED_WINDOWS, contract.frames, -1).mean(axis=1) for name, rows in found.items()}
    return all(
        rows.shape == known[name].shape and np.allclose(rows, known[name], rtol=SAME, atol=10 * SAME)
        for name, rows in found.items()
    )


def _graph_of_frame(part: Part, joined: onnx.ModelProto, contract: Contract) -> PlainGraph | None:
    """Return the graph of one frame if a window's graph ends with means, or None.

    The means may be over its frames, after the same computation for each. Only the graph's answers show whether they
    are.
    """
    if not 1 < part.frames == contract.frames or [spec.name for spec in part.takes] != [PIXELS]:
        return None
    model = copy_graph(joined)
    makers = {name: node for node in model.graph.node for name in node.output}
    for value in model.graph.output:
        mean = makers[value.name]
        while mean.op_type in REORDERING and mean.input[0] in makers:
            mean = makers[mean.input[0]]
        reshape = makers.get(mean.input[0])
        if mean.op_type != "ReduceMean" or reshape is None or reshape.op_type != "Reshape":
            return None
        mean.CopyFrom(helper.make_node("Identity", [reshape.input[0]], list(mean.output), name=mean.name))
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
    prune(model)
    frame = Part(part.stages, 1, part.takes, part.gives)
    try:
        check_graph(model)
        return _plain_graph(frame, model, contract, is_averaged=True)
    except (RuntimeFailure, onnx.checker.ValidationError):
        return None  # its number of frames is hard-coded


def _plain_graph(part: Part, joined: onnx.ModelProto, contract: Contract, *, is_averaged: bool = False) -> PlainGraph:
    model = simplify(joined)
    takes = {spec.name: tuple(map(int, spec.shape[1:])) for spec in part.takes}
    inputs = {name: (1, *shape) for name, shape in takes.items() if name != PIXELS}
    outputs = {spec.name: (1, *map(int, spec.shape[1:])) for spec in part.gives}
    is_normalised = False
    if PIXELS in takes:
        height, width, channels = contract.pixel.frame_shape
        shape = (1, *(() if part.frames == 1 else (part.frames,)), channels, height, width)
        is_normalised = take_float_pixels(model, shape, contract.pixel)
        inputs = {INPUT: shape, **inputs}
    model = simplify(model)
    return PlainGraph(part.name, model, part.frames, inputs, outputs, is_normalised, is_averaged)
