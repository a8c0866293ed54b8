"""Joining of stages that run equally often into one float graph of batch 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import onnx
from onnx import compose, helper

from vidrisk.calibration.files import check_graph
from vidrisk.export.foreign.read import STANDARD, opset_of, prune, with_opset
from vidrisk.runtimes.chain import frames_of
from vidrisk.runtimes.contract.errors import RuntimeFailure, first_line
from vidrisk.runtimes.contract.specs import TensorSpec
from vidrisk.runtimes.contract.stages import Stage


@dataclass(frozen=True)
class Part:
    """Stages that run equally often and become one graph.

    Attributes:
        frames: number of frames that one run covers.
        takes: pixels and outputs of earlier parts, as the first stage that takes them declares them.
        gives: inputs of later parts, or the answers.
    """

    stages: tuple[Stage, ...]
    frames: int
    takes: tuple[TensorSpec, ...]
    gives: tuple[TensorSpec, ...]

    @property
    def name(self) -> str:
        return "-".join(stage.name for stage in self.stages)


def split_stages(stages: Sequence[Stage], frames: int) -> list[Part]:
    """Split stages at those that run less often than the previous one; drop outputs that no answer needs.

    Args:
        stages: that fit together (``check_stages``), without constants.
        frames: number of frames per window, T; with 1, all stages are one part.
    """
    answers = stages[-1].outputs
    needed, kept = {spec.name for spec in answers}, list[Stage]()
    for stage in reversed(stages):
        if needed.intersection(spec.name for spec in stage.outputs):
            kept.insert(0, stage)
            needed |= {spec.name for spec in stage.inputs}
    runs = [tuple(run) for _, run in groupby(kept, key=lambda stage: frames_of(stage, frames))]
    parts = []
    for number, run in enumerate(runs):
        later = {spec.name for following in runs[number + 1 :] for stage in following for spec in stage.inputs}
        made = [spec for stage in run for spec in stage.outputs]
        takes: dict[str, TensorSpec] = {}
        for spec in (spec for stage in run for spec in stage.inputs):
            if all(spec.name != other.name for other in made):
                takes.setdefault(spec.name, spec)
        gives = [spec for spec in made if spec in answers or spec.name in later]
        parts.append(Part(run, frames_of(run[0], frames), tuple(takes.values()), tuple(gives)))
    return parts


def join_stages(part: Part, models: Mapping[str, onnx.ModelProto]) -> onnx.ModelProto:
    """Join the graphs of a part; names inside them are prefixed with their stage's name.

    Args:
        part: the stages.
        models: float graphs by stage, which are modified.

    Raises:
        DataError: graphs have different opsets, and one cannot be converted to the newest of them.
        RuntimeFailure: the joined graph is invalid.
    """
    newest = max(opset_of(models[stage.name]) for stage in part.stages)
    try:
        result = onnx.ModelProto(ir_version=max(models[stage.name].ir_version for stage in part.stages))
        result.graph.name = part.name
        result.graph.input.extend(_value(spec) for spec in part.takes)
        ranks = {spec.name: len(spec.shape) for spec in part.takes}  # of every tensor so far
        domains = {"": newest}
        for stage in part.stages:
            model = _inline(with_opset(models[stage.name], f"the graph of stage {stage.name!r}", newest, newest))
            _add_prefix(model.graph, stage)
            for spec in stage.inputs:
                result.graph.node.append(_arrival(stage, spec, ranks[spec.name], result))
            result.graph.node.extend(model.graph.node)
            result.graph.initializer.extend(model.graph.initializer)
            ranks |= {spec.name: len(spec.shape) for spec in stage.outputs}
            for opset in model.opset_import:
                if opset.domain not in STANDARD:
                    domains[opset.domain] = max(opset.version, domains.get(opset.domain, 0))
        result.graph.output.extend(_value(spec) for spec in part.gives)
        result.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in domains.items())
        prune(result)
        check_graph(result)
    except (ValueError, TypeError, onnx.checker.ValidationError) as error:
        reason = first_line(error)
        raise RuntimeFailure(
            f"stages {', '.join(stage.name for stage in part.stages)} cannot be joined into one graph: {reason}",
            fix="report it with the model",
        ) from error
    return result


def _inline(model: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.inliner.inline_local_functions(model) if model.functions else model


def _add_prefix(graph: onnx.GraphProto, stage: Stage) -> None:
    """Prefix every name but the outputs' with the stage's name, in place."""
    prefix = f"{stage.name}/"
    names = {
        tensor.name: prefix + tensor.name for tensor in graph.initializer
    }  # graphs inside nodes may read them, too
    compose.add_prefix_graph(
        graph,
        prefix,
        rename_outputs=False,
        inplace=True,
        name_map=names | {spec.name: prefix + spec.name for spec in stage.inputs},
    )


def _arrival(stage: Stage, spec: TensorSpec, rank: int, model: onnx.ModelProto) -> onnx.NodeProto:
    """Return the node that passes a tensor to a stage.

    A tensor that is per frame on one side and per window on the other gains or loses an axis of length 1.
    """
    name = f"{stage.name}/{spec.name}"
    if rank == len(spec.shape):
        return helper.make_node("Identity", [spec.name], [name], name=f"{name}.arrival")
    axis = f"{name}.axis"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1], np.int64), axis))
    operator = "Unsqueeze" if rank < len(spec.shape) else "Squeeze"
    return helper.make_node(operator, [spec.name, axis], [name], name=f"{name}.arrival")


def _value(spec: TensorSpec) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(
        spec.name, helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype)), [1, *spec.shape[1:]]
    )
