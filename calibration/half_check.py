"""A search for nodes that FP16 cannot compute, by running the graph on calibration frames, a few in memory at a time.

    1. Nodes that make or read values near the end of FP16's range stay in float32.
    2. Each block is run alone on exact inputs, rounded as in FP16; it stays in float32 if its outputs deviate too far.
    3. All blocks are run together; while the features of any frame deviate too far, the worst remaining block is kept
       in float32, too.

Rounding is done in the graph (``round_to_half``), so a CPU shows what FP16 storage loses and where it overflows.
It cannot show the effect of the GPU's kernels: the order of their sums, or accumulators narrower than float32. TensorRT
accumulates FP16 products in float32.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, shape_inference

from vidrisk.calibration.blocks import every_block
from vidrisk.calibration.files import without_weights
from vidrisk.calibration.graph import Net
from vidrisk.calibration.half import round_to_half
from vidrisk.calibration.observers import fetch, open_watching_session
from vidrisk.calibration.single import floats, single_nodes, types_of
from vidrisk.runtimes.contract.progress import OnProgress, ignore_progress
from vidrisk.runtimes.runner import Array

log = logging.getLogger(__name__)

LARGEST_HALF = float(np.finfo(np.float16).max)
HEADROOM = 4.0  # other frames may have values this many times larger
MIN_COSINE = 0.999  # of the features of any frame
ROWS = 64  # compared at a time, in float64
Feeds = Sequence[Mapping[str, Array]]


@dataclass(frozen=True)
class Kept:
    """Nodes of one block that stay in float32, and why."""

    block: str
    nodes: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class HalfCheck:
    """Result of the check.

    Attributes:
        kept: nodes in float32 besides those that always are.
        cosine: of the features in FP16 with those in float32, for the worst frame.
        blocks: the same for each block's outputs on exact inputs, in graph order; with the nodes of large values in
            float32.
    """

    kept: tuple[Kept, ...]
    cosine: float
    blocks: dict[str, float]

    @property
    def keep_float32(self) -> frozenset[str]:
        """Names of the nodes that stay in float32."""
        return frozenset(name for kept in self.kept for name in kept.nodes)


def check_half(model: onnx.ModelProto, feeds: Feeds, on_progress: OnProgress = ignore_progress) -> HalfCheck:
    """Select nodes to keep in float32 until features have a cosine of ``MIN_COSINE``, or no block is left to keep.

    Args:
        model: the float graph.
        feeds: a few frames each.
        on_progress: called after each feed.
    """
    blocks = _blocks(model)
    check = HalfCheck(keep_large_values(model, feeds, on_progress), -1.0, {})
    check = replace(check, blocks=_cosines_of_blocks(model, blocks, check.keep_float32, feeds, on_progress))
    waiting = sorted(blocks, key=lambda block: check.blocks[block.name])
    while True:
        while waiting and check.blocks[waiting[0].name] < MIN_COSINE:
            check = _keep_block(check, waiting.pop(0))
        check = replace(check, cosine=_cosine_of_features(model, check.keep_float32, feeds, on_progress))
        if check.cosine >= MIN_COSINE or not waiting:
            return check
        check = _keep_block(check, waiting.pop(0))


def _keep_block(check: HalfCheck, block: _Block) -> HalfCheck:
    log.info("%s has a cosine of only %.5f in FP16; it stays in float32", block.name, check.blocks[block.name])
    return replace(check, kept=(*check.kept, Kept(block.name, block.nodes, f"cosine {check.blocks[block.name]:.5f}")))


def keep_large_values(
    model: onnx.ModelProto, feeds: Feeds, on_progress: OnProgress = ignore_progress
) -> tuple[Kept, ...]:
    """Select nodes that make or read values beyond a quarter of FP16's range."""
    net, types = Net(model), types_of(model)
    always = single_nodes(net, types)
    largest = largest_magnitudes(model, feeds, on_progress)
    found: dict[str, list[tuple[str, float]]] = {}
    for block, names in every_block(net).items():
        for node in net.nodes:
            value = max((largest[name] for name in (*node.input, *node.output) if name in largest), default=0.0)
            if (
                node.name in names
                and floats(node.output, types)
                and value > LARGEST_HALF / HEADROOM
                and node.name not in always
            ):
                found.setdefault(block, []).append((node.name, value))
    return tuple(
        Kept(
            block,
            tuple(name for name, _ in nodes),
            f"values up to {max(value for _, value in nodes):.3g}; the limit of FP16 is {LARGEST_HALF:g}",
        )
        for block, nodes in found.items()
    )


def largest_magnitudes(
    model: onnx.ModelProto, feeds: Feeds, on_progress: OnProgress = ignore_progress
) -> dict[str, float]:
    """Return the largest magnitude of every float tensor that a node makes.

    The graph computes them itself, so no tensor is stored.
    """
    net, types = Net(model), types_of(model)
    made = [name for node in net.nodes for name in floats(node.output, types)]
    for name in made:
        net.model.graph.node.append(helper.make_node("Abs", [name], [f"{name}_magnitude"]))
        net.model.graph.node.append(
            helper.make_node("ReduceMax", [f"{name}_magnitude"], [f"{name}_largest"], keepdims=0)
        )
    outputs = [f"{name}_largest" for name in made]
    session = open_watching_session(net.model, outputs)
    largest = np.zeros(len(made))
    for done, feed in enumerate(feeds):
        on_progress("searching for large values", done, len(feeds))
        found = fetch(session, outputs, feed)
        largest = np.maximum(largest, [float(found[name].item()) for name in outputs])
    return dict(zip(made, largest.tolist(), strict=True))


