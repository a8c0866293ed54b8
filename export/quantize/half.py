"""Variants for GPUs: FP16 where it is precise enough, graphs that TensorRT reads, and engines that match them.

A CPU shows FP16 in two ways, and the gate requires both: the graph that ships, which CPU runtimes compute in float32
with FP16 weights, and one that rounds to FP16 between all nodes.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import onnx

from vidrisk.calibration.files import SHARED, load_graph, save_graph
from vidrisk.calibration.graph import Net
from vidrisk.calibration.half import half_from_float, round_to_half
from vidrisk.calibration.half_check import MIN_COSINE, Feeds, HalfCheck, Kept, check_half, keep_large_values
from vidrisk.calibration.single import CONSTANTS, NORMS, OPERATORS, PIXELS, single_nodes, types_of
from vidrisk.export.gate.judge import Files
from vidrisk.export.gate.keeper import FAULT, Gatekeeper
from vidrisk.export.gate.outputs import Outputs
from vidrisk.export.plans import is_quantized
from vidrisk.export.quantize.feeds import StageFeeds
from vidrisk.runtimes.chain import frames_of
from vidrisk.runtimes.contract.bundle import VariantName
from vidrisk.runtimes.contract.errors import MissingExtra, RuntimeFailure
from vidrisk.runtimes.registry import ENGINE_KINDS, installed_runtimes
from vidrisk.runtimes.tensorrt.build.engines import ensure_engine
from vidrisk.runtimes.tensorrt.build.parse import parse_graphs
from vidrisk.runtimes.tensorrt.cuda import OutOfMemory

log = logging.getLogger(__name__)

CHECK_FRAMES = 32
ROUNDED = "onnxruntime, rounded to fp16"  # the runtime of the hop with all the rounding
REASONS = {
    NORMS: "sums, squares and powers",
    PIXELS: "arithmetic on pixels",
    CONSTANTS: "constants that do not fit into FP16",
    OPERATORS: "not defined for FP16",
}


@dataclass(frozen=True)
class Halves:
    """An FP16 check of one float stage, for every graph that is made from it.

    Attributes:
        feeds: the samples of the check.
    """

    check: HalfCheck
    feeds: Feeds

    def extend(self, model: onnx.ModelProto) -> Halves:
        """Return the check extended to a graph derived from the checked one, whose values may be larger.

        Range may have moved in it.
        """
        known = self.check.keep_float32
        more = [kept for kept in keep_large_values(model, self.feeds) if not known.issuperset(kept.nodes)]
        return replace(self, check=replace(self.check, kept=(*self.check.kept, *more)))


def check_stages_in_half(gate: Gatekeeper, feeds: Mapping[str, StageFeeds]) -> dict[str, Halves]:
    """Check float stages on a few samples each, and record the findings in the report.

    Args:
        gate: holds the report.
        feeds: by the stage to check.
    """
    found: dict[str, Halves] = {}
    report = gate.report
    for name, of_stage in feeds.items():
        model = load_graph(of_stage.files[name], of_stage.files[name].parent / SHARED)
        few: Feeds = of_stage.few(CHECK_FRAMES)
        found[name] = Halves(check_half(model, few, gate.on_progress), few)
        prefix = f"{name}: " if len(feeds) > 1 else ""
        report.float32 += [
            {**row, "what": f"{prefix}{row['what']}"} for row in float32_rows(model, found[name].check.kept)
        ]
        rows = sum(len(feed[of_stage.stage.variable_inputs[0].name]) for feed in few)
        report.half = {
            "frames": max(rows * frames_of(of_stage.stage, of_stage.contract.frames), report.half.get("frames", 0)),
            "cosine": min(found[name].check.cosine, report.half.get("cosine", 1.0)),
            "blocks": {
                **report.half.get("blocks", {}),
                **{f"{prefix}{block}": cosine for block, cosine in found[name].check.blocks.items()},
            },
        }
    return found


def float32_rows(model: onnx.ModelProto, kept: Collection[Kept]) -> list[dict[str, Any]]:
    """Return the report's rows for what stays in float32: operators by kind, then the check's findings by block."""
    net = Net(model)
    reasons = single_nodes(net, types_of(model))
    kinds = Counter((node.op_type, reasons[node.name]) for node in net.nodes if node.name in reasons)
    return [
        *({"what": kind, "nodes": count, "reason": REASONS[reason]} for (kind, reason), count in kinds.most_common()),
        *_rows_of_kept(kept),
    ]


def _rows_of_kept(kept: Collection[Kept], variant: str = "") -> list[dict[str, Any]]:
    return [{"what": one.block, "nodes": len(one.nodes), "reason": f"{variant}{one.reason}"} for one in kept]


def variant_in_half(
    gate: Gatekeeper,
    hop: str,
    name: VariantName,
    files: Files,
    floats: Mapping[str, Outputs],
    halves: Mapping[str, Halves],
) -> tuple[Files, Outputs]:
    """Return a variant with the floating-point parts of some stages in FP16, and its fully rounded outputs.

    The gate has admitted it.

    Args:
        gate: judges the variant.
        hop: name of the hop.
        name: of the variant.
        files: the float32 files; the typed ones are written beside them.
        floats: outputs of the fp32 variant, by runtime.
        halves: by the stage that becomes FP16.
    """
    typed, rounded = dict(files), dict(files)
    for stage, of_stage in halves.items():
        beside = files[stage].parent
        model = load_graph(files[stage], beside / SHARED)
        if name != "fp16":
            known, of_stage = of_stage.check.kept, of_stage.extend(model)
            gate.report.float32 += _rows_of_kept(of_stage.check.kept[len(known) :], f"{name}: ")
        typed[stage], rounded[stage] = (beside / f"{stage}.{each}.onnx" for each in (name, f"{name}-rounded"))
        save_graph(half_from_float(model, of_stage.check.keep_float32), typed[stage])
        save_graph(round_to_half(model, of_stage.check.keep_float32), rounded[stage])
    after = gate.outputs(hop, typed, floats) | {ROUNDED: gate.judge.onnx("onnxruntime", rounded)}
    before = {**floats, ROUNDED: floats["onnxruntime"]}
    gate.match(name, after[ROUNDED])
    gate.admit(
        [
            gate.lossy(hop, name, runtime, before[runtime], outputs, min_cosine=_least_cosine(name))
            for runtime, outputs in after.items()
        ]
    )
    return typed, after[ROUNDED]


def _least_cosine(name: VariantName) -> float:
    """Return the least cosine that features must have.

    Rounding to integers deviates more than FP16: there, only accuracy is judged.
    """
    return -1.0 if is_quantized(name) else MIN_COSINE


def judge_for_gpu(gate: Gatekeeper, files: Mapping[VariantName, Files], floats: Mapping[str, Outputs]) -> None:
    """Parse the graphs with every TensorRT installed here, and judge its engines if there is a GPU.

    Raises:
        GateRefused: a graph is refused, or an engine computes something else.
    """
    parsed = parse_graphs(
        {path: None for of_variant in files.values() for path in of_variant.values()}, gate.on_progress
    )
    gate.report.parsed_by = parsed.libraries
    for name, of_variant in files.items():
        for path in of_variant.values():
            if path in parsed.refusals:
                gate.refuse(name, path.name, parsed.refusals[path], FAULT)
    for runtime in [each for each in installed_runtimes() if each in ENGINE_KINDS]:
        for name, of_variant in files.items():
            outputs = _engine_outputs(gate, runtime, name, of_variant)
            if outputs is not None:
                gate.admit(
                    [
                        gate.lossy(
                            f"onnx fp32 → {name} engine",
                            name,
                            runtime,
                            floats["onnxruntime"],
                            outputs,
                            min_cosine=_least_cosine(name),
                        )
                    ]
                )


def _engine_outputs(gate: Gatekeeper, runtime: str, name: VariantName, files: Files) -> Outputs | None:
    """Return the outputs of engines, or None if they cannot be built or lack the memory to run here.

    The engines stay cached, since the bundle will contain the same graphs.

    Raises:
        GateRefused: an engine that was built does not load, or fails.
    """
    try:
        for stage, path in files.items():
            ensure_engine(stage, path, gate.judge.stage(stage).inputs, ENGINE_KINDS[runtime], gate.on_progress)
    except (MissingExtra, RuntimeFailure) as error:
        log.warning("%s is not judged on %s: %s", name, runtime, error)
        return None
    try:
        return gate.judge.onnx(runtime, files)
    except OutOfMemory as error:
        log.warning("%s is not judged on %s: %s", name, runtime, error)
        return None
    except RuntimeFailure as error:
        gate.refuse(
            name,
            f"onnx fp32 → {name} engine ({runtime})",
            f"its engine was built but does not work: {error.what}",
            FAULT,
        )
