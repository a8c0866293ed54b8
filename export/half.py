"""What is for a GPU: FP16 wherever it is enough, graphs that TensorRT reads, and engines that compute what the graphs do.

A processor shows FP16 in two ways, and the gate wants both: the graph that ships, which runtimes there compute in float32 with
FP16 weights, and one that rounds as FP16 does between all nodes.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from vidrisk.calibration.files import save_graph
from vidrisk.calibration.graph import Net
from vidrisk.calibration.half import half_from_float, rounded_from_float
from vidrisk.calibration.half_check import MIN_COSINE, Feeds, HalfCheck, Kept, OnProgress, checked_half, kept_by_size
from vidrisk.calibration.single import CONSTANTS, NORMS, OPERATORS, PIXELS, single_nodes, types_of
from vidrisk.export.engines import ensured_engine
from vidrisk.export.judge import Files
from vidrisk.export.keeper import FAULT, QUANTISED, Gatekeeper
from vidrisk.export.outputs import Outputs
from vidrisk.export.parse import parsed_graphs
from vidrisk.export.quantise import feeds_from_frames
from vidrisk.runtimes.bundle import VariantName
from vidrisk.runtimes.errors import MissingExtra, RuntimeFailure
from vidrisk.runtimes.registry import ENGINE_KINDS, installed_runtimes

log = logging.getLogger(__name__)

CHECK_FRAMES = 32
ROUNDED = "onnxruntime, rounded to fp16"  # the runtime of the hop with all the rounding
REASONS = {NORMS: "sums, squares and powers", PIXELS: "arithmetic on pixels", CONSTANTS: "constants that FP16 does not hold",
           OPERATORS: "not defined for FP16"}


@dataclass(frozen=True)
class Halves:
    """An FP16 check of one float encoder, for every graph that is made from it.

    Attributes:
        feeds: the frames that it was made on.
    """

    check: HalfCheck
    feeds: Feeds

    @property
    def frames(self) -> int:
        return sum(len(next(iter(feed.values()))) for feed in self.feeds)

    def extended(self, model: onnx.ModelProto) -> Halves:
        """The same for a graph made from the one that was checked, whose values may be larger: range may have moved in it."""
        known = self.check.keep_float32
        more = [kept for kept in kept_by_size(model, self.feeds) if not known.issuperset(kept.nodes)]
        return replace(self, check=replace(self.check, kept=(*self.check.kept, *more)))


def halves_from_encoder(model: onnx.ModelProto, frames: Iterable[npt.NDArray[np.uint8]], on_progress: OnProgress) -> Halves:
    """Check a float encoder.

    Args:
        frames: ``uint8 (H, W, 3)``; the first ``CHECK_FRAMES`` of them are looked at.
    """
    feeds: Sequence[Any] = list(feeds_from_frames(islice(frames, CHECK_FRAMES), model))
    return Halves(checked_half(model, feeds, on_progress), feeds)


def checked_halves(gate: Gatekeeper, encoder: Path, frames: Iterable[npt.NDArray[np.uint8]]) -> Halves:
    """The same for the float encoder in a file, written down in the report."""
    model = onnx.load(str(encoder))
    halves = halves_from_encoder(model, frames, gate.on_progress)
    gate.report.float32 = float32_rows(model, halves.check.kept)
    gate.report.half = {"frames": halves.frames, "cosine": halves.check.cosine, "blocks": halves.check.blocks}
    return halves


def float32_rows(model: onnx.ModelProto, kept: Collection[Kept]) -> list[dict[str, Any]]:
    """What stays in float32 of a graph, for the report: operators by kind, then what the check has found by block."""
    net = Net(model)
    reasons = single_nodes(net, types_of(model))
    kinds = Counter((node.op_type, reasons[node.name]) for node in net.nodes if node.name in reasons)
    return [*({"what": kind, "nodes": count, "reason": REASONS[reason]} for (kind, reason), count in kinds.most_common()),
            *_kept_rows(kept)]


def _kept_rows(kept: Collection[Kept], variant: str = "") -> list[dict[str, Any]]:
    return [{"what": one.block, "nodes": len(one.nodes), "reason": f"{variant}{one.reason}"} for one in kept]


def variant_in_half(gate: Gatekeeper, hop: str, name: VariantName, files: Files, floats: Mapping[str, Outputs],
                    halves: Halves) -> tuple[Files, Outputs]:
    """A variant with its floating-point parts in FP16, once the gate has admitted it, and its outputs with all their rounding.

    Args:
        files: the float32 ones; the typed encoder is written beside them.
        floats: what the fp32 variant computes, by runtime.
    """
    model, beside = onnx.load(str(files["encoder"])), files["encoder"].parent
    if name != "fp16":
        known, halves = halves.check.kept, halves.extended(model)
        gate.report.float32 += _kept_rows(halves.check.kept[len(known):], f"{name}: ")
    typed, rounded = ({**files, "encoder": beside / f"encoder.{each}.onnx"} for each in (name, f"{name}-rounded"))
    save_graph(half_from_float(model, halves.check.keep_float32), typed["encoder"])
    save_graph(rounded_from_float(model, halves.check.keep_float32), rounded["encoder"])
    after = gate.outputs(hop, typed, floats) | {ROUNDED: gate.judge.onnx("onnxruntime", rounded)}
    before = {**floats, ROUNDED: floats["onnxruntime"]}
    gate.admit([gate.lossy(hop, name, runtime, before[runtime], outputs, min_cosine=_least_cosine(name))
                for runtime, outputs in after.items()])
    return typed, after[ROUNDED]


def _least_cosine(name: VariantName) -> float:
    """Rounding to integers turns features further than FP16 does: there, accuracy is judged alone."""
    return -1.0 if name in QUANTISED else MIN_COSINE


def judge_for_gpu(gate: Gatekeeper, files: Mapping[VariantName, Files], floats: Mapping[str, Outputs]) -> None:
    """Let every TensorRT that is installed here read the graphs, and judge its engines where a GPU is here, too.

    Raises:
        GateRefused: a graph is refused, or an engine computes something else.
    """
    parsed = parsed_graphs({path: None for graphs in files.values() for path in graphs.values()}, gate.on_progress)
    gate.report.parsed_by = parsed.libraries
    for name, graphs in files.items():
        for path in graphs.values():
            if path in parsed.refusals:
                gate.refuse(name, path.name, parsed.refusals[path], FAULT)
    for runtime in [each for each in installed_runtimes() if each in ENGINE_KINDS]:
        for name, graphs in files.items():
            outputs = _engine_outputs(gate, runtime, name, graphs)
            if outputs is not None:
                gate.admit([gate.lossy(f"onnx fp32 → {name} engine", name, runtime, floats["onnxruntime"], outputs,
                                       min_cosine=_least_cosine(name))])


def _engine_outputs(gate: Gatekeeper, runtime: str, name: VariantName, graphs: Files) -> Outputs | None:
    """What engines compute; None where they cannot be built here. They are kept: the bundle will hold the same graphs."""
    try:
        for graph, path in graphs.items():
            ensured_engine(graph, path, gate.judge.graphs[graph].inputs, ENGINE_KINDS[runtime], gate.on_progress)
        return gate.judge.onnx(runtime, graphs)
    except (MissingExtra, RuntimeFailure) as error:
        log.warning("%s is not judged on %s: %s", name, runtime, error)
        return None