@dataclass(frozen=True)
class _Block:
    """Nodes of a block, and the float tensors at its border.

    ``read`` are made by other nodes; ``made`` are read by other nodes or are outputs of the graph.
    """

    name: str
    nodes: tuple[str, ...]
    read: tuple[str, ...]
    made: tuple[str, ...]


def _blocks(model: onnx.ModelProto) -> list[_Block]:
    net, types = Net(model), types_of(model)
    found = []
    for block, names in every_block(net).items():
        inside = [node for node in net.nodes if node.name in names]
        made = [name for node in inside for name in floats(node.output, types)]
        read = [name for node in inside for name in floats(node.input, types) if name in net.maker and name not in made]
        leaving = [
            name
            for name in made
            if name in net.outputs or any(reader.name not in names for reader in net.readers[name])
        ]
        if leaving:
            found.append(_Block(block, names, tuple(dict.fromkeys(read)), tuple(leaving)))
    return found


def _cosines_of_blocks(
    model: onnx.ModelProto,
    blocks: Sequence[_Block],
    keep_float32: Collection[str],
    feeds: Feeds,
    on_progress: OnProgress,
) -> dict[str, float]:
    """Return the worst frame's cosine of each block's outputs on exact inputs."""
    wanted = [name for block in blocks for name in block.made]
    net = Net(model)
    # A cut graph no longer shows what is a pixel and what is part of a norm.
    single = {*single_nodes(net, types_of(model)), *keep_float32}
    cut = _cut(net, blocks)
    sessions = [open_watching_session(graph, wanted) for graph in (model, round_to_half(cut, single))]
    cuts = [name for name in wanted if _input_name(name) in {value.name for value in cut.graph.input}]
    worst = dict.fromkeys(wanted, 1.0)
    for done, feed in enumerate(feeds):
        on_progress("checking every block in FP16", done, len(feeds))
        exact = fetch(sessions[0], wanted, feed)
        rounded = fetch(sessions[1], wanted, {**feed, **{_input_name(name): exact[name] for name in cuts}})
        worst = {name: min(worst[name], worst_cosine(exact[name], rounded[name])) for name in wanted}
    return {block.name: min(worst[name] for name in block.made) for block in blocks}


def _cut(net: Net, blocks: Sequence[_Block]) -> onnx.ModelProto:
    """Return the graph with the tensors that a block reads from another as inputs, if their rank is known."""
    inferred = shape_inference.infer_shapes(without_weights(net.model)).graph.value_info
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in inferred
        if value.type.tensor_type.HasField("shape")
    }
    for block in blocks:
        for node in net.nodes:
            for slot, name in enumerate(node.input):
                if node.name in block.nodes and name in block.read and name in ranks:
                    node.input[slot] = _input_name(name)
    for name in dict.fromkeys(name for block in blocks for name in block.read if name in ranks):
        net.model.graph.input.append(
            helper.make_tensor_value_info(_input_name(name), onnx.TensorProto.FLOAT, [None] * ranks[name])
        )
    return net.model


def _input_name(name: str) -> str:
    return f"{name}_input_name"


def _cosine_of_features(
    model: onnx.ModelProto, keep_float32: Collection[str], feeds: Feeds, on_progress: OnProgress
) -> float:
    """Return the worst frame's cosine of the graph's outputs."""
    wanted = [value.name for value in model.graph.output]

    def features(graph: onnx.ModelProto, begun: int) -> Iterator[dict[str, Array]]:
        session = open_watching_session(graph, wanted)
        for done, feed in enumerate(feeds, begun):
            on_progress("comparing FP16 with float32", done, 2 * len(feeds))
            yield fetch(session, wanted, feed)

    exact = list(features(model, 0))  # one graph after the other: two in memory are only needed for the blocks
    rounded = features(round_to_half(model, keep_float32), len(feeds))
    return min(worst_cosine(a[name], b[name]) for a, b in zip(exact, rounded, strict=True) for name in wanted)


def worst_cosine(before: npt.NDArray[np.generic], after: npt.NDArray[np.generic]) -> float:
    """Return the lowest cosine between rows of two arrays ``(N, …)``.

    It is 0 for a row that is zero in only one array, and -1 for values that are not finite.
    """
    rows = len(before) if before.ndim else 1
    pairs = [values.reshape(rows, -1) for values in (before, after)]
    return min(
        (
            _worst_cosine(*(values[begin : begin + ROWS].astype(np.float64) for values in pairs))
            for begin in range(0, rows, ROWS)
        ),
        default=1.0,
    )


def _worst_cosine(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return -1.0
    a_norm, b_norm = (np.linalg.norm(values, axis=1) for values in (a, b))
    product = a_norm * b_norm
    cosines = np.where(product > 0, (a * b).sum(axis=1) / np.where(product > 0, product, 1), a_norm == b_norm)
    return float(cosines.min())
